"""The loss and its gradient, with and without `jit`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_softmax import softmax_cross_entropy_with_integer_labels
from jax_softmax.benchmark import tutorial
from jax_softmax.benchmark.cases import Case, Contender, Prepared
from jax_softmax.benchmark.compare import LOSS_BOUNDS, relative_error
from jax_softmax.benchmark.results import Record
from jax_softmax.benchmark.timing import compiled
from jax_softmax.benchmark.trainers import NUMPY

NO_JIT = "JAX without jit"


def loss_case(rows: int, classes: int) -> Case:
    """The mean cross-entropy of `[rows, classes]` logits."""
    z, y = _logits(rows, classes)
    right = tutorial.cross_entropy(z.astype(np.float64), y)
    return _op_case("loss", z, y, mean_loss, tutorial.cross_entropy, right)


def gradient_case(rows: int, classes: int) -> Case:
    """Its gradient by the logits."""
    z, y = _logits(rows, classes)
    right = _numpy_gradient(z.astype(np.float64), y)
    return _op_case("gradient", z, y, jax.grad(mean_loss), _numpy_gradient, right)


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
        Contender(NO_JIT, lambda: Prepared(lambda: _without_jit(ours, *on_device), error), True),
        Contender("jit", jitted, True),
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


def mean_loss(z: jax.Array, y: jax.Array) -> jax.Array:
    """The mean loss of `[N, V]` logits with `[N]` integer labels."""
    return softmax_cross_entropy_with_integer_labels(z, y, reduction="mean")


def _without_jit(function: Callable[..., Any], *arguments: Any) -> Any:
    with jax.disable_jit():
        return function(*arguments)


def _logits(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((rows, classes), np.float32)
    return z, rng.integers(0, classes, rows, np.int32)
