"""What one pass over the rows tells before the first sweep: a preconditioner, and the first step.

Where all coefficients are 0, sums of the rows of each class are the gradient, and the rows' Gram
matrix is the Hessian by one class's coefficients, but for a factor. Rows grow surer on the way, and
their part of the Hessian smaller, until the penalty is most of it: how much so, and how far the
first step goes, is tried on some of the rows. It is a step to ridge regression's directions, which
are those of linear discriminants, made as long as the loss likes them.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import cho_solve
from jax.sharding import PartitionSpec as P

from jax_softmax.classifier import lbfgs
from jax_softmax.classifier.objective import (
    Problem,
    Spread,
    block_of_rows,
    dot,
    specs,
    value,
)
from jax_softmax.classifier.rows import DenseRows
from jax_softmax.training.mesh import DATA, MODEL

# Added to the preconditioner's diagonal, as a part of it: features may depend on one another.
_JITTER = 1e-6
# Rows of a device that the first step is tried on, about.
_SAMPLE = 1024
# Rows that are added up one by one, for each class.
_TOGETHER = 16
# How many times surer than at 0 the rows may be, and the lengths of the first step.
_SURER = 4.0 ** np.arange(5)
_STEPS = 2.0 ** np.array([0, 0.5, -0.5, -1, -1.5, -2])


def begun(
    problem: Problem,
    state: lbfgs.State,
    tol: jax.Array,
    *,
    at_0: bool,
    block: int,
    label_smoothing: float,
    spread: Spread | None,
) -> tuple[jax.Array, lbfgs.State]:
    """The Cholesky factor of the preconditioner, `[D + 1, D + 1]`, and the state.

    A state `at_0` is told what an evaluation there would say, and its first step. Of another the
    first evaluation is still to come.

    The preconditioner is the Hessian at 0, where a row's `p (1 - p)` is `(1 - 1/K) / K`, and the
    penalty: from 0 as many times larger as rows are surer. Böhning's bound, in which that is 1/2,
    weighs the penalty too little: it takes half as many sweeps again (docs/performance.md).
    """
    rows = len(state.w)
    classes = rows if spread is None else spread.classes
    matrix, sums, sample = _pass(problem, classes=rows, block=block, spread=spread)
    factor_of = functools.partial(_factor, problem, matrix * ((1 - 1 / classes) / classes))
    if not at_0:
        return factor_of(1.0), state
    at_start, gradient = _at_0(sums, classes, label_smoothing)
    of_device = len(sample.labels) // (1 if spread is None else spread.mesh.shape[DATA])
    options: dict[str, Any] = {"block": min(block, of_device), "label_smoothing": label_smoothing}

    def better(i: jax.Array, best: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        factor = factor_of(surer[i])
        direction = -preconditioner(factor, spread)(gradient)

        def loss(step: jax.Array) -> jax.Array:
            return value(sample, step * direction, spread=spread, **options)

        losses = lax.map(loss, steps)
        losses = jnp.where(jnp.isfinite(losses), losses, jnp.inf)
        least = jnp.argmin(losses)
        found = losses[least], factor, direction, steps[least]
        is_better = (found[0] < best[0]) | (i == 0)
        return tuple(jnp.where(is_better, *both) for both in zip(found, best, strict=True))

    surer, steps = (jnp.asarray(x, gradient.dtype) for x in (_SURER, _STEPS))
    none = at_start, jnp.zeros_like(matrix), jnp.zeros_like(gradient), steps[0]
    _, factor, direction, step = lax.fori_loop(0, len(surer), better, none)
    return factor, lbfgs.begun(state, at_start, gradient, direction, step, tol)


def preconditioner(factor: jax.Array, spread: Spread | None) -> lbfgs.Preconditioner:
    """Solves for each class, those of a device on it."""

    def solved(factor: jax.Array, vector: jax.Array) -> jax.Array:
        return cho_solve((factor, True), vector.T).T

    if spread is not None:
        solved = jax.shard_map(
            solved, mesh=spread.mesh, in_specs=(P(), P(MODEL)), out_specs=P(MODEL)
        )
    return functools.partial(solved, factor)


def _factor(problem: Problem, matrix: jax.Array, surer: jax.Array | float) -> jax.Array:
    """The Cholesky factor of the matrix and so many times the penalty."""
    size = matrix.shape[0]
    penalty = jnp.broadcast_to(surer * problem.l2, size).astype(matrix.dtype).at[-1].set(0)
    # Intercepts that stay 0 have a row and column of zeros.
    penalty = penalty.at[-1].add(jnp.where(problem.intercept > 0, 0, 1))
    # A part of each element, not of their mean, next to which small features would be nothing.
    diagonal = jnp.diagonal(matrix)
    added = penalty + jnp.where(diagonal > 0, _JITTER * diagonal, 1)
    factor = jnp.linalg.cholesky(matrix + jnp.diag(added))
    alone = jnp.diag(jnp.sqrt(diagonal + added))
    return jnp.where(jnp.isfinite(factor).all(), factor, alone)


def _at_0(class_sums: jax.Array, classes: int, smoothing: float) -> tuple[jax.Array, jax.Array]:
    """The objective and its gradient where `w` is 0, so that each class is as likely.

    Args:
      class_sums: `[K, D + 1]`, of `_pass`; its rows from `classes` on are of none.
      classes: how many there are.
      smoothing: as the losses have it.

    Returns:
      A scalar, and `[K, D + 1]`.
    """
    excess = jnp.sum(class_sums, 0) / classes - class_sums
    excess = jnp.where(jnp.arange(len(class_sums))[:, None] < classes, excess, 0)
    return jnp.log(jnp.asarray(classes, excess.dtype)), (1 - smoothing) * excess


def _pass(
    problem: Problem, *, classes: int, block: int, spread: Spread | None
) -> tuple[jax.Array, jax.Array, Problem]:
    """What one pass without coefficients tells of the rows, each with a 1 for the intercept.

    Args:
      problem: whose rows they are.
      classes: the rows of `w`.
      block: how many rows are taken together.
      spread: over which devices; None for one.

    Returns:
      `[D + 1, D + 1]`, the weighted sum of the rows' outer products; `[classes, D + 1]`, the
      weighted sum of the rows of each class; and the problem of a sample of the rows.
    """
    if spread is None:
        gram, class_sums, *sample = _sums_on_device(problem, classes, 0, block)
    else:
        each = classes // spread.mesh.shape[MODEL]

        def on_device(problem: Problem) -> tuple[jax.Array, ...]:
            gram, class_sums, *sample = _sums_on_device(
                problem, each, lax.axis_index(MODEL) * each, block
            )
            return lax.psum(gram, DATA), lax.psum(class_sums, DATA), *sample

        gram, class_sums, *sample = jax.shard_map(
            on_device,
            mesh=spread.mesh,
            in_specs=(specs(problem),),
            out_specs=(P(), P(MODEL), P(DATA), P(DATA), P(DATA)),
        )(problem)
    features, labels, weights = sample
    weights = weights / jnp.where((total := jnp.sum(weights)) > 0, total, 1)
    return (
        gram,
        class_sums,
        problem._replace(rows=DenseRows(features), labels=labels, weights=weights),
    )


def _sums_on_device(
    problem: Problem, classes: int, first: jax.Array | int, block: int
) -> tuple[jax.Array, ...]:
    """What `_pass` returns of a device's rows and classes: two sums, and a sample's arrays."""
    blocks = -(-len(problem.labels) // block)
    # A few rows of each block, or of the last of some blocks, by chance: they may be in any order.
    of_each, blocks_each = min(block, -(-_SAMPLE // blocks)), -(-blocks // _SAMPLE)
    places = np.sort(np.random.default_rng(0).choice(block, of_each, replace=False))

    def add(i: jax.Array, found: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        features, labels, weights = rows = block_of_rows(problem, i, block)
        ones = jnp.broadcast_to(problem.intercept, (block, 1)).astype(features.dtype)
        augmented = jnp.concatenate([features, ones], 1)
        weighed = augmented * weights[:, None]
        gram, class_sums, *sample = found
        return (
            gram + dot(augmented.T, weighed),
            _added(class_sums, labels - first, weighed),
            *(
                lax.dynamic_update_slice_in_dim(x, new[places], i // blocks_each * of_each, 0)
                for x, new in zip(sample, rows, strict=True)
            ),
        )

    size, sampled = problem.rows.width + 1, -(-blocks // blocks_each) * of_each
    zero = 0 * problem.weights[0]
    zeros = (
        jnp.broadcast_to(zero, (size, size)),
        jnp.broadcast_to(zero + 0 * first, (classes, size)),
        jnp.broadcast_to(zero, (sampled, size - 1)),
        jnp.broadcast_to(0 * problem.labels[0], sampled),
        jnp.broadcast_to(zero, sampled),
    )
    found: tuple[jax.Array, ...] = lax.fori_loop(0, blocks, add, zeros)
    return found


def _added(totals: jax.Array, labels: jax.Array, rows: jax.Array) -> jax.Array:
    """The totals of the classes, `[K, D + 1]`, and those rows; labels outside are of none."""
    if jax.default_backend() == "cpu":
        # Sums of few rows, then of those: one long sum in float32 drifts.
        count = min(len(rows), _TOGETHER * len(totals))
        part = jnp.arange(len(rows), dtype=labels.dtype) // count
        sums = jnp.zeros((-(-len(rows) // count), *totals.shape), totals.dtype)
        labels = jnp.where(labels < 0, len(totals), labels)
        return totals + sums.at[part, labels].add(rows, mode="drop").sum(0)
    # Where many threads add, the order of sums and so their last bits are of chance.
    ones = labels == jnp.arange(len(totals), dtype=labels.dtype)[:, None]
    return totals + dot(ones.astype(rows.dtype), rows)
