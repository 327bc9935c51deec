"""A process that trains to a test accuracy in one way, and writes when it was there.

`races.py accuracy` starts it: TRAINER TASK.npz TARGET EPOCHS STARTED RESULT.json
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import peers

from jax_softmax.benchmark import tutorial
from jax_softmax.benchmark.results import OURS
from jax_softmax.benchmark.threads import blas_limits, fastest
from jax_softmax.benchmark.train_task import TrainTask
from jax_softmax.datasets import Dataset, Split

OPTAX = "optax scan"
COMPILE = (OURS, OPTAX)


@dataclass(frozen=True)
class Reached:
    """The test accuracy at the end, after so many epochs (iterations of L-BFGS)."""

    accuracy: float
    epochs: int


@dataclass(frozen=True)
class Ready:
    """A way to train, its data in place.

    Attributes:
      run: trains from zeros until the test accuracy is at a target, or for so many epochs at most.
      search_seconds: what was spent on the best number of threads, which is not training.
    """

    run: Callable[[float, int], Reached]
    search_seconds: float = 0.0


class _StopError(Exception):
    """Leaves `fit` from its callback."""

    def __init__(self, reached: Reached) -> None:
        super().__init__()
        self.reached = reached


def ours(task: TrainTask) -> Ready:
    from jax_softmax import TrainConfig, fit

    def run(target: float, epochs: int) -> Reached:
        def stop_at_target(record: dict[str, float]) -> None:
            reached = Reached(record["validation_accuracy"], int(record["epoch"]))
            if reached.accuracy >= target or reached.epochs == epochs:
                raise _StopError(reached)

        config = TrainConfig(task.learning_rate, task.batch_size, epochs, mesh={"data": 1})
        try:
            fit(
                task.dataset.train,
                config,
                validation=task.dataset.test,
                on_progress=stop_at_target,
            )
        except _StopError as stop:
            return stop.reached
        raise AssertionError("fit ended without a last look at the test examples")

    return Ready(run)


def numpy_tutorial(task: TrainTask) -> Ready:
    task = replace(task, batch_size=None)  # as the tutorial does
    arguments, limits = task.for_tutorial(np.float32, 1), blas_limits()
    threads = fastest(lambda: tutorial.train(*arguments), limits)

    def run(target: float, epochs: int) -> Reached:
        with limits[threads.name]():
            states = (lambda p=params: p for params in tutorial.train_epochs(*arguments[:4]))
            return _until(task, states, target, epochs)

    return Ready(run, threads.search_seconds)


def optax_scan(task: TrainTask) -> Ready:
    from jax_softmax.benchmark.train_suite import optax_epochs, optax_params

    start, _seconds = optax_epochs(task)

    def run(target: float, epochs: int) -> Reached:
        states = (lambda s=state: optax_params(s) for state in start())
        return _until(task, states, target, epochs)

    return Ready(run)


def pytorch(task: TrainTask) -> Ready:
    start, threads = peers.torch_epochs(task)
    return Ready(
        lambda target, epochs: _until(task, start(), target, epochs), threads.search_seconds
    )


def scikit_learn(task: TrainTask) -> Ready:
    def run(_target: float, iterations: int) -> Reached:
        params, count = peers.scikit_learn_params(task, iterations)  # to the end, unwatched
        return Reached(task.accuracy(*params), count)

    return Ready(run)


def _until(task: TrainTask, states: Iterator[Any], target: float, epochs: int) -> Reached:
    # What is looked at each epoch is scaled once, as every loop would.
    test, labels = task.features(test=True), task.dataset.test.labels
    for epoch in itertools.count(1):
        kernel, bias = next(states)()
        accuracy = float(np.mean(np.argmax(test @ kernel + bias, axis=1) == labels))
        if accuracy >= target or epoch == epochs:
            return Reached(accuracy, epoch)
    raise AssertionError("unreachable")


TRAINERS: dict[str, Callable[[TrainTask], Ready]] = {
    OURS: ours,
    tutorial.NUMPY: numpy_tutorial,
    OPTAX: optax_scan,
    peers.TORCH: pytorch,
    peers.SKLEARN: scikit_learn,
}


_SPLITS = ("train", "test")


def save_task(task: TrainTask, file: Path) -> None:
    """Writes the task, for another process."""
    splits = {name: getattr(task.dataset, name) for name in _SPLITS}
    arrays = {f"{name}_features": split.features for name, split in splits.items()}
    arrays |= {f"{name}_labels": split.labels for name, split in splits.items()}
    np.savez(
        file,
        **arrays,
        name=task.dataset.name,
        class_names=task.dataset.class_names,
        scale=task.dataset.train.feature_scale,
        batch_size=task.batch_size or len(task.labels),
        learning_rate=task.learning_rate,
    )


def load_task(file: Path) -> TrainTask:
    """Reads what `save_task` wrote."""
    with np.load(file) as found:
        names, scale = tuple(map(str, found["class_names"])), float(found["scale"])
        train, test = (
            Split(found[f"{name}_features"], found[f"{name}_labels"], names, scale)
            for name in _SPLITS
        )
        dataset = Dataset(str(found["name"]), train, test, "")
        return TrainTask(dataset, int(found["batch_size"]), float(found["learning_rate"]))


def main(trainer: str, task_file: str, target: str, epochs: str, started: str, file: str) -> None:
    """Trains once since the process began and, where that compiled, once more.

    Args:
      trainer: a name of `TRAINERS`.
      task_file: what `save_task` wrote.
      target: the test accuracy to stop at.
      epochs: to stop after.
      started: `time.monotonic()` just before this process was started.
      file: where the result goes, as JSON.
    """
    ready = TRAINERS[trainer](load_task(Path(task_file)))
    before = time.monotonic()
    reached = ready.run(float(target), int(epochs))
    after = time.monotonic()
    result = {
        "process_seconds": after - float(started) - ready.search_seconds,
        "warm_seconds": after - before,
        "accuracy": reached.accuracy,
        "epochs": reached.epochs,
    }
    if trainer in COMPILE:
        ready.run(float(target), int(epochs))
        result["warm_seconds"] = time.monotonic() - after
    Path(file).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
