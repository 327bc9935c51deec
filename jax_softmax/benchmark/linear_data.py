"""Features and a kernel of one size, what is right for them, and contenders on them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_softmax import linear_softmax_cross_entropy
from jax_softmax.benchmark import linear_peers, peers, tutorial
from jax_softmax.benchmark.cases import Prepared
from jax_softmax.benchmark.compare import relative_error
from jax_softmax.benchmark.timing import compiled
from jax_softmax.ops._row_blocks import choose_block_size, row_blocks

Reduction = Literal["none", "mean"]

# Of the gradients so many rows (of the features) and columns (of the kernel) are compared, and of
# the kernel as many again that are labels; the loss is compared over all rows.
_COMPARED = 32
_NUMBERS_PER_BLOCK = 2**22


class LinearData:
    """Arrays of a size with N(0, 1) logits, what is right for them, and the contenders on them.

    Gradients are held against the largest number of their row or column: sums that cancel have
    elements with fewer digits, and the columns of labels have much larger numbers than others.
    """

    def __init__(self, rows: int, width: int, classes: int, dtype: str = "float32") -> None:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((rows, width), np.float32)
        k = rng.standard_normal((width, classes), np.float32) / np.float32(width**0.5)
        self.rows, self.classes, self.dtype = rows, classes, dtype
        self.labels = rng.integers(0, classes, rows, np.int32)
        self.x, self.k = jnp.asarray(x, dtype), jnp.asarray(k, dtype)
        self.y = jnp.asarray(self.labels)
        self.some_rows = _evenly_spread(rows)
        self.some_classes = np.union1d(_evenly_spread(classes), self.labels[self.some_rows])

    @functools.cached_property
    def _host(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.x).astype(np.float64), np.asarray(self.k).astype(np.float64)

    @functools.cached_property
    def right(self) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
        """The mean loss of all rows, and what is compared of its gradients, in float64."""
        x, k = self._host
        total, by_features, by_kernel = 0.0, [], np.zeros((x.shape[1], len(self.some_classes)))
        block = max(1, _NUMBERS_PER_BLOCK // self.classes)
        for first in range(0, self.rows, block):
            rows = slice(first, first + block)
            labels = self.labels[rows]
            p = tutorial.softmax(x[rows] @ k)
            total -= float(np.log(p[np.arange(len(labels)), labels]).sum())
            g = tutorial.softmax_backward(p, labels) * (len(labels) / self.rows)
            by_kernel += x[rows].T @ g[:, self.some_classes]
            here = self.some_rows[(self.some_rows >= first) & (self.some_rows < first + block)]
            by_features.append(g[here - first] @ k.T)
        return total / self.rows, (np.concatenate(by_features), by_kernel)

    def error(self, result: Any) -> float:
        """Of a mean loss and its gradients by features and kernel."""
        loss, gradients = result
        right_loss, right_gradients = self.right
        return max(
            relative_error(peers.to_numpy(loss), right_loss),
            self._gradients_error(gradients, right_gradients),
        )

    def _gradients_error(self, gradients: Any, right: tuple[np.ndarray, np.ndarray]) -> float:
        by_features, by_kernel = gradients
        rows = peers.to_numpy(by_features[self.some_rows])
        columns = peers.to_numpy(by_kernel[:, self.some_classes])
        return max(
            relative_error(rows, right[0], np.max(np.abs(right[0]), axis=1, keepdims=True)),
            relative_error(columns, right[1], np.max(np.abs(right[1]), axis=0, keepdims=True)),
        )

    def three_products(self) -> Prepared:
        """`z = x k`, `z kᵀ` and `xᵀ z`, with `z` held between: the products no loss can save."""

        def products(x: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
            z = lax.optimization_barrier(x @ k)
            return z @ k.T, x.T @ z

        def error(result: Any) -> float:
            x, k = self._host
            by_features = x[self.some_rows] @ k @ k.T
            return self._gradients_error(result, (by_features, x.T @ (x @ k[:, self.some_classes])))

        program, seconds = compiled(products, self.x, self.k)
        return Prepared(
            lambda: program(self.x, self.k), error, seconds, temporary_bytes=temporaries(program)
        )

    def ours(self, reduction: Reduction = "mean", block_size: int | None = None) -> Prepared:
        """The loss of jax_softmax, and the rows of the blocks that it takes."""

        def loss(x: jax.Array, k: jax.Array, y: jax.Array) -> jax.Array:
            losses = linear_softmax_cross_entropy(
                x, k, y, reduction=reduction, block_size=block_size
            )
            return jnp.mean(losses)  # of rows, or of one number

        return replace(self.jax_loss(loss), block_rows=taken(self.rows, self.classes, block_size))

    def jax_loss(self, loss: Callable[..., jax.Array]) -> Prepared:
        """Value and gradients of a mean loss `loss(features, kernel, labels)`."""
        arrays = self.x, self.k, self.y
        program, seconds = compiled(jax.value_and_grad(loss, (0, 1)), *arrays)
        return Prepared(
            lambda: program(*arrays), self.error, seconds, temporary_bytes=temporaries(program)
        )

    def tokamax(self, implementation: str) -> Prepared:
        """tokamax's mean loss."""
        return self.jax_loss(linear_peers.tokamax_loss(implementation))

    def torch(self, *, chunked: bool) -> Prepared:
        """PyTorch's mean loss."""
        x, k = (np.array(array.astype(jnp.float32)) for array in (self.x, self.k))  # exact
        run, note = linear_peers.torch_value_and_gradients(
            x, k, self.labels, self.dtype, chunked=chunked
        )
        return Prepared(run, self.error, note=note)


def taken(rows: int, classes: int, block_size: int | None = None) -> int:
    """The rows of a block of logits, float32, that is taken where so many are asked for.

    >>> taken(2048, 32768), taken(2048, 32768, 100)
    (512, 64)
    """
    wanted = block_size or choose_block_size(rows, classes).rows
    return row_blocks((rows,), wanted, contiguous=False).block[0]


def temporaries(program: jax.stages.Compiled) -> int | None:
    """What a compiled program holds beside its arguments and results, in bytes."""
    found = program.memory_analysis()
    return None if found is None else found.temp_size_in_bytes


def _evenly_spread(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _COMPARED)).astype(int))
