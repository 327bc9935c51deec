"""The few numbers of a row from which every loss and derivative follows.

A row `z` of `V` logits with one class `y` set apart (a label, or the most likely class) needs

    m      = max_j z_j                        the shift
    others = sum_{j != y} exp(z_j - m)        everything but the class set apart
    total  = others + exp(z_y - m)

The class is set apart because on a confident row (`z_y` far above the rest) `total` rounds to 1 and
swallows `others`, while the loss is `log1p(others)` and the derivative at the label is
`-others / total`: with `others` summed by itself both keep full relative precision, where
`log(total)` and `p_y - 1` cancel to exactly 0.

`others` is summed relative to the largest of *its own* logits, then scaled to `m`. So the terms
that matter have exponents near 0, and the rounding of `z_j - shift`, which costs up to
`|z_j - shift|` eps, does not matter.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._backends.compensated import shifted_exp
from jax_softmax.ops._backends.interface import Backend, Logits, RowShare, finite_shift


class RowStatistics(NamedTuple):
    """What a row's loss and derivative need, each `[...]` (see the module's docstring).

    Attributes:
      shift: m, or 0 for a row of `-inf`.
      own: the term of the class set apart, `exp(z_y - m)`.
      others: 0 where the class set apart cannot happen, and so has no gradient.
      total: 1 for a row of `-inf`.
    """

    shift: jax.Array
    own: jax.Array
    others: jax.Array
    total: jax.Array


def joined_share(shares: RowShare, largest: jax.Array) -> jax.Array:
    """`others` of shares `[B, ...]`, rescaled to the `largest [...]` logit of all."""
    scale = shifted_exp(finite_shift(shares.largest_other), finite_shift(largest)[None])
    return jnp.where(shares.others == 0, 0, shares.others * scale)


def row_statistics(share: RowShare, valid: jax.Array | None = None) -> RowStatistics:
    """The statistics of rows from the share of all their classes.

    A row of `-inf` has shift 0 and total 1. A row with NaN or `+inf`, or that is not `valid [...]`,
    has total NaN.
    """
    label_logit, others = share.label_logit, share.others
    largest_other = finite_shift(share.largest_other)
    # If all other classes are -inf, others is 0, and the 0 in largest_other must not count.
    shift = jnp.where(others == 0, label_logit, jnp.maximum(largest_other, label_logit))
    shift = finite_shift(lax.stop_gradient(shift))
    others = jnp.where(others == 0, 0, others * shifted_exp(largest_other, shift))
    own = shifted_exp(label_logit, shift)
    total = others + own
    total = jnp.where(total == 0, 1, total)
    if valid is not None:
        total = jnp.where(valid, total, jnp.nan)
    return RowStatistics(shift, own, jnp.where(label_logit == -jnp.inf, 0, others), total)


def log_total(rows: RowStatistics) -> jax.Array:
    """`log(total)`, `[...]`, with full relative precision where it is near 0.

    Where the class set apart leads, its own term is exactly 1 and this is `log1p(others)`; else
    `others` is at least 1. (Both cases spell the term out, for the sake of its derivative.)
    """
    beyond_one = jnp.where(
        rows.own == 1, rows.others + (rows.own - 1), (rows.others - 1) + rows.own
    )
    return jnp.log1p(jnp.where(rows.others == 0, rows.total - 1, beyond_one))


class Likeliest(NamedTuple):
    """A row's statistics with its likeliest class set apart, `[...]` each.

    Attributes:
      rows: the statistics.
      column: int32, the likeliest class.
      log_total: `log(total)`.
      near: the largest other logit, or the shift if there is none.
      logit: the likeliest class's.
    """

    rows: RowStatistics
    column: jax.Array
    log_total: jax.Array
    near: jax.Array
    logit: jax.Array


def of_likeliest(backend: Backend, logits: Logits) -> Likeliest:
    """The statistics of rows with their likeliest class set apart."""
    index = backend.likeliest(lax.stop_gradient(logits.stored))
    return likeliest(backend.share(logits, index), index)


def likeliest(share: RowShare, index: jax.Array) -> Likeliest:
    """The same from the share of all classes, with the likeliest, `index`, set apart."""
    rows = row_statistics(share)
    near = jnp.where(share.largest_other == -jnp.inf, rows.shift, share.largest_other)
    near = lax.stop_gradient(near)
    return Likeliest(rows, index, log_total(rows), near, share.label_logit)


def logsumexp(rows: RowStatistics, log_total: jax.Array) -> jax.Array:
    """`log sum_j exp(z_j)`, `[...]`, from statistics with the likeliest class set apart."""
    return jnp.where(rows.own == 0, -jnp.inf, rows.shift + log_total)
