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

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.classifier.rows import Rows
from jax_softmax.ops import softmax_cross_entropy_with_integer_labels


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


def value_and_gradient(
    problem: Problem, w: jax.Array, *, block: int, label_smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """The objective without its `l1` term, and its gradient.

    Args:
      problem: what is minimised.
      w: `[K, D + 1]`, the coefficients and, last, the intercepts.
      block: how many rows are taken together.
      label_smoothing: as the losses have it.

    Returns:
      A scalar, and `[K, D + 1]`.
    """
    coefficients, intercepts = w[:, :-1], w[:, -1]

    def add(i: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        features, labels, weights = _block(problem, i, block)
        logits = lax.dot(features, coefficients.T) + intercepts[None, :]

        def total(logits: jax.Array) -> jax.Array:
            return softmax_cross_entropy_with_integer_labels(
                logits,
                labels,
                sample_weight=weights,
                label_smoothing=label_smoothing,
                reduction="sum",
            )

        loss, by_logits = jax.value_and_grad(total)(logits)
        found = loss, lax.dot(by_logits.T, features), jnp.sum(by_logits, 0)
        return tuple(a + b for a, b in zip(sums, found, strict=True))

    zeros = jnp.zeros((), w.dtype), jnp.zeros_like(coefficients), jnp.zeros_like(intercepts)
    blocks = -(-problem.labels.shape[0] // block)
    loss, by_coefficients, by_intercepts = lax.fori_loop(0, blocks, add, zeros)
    loss += problem.l2 * jnp.sum(coefficients * coefficients) / 2
    by_coefficients += problem.l2 * coefficients
    by_intercepts *= problem.intercept
    return loss, jnp.concatenate([by_coefficients, by_intercepts[:, None]], 1)


def gram(problem: Problem, *, block: int) -> jax.Array:
    """`[D + 1, D + 1]`, the weighted sum of the rows' outer products, 1 for the intercept."""

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        features, _, weights = _block(problem, i, block)
        ones = jnp.broadcast_to(problem.intercept, (block, 1)).astype(features.dtype)
        features = jnp.concatenate([features, ones], 1)
        return total + lax.dot(features.T, features * weights[:, None])

    size = problem.rows.width + 1
    blocks = -(-problem.labels.shape[0] // block)
    return lax.fori_loop(0, blocks, add, jnp.zeros((size, size), problem.weights.dtype))


def _block(problem: Problem, i: jax.Array, block: int) -> tuple[jax.Array, jax.Array, jax.Array]:
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
