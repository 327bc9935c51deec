"""What the hand-written rule buys: value and gradient on logits, beside others and a bare copy.

All arrays take the same number of bytes, so that a copy takes the same time for each size: the
same number of logits for each number of classes, twice as many in half precision.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_softmax import softmax_cross_entropy_with_integer_labels
from jax_softmax.benchmark import tutorial
from jax_softmax.benchmark.cases import Case, Contender, Context, Prepared, Steps
from jax_softmax.benchmark.compare import LOSS_BOUNDS, evenly_spread, relative_error, to_numpy
from jax_softmax.benchmark.results import OURS, Record
from jax_softmax.benchmark.timing import compiled
from jax_softmax.ops import reference

COPY = "copy (z * c)"
AGAINST = "NumPy in float64, largest relative error of value and gradient"

# Gradients are compared on so many numbers, of rows evenly spread from the first to the last; the
# loss is compared over all rows.
_NUMBERS_COMPARED = 2**20
_NUMBERS_PER_BLOCK = 2**22


def textbook_loss(z: jax.Array, y: jax.Array) -> jax.Array:
    """The mean of `ops.reference`'s losses."""
    return jnp.mean(reference.softmax_cross_entropy_with_integer_labels(z, y))


def jax_nn_loss(z: jax.Array, y: jax.Array) -> jax.Array:
    """The mean of `jax.nn.log_softmax` at the labels."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1))


def optax_loss(z: jax.Array, y: jax.Array) -> jax.Array:
    """The mean of optax's losses."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(z, y))


OTHERS = {"optax": optax_loss, "jax.nn": jax_nn_loss, "reference, autodiff": textbook_loss}


@dataclass(frozen=True)
class Size:
    """Logits `[rows, classes]`."""

    rows: int
    classes: int
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.rows:,}×{self.classes:,} {self.dtype}"

    @property
    def nbytes(self) -> int:
        """What the logits take."""
        return self.rows * self.classes * jnp.dtype(self.dtype).itemsize


def steps(context: Context) -> Steps:
    """A case for each size."""
    classes: dict[str, tuple[int, ...]] = dict.fromkeys(
        ("float32", "bfloat16", "float16"), (10, 100, 1000, 8192, 32768, 50257, 262144)
    )
    nbytes = 2**27
    if context.quick:
        # 32 MB: what is larger, glibc's malloc maps afresh each time, and so does the copy.
        nbytes, classes = 2**25, {"float32": (10, 1024, 262144), "bfloat16": (1024,)}
    sizes = [
        Size(nbytes // jnp.dtype(dtype).itemsize // count, count, dtype)
        for dtype, counts in classes.items()
        for count in counts
    ]
    return {
        str(size): functools.partial(_loss_case_in_passes, size, context=context) for size in sizes
    }


def _loss_case_in_passes(size: Size, context: Context) -> Case:
    return loss_case(size, pass_seconds=context.rates.pass_seconds(size.nbytes))


def loss_case(
    size: Size, others: Sequence[Contender] = (), *, pass_seconds: float | None = None
) -> Case:
    """The contenders on N(0, 1) logits of one size; `others` take part as well."""
    data = LossData(size)
    variants: dict[str, Callable[[], Prepared]] = {
        OURS: data.ours,
        f"{OURS}, none": functools.partial(data.ours, "none"),
        f'{OURS}, rule="jvp"': functools.partial(data.ours, rule="jvp"),
    }
    contenders = (
        Contender(COPY, data.copy),
        *(Contender(name, prepare, ours=True) for name, prepare in variants.items()),
        *(Contender(name, functools.partial(data.jax_loss, f)) for name, f in OTHERS.items()),
        *others,
    )
    return Case(about(size, pass_seconds), contenders)


def about(size: Size, pass_seconds: float | None) -> Record:
    """What the contenders of a size share."""
    return Record(
        suite="loss",
        case=f"value and gradient, {size}",
        rows=size.rows,
        classes=size.classes,
        dtype=size.dtype,
        ratio_to=COPY,
        error_bound=LOSS_BOUNDS[size.dtype],
        compared_with=AGAINST,
        pass_seconds=pass_seconds,
    )


Rows = TypeVar("Rows", np.ndarray, jax.Array)


def repeated(array: Rows, rows: int) -> Rows:
    """So many rows, which repeat those of the array."""
    times, rest = divmod(rows, len(array))
    if rest:
        raise ValueError(f"{rows} rows cannot repeat {len(array)}: expected a divisor.")
    if times == 1:
        return array
    tile = jnp.tile if isinstance(array, jax.Array) else np.tile
    return tile(array, (times, *[1] * (array.ndim - 1)))


class LossData:
    """Logits and labels of a size, what is right for them, and the contenders on them.

    Args:
      size: of the logits.
      distinct: how many rows differ, a divisor of the rows; the rest repeats them, so that what is
        right takes a moment for logits of gigabytes. None is all.
    """

    def __init__(self, size: Size, distinct: int | None = None) -> None:
        rng = np.random.default_rng(0)
        self.distinct = distinct or size.rows
        z = rng.standard_normal((self.distinct, size.classes), np.float32)
        labels = rng.integers(0, size.classes, self.distinct, np.int32)
        self.size = size
        self.labels = repeated(labels, size.rows)
        self.z = repeated(jnp.asarray(z, size.dtype), size.rows)
        self.y = jnp.asarray(self.labels)
        self.smallest = float(jnp.finfo(size.dtype).tiny)  # smaller numbers have fewer digits
        self.compared = evenly_spread(size.rows, max(8, _NUMBERS_COMPARED // size.classes))

    def placed(self, sharding: jax.sharding.Sharding) -> LossData:
        """The same with logits and labels spread over devices, and what is right shared."""
        placed = copy.copy(self)
        placed.z, placed.y = jax.device_put((self.z, self.y), sharding)
        return placed

    @functools.cached_property
    def right(self) -> tuple[float, np.ndarray]:
        """The mean loss of all rows, and the rows of its gradient that are compared, in float64."""
        host = np.asarray(self.z[: self.distinct])
        block = max(1, _NUMBERS_PER_BLOCK // self.size.classes)
        total = 0.0
        for first in range(0, self.distinct, block):
            rows = slice(first, min(first + block, self.distinct))
            z = host[rows].astype(np.float64)
            total += float(tutorial.cross_entropy_losses(z, self.labels[rows]).sum())
        z = host[self.compared % self.distinct].astype(np.float64)
        gradient = tutorial.softmax_backward(tutorial.softmax(z), self.labels[self.compared])
        return total / self.distinct, gradient * (len(self.compared) / self.size.rows)

    def error(self, result: Any) -> float:
        """Of a mean loss and its gradient."""
        loss, gradient = result
        right_loss, right_gradient = self.right
        return max(
            relative_error(to_numpy(loss), right_loss),
            relative_error(to_numpy(gradient[self.compared]), right_gradient, self.smallest),
        )

    def value_error(self, loss: Any) -> float:
        """Of a mean loss alone."""
        return relative_error(to_numpy(loss), self.right[0])

    def copy(self) -> Prepared:
        """`z * c`: what reading and writing as many bytes takes."""
        c = jnp.asarray(1.5, self.size.dtype)
        program, seconds = compiled(jnp.multiply, self.z, c)

        def error(result: Any) -> float:
            right = to_numpy(self.z[self.compared]) * 1.5
            return relative_error(to_numpy(result[self.compared]), right, self.smallest)

        return Prepared(lambda: program(self.z, c), error, seconds)

    def ours(
        self,
        reduction: Literal["mean", "none"] = "mean",
        rule: Literal["vjp", "jvp"] = "vjp",
        *,
        gradient: bool = True,
    ) -> Prepared:
        """The loss of jax_softmax; losses of rows are averaged."""

        def loss(z: jax.Array, y: jax.Array) -> jax.Array:
            return jnp.mean(
                softmax_cross_entropy_with_integer_labels(z, y, reduction=reduction, rule=rule)
            )

        return self.jax_loss(loss) if gradient else self.jax_value(loss)

    def jax_value(self, loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Prepared:
        """The value of a mean loss `loss(logits, labels)`."""
        program, seconds = compiled(loss, self.z, self.y)
        return Prepared(lambda: program(self.z, self.y), self.value_error, seconds)

    def jax_loss(self, loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Prepared:
        """Value and gradient of a mean loss `loss(logits, labels)`."""
        # An argument: were it a constant, XLA would spend seconds folding what follows from it.
        cotangent = jnp.ones(())

        def value_and_gradient(
            z: jax.Array, y: jax.Array, cotangent: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            value, vjp = jax.vjp(lambda z: loss(z, y), z)
            return value, vjp(cotangent.astype(value.dtype))[0]

        program, seconds = compiled(value_and_gradient, self.z, self.y, cotangent)
        return Prepared(lambda: program(self.z, self.y, cotangent), self.error, seconds)
