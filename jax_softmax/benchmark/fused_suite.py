"""What a loss without its logits costs: value and gradients by features and kernel.

The limit is the time of the three matrix products that no such loss can do without. What it saves
is the memory of the logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_softmax import linear_softmax_cross_entropy
from jax_softmax.benchmark import tutorial
from jax_softmax.benchmark.cases import Case, Contender, Context, Prepared, Steps
from jax_softmax.benchmark.compare import LINEAR_BOUNDS, evenly_spread, relative_error, to_numpy
from jax_softmax.benchmark.loss_suite import optax_loss, repeated, textbook_loss
from jax_softmax.benchmark.results import OURS, Record
from jax_softmax.benchmark.timing import compiled, temporaries
from jax_softmax.ops._linear.call import default_block

PRODUCTS = "three products"
AGAINST = "NumPy in float64, largest error of value and gradients over the row's largest"

# Of the gradients so many rows (of the features) and columns (of the kernel) are compared, and of
# the kernel as many again that are labels; the loss is compared over all rows.
_COMPARED = 32
_NUMBERS_PER_BLOCK = 2**22


Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # of features, kernel and labels


def on_logits(loss: Callable[[jax.Array, jax.Array], jax.Array], dtype: Any = None) -> Loss:
    """A mean loss of logits as one of a layer, on logits of `dtype`, or else of the arrays'."""
    return lambda x, k, y: loss(jnp.matmul(x, k, preferred_element_type=dtype), y)


@dataclass(frozen=True)
class Size:
    """Features `[rows, width]` and a kernel `[width, classes]`."""

    rows: int
    width: int
    classes: int
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.rows:,}×{self.width:,}×{self.classes:,} {self.dtype}"


def steps(context: Context) -> Steps:
    """A case for each size."""
    if jax.default_backend() == "cpu":
        small = Size(512, 128, 8192)
        full = [Size(2048, 512, 32768), Size(1024, 256, 16384, "bfloat16")]
    else:  # where float32 products are rounded to fewer digits, by default
        small = Size(512, 128, 8192, "bfloat16")
        full = [Size(2048, 512, 32768, "bfloat16"), Size(8192, 4096, 128256, "bfloat16")]
    sizes = [small] if context.quick else full
    return {str(size): functools.partial(fused_case, size) for size in sizes}


def fused_case(size: Size, others: Sequence[Contender] = (), *, small_block: int = 128) -> Case:
    """The contenders on one size, and `others`."""
    data = LinearData(size)
    losses = {"optax": on_logits(optax_loss), "reference, autodiff": on_logits(textbook_loss)}
    if size.dtype != "float32":  # as exact as the logits of half-precision arrays can be
        losses["optax, float32 logits"] = on_logits(optax_loss, jnp.float32)
    variants: dict[str, Callable[[], Prepared]] = {
        OURS: data.ours,
        f"{OURS}, blocks of {small_block}": functools.partial(data.ours, block_size=small_block),
        f"{OURS}, none": functools.partial(data.ours, "none"),
    }
    contenders = (
        Contender(PRODUCTS, data.three_products),
        *(Contender(name, prepare, ours=True) for name, prepare in variants.items()),
        *(Contender(name, functools.partial(data.jax_loss, f)) for name, f in losses.items()),
        *others,
    )
    return Case(about(size), contenders)


def about(size: Size) -> Record:
    """What the contenders of a size share."""
    return Record(
        suite="fused",
        case=f"value and gradients, {size}",
        rows=size.rows,
        classes=size.classes,
        width=size.width,
        dtype=size.dtype,
        ratio_to=PRODUCTS,
        error_bound=LINEAR_BOUNDS[size.dtype],
        compared_with=AGAINST,
        logits_bytes=size.rows * size.classes * jnp.dtype(size.dtype).itemsize,
    )


def _kernel(size: Size) -> jax.Array:
    """N(0, 1 / D), made where it stays: half a billion numbers take NumPy seconds."""
    k = jax.random.normal(jax.random.key(0), (size.width, size.classes), jnp.float32)
    return (k / np.float32(size.width**0.5)).astype(size.dtype)


class LinearData:
    """Arrays of a size with N(0, 1) logits, what is right for them, and the contenders on them.

    Gradients are held against the largest number of their row or column: sums that cancel have
    elements with fewer digits, and the columns of labels have much larger numbers than others.

    Args:
      size: of the arrays.
      distinct: how many rows of features and labels differ, as in `LossData`.
    """

    def __init__(self, size: Size, distinct: int | None = None) -> None:
        rng = np.random.default_rng(0)
        self.distinct = distinct or size.rows
        x = rng.standard_normal((self.distinct, size.width), np.float32)
        labels = rng.integers(0, size.classes, self.distinct, np.int32)
        self.size = size
        self.labels = repeated(labels, size.rows)
        self.x, self.y = repeated(jnp.asarray(x, size.dtype), size.rows), jnp.asarray(self.labels)
        self.k = _kernel(size)
        self.some_rows = evenly_spread(size.rows, _COMPARED)
        self.some_classes = np.union1d(
            evenly_spread(size.classes, _COMPARED), self.labels[self.some_rows]
        )

    @functools.cached_property
    def _host(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.x[: self.distinct]).astype(np.float64), np.asarray(self.k).astype(
            np.float64
        )

    @functools.cached_property
    def right(self) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
        """The mean loss of all rows, and what is compared of its gradients, in float64."""
        x, k = self._host
        count = self.distinct
        here = np.unique(self.some_rows % count)
        total, by_features, by_kernel = (
            0.0,
            np.zeros((count, x.shape[1])),
            np.zeros((x.shape[1], len(self.some_classes))),
        )
        block = max(1, _NUMBERS_PER_BLOCK // self.size.classes)
        for first in range(0, count, block):
            rows = slice(first, min(first + block, count))
            labels = self.labels[rows]
            z = x[rows] @ k
            total += float(tutorial.cross_entropy_losses(z, labels).sum())
            g = tutorial.softmax_backward(tutorial.softmax(z), labels) * (len(labels) / count)
            by_kernel += x[rows].T @ g[:, self.some_classes]
            found = here[(here >= first) & (here < first + block)]
            by_features[found] = g[found - first] @ k.T
        times = self.size.rows // count  # so many rows share the mean with each that is here
        return total / count, (by_features[self.some_rows % count] / times, by_kernel)

    def error(self, result: Any) -> float:
        """Of a mean loss and its gradients by features and kernel."""
        loss, gradients = result
        right_loss, right_gradients = self.right
        return max(
            relative_error(to_numpy(loss), right_loss),
            self._gradients_error(gradients, right_gradients),
        )

    def _gradients_error(self, gradients: Any, right: tuple[np.ndarray, np.ndarray]) -> float:
        by_features, by_kernel = gradients
        rows = to_numpy(by_features[self.some_rows])
        columns = to_numpy(by_kernel[:, self.some_classes])
        return max(
            relative_error(rows, right[0], np.max(np.abs(right[0]), axis=1, keepdims=True)),
            relative_error(columns, right[1], np.max(np.abs(right[1]), axis=0, keepdims=True)),
        )

    def three_products(self, classes_multiple: int = 1) -> Prepared:
        """`z = x k`, `z kᵀ` and `xᵀ z`, with `z` held between: the products no loss can save.

        The classes are filled up with zeros to a multiple, which tensor cores are fast at.
        """
        missing = -self.size.classes % classes_multiple
        kernel = jnp.pad(self.k, ((0, 0), (0, missing))) if missing else self.k

        def products(x: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
            z = lax.optimization_barrier(x @ k)
            return z @ k.T, x.T @ z

        def error(result: Any) -> float:
            x, k = self._host
            by_features = x[self.some_rows % self.distinct] @ k @ k.T
            by_kernel = x.T @ (x @ k[:, self.some_classes]) * (self.size.rows // self.distinct)
            return self._gradients_error(result, (by_features, by_kernel))

        prepared = self._prepared(products, error, self.x, kernel)
        note = f"with {kernel.shape[1]:,} classes" if missing else ""
        return replace(prepared, note=note)

    def ours(
        self, reduction: Literal["mean", "none"] = "mean", block_size: int | None = None
    ) -> Prepared:
        """The loss of jax_softmax; losses of rows are averaged."""

        def loss(x: jax.Array, k: jax.Array, y: jax.Array) -> jax.Array:
            return jnp.mean(
                linear_softmax_cross_entropy(x, k, y, reduction=reduction, block_size=block_size)
            )

        chosen = default_block(self.size.rows, self.size.classes, jnp.dtype(jnp.float32))
        note = "" if block_size else f"blocks of {chosen.rows:,} rows"
        return replace(self.jax_loss(loss), note=note)

    def jax_loss(self, loss: Loss) -> Prepared:
        """Value and gradients of a mean loss `loss(features, kernel, labels)`."""
        return self._prepared(jax.value_and_grad(loss, (0, 1)), self.error, self.x, self.k, self.y)

    def _prepared(
        self, function: Callable[..., Any], error: Callable[[Any], float], *arrays: jax.Array
    ) -> Prepared:
        program, seconds = compiled(function, *arrays)
        return Prepared(
            lambda: program(*arrays), error, seconds, temporary_bytes=temporaries(program)
        )
