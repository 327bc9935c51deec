"""The time to a test accuracy: of a whole process, and after compiling."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jax_softmax.benchmark.cases import UnavailableError, timed
from jax_softmax.benchmark.children import run_child
from jax_softmax.benchmark.results import OURS, Record
from jax_softmax.benchmark.timing import Timing
from jax_softmax.benchmark.train_task import TrainTask, save_task
from jax_softmax.benchmark.trainers import NUMPY, SKLEARN, TORCH

_KINDS = {"whole process": "process_seconds", "after compiling": "warm_seconds"}
_PACKAGES = {TORCH: "torch", SKLEARN: "sklearn"}

KEPT = f"{OURS}, programs kept"
"""Ours with what an earlier process compiled, as the commands have it unless told otherwise."""


@dataclass(frozen=True)
class Race:
    """A dataset, a target and who runs.

    Attributes:
      name: of the dataset.
      task: for all who train in batches; the tutorial and scikit-learn take all rows at once.
      target: the test accuracy to reach.
      most_epochs: each contender's, by name; a run that is not there by then has no time.
      repeats: of each process.
    """

    name: str
    task: TrainTask
    target: float
    most_epochs: dict[str, int]
    repeats: int


def run_race(race: Race) -> list[Record]:
    """A process to each contender and repeat, in turns whose order is reversed each time."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in race.most_epochs}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_task(race.task, folder)
        if KEPT in runs:
            _process(KEPT, folder, race)  # compiles
        for repeat in range(race.repeats):
            for contender in list(runs)[:: -1 if repeat % 2 else 1]:
                if contender in skipped:
                    continue
                try:
                    runs[contender].append(_process(contender, folder, race))
                except UnavailableError as reason:
                    skipped[contender] = str(reason)
    return [record for kind in _KINDS for record in _records(race, runs, skipped, kind)]


def _process(name: str, folder: Path, race: Race) -> dict[str, Any]:
    package = _PACKAGES.get(name)
    if package and importlib.util.find_spec(package) is None:
        raise UnavailableError(f"{name} is not installed: pip install {package}")
    environment = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    if name == KEPT:
        environment = {
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    numbers = (race.target, race.most_epochs[name], time.monotonic())
    return run_child(
        "jax_softmax.benchmark.time_to_accuracy",
        OURS if name == KEPT else name,
        str(folder),
        *map(str, numbers),
        environment=environment,
    )


def _records(
    race: Race, runs: dict[str, list[dict[str, Any]]], skipped: dict[str, str], kind: str
) -> list[Record]:
    times = {
        name: Timing(tuple(run[_KINDS[kind]] for run in found))
        for name, found in runs.items()
        if name not in skipped
    }
    reached = [name for name in times if min(run["accuracy"] for run in runs[name]) >= race.target]
    records = []
    for name in runs:
        record = Record(
            suite="train",
            case=f"{race.name} to {race.target}, {kind}",
            contender=name,
            ours=name in (OURS, KEPT),
            rows=len(race.task.labels),
            classes=race.task.classes,
            dtype="float32",
            skipped=skipped.get(name, ""),
        )
        if name in times:
            record = _with_last_run(record, runs[name], race)
        if name in reached:
            base = times[OURS] if OURS in reached else None
            record = replace(timed(record, times[name], base), ratio_to=OURS)
        elif name in times:
            record = replace(record, note=f"not reached in {times[name].median:.1f} s")
        records.append(record)
    return records


def _with_last_run(record: Record, runs: Sequence[dict[str, Any]], race: Race) -> Record:
    all_rows = record.contender in (NUMPY, SKLEARN)
    return replace(
        record,
        batch_size=record.rows if all_rows else race.task.batch_size,
        test_accuracy=runs[-1]["accuracy"],
        epochs=runs[-1]["epochs"],
    )
