"""A training run iris in size, from NumPy to one compiled program: 1000 steps on 120 rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_softmax import Split, TrainConfig, fit
from jax_softmax.benchmark import tutorial
from jax_softmax.benchmark.cases import Case, Contender, Prepared
from jax_softmax.benchmark.compare import PARAMS_BOUND, params_error
from jax_softmax.benchmark.jit_ops import NO_JIT, mean_loss
from jax_softmax.benchmark.results import OURS, Record
from jax_softmax.benchmark.timing import compiled
from jax_softmax.benchmark.trainers import NUMPY

_LEARNING_RATE = 0.1
_STEPS = 1000
# Without jit a step takes hundreds of times as long; as many are run, and the time is scaled.
_STEPS_NO_JIT = 5
_STEPS_PER_SCAN = 100


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
    """`total` full-batch steps from zeros, a multiple of 100."""
    iris = Iris.drawn()
    contenders = (
        Contender(NUMPY, functools.partial(_numpy_run, iris, total)),
        Contender(NO_JIT, functools.partial(_no_jit_run, iris, total), ours=True),
        Contender("jit a step", functools.partial(_scanned_run, iris, total, 1), ours=True),
        Contender(
            "jit an epoch (scan)",
            functools.partial(_scanned_run, iris, total, _STEPS_PER_SCAN),
            ours=True,
        ),
        Contender(f"jit the run ({OURS}.fit)", functools.partial(_fit_run, iris, total), ours=True),
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
    loss, gradients = jax.value_and_grad(lambda p: mean_loss(x @ p[0] + p[1][None], y))(params)
    return jax.tree.map(lambda p, g: p - _LEARNING_RATE * g, params, gradients), loss
