"""Races of jax_softmax with PyTorch, tokamax and scikit-learn, beside what `jax-softmax bench` has.

python benchmarks/races.py losses     PyTorch's loss on logits
python benchmarks/races.py layer      PyTorch's and tokamax's losses of a linear layer
python benchmarks/races.py epochs     an epoch of PyTorch's, and of NumPy in float64
python benchmarks/races.py accuracy   whole processes to a test accuracy

`--quick` takes small sizes, `--json FILE` writes the records, `--raw-dir DIR` is where MNIST is.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peers
import time_to_accuracy

import jax_softmax
from jax_softmax import InputError, load_dataset
from jax_softmax.benchmark import Contender, Record, UnavailableError, run_case
from jax_softmax.benchmark.fused_suite import LinearData, fused_case
from jax_softmax.benchmark.fused_suite import Size as LinearSize
from jax_softmax.benchmark.loss_suite import LossData, loss_case
from jax_softmax.benchmark.loss_suite import Size as LogitsSize
from jax_softmax.benchmark.results import OURS
from jax_softmax.benchmark.timing import timed
from jax_softmax.benchmark.train_suite import epoch_case, numpy_trainer
from jax_softmax.benchmark.train_task import TrainTask
from jax_softmax.benchmark.tutorial import NUMPY
from jax_softmax.cli.bench_report import print_cases, report_console

KEPT = f"{OURS}, programs kept"
"""Ours with what an earlier process compiled, as the commands have it unless told otherwise."""

_HERE = Path(__file__).resolve().parent
_LIMIT_SECONDS = 600
_KINDS = {"whole process": "process_seconds", "after compiling": "warm_seconds"}
_PACKAGES = {peers.TORCH: "torch", peers.SKLEARN: "sklearn"}


def losses(quick: bool) -> list[Record]:
    """Value and gradient on logits."""
    sizes = [LogitsSize(512, 1000), LogitsSize(512, 1000, "bfloat16")]
    if not quick:
        sizes = [
            LogitsSize(2**27 // bytes_each // classes, classes, dtype)
            for dtype, bytes_each in (("float32", 4), ("bfloat16", 2), ("float16", 2))
            for classes in (10, 100, 1000, 8192, 50257, 262144)
        ]
    return [record for size in sizes for record in _run(_loss_case(size), quick)]


def _loss_case(size: LogitsSize) -> Any:
    data = LossData(size)
    return loss_case(size, [Contender(peers.TORCH, functools.partial(peers.torch_loss, data))])


def layer(quick: bool) -> list[Record]:
    """Value and gradients of a linear layer's loss."""
    sizes = [LinearSize(128, 64, 2048)]
    if not quick:
        sizes = [LinearSize(2048, 512, 32768), LinearSize(1024, 256, 16384, "bfloat16")]
    return [record for size in sizes for record in _run(layer_case(size), quick)]


def layer_case(size: LinearSize) -> Any:
    """The fused suite's case with the peers."""
    data = LinearData(size)
    others = [
        *(
            Contender(f"tokamax {name}", functools.partial(peers.tokamax_linear_loss, data, name))
            for name in peers.TOKAMAX
        ),
        Contender(peers.TORCH, functools.partial(peers.torch_linear_loss, data)),
        Contender(
            f"{peers.TORCH}, chunked",
            functools.partial(peers.torch_linear_loss, data, chunked=True),
        ),
    ]
    return fused_case(size, others)


def epochs(quick: bool, raw_dir: Path | None) -> list[Record]:
    """An epoch of digits and of MNIST, where it is."""
    plans: dict[str, dict[int | None, int]] = {"digits": {32: 10, 128: 10, None: 100}}
    if quick:
        plans = {"digits": {128: 10, None: 10}}
    else:
        plans["mnist"] = {32: 2, 128: 2, 512: 2, 4096: 2, None: 5}
    others = {
        f"{NUMPY}, float64": functools.partial(numpy_trainer, dtype=np.float64),
        peers.TORCH: peers.torch_trainer,
    }
    found = []
    for name, sizes in plans.items():
        dataset = load_dataset(name, raw_dir=raw_dir if name == "mnist" else None)
        for size, count in sizes.items():
            found += _run(epoch_case(TrainTask(dataset, size), count, others), quick)
    return found


def _run(case: Any, quick: bool) -> list[Record]:
    return run_case(case, 0.2 if quick else 3.0)


def accuracy(quick: bool, raw_dir: Path | None) -> list[Record]:
    """Whole processes to a test accuracy."""
    digits = {OURS: 50, KEPT: 50, NUMPY: 2000, time_to_accuracy.OPTAX: 50}
    digits |= {peers.TORCH: 50, peers.SKLEARN: 100}
    repeats = 1 if quick else 3
    found = race(TrainTask(load_dataset("digits"), 32), 0.95, digits, repeats)
    if not quick:
        mnist = {OURS: 20, KEPT: 20, NUMPY: 200, time_to_accuracy.OPTAX: 20}
        mnist |= {peers.TORCH: 20, peers.SKLEARN: 100}
        task = TrainTask(load_dataset("mnist", raw_dir=raw_dir), 128)
        found += race(task, 0.92, mnist, repeats)
    return found


def race(task: TrainTask, target: float, most_epochs: dict[str, int], repeats: int) -> list[Record]:
    """A process to each contender and repeat, in turns whose order is reversed each time.

    Args:
      task: for all who train in batches; the tutorial and scikit-learn take all rows at once.
      target: the test accuracy to reach.
      most_epochs: each contender's; a run that is not there by then has no time.
      repeats: of each process.
    """
    runs: dict[str, list[dict[str, Any]]] = {contender: [] for contender in most_epochs}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        time_to_accuracy.save_task(task, Path(folder) / "task.npz")
        run = functools.partial(_process, Path(folder), target, most_epochs)
        if KEPT in runs:
            run(KEPT)  # compiles
        for repeat in range(repeats):
            for contender in list(runs)[:: -1 if repeat % 2 else 1]:
                if contender in skipped:
                    continue
                try:
                    runs[contender].append(run(contender))
                except UnavailableError as reason:
                    skipped[contender] = str(reason)
    about = Record(suite="train", case="", rows=len(task.labels), classes=task.classes)
    return [
        record
        for kind, field in _KINDS.items()
        for record in _records(
            replace(about, case=f"{task.dataset.name} to {target}, {kind}"),
            field,
            runs,
            skipped,
            target,
        )
    ]


def _process(folder: Path, target: float, most_epochs: dict[str, int], name: str) -> dict[str, Any]:
    package = _PACKAGES.get(name)
    if package and importlib.util.find_spec(package) is None:
        raise UnavailableError(f"{name} is not installed: pip install {package}")
    package_folder = str(Path(jax_softmax.__file__).parents[1])
    python_path = os.pathsep.join(filter(None, [package_folder, os.environ.get("PYTHONPATH")]))
    environment = {"PYTHONPATH": python_path, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    if name == KEPT:
        environment |= {
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    trainer, result = OURS if name == KEPT else name, folder / "result.json"
    words = [sys.executable, _HERE / "time_to_accuracy.py", trainer, folder / "task.npz", target]
    words += [most_epochs[name], time.monotonic(), result]
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=_LIMIT_SECONDS,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UnavailableError(f"{name} failed: {last}")
    return json.loads(result.read_text())


def _records(
    about: Record,
    field: str,
    runs: dict[str, list[dict[str, Any]]],
    skipped: dict[str, str],
    target: float,
) -> list[Record]:
    times = {
        name: np.array([run[field] for run in found])
        for name, found in runs.items()
        if name not in skipped
    }
    reached = [name for name in times if min(run["accuracy"] for run in runs[name]) >= target]
    base = times[OURS] if OURS in reached else None
    records = []
    for name in runs:
        record = replace(
            about, contender=name, ours=name in (OURS, KEPT), skipped=skipped.get(name, "")
        )
        if name in times:
            last = runs[name][-1]
            record = replace(record, note=f"{last['accuracy']:.4f} after {last['epochs']} epochs")
        if name in reached:
            record = timed(replace(record, ratio_to=OURS), times[name], base)
        elif name in times:
            record = replace(
                record, note=f"not reached in {np.median(times[name]):.1f} s: {record.note}"
            )
        records.append(record)
    return records


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("race", choices=("losses", "layer", "epochs", "accuracy"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--raw-dir", type=Path)
    options = parser.parse_args(words)
    races: dict[str, Callable[[], list[Record]]] = {
        "losses": lambda: losses(options.quick),
        "layer": lambda: layer(options.quick),
        "epochs": lambda: epochs(options.quick, options.raw_dir),
        "accuracy": lambda: accuracy(options.quick, options.raw_dir),
    }
    try:
        records = races[options.race]()
    except InputError as error:
        print(f"races.py: {error}", file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps([record.record() for record in records], indent=1))
    print_cases(report_console(), records)
    return 1 if any(record.ours and record.differs for record in records) else 0


if __name__ == "__main__":
    sys.exit(main())
