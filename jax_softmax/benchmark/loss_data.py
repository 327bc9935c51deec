"""Logits of one size, what is right for them, and contenders that give value and gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jax_softmax import softmax_cross_entropy_with_integer_labels
from jax_softmax.benchmark import peers, tutorial
from jax_softmax.benchmark.cases import Prepared
from jax_softmax.benchmark.compare import relative_error
from jax_softmax.benchmark.timing import compiled

Reduction = Literal["none", "sum", "mean"]
Rule = Literal["vjp", "jvp"]

# Gradients are compared on so many numbers, of rows evenly spread from the first to the last; the
# loss is compared over all rows.
_NUMBERS_COMPARED = 2**20
_NUMBERS_PER_BLOCK = 2**22


class LossData:
    """Logits and labels of a size, what is right for them, and the contenders on them."""

    def __init__(self, rows: int, classes: int, dtype: str = "float32") -> None:
        rng = np.random.default_rng(0)
        z = rng.standard_normal((rows, classes), np.float32)
        self.rows, self.classes, self.dtype = rows, classes, dtype
        self.labels = rng.integers(0, classes, rows, np.int32)
        self.z = jnp.asarray(z, dtype)
        self.y = jnp.asarray(self.labels)
        self.smallest = float(jnp.finfo(dtype).tiny)  # smaller numbers have fewer digits
        self.compared = _evenly_spread(rows, max(8, _NUMBERS_COMPARED // classes))
        self.loss, self.gradient = self._exact()

    def _exact(self) -> tuple[float, np.ndarray]:
        """The mean loss of all rows, and the rows of its gradient that are compared, in float64."""
        host = np.asarray(self.z)
        block = max(1, _NUMBERS_PER_BLOCK // self.classes)
        total = 0.0
        for first in range(0, self.rows, block):
            rows = slice(first, first + block)
            z = host[rows].astype(np.float64)
            total += float(tutorial.cross_entropy_losses(z, self.labels[rows]).sum())
        z = host[self.compared].astype(np.float64)
        gradient = tutorial.softmax_backward(tutorial.softmax(z), self.labels[self.compared])
        return total / self.rows, gradient * (len(self.compared) / self.rows)

    def error(self, result: Any, weight: float = 1.0) -> float:
        """Of a mean loss and its gradient, `weight` times both; losses a row are summed."""
        loss, gradient = result
        rows = peers.to_numpy(gradient[self.compared])
        return max(
            relative_error(peers.to_numpy(loss).sum(), weight * self.loss),
            relative_error(rows, weight * self.gradient, self.smallest),
        )

    def copy(self) -> Prepared:
        """`z * c`: what reading and writing as many bytes takes."""
        c = jnp.asarray(1.5, self.dtype)
        program, seconds = compiled(jnp.multiply, self.z, c)

        def error(result: Any) -> float:
            right = peers.to_numpy(self.z[self.compared]) * 1.5
            return relative_error(peers.to_numpy(result[self.compared]), right, self.smallest)

        return Prepared(lambda: program(self.z, c), error, seconds)

    def ours(self, reduction: Reduction, rule: Rule) -> Prepared:
        """The loss of jax_softmax."""

        def loss(z: jax.Array, y: jax.Array) -> jax.Array:
            return softmax_cross_entropy_with_integer_labels(z, y, reduction=reduction, rule=rule)

        return self.jax_loss(loss, 1.0 if reduction == "mean" else float(self.rows))

    def jax_loss(self, loss: Callable[..., jax.Array], weight: float = 1.0) -> Prepared:
        """Value and gradient of a loss whose sum is `weight` times the mean loss."""
        result = jax.eval_shape(loss, self.z, self.y)
        # An argument: were it a constant, XLA would spend seconds folding what follows from it.
        cotangent = jnp.ones(result.shape, result.dtype)

        def value_and_gradient(
            z: jax.Array, y: jax.Array, cotangent: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            value, vjp = jax.vjp(lambda z: loss(z, y), z)
            return value, vjp(cotangent)[0]

        program, seconds = compiled(value_and_gradient, self.z, self.y, cotangent)
        error = functools.partial(self.error, weight=weight)
        return Prepared(lambda: program(self.z, self.y, cotangent), error, seconds)

    def torch(self) -> Prepared:
        """PyTorch's mean loss."""
        z = np.array(self.z.astype(jnp.float32))  # to bfloat16 and back, which is exact
        run, note = peers.torch_value_and_gradient(z, self.labels, self.dtype)
        return Prepared(run, self.error, note=note)


def _evenly_spread(rows: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, rows - 1, min(rows, count)).astype(int))
