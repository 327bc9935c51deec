"""How fast it trains: an epoch, and the way to a test accuracy, on digits and on MNIST."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import jax

from jax_softmax import Dataset, InputError, load_dataset
from jax_softmax.benchmark.cases import Context, Step, run_case
from jax_softmax.benchmark.results import OURS, Record
from jax_softmax.benchmark.train_epochs import epoch_case
from jax_softmax.benchmark.train_race import KEPT, Race, run_race
from jax_softmax.benchmark.train_task import TrainTask
from jax_softmax.benchmark.trainers import NUMPY, OPTAX, SKLEARN, TORCH

_LEARNING_RATE = 0.5


@dataclass(frozen=True)
class Plan:
    """What is measured on a dataset.

    Attributes:
      batch_sizes: of the epochs that are timed, and how many of them to a call.
      target: the test accuracy to reach.
      target_batch_size: to it.
      most_epochs: who runs to it, for how long at most (scikit-learn: iterations of L-BFGS).
      accuracy_bound: what accuracies after the same epochs, in other orders, may differ by.
      repeats: of each process.
    """

    batch_sizes: dict[int | None, int]
    target: float
    target_batch_size: int
    most_epochs: dict[str, int]
    accuracy_bound: float
    repeats: int = 3


_FULL = {
    "digits": Plan(
        batch_sizes={32: 10, 128: 10, None: 100},
        target=0.95,
        target_batch_size=32,
        most_epochs={OURS: 50, KEPT: 50, NUMPY: 2000, OPTAX: 50, TORCH: 50, SKLEARN: 100},
        accuracy_bound=0.05,
    ),
    "mnist": Plan(
        batch_sizes={32: 2, 128: 2, 512: 2, 4096: 2, None: 5},
        target=0.92,
        target_batch_size=128,
        most_epochs={OURS: 20, KEPT: 20, NUMPY: 200, OPTAX: 20, TORCH: 20, SKLEARN: 100},
        accuracy_bound=0.02,
    ),
}
_QUICK = {
    "digits": replace(
        _FULL["digits"],
        batch_sizes={None: 100},
        most_epochs={OURS: 50, NUMPY: 2000, TORCH: 50, SKLEARN: 100},
        repeats=1,
    ),
    "mnist": replace(
        _FULL["mnist"], batch_sizes={128: 1}, most_epochs={OURS: 20, TORCH: 20}, repeats=1
    ),
}


def steps(context: Context) -> list[Step]:
    """Epochs and the way to the target, for digits, and for MNIST where it is.

    Raises:
      InputError: if `raw_dir` was given and does not lead to MNIST.
    """
    plans = _QUICK if context.quick else _FULL
    digits = load_dataset("digits")
    try:
        mnist = load_dataset("mnist", raw_dir=context.raw_dir)
    except InputError as error:
        if context.raw_dir is not None:
            raise
        missing = Record(suite="train", case="mnist", contender=OURS, skipped=str(error))
        return [*_steps_of(digits, plans["digits"], context), Step("mnist", lambda: [missing])]
    of_digits = plans["digits"]
    if context.quick:  # one race is what a minute has room for
        of_digits = replace(of_digits, most_epochs={})
    return _steps_of(digits, of_digits, context) + _steps_of(mnist, plans["mnist"], context)


def _steps_of(dataset: Dataset, plan: Plan, context: Context) -> list[Step]:
    def run_epochs(task: TrainTask, epochs: int) -> list[Record]:
        case = epoch_case(dataset.name, task, epochs, plan.accuracy_bound)
        return run_case(case, context.budget_seconds)

    tasks = [(task_of(dataset, size), epochs) for size, epochs in plan.batch_sizes.items()]
    epochs_steps = [
        Step(f"{dataset.name} epoch, {task.batches}", functools.partial(run_epochs, task, epochs))
        for task, epochs in tasks
    ]
    if not plan.most_epochs:
        return epochs_steps
    race = Race(
        dataset.name,
        task_of(dataset, plan.target_batch_size),
        plan.target,
        plan.most_epochs,
        plan.repeats,
    )
    return [
        *epochs_steps,
        Step(f"{dataset.name} to {plan.target}", functools.partial(run_race, race)),
    ]


def task_of(dataset: Dataset, batch_size: int | None) -> TrainTask:
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
        learning_rate=_LEARNING_RATE,
        platform=jax.default_backend(),
    )
