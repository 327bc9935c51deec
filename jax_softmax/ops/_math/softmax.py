"""Softmax, its logarithm, the logarithm of its sum, and their derivatives.

With L the likeliest class of a row, m = x_L, e_i = exp(x_i - m), others = sum_{i != L} e_i and
total = others + e_L,

    p_i = e_i / total    log p_i = (x_i - m) - log(total)    log sum_i exp(x_i) = m + log(total)

With L set apart, log(total) = log1p(others) keeps the relative precision of `others`. Neither term
of log p_i is positive, so nothing cancels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_softmax.ops._backends.compensated import difference, shifted_exp, two_sum
from jax_softmax.ops._backends.interface import Backend, is_class
from jax_softmax.ops._backends.sums import row_sum
from jax_softmax.ops._math.logits import CappedLogits, exclude
from jax_softmax.ops._math.rows import Likeliest, of_likeliest

# More than the logarithm of any number of classes, but exp of it does not overflow.
_LARGEST_EXPONENT = 64.0


class Rows(NamedTuple):
    """Rows `[..., V]` and what the derivatives need of them, `[...]` each.

    Attributes:
      x: the logits as given.
      mask: None, or booleans that broadcast to them.
      leader: int32, the likeliest class, L.
      shift: its logit, m.
      near: the largest other logit, or the shift if there is none.
      own: `e_L`, which is 1, or 0 in a row of `-inf`.
      others: `sum_{i != L} e_i`.
      total: `others + own`.
    """

    x: jax.Array
    mask: jax.Array | None
    leader: jax.Array
    shift: jax.Array
    near: jax.Array
    own: jax.Array
    others: jax.Array
    total: jax.Array

    def logits(self) -> CappedLogits:
        """The logits, with `-inf` for classes that do not count."""
        return _logits(self.x, self.mask)

    def has_most(self) -> jax.Array:
        """Whether the leader has more than half of the mass, `[...]`."""
        return self.others < self.own

    def probabilities(self, backend: Backend) -> jax.Array:
        """`p`, `[..., V]`."""
        z = self.logits().values()
        terms = backend.exponentials(z, self.shift, rounded=self.x.dtype != z.dtype)
        return terms / self.total[..., None]

    def nan_where_impossible(self, derivative: jax.Array) -> jax.Array:
        """The derivative, but at classes that cannot happen 0, or NaN in a NaN row."""
        return jnp.where(self.logits().values() == -jnp.inf, 0 * self.total[..., None], derivative)


class Function(NamedTuple):
    """A function of rows and its derivatives, in the dtype of the statistics.

    Attributes:
      by_class: whether the value is `[..., V]`, a number for each class, or `[...]`.
      value: `value(backend, rows, log_total)`.
      gradient: `gradient(backend, rows, g)`, `[..., V]`, for a cotangent `g` of the value's shape.
      tangent: `tangent(backend, rows, v)`, for a tangent `v [..., V]`, in which it is linear.
    """

    by_class: bool
    value: Callable[[Backend, Rows, jax.Array], jax.Array]
    gradient: Callable[[Backend, Rows, jax.Array], jax.Array]
    tangent: Callable[[Backend, Rows, jax.Array], jax.Array]


def _logits(x: jax.Array, mask: jax.Array | None) -> CappedLogits:
    return CappedLogits(exclude(x, mask), None)


def statistics(backend: Backend, x: jax.Array, mask: jax.Array | None) -> tuple[Rows, jax.Array]:
    """The rows of `x [..., V]` with their statistics, and `log(total)`, `[...]`."""

    def of_rows(backend: Backend, given: tuple[jax.Array, jax.Array | None]) -> Likeliest:
        return of_likeliest(backend, _logits(*given))

    top = backend.by_rows(of_rows, (x, mask), x.shape[:-1])
    shift, own, others, total = top.rows
    return Rows(x, mask, top.column, shift, top.near, own, others, total), top.log_total


def _probabilities(backend: Backend, kept: Rows, log_total: jax.Array) -> jax.Array:
    return kept.probabilities(backend)


def _log_probabilities(backend: Backend, kept: Rows, log_total: jax.Array) -> jax.Array:
    distance, error = difference(kept.logits().values(), kept.shift[..., None])
    return distance + (error - log_total[..., None])


# Reverse mode of softmax: dp_i/dx_k = p_i (delta_ik - p_k), so a cotangent g gives
#
#     p_k (g_k - sum_i p_i g_i) = p_k sum_i p_i (g_k - g_i)
#
# At a leader L with nearly all of the mass, g_L and the mean agree in all digits, and the left side
# loses everything. The right side does not change if a number c is subtracted from g:
#
#     p_k ((g_k - c) - r),    r = sum_i p_i (g_i - c)
#
# If L has most of the mass, c = g_L: its own term of r is then exactly 0, and its derivative -p_L r
# keeps every digit of the others. If no class has, c is the rounded mean of g, and r is what the
# rounding left. Either way sum_i p_i |g_i - c| is, for every k, at most twice the sum that the
# error is measured by, sum_i p_i |g_k - g_i|.
#
# A constant that all of g share must not drown its differences. So c is held as g_L plus a mean
# relative to g_L, and g_k - g_L is taken with its rounding error.


def _softmax_gradient(backend: Backend, kept: Rows, g: jax.Array) -> jax.Array:
    def of_rows(backend: Backend, given: tuple[Rows, jax.Array]) -> tuple[jax.Array, ...]:
        kept, narrow = given
        g = narrow.astype(kept.total.dtype)
        pivot = backend.pick(g, kept.leader)
        # An approximate mean is enough.
        terms = jnp.exp(kept.logits().values() - kept.shift[..., None])
        mean = row_sum(terms * (g - pivot[..., None])) / kept.total
        mean = jnp.where(kept.has_most(), 0, mean)
        kept, narrow = backend.again((kept, narrow))
        g = narrow.astype(kept.total.dtype)
        # Relative to the largest of the others. The leader may be any exponent above that; where it
        # has most of the mass it adds 0, as e^64 times 0. Bounded without a select, which not every
        # compiler fuses into a sum.
        z = jnp.maximum(kept.logits().values(), -float(jnp.finfo(kept.total.dtype).max) / 4)
        distance, error = two_sum(z, kept.near[..., None])
        terms = jnp.exp(jnp.minimum(distance, _LARGEST_EXPONENT)) * (1 + error)
        rest = row_sum(terms * _centered(g, pivot, mean))
        return pivot, mean, rest * shifted_exp(kept.near, kept.shift) / kept.total

    pivot, mean, rest = backend.by_rows(of_rows, (kept, g), g.shape[:-1])
    wide = g.astype(kept.total.dtype)
    return kept.probabilities(backend) * (_centered(wide, pivot, mean) - rest[..., None])


def _centered(g: jax.Array, pivot: jax.Array, mean: jax.Array) -> jax.Array:
    """`g - (pivot + mean)`, `[..., V]`."""
    distance, error = two_sum(g, pivot[..., None])
    return (distance - mean[..., None]) + error


# Reverse mode of log_softmax: dlog p_i/dx_k = delta_ik - p_k, so a cotangent g gives
#
#     g_k - p_k sum_i g_i = (1 - p_k) g_k - p_k sum_{i != k} g_i
#
# For k = L, the likeliest class, 1 - p_L = others / total. For any other class p_k is at most 1/2,
# and the left side is as accurate.


def _log_softmax_gradient(backend: Backend, kept: Rows, g: jax.Array) -> jax.Array:
    wide = kept.total.dtype

    def of_rows(backend: Backend, given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        g, leader = given
        return backend.pick(g, leader).astype(wide), backend.sum_apart(g.astype(wide), leader)

    at_leader, apart = backend.by_rows(of_rows, (g, kept.leader), g.shape[:-1])
    gradient = g.astype(wide) - kept.probabilities(backend) * (at_leader + apart)[..., None]
    share = kept.others / kept.total
    leaders = share * at_leader - kept.own / kept.total * apart
    gradient = backend.put_at_label(gradient, kept.leader, leaders, final=False)
    return kept.nan_where_impossible(gradient)


# Forward mode: a tangent v gives p_k sum_i p_i (v_k - v_i) for softmax, which is the same matrix,
# and sum_i p_i (v_k - v_i) for log_softmax. Reverse mode transposes the code below, so its
# transpose must be as accurate. With P = diag(p) and any w whose sum is 1, D = I - 1 w',
#
#     softmax: D' (P - p p') D v        log_softmax: D v - 1 p' D v
#
# where w picks the leader if that has most of the mass (its element of D v is exactly 0), and is p
# otherwise: the same c as above. The matrix of softmax is its own transpose.


def _softmax_tangent(backend: Backend, kept: Rows, v: jax.Array) -> jax.Array:
    p = kept.probabilities(backend)
    y = p * _relative(backend, kept, p, v)
    most = kept.has_most()[..., None]
    leads = _leads(kept, p)
    y = jnp.where(leads, 0, y)
    total = row_sum(y)[..., None]
    return jnp.where(most, jnp.where(leads, -total, y), y - p * total)


def _log_softmax_tangent(backend: Backend, kept: Rows, v: jax.Array) -> jax.Array:
    # Nothing comes from a class that cannot happen, but a cotangent sent to it reaches the others.
    v = kept.nan_where_impossible(v)
    return _relative(backend, kept, kept.probabilities(backend), v)


def _relative(backend: Backend, kept: Rows, p: jax.Array, v: jax.Array) -> jax.Array:
    """`D v - 1 p' D v`, `[..., V]`."""
    y = v - jnp.where(kept.has_most(), backend.pick(v, kept.leader), row_sum(p * v))[..., None]
    y = jnp.where(_leads(kept, p), 0, y)
    return y - row_sum(p * y)[..., None]


def _leads(kept: Rows, p: jax.Array) -> jax.Array:
    """Where a class has most of its row's mass, `[..., V]`."""
    return is_class(kept.leader, p.shape[-1]) & kept.has_most()[..., None]


# Both modes of the logarithm of the sum: its derivatives are the probabilities.


def _logsumexp(backend: Backend, kept: Rows, log_total: jax.Array) -> jax.Array:
    return jnp.where(kept.own == 0, -jnp.inf, kept.shift + log_total)


def _logsumexp_gradient(backend: Backend, kept: Rows, g: jax.Array) -> jax.Array:
    return kept.probabilities(backend) * g[..., None]


def _logsumexp_tangent(backend: Backend, kept: Rows, v: jax.Array) -> jax.Array:
    return row_sum(kept.probabilities(backend) * v)


SOFTMAX = Function(True, _probabilities, _softmax_gradient, _softmax_tangent)
LOG_SOFTMAX = Function(True, _log_probabilities, _log_softmax_gradient, _log_softmax_tangent)
LOGSUMEXP = Function(False, _logsumexp, _logsumexp_gradient, _logsumexp_tangent)
