r"""The penalised loss that a softmax classifier minimises, over all rows, a block at a time.

With weights `w_i` that sum to `W`, coefficients `B` (`[K, D]`), intercepts `b` (`[K]`) and the
penalties `l1`, `l2`, it is

    f(B, b) = sum_i w_i cross_entropy(x_i B.T + b, y_i) / W + l2 |B|^2 / 2 + l1 |B|_1

which is scikit-learn's for `C = 1 / ((l1 + l2) W)`, and so are the units of its gradient. One sweep
reads each row once, for the value and the gradient: a block of rows is small enough for a CPU's
cache, and no array of rows by classes is ever held (docs/performance.md).

Two classes are `[1, D]` coefficients to scikit-learn, and its penalty is that of their difference.
Here they are two classes like any other, of which each takes half of that difference: with twice
the `l2` that is the same objective, and the gradient by either is that by the difference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jax_softmax.classifier.rows import Rows
from jax_softmax.ops import (
    linear_softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from jax_softmax.training.mesh import DATA, MODEL

# Else a TPU multiplies in bfloat16, and a GPU in fewer bits than float32 has.
_PRECISION = lax.Precision.HIGHEST


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of two matrices, in their own precision on every device."""
    return lax.dot(a, b, precision=_PRECISION)


class Problem(NamedTuple):
    """What is minimised, all of it arrays.

    Attributes:
      rows: the features, `[N, D]`.
      labels: `[N]` int32.
      weights: `[N]`, that sum to 1.
      l2: a scalar, the factor of half the coefficients' squares.
      l1: a scalar, the factor of their absolute values, which `value_and_gradient` leaves out.
      intercept: a scalar, 1 if there are intercepts and 0 if they stay 0.
    """

    rows: Rows
    labels: jax.Array
    weights: jax.Array
    l2: Any
    l1: Any
    intercept: Any


class Spread(NamedTuple):
    """Over which devices rows and classes are spread.

    Attributes:
      mesh: with the axes data, for rows, and model, for classes.
      classes: K; `w` is filled up to a multiple of the devices that classes are spread over.
    """

    mesh: Mesh
    classes: int


def value_and_gradient(
    problem: Problem,
    w: jax.Array,
    *,
    block: int,
    label_smoothing: float = 0.0,
    spread: Spread | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The objective without its `l1` term, and its gradient.

    Args:
      problem: what is minimised.
      w: `[K, D + 1]`, the coefficients and, last, the intercepts.
      block: how many rows are taken together.
      label_smoothing: as the losses have it.
      spread: over which devices; None for one.

    Returns:
      A scalar, and `[K, D + 1]`.
    """
    loss, gradient = _sums(problem, w, block, label_smoothing, spread, differentiated=True)
    loss += problem.l2 * jnp.sum(w[:, :-1] ** 2) / 2
    gradient = gradient.at[:, :-1].add(problem.l2 * w[:, :-1])
    return loss, gradient.at[:, -1].multiply(problem.intercept)


def value(
    problem: Problem, w: jax.Array, *, block: int, label_smoothing: float, spread: Spread | None
) -> jax.Array:
    """The first result of `value_and_gradient`, alone: a product less."""
    loss: jax.Array = _sums(problem, w, block, label_smoothing, spread, differentiated=False)
    return loss + problem.l2 * jnp.sum(w[:, :-1] ** 2) / 2


def specs(problem: Problem) -> Problem:
    """Where each array of a problem is on a mesh: rows over the axis data."""
    rows = jax.tree.map(lambda _: P(DATA), problem.rows)
    return Problem(rows, P(DATA), P(DATA), P(), P(), P())  # type: ignore[arg-type] # of their shape


LossOf = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def _sums(
    problem: Problem,
    w: jax.Array,
    block: int,
    label_smoothing: float,
    spread: Spread | None,
    *,
    differentiated: bool,
) -> Any:
    """The weighted sum of the rows' losses, a scalar; or that and its gradient, `[K, D + 1]`."""

    def over_blocks(loss_of: LossOf, problem: Problem, w: jax.Array) -> Any:
        function = jax.value_and_grad(loss_of) if differentiated else loss_of

        def add(i: jax.Array, sums: Any) -> Any:
            found = function(w, *block_of_rows(problem, i, block))
            return jax.tree.map(jnp.add, sums, found)

        zero = 0 * problem.weights[0]
        blocks = -(-problem.labels.shape[0] // block)
        zeros = (zero, jnp.zeros_like(w)) if differentiated else zero
        return lax.fori_loop(0, blocks, add, zeros)

    if spread is None:
        return over_blocks(functools.partial(_loss, label_smoothing), problem, w)
    loss_of = functools.partial(_loss_of_classes, label_smoothing, spread.classes)

    def on_device(problem: Problem, w: jax.Array) -> Any:
        return lax.psum(over_blocks(loss_of, problem, lax.pcast(w, DATA, to="varying")), DATA)

    return jax.shard_map(
        on_device,
        mesh=spread.mesh,
        in_specs=(specs(problem), P(MODEL)),
        out_specs=(P(), P(MODEL)) if differentiated else P(),
    )(problem, w)


def _loss(
    label_smoothing: float, w: jax.Array, features: jax.Array, labels: jax.Array, weights: jax.Array
) -> jax.Array:
    return softmax_cross_entropy_with_integer_labels(
        dot(features, w[:, :-1].T) + w[:, -1],
        labels,
        sample_weight=weights,
        label_smoothing=label_smoothing,
        reduction="sum",
    )


def _loss_of_classes(
    label_smoothing: float,
    classes: int,
    w: jax.Array,
    features: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """The same where `w` is this device's slice of the classes."""
    return linear_softmax_cross_entropy(
        features,
        w[:, :-1],
        labels,
        bias=w[:, -1],
        kernel_layout="vd",
        sample_weight=weights,
        label_smoothing=label_smoothing,
        axis_name=MODEL,
        num_classes=classes,
        precision=_PRECISION,
        reduction="sum",
    )


def block_of_rows(
    problem: Problem, i: jax.Array, block: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Features, labels and weights of the i-th block of rows.

    The last one begins early enough to be whole; its rows that were taken before weigh nothing.
    """
    first = jnp.minimum(i * block, problem.labels.shape[0] - block)
    features = problem.rows.block(i, first, block)
    labels, weights = (
        lax.dynamic_slice_in_dim(x, first, block) for x in (problem.labels, problem.weights)
    )
    taken_before = first + jnp.arange(block) < i * block
    return features, labels, jnp.where(taken_before, 0, weights)
