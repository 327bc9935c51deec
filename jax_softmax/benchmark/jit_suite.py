"""What `jit` buys: the loss, its gradient and a training run, from NumPy to one compiled program.

The training run is iris in size: 120 rows of 4 features, 3 classes, 1000 full-batch steps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_softmax import Split, TrainConfig, fit, softmax_cross_entropy_with_integer_labels
from jax_softmax.benchmark import tutorial
from jax_softmax.benchmark.cases import OURS, Case, Contender, Context, Prepared, Step, run_case
from jax_softmax.benchmark.compare import LOSS_BOUNDS, PARAMS_BOUND, params_error, relative_error
from jax_softmax.benchmark.results import Record
from jax_softmax.benchmark.timing import compiled

NUMPY, NO_JIT = "NumPy tutorial", "JAX without jit"
_LEARNING_RATE = 0.1
_STEPS = 1000
# Without jit a step takes a hundred times as long; as many are run, and the time is scaled.
_STEPS_NO_JIT = 10
_STEPS_PER_SCAN = 100


def steps(context: Context) -> list[Step]:
    """The loss and its gradient, and the training run."""
    budget = context.budget_seconds
    found = [
        Step(name, functools.partial(_run, case, budget))
        for rows, classes in (((120, 3),) if context.quick else ((120, 3), (1024, 1000)))
        for name, case in {
            f"loss {rows}×{classes}": functools.partial(loss_case, rows, classes),
            f"gradient {rows}×{classes}": functools.partial(gradient_case, rows, classes),
        }.items()
    ]
    return [*found, Step("training run", functools.partial(_run, training_case, budget))]


def _run(case: Callable[[], Case], budget_seconds: float) -> list[Record]:
    return with_break_even(run_case(case(), budget_seconds))


def loss_case(rows: int, classes: int) -> Case:
    """The mean cross-entropy of `[rows, classes]` logits."""
    z, y = _logits(rows, classes)
    right = tutorial.cross_entropy(z.astype(np.float64), y)
    return _op_case("loss", z, y, _mean_loss, tutorial.cross_entropy, right)


def gradient_case(rows: int, classes: int) -> Case:
    """Its gradient by the logits."""
    z, y = _logits(rows, classes)
    right = _numpy_gradient(z.astype(np.float64), y)
    return _op_case("gradient", z, y, jax.grad(_mean_loss), _numpy_gradient, right)


def _numpy_gradient(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    return tutorial.softmax_backward(tutorial.softmax(z), y)


def _op_case(
    name: str,
    z: np.ndarray,
    y: np.ndarray,
    ours: Callable[..., Any],
    numpys: Callable[..., Any],
    right: Any,
) -> Case:
    error = functools.partial(relative_error, desired=right)
    on_device = jnp.asarray(z), jnp.asarray(y)

    def jitted() -> Prepared:
        program, seconds = compiled(ours, *on_device)
        return Prepared(lambda: program(*on_device), error, seconds)

    contenders = (
        Contender(NUMPY, lambda: Prepared(lambda: numpys(z, y), error)),
        Contender(NO_JIT, lambda: Prepared(lambda: _without_jit(ours, *on_device), error)),
        Contender("jit", jitted),
    )
    about = Record(
        suite="jit",
        case=f"{name} {z.shape[0]}×{z.shape[1]}",
        contender="",
        rows=z.shape[0],
        classes=z.shape[1],
        dtype="float32",
        ratio_to=NUMPY,
        error_bound=LOSS_BOUNDS["float32"],
        compared_with="NumPy in float64, largest relative error",
    )
    return Case(about, contenders)


@dataclass(frozen=True)
class Iris:
    """Examples of iris's shape: three clouds of flowers.

    Attributes:
      features: `[120, 4]` float32.
      labels: `[120]` int32 in `[0, 3)`.
    """

    features: np.ndarray
    labels: np.ndarray

    @classmethod
    def drawn(cls) -> Iris:
        """The same numbers every time."""
        rng = np.random.default_rng(0)
        labels = np.arange(120, dtype=np.int32) % 3
        centres = rng.uniform(1, 6, (3, 4))
        features = centres[labels] + 0.4 * rng.standard_normal((120, 4))
        return cls(features.astype(np.float32), labels)


def training_case(total: int = _STEPS) -> Case:
    """`total` full-batch steps from zeros."""
    iris = Iris.drawn()
    contenders = (
        Contender(NUMPY, functools.partial(_numpy_run, iris, total)),
        Contender(NO_JIT, functools.partial(_no_jit_run, iris, total)),
        Contender("jit a step", functools.partial(_scanned_run, iris, total, 1)),
        Contender("jit an epoch (scan)", functools.partial(_scanned_run, iris, total, 100)),
        Contender(f"jit the run ({OURS}.fit)", functools.partial(_fit_run, iris, total)),
    )
    about = Record(
        suite="jit",
        case=f"training run, {total:,} steps",
        contender="",
        rows=120,
        classes=3,
        dtype="float32",
        ratio_to=NUMPY,
        error_bound=PARAMS_BOUND,
        compared_with="NumPy in float64, parameters, over the largest",
    )
    return Case(about, contenders)


def _numpy_run(iris: Iris, total: int) -> Prepared:
    def run() -> tutorial.Params:
        return tutorial.train(iris.features, iris.labels, 3, _LEARNING_RATE, total)

    return Prepared(run, _params_error(iris, total))


def _no_jit_run(iris: Iris, total: int) -> Prepared:
    few = min(total, _STEPS_NO_JIT)
    x, y = jnp.asarray(iris.features), jnp.asarray(iris.labels)

    def run() -> Any:
        params = _zeros()
        with jax.disable_jit():
            for _ in range(few):
                params, _ = _step(params, x, y)
        return params

    note = f"{few} of {total:,} steps, scaled"
    return Prepared(run, _params_error(iris, few), share=few / total, note=note)


def _scanned_run(iris: Iris, total: int, steps_per_call: int) -> Prepared:
    """`steps_per_call` to a compiled program, which Python calls until there are `total`."""
    x, y = jnp.asarray(iris.features), jnp.asarray(iris.labels)

    def some_steps(params: Any, x: jax.Array, y: jax.Array) -> Any:
        if steps_per_call == 1:
            return _step(params, x, y)
        return lax.scan(lambda params, _: _step(params, x, y), params, length=steps_per_call)

    program, seconds = compiled(some_steps, _zeros(), x, y)

    def run() -> Any:
        params = _zeros()
        for _ in range(total // steps_per_call):
            params, _ = program(params, x, y)
        return params

    note = "" if steps_per_call == 1 else f"a scan of {steps_per_call} steps to a call"
    return Prepared(run, _params_error(iris, total), seconds, note=note)


def _fit_run(iris: Iris, total: int) -> Prepared:
    split = Split(iris.features, iris.labels)
    config = TrainConfig(learning_rate=_LEARNING_RATE, batch_size=None, epochs=total)
    compile_seconds = fit(split, config).compile_seconds

    def run() -> Any:
        params = fit(split, config).params
        return params["kernel"], params["bias"]

    return Prepared(run, _params_error(iris, total), compile_seconds, note="the whole call of fit")


def _params_error(iris: Iris, total: int) -> Callable[[Any], float]:
    wide = iris.features.astype(np.float64)
    right = tutorial.train(wide, iris.labels, 3, _LEARNING_RATE, total)
    return functools.partial(params_error, desired=right)


def _zeros() -> tuple[jax.Array, jax.Array]:
    return jnp.zeros((4, 3)), jnp.zeros(3)


def _step(params: Any, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
    """The parameters after a step, and the loss before it, which every contender computes."""
    loss, gradients = jax.value_and_grad(lambda p: _mean_loss(x @ p[0] + p[1][None], y))(params)
    return jax.tree.map(lambda p, g: p - _LEARNING_RATE * g, params, gradients), loss


def _mean_loss(z: jax.Array, y: jax.Array) -> jax.Array:
    return softmax_cross_entropy_with_integer_labels(z, y, reduction="mean")


def _without_jit(function: Callable[..., Any], *arguments: Any) -> Any:
    with jax.disable_jit():
        return function(*arguments)


def _logits(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((rows, classes), np.float32)
    return z, rng.integers(0, classes, rows, np.int32)


def with_break_even(records: Sequence[Record]) -> list[Record]:
    """The records with how many runs pay for what compiling took."""
    seconds = {record.contender: record.seconds_median for record in records}
    return [
        replace(
            record,
            break_even_runs_numpy=_break_even(record, seconds.get(NUMPY)),
            break_even_runs_no_jit=_break_even(record, seconds.get(NO_JIT)),
        )
        for record in records
    ]


def _break_even(record: Record, other_seconds: float | None) -> int | None:
    compile_seconds, seconds = record.compile_seconds, record.seconds_median
    if compile_seconds is None or seconds is None or other_seconds is None:
        return None
    return (
        math.ceil(compile_seconds / (other_seconds - seconds)) if other_seconds > seconds else None
    )
