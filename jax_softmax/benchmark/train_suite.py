"""How fast it trains: an epoch, and the way to a test accuracy, on MNIST and on digits."""

from __future__ import annotations

import functools
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jax_softmax import Dataset, InputError, load_dataset
from jax_softmax.benchmark import peers, tutorial
from jax_softmax.benchmark.cases import (
    OURS,
    Case,
    Contender,
    Context,
    Prepared,
    Step,
    UnavailableError,
    run_case,
    timed,
)
from jax_softmax.benchmark.children import run_child
from jax_softmax.benchmark.compare import PARAMS_BOUND, params_error
from jax_softmax.benchmark.results import Record
from jax_softmax.benchmark.time_to_accuracy import COMPILE
from jax_softmax.benchmark.timing import Timing
from jax_softmax.benchmark.train_task import Trained, TrainTask, save_task
from jax_softmax.benchmark.trainers import TRAINERS

_NUMPY, _TORCH, _SKLEARN = "NumPy tutorial", "PyTorch", "scikit-learn"


@dataclass(frozen=True)
class Plan:
    """What is measured on a dataset.

    Attributes:
      batch_sizes: of the epochs that are timed, and how many to a call (more where they are short).
      learning_rate: of SGD.
      target: the test accuracy to reach.
      target_batch_size: for all who train in batches.
      epochs: to the target, at most.
      tutorial_epochs: the tutorial's, at most, which are full-batch.
      accuracy_bound: what accuracies after the same epochs, in other orders, may differ by.
      contenders: to the target.
      repeats: of each process.
    """

    batch_sizes: dict[int | None, int]
    learning_rate: float
    target: float
    target_batch_size: int
    epochs: int
    tutorial_epochs: int
    accuracy_bound: float
    contenders: Sequence[str] = tuple(TRAINERS)
    repeats: int = 3


_FULL = {
    "digits": Plan({32: 10, 128: 10, None: 100}, 0.5, 0.95, 32, 50, 2000, 0.05),
    "mnist": Plan({32: 2, 128: 2, 512: 2, 4096: 2, None: 5}, 0.5, 0.92, 128, 20, 200, 0.02),
}
_QUICK = {
    "digits": replace(
        _FULL["digits"],
        batch_sizes={None: 100},
        contenders=(OURS, _NUMPY, _TORCH, _SKLEARN),
        repeats=1,
    ),
    "mnist": replace(_FULL["mnist"], batch_sizes={128: 1}, contenders=(OURS, _TORCH), repeats=1),
}


def steps(context: Context) -> list[Step]:
    """Epochs and the way to the target, for digits, and for MNIST where it is."""
    plans = _QUICK if context.quick else _FULL
    digits = load_dataset("digits")
    found = _steps_of(digits, plans["digits"], context)
    try:
        mnist = load_dataset("mnist", raw_dir=context.raw_dir)
    except InputError as error:
        if context.raw_dir is not None:
            raise
        missing = Record(suite="train", case="mnist", contender=OURS, skipped=str(error))
        return [*found, Step("mnist", lambda: [missing])]
    return found + _steps_of(mnist, plans["mnist"], context)


def _steps_of(dataset: Dataset, plan: Plan, context: Context) -> list[Step]:
    def run_epochs(task: TrainTask, epochs: int) -> list[Record]:
        case = epoch_case(dataset.name, task, epochs, plan.accuracy_bound)
        return run_case(case, context.budget_seconds)

    tasks = [(task_of(dataset, plan, size), n) for size, n in plan.batch_sizes.items()]
    return [
        *(
            Step(f"{dataset.name} epoch, {_batches(task)}", functools.partial(run_epochs, task, n))
            for task, n in tasks
        ),
        Step(f"{dataset.name} to {plan.target}", functools.partial(run_to_target, dataset, plan)),
    ]


def task_of(dataset: Dataset, plan: Plan, batch_size: int | None) -> TrainTask:
    """The dataset as the trainers take it."""
    train, test = dataset.train, dataset.test
    return TrainTask(
        features=train.features.reshape(len(train.labels), -1),
        labels=train.labels,
        test_features=test.features.reshape(len(test.labels), -1),
        test_labels=test.labels,
        classes=len(dataset.class_names),
        scale=train.feature_scale,
        batch_size=batch_size,
        learning_rate=plan.learning_rate,
    )


def epoch_case(name: str, task: TrainTask, epochs: int, accuracy_bound: float) -> Case:
    """An epoch, timed as so many to a call, from zeros and with the data in place.

    Full batches have one right answer, the parameters; batches come in each trainer's own order, so
    that the test accuracy is compared.
    """
    full_batch = task.batch_size is None
    right = _reference(task, epochs)
    right_accuracy = right.accuracy(task)

    def error(found: Trained) -> float:
        if full_batch:
            return params_error((found.kernel, found.bias), (right.kernel, right.bias))
        return abs(found.accuracy(task) - right_accuracy)

    about = Record(
        suite="train",
        case=f"{name} epoch, {_batches(task)}",
        contender="",
        rows=len(task.labels),
        classes=task.classes,
        dtype="float32",
        batch_size=task.batch_size or len(task.labels),
        epochs=epochs,
        ratio_to="optax scan",
        error_bound=PARAMS_BOUND if full_batch else accuracy_bound,
        compared_with=(
            f"NumPy in float64, parameters after {epochs} epochs, over the largest"
            if full_batch
            else f"NumPy's test accuracy after {epochs} epochs in another order, the difference"
        ),
    )
    names = [name for name in TRAINERS if name != _SKLEARN]  # whose steps are not epochs
    contenders = [
        Contender(name, functools.partial(_prepared, name, task, epochs, error)) for name in names
    ]
    return Case(about, contenders)


def _reference(task: TrainTask, epochs: int) -> Trained:
    if task.batch_size is not None:
        return TRAINERS[_NUMPY](task).train(epochs)
    wide = task.scaled(np.float64)
    return Trained(*tutorial.train(wide, task.labels, task.classes, task.learning_rate, epochs))


def _prepared(name: str, task: TrainTask, epochs: int, error: Callable[[Any], float]) -> Prepared:
    if name == _TORCH:
        peers.import_torch()
    trainer = TRAINERS[name](task)
    compile_seconds = trainer.train(epochs).compile_seconds if name in COMPILE else None
    run = functools.partial(trainer.train, epochs)
    return Prepared(run, error, compile_seconds, share=epochs, note=trainer.note)


def run_to_target(dataset: Dataset, plan: Plan) -> list[Record]:
    """Seconds to the test accuracy, a process to each contender and repeat, in turns."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in plan.contenders}
    skipped: dict[str, str] = {
        name: "left out by --quick" for name in TRAINERS if name not in plan.contenders
    }
    with tempfile.TemporaryDirectory() as folder:
        full, batches = Path(folder) / "full", Path(folder) / "batches"
        for path, size in ((full, None), (batches, plan.target_batch_size)):
            path.mkdir()
            save_task(task_of(dataset, plan, size), path)
        for repeat in range(plan.repeats):
            order = plan.contenders if repeat % 2 == 0 else plan.contenders[::-1]
            for name in order:
                if name in skipped:
                    continue
                where = full if name == _NUMPY else batches
                most = plan.tutorial_epochs if name == _NUMPY else plan.epochs
                most = 100 if name == _SKLEARN else most
                try:
                    runs[name].append(_process(name, where, plan.target, most))
                except UnavailableError as reason:
                    skipped[name] = str(reason)
    return [
        record
        for kind in ("whole process", "after compiling")
        for record in _to_target_records(dataset, plan, runs, skipped, kind)
    ]


def _process(name: str, folder: Path, target: float, epochs: int) -> dict[str, Any]:
    package = {_TORCH: "torch", _SKLEARN: "sklearn"}.get(name)
    if package and importlib.util.find_spec(package) is None:
        raise UnavailableError(f"{name} is not installed")
    return run_child(
        "jax_softmax.benchmark.time_to_accuracy",
        *(name, str(folder), str(target), str(epochs), str(time.monotonic())),
    )


def _to_target_records(
    dataset: Dataset,
    plan: Plan,
    runs: dict[str, list[dict[str, Any]]],
    skipped: dict[str, str],
    kind: str,
) -> list[Record]:
    field = "process_seconds" if kind == "whole process" else "warm_seconds"
    timings = {
        name: Timing(tuple(run[field] for run in found))
        for name, found in runs.items()
        if name not in skipped and min(run["accuracy"] for run in found) >= plan.target
    }
    base = timings.get(_TORCH)
    records = []
    for name in TRAINERS:
        record = Record(
            suite="train",
            case=f"{dataset.name} to {plan.target}, {kind}",
            contender=name,
            rows=len(dataset.train.labels),
            classes=len(dataset.class_names),
            dtype="float32",
            skipped=skipped.get(name, ""),
        )
        if name not in skipped:
            record = _with_accuracy(record, runs[name][-1], field, plan)
        if name in timings:
            record = replace(timed(record, timings[name], base), ratio_to=_TORCH)
        records.append(record)
    return records


def _with_accuracy(record: Record, run: dict[str, Any], field: str, plan: Plan) -> Record:
    full_batch = record.contender in (_NUMPY, _SKLEARN)
    note = ""
    if run["accuracy"] < plan.target:
        note = f"not reached in {run[field]:.1f} s"
    return replace(
        record,
        batch_size=record.rows if full_batch else plan.target_batch_size,
        test_accuracy=run["accuracy"],
        epochs=run["epochs"],
        note=note,
    )


def _batches(task: TrainTask) -> str:
    return "full batch" if task.batch_size is None else f"batch {task.batch_size}"
