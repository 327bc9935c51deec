"""Ways to train: ours, the tutorial's, optax's, PyTorch's and scikit-learn's.

Each takes a task, puts its data in place and gives what trains on it. A framework is imported where
it is used, so that a process that times one does not wait for the others.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np

from jax_softmax.benchmark import tutorial
from jax_softmax.benchmark.results import OURS
from jax_softmax.benchmark.threads import Fastest, blas_limits, fastest, torch_limits
from jax_softmax.benchmark.train_task import Reached, Trained, Trainer, TrainTask, accuracy

_AS_IT_COMES = Fastest("", nullcontext, 0.0)


class _StopError(Exception):
    """Leaves `fit` from its callback."""

    def __init__(self, reached: Reached) -> None:
        super().__init__()
        self.reached = reached


def ours(task: TrainTask) -> Trainer:
    """What `fit` runs, and to an accuracy `fit` itself, on the pixels as they are stored."""
    from jax_softmax import Split, TrainConfig, fit

    names = tuple(map(str, range(task.classes)))
    examples = Split(task.features, task.labels, names, task.scale)
    test = Split(task.test_features, task.test_labels, names, task.scale)

    @functools.cache  # and not before it is asked for: who races `fit` has no use for it
    def compiled_for(epochs: int) -> tuple[Callable[[], Any], float]:
        return _compiled_epochs(task, epochs)

    def train(epochs: int) -> Trained:
        program, compile_seconds = compiled_for(epochs)
        params = program()
        kernel, bias = np.asarray(params["kernel"]).T, np.asarray(params["bias"])
        return Trained(kernel, bias, compile_seconds)

    def train_to(target: float, epochs: int) -> Reached:
        def stop_at_target(record: dict[str, float]) -> None:
            reached = Reached(record["validation_accuracy"], int(record["epoch"]))
            if reached.accuracy >= target or reached.epochs == epochs:
                raise _StopError(reached)

        config = TrainConfig(task.learning_rate, task.batch_size, epochs)
        try:
            fit(examples, config, validation=test, on_progress=stop_at_target)
        except _StopError as stop:
            return stop.reached
        raise AssertionError("fit ended without a last look at the validation examples")

    return Trainer(train, train_to)


def _compiled_epochs(task: TrainTask, epochs: int) -> tuple[Callable[[], Any], float]:
    """What trains for some epochs in one call, the data in place, and seconds to compile it."""
    import jax.numpy as jnp

    from jax_softmax.benchmark.timing import compiled
    from jax_softmax.training.step import (
        Batches,
        TrainState,
        epoch_orders,
        is_full_batch,
        run_epochs,
        sgd,
    )

    features = jnp.asarray(task.features.reshape(len(task.labels), -1))
    data = Batches(features, jnp.asarray(task.labels, jnp.int32), np.float32(task.scale))
    optimizer = sgd(momentum=0.0, nesterov=False, weight_decay=0.0, schedule="constant", steps=0)
    params = {
        "kernel": jnp.zeros((task.classes, features.shape[1])),
        "bias": jnp.zeros(task.classes),
    }
    zeros = TrainState(params, optimizer.init(params))

    examples = len(task.labels)
    full_batch = is_full_batch(task.batch_size, examples)

    def orders() -> np.ndarray | None:
        rng = np.random.default_rng(0)
        return None if full_batch else epoch_orders(rng, examples, epochs, epochs)

    def from_zeros(zeros: Any, data: Any, orders: Any) -> Any:
        state, _losses = run_epochs(
            zeros,
            data,
            orders,
            jnp.int32(epochs),
            jnp.float32(task.learning_rate),
            optimizer=optimizer,
            batch_size=task.batch_size,
            calls_epochs=epochs,
        )
        return state.params

    program, compile_seconds = compiled(from_zeros, zeros, data, orders())
    return lambda: program(zeros, data, orders()), compile_seconds


def numpy_tutorial(task: TrainTask, dtype: type[np.floating] = np.float32) -> Trainer:
    """The repaired tutorial; in batches where the task has them."""
    features, test = task.scaled(dtype), task.scaled_test()

    def start() -> Iterator[tutorial.Params]:
        return tutorial.train_epochs(
            features, task.labels, task.classes, task.learning_rate, task.batch_size
        )

    def test_accuracy(params: tutorial.Params) -> float:
        kernel, bias = params
        return accuracy(test @ kernel + bias, task.test_labels)

    some = slice(task.batch_size)
    step = functools.partial(
        tutorial.train, features[some], task.labels[some], task.classes, task.learning_rate, 1
    )
    threads = fastest(step, blas_limits())
    return _looped(start, lambda params: Trained(*params), test_accuracy, threads)


def optax_scan(task: TrainTask) -> Trainer:
    """The plain loop: float32 pixels, a compiled `lax.scan` over the epoch's shuffled batches.

    As such loops do, it drops the last, partial batch.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from jax_softmax.benchmark.timing import compiled

    x, y = jnp.asarray(task.scaled()), jnp.asarray(task.labels)
    test = jnp.asarray(task.scaled_test())
    optimizer = optax.sgd(task.learning_rate)
    size = min(task.batch_size or len(y), len(y))

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = x @ params["kernel"] + params["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def epoch(state: Any, key: jax.Array, x: jax.Array, y: jax.Array) -> Any:
        def step(state: Any, rows: jax.Array) -> Any:
            params, optimizer_state = state
            value, gradients = jax.value_and_grad(loss)(params, x[rows], y[rows])
            updates, optimizer_state = optimizer.update(gradients, optimizer_state)
            return (optax.apply_updates(params, updates), optimizer_state), value

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

    def trained(state: Any) -> Trained:
        return Trained(
            np.asarray(state[0]["kernel"]), np.asarray(state[0]["bias"]), compile_seconds
        )

    def test_accuracy(state: Any) -> float:
        logits = test @ state[0]["kernel"] + state[0]["bias"]
        return accuracy(np.asarray(logits), task.test_labels)

    return _looped(start, trained, test_accuracy)


def pytorch(task: TrainTask) -> Trainer:
    """The usual loop over shuffled batches, on tensors in memory rather than a `DataLoader`."""
    import torch

    device = torch.device({"gpu": "cuda"}.get(task.platform, task.platform))
    x, test = (torch.from_numpy(a).to(device) for a in (task.scaled(), task.scaled_test()))
    y = torch.from_numpy(task.labels).long().to(device)
    size = task.batch_size or len(y)

    def start() -> Iterator[Any]:
        torch.manual_seed(0)
        model, optimizer = zeros()
        while True:
            order = torch.randperm(len(y), device=device)
            for rows in order.split(size) if size < len(y) else (slice(None),):
                step(model, optimizer, rows)
            yield model

    def zeros() -> tuple[Any, Any]:
        model = torch.nn.Linear(x.shape[1], task.classes, device=device)
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
        return model, torch.optim.SGD(model.parameters(), lr=task.learning_rate)

    def step(model: Any, optimizer: Any, rows: Any) -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()

    def finished_step(model: Any, optimizer: Any, rows: Any) -> None:
        step(model, optimizer, rows)
        if device.type == "cuda":
            torch.cuda.synchronize()

    some_rows = torch.arange(min(size, len(y)), device=device)
    threads = fastest(functools.partial(finished_step, *zeros(), some_rows), torch_limits(torch))

    def trained(model: Any) -> Trained:
        weight, bias = (value.detach().cpu().numpy() for value in (model.weight, model.bias))
        return Trained(weight.T, bias)

    def test_accuracy(model: Any) -> float:
        with torch.no_grad():
            return accuracy(model(test).cpu().numpy(), task.test_labels)

    return _looped(start, trained, test_accuracy, threads)


def scikit_learn(task: TrainTask) -> Trainer:
    """`LogisticRegression` as it comes (L-BFGS, with its L2 penalty): epochs are iterations."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    features, test = task.scaled(), task.scaled_test()

    def fitted(iterations: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is told to stop
            return LogisticRegression(max_iter=iterations).fit(features, task.labels)

    def train(iterations: int) -> Trained:
        model = fitted(iterations)
        return Trained(model.coef_.T, model.intercept_)

    def train_to(target: float, iterations: int) -> Reached:
        model = fitted(iterations)  # to the end, for it cannot be watched
        return Reached(float(model.score(test, task.test_labels)), int(model.n_iter_[0]))

    return Trainer(train, train_to)


def _looped(
    start: Callable[[], Iterator[Any]],
    trained: Callable[[Any], Trained],
    test_accuracy: Callable[[Any], float],
    threads: Fastest = _AS_IT_COMES,
) -> Trainer:
    """A trainer of what gives its state after each epoch, without end."""

    def train(epochs: int) -> Trained:
        with threads.limit():
            return trained(next(itertools.islice(start(), epochs - 1, None)))

    def train_to(target: float, epochs: int) -> Reached:
        with threads.limit():
            states = enumerate(start(), start=1)
            looks = (Reached(test_accuracy(state), epoch) for epoch, state in states)
            return next(r for r in looks if r.accuracy >= target or r.epochs == epochs)

    return Trainer(train, train_to, threads.name, threads.seconds)


NUMPY, OPTAX, TORCH, SKLEARN = "NumPy tutorial", "optax scan", "PyTorch", "scikit-learn"
NUMPY_FLOAT64 = f"{NUMPY}, float64"
"""As the tutorial's own code computes; the other contenders have float32."""
TRAINERS: dict[str, Callable[[TrainTask], Trainer]] = {
    OURS: ours,
    NUMPY: numpy_tutorial,
    NUMPY_FLOAT64: functools.partial(numpy_tutorial, dtype=np.float64),
    OPTAX: optax_scan,
    TORCH: pytorch,
    SKLEARN: scikit_learn,
}
