"""`softmax` and `log_softmax` with hand-written derivatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jax_softmax.ops._arguments import (
    Axis,
    canonical_axes,
    check_floating,
    classes_back,
    classes_last,
    mask_classes_last,
)
from jax_softmax.ops._cpu_blocks import in_row_blocks
from jax_softmax.ops._exponentials import difference, exponentials, shifted_exp
from jax_softmax.ops._options import Options, exclude, read
from jax_softmax.ops._row_sums import row_sum
from jax_softmax.ops._statistics import Likeliest, normalizer
from jax_softmax.ops._varying import vary, varying_axes

_READ = partial(read, options=Options())

RowFunction = Callable[[jax.Array, jax.Array | None], jax.Array]
Residuals = tuple[jax.Array, jax.Array | None, jax.Array, jax.Array]


def softmax(
    x: jax.typing.ArrayLike, axis: Axis = -1, where: jax.typing.ArrayLike | None = None
) -> jax.Array:
    r"""Probabilities :math:`p_i = e^{x_i} / \sum_j e^{x_j}` along `axis`.

    Args:
      x: `[...]` floating logits. `-inf` is a class that cannot happen: probability and derivative
        0.
      axis: the class axis, a tuple of axes taken together, or None for all.
      where: None, or booleans of `x`'s rank (classes) or without the class axes (rows): entries
        that are False count as `-inf`. (jax.nn broadcasts a mask of fewer axes over the rows
        instead: write `where[None]` for that.)

    Returns:
      `[...]`, shape and dtype of `x`, computed in float32 for half precision. Rows of `-inf`, or
      with nothing left by `where`, are 0; rows with a NaN or `+inf` are NaN.

    Raises:
      TypeError: if `x` is not floating.
      ValueError: if `axis` or `where` does not fit `x`, or there are no classes.

    The derivative is `p * (g - sum(g * p))` for a cotangent `g`; only `x` and two numbers a row are
    kept for it. It is for reverse mode (and forward over reverse, as in `jax.hessian`).

    >>> import jax.numpy as jnp
    >>> print(softmax(jnp.array([1000.0, 0.0])))
    [1. 0.]
    """
    return _along_classes(_softmax, x, axis, where)


def log_softmax(
    x: jax.typing.ArrayLike, axis: Axis = -1, where: jax.typing.ArrayLike | None = None
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

    Returns:
      `[...]`, shape and dtype of `x`, computed in float32 for half precision. Rows of `-inf`, or
      with nothing left by `where`, are `-inf`; rows with a NaN or `+inf` are NaN.

    Raises:
      TypeError: if `x` is not floating.
      ValueError: if `axis` or `where` does not fit `x`, or there are no classes.

    The derivative is `g - p * sum(g)` for a cotangent `g`; only `x` and two numbers a row are kept.
    It is for reverse mode (and forward over reverse, as in `jax.hessian`).

    >>> import jax.numpy as jnp
    >>> print(log_softmax(jnp.array([20.0, 0.0])))
    [-2.0611537e-09 -2.0000000e+01]
    """
    return _along_classes(_log_softmax, x, axis, where)


def _along_classes(
    rule: RowFunction,
    x: jax.typing.ArrayLike,
    axis: Axis,
    where: jax.typing.ArrayLike | None,
) -> jax.Array:
    x = jnp.asarray(x)
    check_floating("x", x)
    axes = canonical_axes(axis, x.ndim)
    mask, row_mask = mask_classes_last(where, axes, x.shape)
    mask = mask if row_mask is None else row_mask[..., None]
    rows = classes_last(x, axes)
    if rows.shape[-1] == 0:
        raise ValueError(f"x: expected at least one class along axis {axis}, got shape {x.shape}.")
    return classes_back(_jitted(rule, rows, mask), axes, x.shape)


@partial(jax.jit, static_argnums=0)
def _jitted(rule: RowFunction, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return rule(vary(x, varying_axes(x, mask)), mask)


def _normalizer(x: jax.Array, mask: jax.Array | None) -> Likeliest:
    def of_rows(rows: tuple[jax.Array, jax.Array | None], in_cache: bool) -> Likeliest:
        return normalizer(exclude(*rows), _READ, in_cache)

    return in_row_blocks(of_rows, (x, mask), x.shape[:-1])


# softmax
#
# Forward: p_i = e_i / total, e_i = exp(x_i - m). Backward: dp_i/dx_k = p_i (delta_ik - p_k), so a
# cotangent g gives sum_i g_i p_i (delta_ik - p_k) = p_k (g_k - sum_i g_i p_i).


@jax.custom_vjp
def _softmax(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return _softmax_fwd(x, mask)[0]


def _softmax_fwd(x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, Residuals]:
    rows = _normalizer(x, mask).rows
    z = _READ(exclude(x, mask))
    return _probabilities(z, rows.shift, rows.total).astype(x.dtype), (
        x,
        mask,
        rows.shift,
        rows.total,
    )


def _probabilities(z: jax.Array, shift: jax.Array, total: jax.Array) -> jax.Array:
    return exponentials(z, shift) / total[..., None]


def _sums(
    term: Callable[[jax.Array, jax.Array], jax.Array], g: jax.Array, residuals: Residuals
) -> jax.Array:
    """`sum_i term(g_i, p_i)`, `[...]`."""

    def of_rows(inputs: tuple[jax.Array, Residuals], in_cache: bool) -> jax.Array:
        g, (x, mask, shift, total) = inputs
        p = shifted_exp(_READ(exclude(x, mask)), shift[..., None]) / total[..., None]
        return row_sum(term(g.astype(p.dtype), p))

    return in_row_blocks(of_rows, (g, residuals), g.shape[:-1])


def _softmax_bwd(residuals: Residuals, g: jax.Array) -> tuple[jax.Array, None]:
    x, mask, shift, total = residuals
    mean = _sums(lambda g, p: g * p, g, residuals)
    p = _probabilities(_READ(exclude(x, mask)), shift, total)
    return (p * (g.astype(p.dtype) - mean[..., None])).astype(x.dtype), None


_softmax.defvjp(_softmax_fwd, _softmax_bwd)


# log_softmax
#
# Forward: log p_i = (x_i - m) - log total. With the most likely class k set apart, x_k = m and
# log total = log1p(others), whose relative precision others keeps. Neither term is positive, so
# nothing cancels. Backward: dlog p_i/dx_k = delta_ik - p_k, so g gives g_k - p_k sum_i g_i.


@jax.custom_vjp
def _log_softmax(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return _log_softmax_fwd(x, mask)[0]


def _log_softmax_fwd(x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, Residuals]:
    top = _normalizer(x, mask)
    z = _READ(exclude(x, mask))
    distance, error = difference(z, top.rows.shift[..., None])
    value = distance + (error - top.log_total[..., None])
    return value.astype(x.dtype), (x, mask, top.rows.shift, top.rows.total)


def _log_softmax_bwd(residuals: Residuals, g: jax.Array) -> tuple[jax.Array, None]:
    x, mask, shift, total = residuals
    z = _READ(exclude(x, mask))
    p = _probabilities(z, shift, total)
    gradient = g.astype(p.dtype) - p * _sums(lambda g, p: g, g, residuals)[..., None]
    # 0 * total rather than 0: a row that is NaN is so at an impossible class too.
    return jnp.where(z == -jnp.inf, 0 * total[..., None], gradient).astype(x.dtype), None


_log_softmax.defvjp(_log_softmax_fwd, _log_softmax_bwd)
