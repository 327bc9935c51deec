"""`softmax` and `log_softmax` with hand-written derivatives."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jax_softmax.ops._arguments import (
    Axis,
    canonical_axes,
    classes_back,
    classes_last,
    floating_array,
    mask_classes_last,
)
from jax_softmax.ops._autodiff import names_forward_mode
from jax_softmax.ops._backends.compensated import difference, shifted_exp, two_sum
from jax_softmax.ops._backends.dispatch import backend_of, check_implementation
from jax_softmax.ops._backends.interface import Backend, is_class
from jax_softmax.ops._backends.sums import row_sum
from jax_softmax.ops._backends.xla import XLA
from jax_softmax.ops._math.logits import CappedLogits, exclude
from jax_softmax.ops._math.rows import Likeliest, of_likeliest
from jax_softmax.ops._mesh import vary, varying_axes
from jax_softmax.ops._options import Implementation, Rule, check_rule


@names_forward_mode
def softmax(
    x: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    rule: Rule = "vjp",
    implementation: Implementation | None = None,
) -> jax.Array:
    r"""Probabilities :math:`p_i = e^{x_i} / \sum_j e^{x_j}` along `axis`.

    Args:
      x: `[...]` floating logits. `-inf` is a class that cannot happen: probability and derivative
        0.
      axis: the class axis, a tuple of axes taken together, or None for all.
      where: None, or booleans of `x`'s rank (classes) or without the class axes (rows): entries
        that are False count as `-inf`. (jax.nn broadcasts a mask of fewer axes over the rows
        instead: write `where[None]` for that.)
      rule: `"vjp"`, reverse mode (and forward over reverse, as in `jax.hessian`), or `"jvp"`, which
        has `jax.jvp`, `jax.jacfwd` and `jax.linearize` too.
      implementation: None for the platform's own way to compute, or `"xla"` or `"cpu"`; the values
        are the same but for rounding.

    Returns:
      `[...]`, shape and dtype of `x`, computed in float32 for half precision. Rows of `-inf`, or
      with nothing left by `where`, are 0; rows with a NaN or `+inf` are NaN.

    Raises:
      TypeError: if `x` is not floating.
      ValueError: if `axis` or `where` does not fit `x`, an option is none that there is, or there
        are no classes.

    The derivative for a cotangent `g` is `p_k sum_i p_i (g_k - g_i)`, computed so that its error is
    at most 5 eps of `p_k sum_i p_i |g_k - g_i|` (on XLA:CPU), where one class leads too. Only `x`
    and a few numbers a row are kept for it.

    >>> import jax.numpy as jnp
    >>> print(softmax(jnp.array([1000.0, 0.0])))
    [1. 0.]
    """
    return _along_classes("softmax", x, axis, where, rule, implementation)


@names_forward_mode
def log_softmax(
    x: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    rule: Rule = "vjp",
    implementation: Implementation | None = None,
) -> jax.Array:
    r"""Log-probabilities :math:`\log p_i = x_i - \log \sum_j e^{x_j}` along `axis`.

    The most likely class is set apart in the sum, so its log-probability keeps its relative
    precision when it is near 0: `-2e-9`, not `0`, in a row led by 20.

    Args:
      x: `[...]` floating logits. `-inf` is a class that cannot happen: log-probability `-inf`,
        derivative 0.
      axis: the class axis, a tuple of axes taken together, or None for all.
      where: None, or booleans of `x`'s rank (classes) or without the class axes (rows): entries
        that are False count as `-inf`. (jax.nn broadcasts a mask of fewer axes over the rows
        instead: write `where[None]` for that.)
      rule: `"vjp"`, reverse mode (and forward over reverse, as in `jax.hessian`), or `"jvp"`, which
        has `jax.jvp`, `jax.jacfwd` and `jax.linearize` too.
      implementation: None for the platform's own way to compute, or `"xla"` or `"cpu"`; the values
        are the same but for rounding.

    Returns:
      `[...]`, shape and dtype of `x`, computed in float32 for half precision. Rows of `-inf`, or
      with nothing left by `where`, are `-inf`; rows with a NaN or `+inf` are NaN.

    Raises:
      TypeError: if `x` is not floating.
      ValueError: if `axis` or `where` does not fit `x`, an option is none that there is, or there
        are no classes.

    The derivative for a cotangent `g` is `(1 - p_k) g_k - p_k sum_{i != k} g_i`, computed so that
    its error is at most 5 eps of the terms' absolute values (on XLA:CPU), where one class leads
    too. Only `x` and a few numbers a row are kept for it.

    >>> import jax.numpy as jnp
    >>> print(log_softmax(jnp.array([20.0, 0.0])))
    [-2.0611537e-09 -2.0000000e+01]
    """
    return _along_classes("log_softmax", x, axis, where, rule, implementation)


# More than the logarithm of any number of classes, and exp of it no overflow.
_LARGEST_EXPONENT = 64.0


class _Call(NamedTuple):
    """What is constant in the compiled program."""

    function: Literal["softmax", "log_softmax"]
    implementation: Implementation | None

    @property
    def backend(self) -> Backend:
        """What computes."""
        return backend_of(self.implementation)


class _Rows(NamedTuple):
    """What the derivatives need of rows `[..., V]`: the numbers are `[...]` each.

    Attributes:
      x: the logits as given.
      mask: None, or booleans that broadcast to them.
      leader: int32, the likeliest class, L.
      shift: its logit.
      near: the largest logit but that, or the shift where there is none.
      others: `sum_{i != L} e_i`, `e_i = exp(x_i - shift)`.
      total: `others + e_L`.
    """

    x: jax.Array
    mask: jax.Array | None
    leader: jax.Array
    shift: jax.Array
    near: jax.Array
    others: jax.Array
    total: jax.Array

    def logits(self) -> CappedLogits:
        """The logits without the classes that do not count, as they are read."""
        return _logits(self.x, self.mask)

    def has_most(self) -> jax.Array:
        """Whether the leader has more than half of the mass, `[...]`."""
        return self.others < self.total - self.others

    def probabilities(self, backend: Backend) -> jax.Array:
        """`p`, to be written out."""
        return backend.exponentials(self.logits().values(), self.shift) / self.total[..., None]


def _along_classes(
    function: Literal["softmax", "log_softmax"],
    x: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    rule: Rule,
    implementation: Implementation | None,
) -> jax.Array:
    array = floating_array("x", x)
    check_rule(rule)
    check_implementation(implementation)
    axes = canonical_axes(axis, array.ndim)
    mask, row_mask = mask_classes_last(where, axes, array.shape)
    mask = mask if row_mask is None else row_mask[..., None]
    rows = classes_last(array, axes)
    if rows.shape[-1] == 0:
        raise ValueError(
            f"x: expected at least one class along axis {axis}, got shape {array.shape}."
        )
    call = _Call(function, implementation)
    return classes_back(_jitted(call, rule, rows, mask), axes, array.shape)


@partial(jax.jit, static_argnums=(0, 1))
def _jitted(call: _Call, rule: Rule, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    by_rule = _vjp if rule == "vjp" else _jvp
    return by_rule(call, vary(x, varying_axes(x, mask)), mask)


def _logits(x: jax.Array, mask: jax.Array | None) -> CappedLogits:
    return CappedLogits(exclude(x, mask), None)


def _forward(call: _Call, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, _Rows]:
    """`p_i = e_i / total`, or `log p_i = (x_i - m) - log(total)`, and what is kept.

    With the leader set apart, `log(total) = log1p(others)` keeps the relative precision of
    `others`; neither term of `log p_i` is positive, so nothing cancels.
    """

    def of_rows(backend: Backend, given: tuple[jax.Array, jax.Array | None]) -> Likeliest:
        return of_likeliest(backend, _logits(*given))

    top = call.backend.by_rows(of_rows, (x, mask), x.shape[:-1])
    kept = _Rows(x, mask, top.column, top.rows.shift, top.near, top.rows.others, top.rows.total)
    if call.function == "softmax":
        value = kept.probabilities(call.backend)
    else:
        distance, error = difference(kept.logits().values(), kept.shift[..., None])
        value = distance + (error - top.log_total[..., None])
    return value.astype(x.dtype), kept


# Reverse mode


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _vjp(call: _Call, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return _forward(call, x, mask)[0]


def _bwd(call: _Call, kept: _Rows, g: jax.Array) -> tuple[jax.Array, None]:
    gradient = _softmax_gradient if call.function == "softmax" else _log_softmax_gradient
    return gradient(call.backend, kept, g).astype(kept.x.dtype), None


_vjp.defvjp(_forward, _bwd)


# softmax: dp_i/dx_k = p_i (delta_ik - p_k), so a cotangent g gives
#
#     p_k (g_k - sum_i p_i g_i) = p_k sum_i p_i (g_k - g_i)
#
# of which the left side loses everything at a leader L of nearly all of the mass, where g_L and the
# mean agree in all digits. The right side does not change if a number c is taken from g:
#
#     p_k ((g_k - c) - r),    r = sum_i p_i (g_i - c)
#
# Where L has most of the mass, c = g_L: its own term of r is then exactly 0, and its derivative
# -p_L r keeps every digit of the others. Where none has, c is the mean of g, rounded: r is what
# that rounding left. Both make sum_i p_i |g_i - c| no more than twice sum_i p_i |g_k - g_i|, for
# every k, by which the error is measured.
#
# What all of g share must not drown its differences, so c is g_L and a mean relative to it, and
# g_k - g_L is taken with its rounding error.


def _softmax_gradient(backend: Backend, kept: _Rows, g: jax.Array) -> jax.Array:
    def of_rows(backend: Backend, given: tuple[_Rows, jax.Array]) -> tuple[jax.Array, ...]:
        kept, narrow = given
        g = narrow.astype(kept.total.dtype)
        pivot = backend.pick(g, kept.leader)
        # About the mean will do.
        terms = jnp.exp(kept.logits().values() - kept.shift[..., None])
        mean = row_sum(terms * (g - pivot[..., None])) / kept.total
        mean = jnp.where(kept.has_most(), 0, mean)
        kept, narrow = backend.again((kept, narrow))
        g = narrow.astype(kept.total.dtype)
        # Relative to the largest of the others. A leader, which may be any exponent away, adds 0:
        # e^64 times 0 where it has most of the mass. Bounded without a select, which not every
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


# log_softmax: dlog p_i/dx_k = delta_ik - p_k, so a cotangent g gives
#
#     g_k - p_k sum_i g_i = (1 - p_k) g_k - p_k sum_{i != k} g_i
#
# For k = L, the likeliest class, 1 - p_L = others / total. For any other p_k is at most 1/2, and
# the left side is as good.


def _log_softmax_gradient(backend: Backend, kept: _Rows, g: jax.Array) -> jax.Array:
    wide = kept.total.dtype

    def of_rows(backend: Backend, given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        g, leader = given
        return backend.pick(g, leader).astype(wide), backend.sum_apart(g.astype(wide), leader)

    at_leader, apart = backend.by_rows(of_rows, (g, kept.leader), g.shape[:-1])
    gradient = g.astype(wide) - kept.probabilities(backend) * (at_leader + apart)[..., None]
    share = kept.others / kept.total
    leaders = share * at_leader - (kept.total - kept.others) / kept.total * apart
    gradient = XLA.put_at_label(gradient, kept.leader, leaders)
    # 0 * total rather than 0: a row that is NaN is so at an impossible class too.
    impossible = kept.logits().values() == -jnp.inf
    return jnp.where(impossible, 0 * kept.total[..., None], gradient)


# Forward mode too
#
# A tangent v gives p_k sum_i p_i (v_k - v_i) for softmax, which is the same matrix, and
# sum_i p_i (v_k - v_i) for log_softmax. Reverse mode transposes what is written here, so that must
# be as exact read backwards. With P = diag(p) and any w whose sum is 1, D = I - 1 w',
#
#     softmax: D' (P - p p') D v        log_softmax: D v - 1 p' D v
#
# where w picks the leader if that has most of the mass (its element of D v is exactly 0), and is p
# otherwise: the same c as above. The first is its own transpose.


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _jvp(call: _Call, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return _forward(call, x, mask)[0]


def _jvp_rule(
    call: _Call,
    primals: tuple[jax.Array, jax.Array | None],
    tangents: tuple[jax.Array | SymbolicZero, object],
) -> tuple[jax.Array, Any]:
    value, kept = _forward(call, *primals)
    if isinstance(tangents[0], SymbolicZero):
        return value, tangents[0]
    # What it needs beside rows is made again in reverse.
    tangent = jax.checkpoint(partial(_tangent, call))(kept, tangents[0])
    return value, tangent.astype(value.dtype)


_jvp.defjvp(_jvp_rule, symbolic_zeros=True)


def _tangent(call: _Call, kept: _Rows, v: jax.Array) -> jax.Array:
    p = kept.probabilities(call.backend)
    most = kept.has_most()
    leads = is_class(kept.leader, p.shape[-1]) & most[..., None]

    def centered(v: jax.Array) -> jax.Array:
        center = jnp.where(most, XLA.pick(v, kept.leader), row_sum(p * v))
        return jnp.where(leads, 0, v - center[..., None])

    def centered_transposed(u: jax.Array) -> jax.Array:
        u = jnp.where(leads, 0, u)
        total = row_sum(u)[..., None]
        return jnp.where(most[..., None], jnp.where(leads, -total, u), u - p * total)

    y = centered(v.astype(p.dtype))
    rest = y - row_sum(p * y)[..., None]
    if call.function == "softmax":
        return centered_transposed(p * rest)
    impossible = kept.logits().values() == -jnp.inf
    return jnp.where(impossible, 0 * kept.total[..., None], rest)
