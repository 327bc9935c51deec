"""What `jit` buys: the loss, its gradient and a training run, from NumPy to one program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_softmax import Split, TrainConfig, fit, softmax_cross_entropy_with_integer_labels
from jax_softmax.benchmark import tutorial
from jax_softmax.benchmark.cases import Case, Contender, Context, Prepared, Steps
from jax_softmax.benchmark.compare import LOSS_BOUNDS, PARAMS_BOUND, params_error, relative_error
from jax_softmax.benchmark.results import OURS, Record
from jax_softmax.benchmark.timing import compiled
from jax_softmax.benchmark.tutorial import NUMPY

NO_JIT = "JAX without jit"
FIT = f"jit the run ({OURS}.fit)"

_LEARNING_RATE = 0.1
_STEPS = 1000
# Without jit a step takes far longer: a few are run, and the time is scaled.
_STEPS_NO_JIT = 5
_STEPS_PER_SCAN = 100


def steps(context: Context) -> Steps:
    """The loss and its gradient, and the training run."""
    found: Steps = {}
    for rows, classes in [(120, 3)] if context.quick else [(120, 3), (1024, 1000)]:
        found[f"loss {rows}×{classes}"] = functools.partial(loss_case, rows, classes)
        found[f"gradient {rows}×{classes}"] = functools.partial(gradient_case, rows, classes)
    return found | {"training run": training_case}


def loss_case(rows: int, classes: int) -> Case:
    """The mean cross-entropy of `[rows, classes]` logits."""
    return _operation_case("loss", rows, classes, mean_loss, tutorial.cross_entropy)


def gradient_case(rows: int, classes: int) -> Case:
    """Its gradient by the logits."""

    def numpys(z: np.ndarray, y: np.ndarray) -> np.ndarray:
        return tutorial.softmax_backward(tutorial.softmax(z), y)

    return _operation_case("gradient", rows, classes, jax.grad(mean_loss), numpys)


def mean_loss(z: jax.Array, y: jax.Array) -> jax.Array:
    """The mean loss of `[N, V]` logits with `[N]` integer labels."""
    return softmax_cross_entropy_with_integer_labels(z, y, reduction="mean")


def _operation_case(
    name: str, rows: int, classes: int, ours: Callable[..., Any], numpys: Callable[..., Any]
) -> Case:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((rows, classes), np.float32)
    y = rng.integers(0, classes, rows, np.int32)
    error = functools.partial(relative_error, desired=numpys(z.astype(np.float64), y))
    on_device = jnp.asarray(z), jnp.asarray(y)

    def without_jit() -> Any:
        with jax.disable_jit():
            return ours(*on_device)

    def jitted() -> Prepared:
        program, seconds = compiled(ours, *on_device)
        return Prepared(lambda: program(*on_device), error, seconds)

    contenders = (
        Contender(NUMPY, lambda: Prepared(lambda: numpys(z, y), error)),
        Contender(NO_JIT, lambda: Prepared(without_jit, error), ours=True),
        Contender("jit", jitted, ours=True),
    )
    about = Record(
        suite="jit",
        case=f"{name} {rows}×{classes}",
        rows=rows,
        classes=classes,
        dtype="float32",
        ratio_to=NUMPY,
        error_bound=LOSS_BOUNDS["float32"],
        compared_with="NumPy in float64, largest relative error",
    )
    return Case(about, contenders)


def training_case(total: int = _STEPS) -> Case:
    """Full-batch steps from zeros on 120 rows of three classes, `total` a multiple of 100."""
    examples = _flowers()
    x, y = jnp.asarray(examples.features), jnp.asarray(examples.labels)
    zeros = jnp.zeros((4, 3)), jnp.zeros(3)

    def error_after(count: int) -> Callable[[Any], float]:
        wide = examples.features.astype(np.float64)
        right = tutorial.train(wide, examples.labels, 3, _LEARNING_RATE, count)
        return functools.partial(params_error, desired=right)

    def numpy() -> Prepared:
        arguments = (examples.features, examples.labels, 3, _LEARNING_RATE, total)
        return Prepared(lambda: tutorial.train(*arguments), error_after(total))

    def without_jit() -> Prepared:
        few = min(total, _STEPS_NO_JIT)

        def run() -> Any:
            with jax.disable_jit():
                return _repeated(_step, few, zeros, x, y)

        note = f"{few} of {total:,} steps, scaled"
        return Prepared(run, error_after(few), share=few / total, note=note)

    def jit_a_step() -> Prepared:
        step, seconds = compiled(_step, zeros, x, y)
        return Prepared(lambda: _repeated(step, total, zeros, x, y), error_after(total), seconds)

    def jit_an_epoch() -> Prepared:
        def scan(params: Any, x: jax.Array, y: jax.Array) -> Any:
            return lax.scan(lambda p, _: _step(p, x, y), params, length=_STEPS_PER_SCAN)

        steps, seconds = compiled(scan, zeros, x, y)
        calls, note = total // _STEPS_PER_SCAN, f"a scan of {_STEPS_PER_SCAN} steps to a call"
        return Prepared(
            lambda: _repeated(steps, calls, zeros, x, y), error_after(total), seconds, note=note
        )

    def jit_the_run() -> Prepared:
        # On one device, as the others are.
        config = TrainConfig(
            learning_rate=_LEARNING_RATE, batch_size=None, epochs=total, mesh={"data": 1}
        )

        def run() -> Any:
            params = fit(examples, config).params
            return params["kernel"], params["bias"]

        seconds = fit(examples, config).compile_seconds
        return Prepared(run, error_after(total), seconds, note="the whole call of fit")

    contenders = (
        Contender(NUMPY, numpy),
        Contender(NO_JIT, without_jit, ours=True),
        Contender("jit a step", jit_a_step, ours=True),
        Contender("jit an epoch (scan)", jit_an_epoch, ours=True),
        Contender(FIT, jit_the_run, ours=True),
    )
    about = Record(
        suite="jit",
        case=f"training run, {total:,} steps",
        rows=len(examples.labels),
        classes=3,
        dtype="float32",
        ratio_to=NUMPY,
        error_bound=PARAMS_BOUND,
        compared_with="NumPy in float64, parameters, over the largest",
    )
    return Case(about, contenders)


def _flowers() -> Split:
    """Examples of iris's shape: three clouds of flowers, the same numbers every time."""
    rng = np.random.default_rng(0)
    labels = np.arange(120, dtype=np.int32) % 3
    features = rng.uniform(1, 6, (3, 4))[labels] + 0.4 * rng.standard_normal((120, 4))
    return Split(features.astype(np.float32), labels)


def _step(params: Any, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
    """The parameters after a step, and the loss before it, which every contender computes."""
    loss, gradients = jax.value_and_grad(lambda p: mean_loss(x @ p[0] + p[1][None], y))(params)
    return jax.tree.map(lambda p, g: p - _LEARNING_RATE * g, params, gradients), loss


def _repeated(step: Callable[..., Any], count: int, params: Any, x: jax.Array, y: jax.Array) -> Any:
    for _ in range(count):
        params, _ = step(params, x, y)
    return params
