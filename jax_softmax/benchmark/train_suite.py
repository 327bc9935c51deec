"""How fast it trains: an epoch of digits and of MNIST, beside a plain optax loop and NumPy's."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_softmax import InputError, load_dataset
from jax_softmax.benchmark import tutorial
from jax_softmax.benchmark.cases import Case, Contender, Context, Prepared, Steps, UnavailableError
from jax_softmax.benchmark.compare import PARAMS_BOUND, params_error
from jax_softmax.benchmark.results import OURS, Record
from jax_softmax.benchmark.threads import blas_limits, fastest
from jax_softmax.benchmark.timing import compiled
from jax_softmax.benchmark.train_task import TrainTask
from jax_softmax.benchmark.tutorial import NUMPY
from jax_softmax.training import step as training
from jax_softmax.training.layout import layout_for

OPTAX = "optax scan"

# Test accuracies after the same epochs in other orders may differ by so much.
_ACCURACY_BOUNDS = {"digits": 0.05, "mnist": 0.02}

# A batch size (None is the full batch), and how many epochs are timed together.
_FULL: dict[str, dict[int | None, int]] = {
    "digits": {32: 10, 128: 10, None: 100},
    "mnist": {32: 2, 128: 2, 512: 2, 4096: 2, None: 5},
}
_QUICK: dict[str, dict[int | None, int]] = {"digits": {None: 100}, "mnist": {128: 1}}


def steps(context: Context) -> Steps:
    """Epochs of digits, and of MNIST where it is.

    Raises:
      InputError: if `raw_dir` was given and does not lead to MNIST.
    """
    found: Steps = {}
    for name, epochs in (_QUICK if context.quick else _FULL).items():
        found |= steps_of(name, epochs, context.raw_dir if name == "mnist" else None)
    return found


def steps_of(
    name: str, epochs: Mapping[int | None, int], raw_dir: Path | None
) -> dict[str, functools.partial[Case]]:
    """A case for each batch size, with so many epochs to a call; or one that says what is missing.

    Raises:
      InputError: if `raw_dir` was given and does not lead to the dataset.
    """
    try:
        dataset = load_dataset(name, raw_dir=raw_dir)
    except InputError as error:
        if raw_dir is not None:
            raise
        return {name: functools.partial(_missing_case, name, str(error))}
    tasks = [TrainTask(dataset, size) for size in epochs]
    return {
        task.name: functools.partial(epoch_case, task, epochs[task.batch_size]) for task in tasks
    }


def _missing_case(name: str, reason: str) -> Case:
    def prepare() -> Prepared:
        raise UnavailableError(reason)

    return Case(Record(suite="train", case=f"{name} epoch"), [Contender(OURS, prepare, ours=True)])


Error = Callable[[tutorial.Params], float]
Trainer = Callable[[TrainTask, int, Error], Prepared]
"""Prepares training for so many epochs from zeros, with the data in place."""


def epoch_case(task: TrainTask, epochs: int, others: Mapping[str, Trainer] | None = None) -> Case:
    """An epoch, timed as so many to a call.

    Full batches have one right answer, the parameters. Batches come in each trainer's own order, so
    that test accuracies are compared.
    """
    full_batch = task.batch_size is None
    right = tutorial.train(*task.for_tutorial(np.float64, epochs))
    right_accuracy = task.accuracy(*right)

    def error(found: tutorial.Params) -> float:
        if full_batch:
            return params_error(found, right)
        return abs(task.accuracy(*found) - right_accuracy)

    after = f"after {epochs} epoch{'s' * (epochs > 1)}"
    about = Record(
        suite="train",
        case=task.name,
        rows=len(task.labels),
        classes=task.classes,
        dtype="float32",
        ratio_to=OPTAX,
        error_bound=PARAMS_BOUND if full_batch else _ACCURACY_BOUNDS[task.dataset.name],
        compared_with=(
            f"NumPy in float64, parameters {after}, over the largest"
            if full_batch
            else f"NumPy's test accuracy {after} in another order, the difference"
        ),
    )
    trainers = {OURS: our_trainer, NUMPY: numpy_trainer, OPTAX: optax_trainer, **(others or {})}
    contenders = [
        Contender(trainer, functools.partial(prepare, task, epochs, error), ours=trainer == OURS)
        for trainer, prepare in trainers.items()
    ]
    return Case(about, contenders)


def our_trainer(task: TrainTask, epochs: int, error: Error) -> Prepared:
    """What `fit` runs, in one compiled call, on the pixels as they are stored."""
    split = task.dataset.train
    examples = len(split.labels)
    full_batch = training.is_full_batch(task.batch_size, examples)
    features, labels = split.features.reshape(examples, -1), split.labels.astype(np.int32)
    data = training.Batches(
        jnp.asarray(features), jnp.asarray(labels), np.float32(split.feature_scale)
    )
    optimizer = training.sgd(0.0, nesterov=False, weight_decay=0.0, schedule="constant", steps=0)
    kernel = jnp.zeros((task.classes, features.shape[1]))
    params = {"kernel": kernel, "bias": jnp.zeros(task.classes)}
    zeros = training.TrainState(params, optimizer.init(params))

    def orders() -> np.ndarray | None:
        rng = np.random.default_rng(0)
        return None if full_batch else training.epoch_orders(rng, examples, epochs, epochs)

    run = functools.partial(
        training.run_epochs,
        optimizer=optimizer,
        batch_size=task.batch_size,
        calls_epochs=epochs,
        layout=layout_for(data.features),
    )
    numbers = jnp.int32(epochs), jnp.float32(task.learning_rate)
    upcoming = orders()
    program, compile_seconds = compiled(run, zeros, data, upcoming, *numbers)

    def train() -> tutorial.Params:
        nonlocal upcoming
        state, _losses = program(zeros, data, upcoming, *numbers)
        upcoming = orders()  # while it trains, as `fit` does
        return np.asarray(state.params["kernel"]).T, np.asarray(state.params["bias"])

    return Prepared(train, error, compile_seconds, share=epochs)


def numpy_trainer(
    task: TrainTask, epochs: int, error: Error, dtype: type[np.floating] = np.float32
) -> Prepared:
    """The repaired tutorial; in batches where the task has them."""
    arguments, limits = task.for_tutorial(dtype, epochs), blas_limits()
    one_step = (*(array[: task.batch_size] for array in arguments[:2]), *arguments[2:4], 1)
    threads = fastest(lambda: tutorial.train(*one_step), limits).name

    def train() -> tutorial.Params:
        with limits[threads]():
            return tutorial.train(*arguments)

    return Prepared(train, error, share=epochs, note=threads)


def optax_trainer(task: TrainTask, epochs: int, error: Error) -> Prepared:
    """The plain loop of `optax_epochs`."""
    start, compile_seconds = optax_epochs(task)

    def train() -> tutorial.Params:
        return optax_params(next(itertools.islice(start(), epochs - 1, None)))

    return Prepared(train, error, compile_seconds, share=epochs)


def optax_epochs(task: TrainTask) -> tuple[Callable[[], Iterator[Any]], float]:
    """The loop that one writes: float32 pixels, a `lax.scan` over the epoch's shuffled batches.

    As such loops do, it drops the last, partial batch. A full batch is not shuffled.

    Returns:
      What starts from zeros and gives the state after each epoch, without end, and the seconds that
      compiling took.
    """
    x, y = jnp.asarray(task.features()), jnp.asarray(task.labels)
    optimizer = optax.sgd(task.learning_rate)
    size = min(task.batch_size or len(y), len(y))

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = x @ params["kernel"] + params["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def epoch(state: Any, key: jax.Array, x: jax.Array, y: jax.Array) -> Any:
        def step(state: Any, rows: jax.Array | slice) -> Any:
            params, optimizer_state = state
            value, gradients = jax.value_and_grad(loss)(params, x[rows], y[rows])
            updates, optimizer_state = optimizer.update(gradients, optimizer_state)
            return (optax.apply_updates(params, updates), optimizer_state), value

        if size == len(y):
            return step(state, slice(None))
        order = jax.random.permutation(key, len(y))[: len(y) // size * size]
        return jax.lax.scan(step, state, order.reshape(-1, size))

    params = {"kernel": jnp.zeros((x.shape[1], task.classes)), "bias": jnp.zeros(task.classes)}
    zeros = params, optimizer.init(params)
    program, compile_seconds = compiled(epoch, zeros, jax.random.key(0), x, y)

    def start() -> Iterator[Any]:
        state = zeros
        for i in itertools.count():
            state, _losses = program(state, jax.random.key(i), x, y)
            yield state

    return start, compile_seconds


def optax_params(state: Any) -> tutorial.Params:
    """Kernel and bias of a state of `optax_epochs`."""
    return np.asarray(state[0]["kernel"]), np.asarray(state[0]["bias"])
