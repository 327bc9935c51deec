"""`softmax`, `log_softmax` and `logsumexp` with hand-written derivatives."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
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
from jax_softmax.ops._backends.dispatch import backend_of, check_implementation
from jax_softmax.ops._backends.interface import Backend
from jax_softmax.ops._jit import jitted
from jax_softmax.ops._math.softmax import (
    LOG_SOFTMAX,
    LOGSUMEXP,
    SOFTMAX,
    Function,
    Rows,
    statistics,
)
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
        supports `jax.jvp`, `jax.jacfwd` and `jax.linearize` too.
      implementation: None for the platform's own implementation, or `"xla"`, `"cpu"` or
        `"mosaic_gpu"`; the values differ only by rounding.

    Returns:
      `[...]`, shape and dtype of `x`, computed in float32 for half precision. Rows of `-inf`, or
      that `where` excludes entirely, are 0; rows with a NaN or `+inf` are NaN.

    Raises:
      TypeError: if `x` is not floating.
      ValueError: if `axis` or `where` does not fit `x`, an option is unknown, or there are no
        classes.

    The derivative for a cotangent `g` is `p_k sum_i p_i (g_k - g_i)`, computed so that its error is
    at most 5 eps of `p_k sum_i p_i |g_k - g_i|` (on XLA:CPU), even if one class leads. Only `x` and
    a few numbers per row are kept for it.

    See Also:
      `log_softmax`, `logsumexp`; `softmax_cross_entropy` where a loss is meant.

    Source: Blanchard, Higham and Higham, Accurately computing the log-sum-exp and softmax
    functions (IMA J. Numer. Anal. 41, 2021).

    >>> import jax.numpy as jnp
    >>> print(softmax(jnp.array([1000.0, 0.0])))
    [1. 0.]
    """
    return _along_classes(SOFTMAX, x, axis, where, rule, implementation)


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
    precision when it is near 0: `-2e-9`, not `0`, in a row with a lead of 20.

    Args:
      x: `[...]` floating logits. `-inf` is a class that cannot happen: log-probability `-inf`,
        derivative 0.
      axis: the class axis, a tuple of axes taken together, or None for all.
      where: None, or booleans of `x`'s rank (classes) or without the class axes (rows): entries
        that are False count as `-inf`. (jax.nn broadcasts a mask of fewer axes over the rows
        instead: write `where[None]` for that.)
      rule: `"vjp"`, reverse mode (and forward over reverse, as in `jax.hessian`), or `"jvp"`, which
        supports `jax.jvp`, `jax.jacfwd` and `jax.linearize` too.
      implementation: None for the platform's own implementation, or `"xla"`, `"cpu"` or
        `"mosaic_gpu"`; the values differ only by rounding.

    Returns:
      `[...]`, shape and dtype of `x`, computed in float32 for half precision. Rows of `-inf`, or
      that `where` excludes entirely, are `-inf`; rows with a NaN or `+inf` are NaN.

    Raises:
      TypeError: if `x` is not floating.
      ValueError: if `axis` or `where` does not fit `x`, an option is unknown, or there are no
        classes.

    The derivative for a cotangent `g` is `(1 - p_k) g_k - p_k sum_{i != k} g_i`, computed so that
    its error is at most 5 eps of the terms' absolute values (on XLA:CPU), even if one class leads.
    Only `x` and a few numbers per row are kept for it.

    See Also:
      `softmax`; `label_log_probs` for those of labels alone, which keeps less.

    Source: Blanchard, Higham and Higham, Accurately computing the log-sum-exp and softmax
    functions (IMA J. Numer. Anal. 41, 2021).

    >>> import jax.numpy as jnp
    >>> print(log_softmax(jnp.array([20.0, 0.0])))
    [-2.0611537e-09 -2.0000000e+01]
    """
    return _along_classes(LOG_SOFTMAX, x, axis, where, rule, implementation)


@names_forward_mode
def logsumexp(
    x: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    rule: Rule = "vjp",
    implementation: Implementation | None = None,
) -> jax.Array:
    r"""The logarithm of the sum of exponentials, :math:`\log \sum_j e^{x_j}`, along `axis`.

    Unlike `jax.nn.logsumexp`, it sums over the last axis unless told otherwise.

    Args:
      x: `[...]` floating logits. `-inf` is a class that cannot happen: derivative 0.
      axis: the class axis, a tuple of axes taken together, or None for all.
      where: None, or booleans of `x`'s rank (classes) or without the class axes (rows): entries
        that are False count as `-inf`.
      rule: `"vjp"`, reverse mode (and forward over reverse, as in `jax.hessian`), or `"jvp"`, which
        has `jax.jvp`, `jax.jacfwd` and `jax.linearize` too.
      implementation: None for the platform's own way to compute, or `"xla"`,
        `"cpu"` or `"mosaic_gpu"`; the values are the same but for rounding.

    Returns:
      `x` without the class axes; float32 for half precision, else the dtype of `x`. Rows of `-inf`,
      or with nothing left by `where`, are `-inf`; rows with a NaN or `+inf` are NaN.

    Raises:
      TypeError: if `x` is not floating.
      ValueError: if `axis` or `where` does not fit `x`, an option is unknown, or there are no
        classes.

    With `m = max_j x_j`, its error is at most 3 eps of `|m| + |log sum_j exp(x_j - m)|`. The
    derivative is the softmax, to 5 eps (on XLA:CPU). Only `x` and a few numbers per row are kept
    for it.

    See Also:
      `softmax`, its derivative; `SoftmaxStats`, which has it beside a loss.

    Source: Blanchard, Higham and Higham, Accurately computing the log-sum-exp and softmax
    functions (IMA J. Numer. Anal. 41, 2021).

    >>> import jax.numpy as jnp
    >>> print(logsumexp(jnp.array([1000.0, 1000.0])))
    1000.6932
    """
    return _along_classes(LOGSUMEXP, x, axis, where, rule, implementation)


class _Call(NamedTuple):
    """What is constant in the compiled program."""

    function: Function
    implementation: Implementation | None

    @property
    def backend(self) -> Backend:
        """The backend that computes."""
        return backend_of(self.implementation)


def _along_classes(
    function: Function,
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
    found = _jitted(call, rule, rows, mask)
    return classes_back(found, axes, array.shape) if function.by_class else found


@jitted(0, 1)
def _jitted(call: _Call, rule: Rule, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    by_rule = _vjp if rule == "vjp" else _jvp
    return by_rule(call, vary(x, varying_axes(x, mask)), mask)


def _forward(call: _Call, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, Rows]:
    rows, log_total = statistics(call.backend, x, mask)
    value = call.function.value(call.backend, rows, log_total)
    return value.astype(x.dtype) if call.function.by_class else value, rows


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _vjp(call: _Call, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return _forward(call, x, mask)[0]


def _bwd(call: _Call, rows: Rows, g: jax.Array) -> tuple[jax.Array, None]:
    return call.function.gradient(call.backend, rows, g).astype(rows.x.dtype), None


_vjp.defvjp(_forward, _bwd)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _jvp(call: _Call, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return _forward(call, x, mask)[0]


def _jvp_rule(
    call: _Call,
    primals: tuple[jax.Array, jax.Array | None],
    tangents: tuple[jax.Array | SymbolicZero, object],
) -> tuple[jax.Array, Any]:
    value, rows = _forward(call, *primals)
    if isinstance(tangents[0], SymbolicZero):
        return value, tangents[0]
    # Computed again when transposed, so that only `rows` are kept for reverse mode.
    tangent = jax.checkpoint(partial(_tangent, call))(rows, tangents[0])
    return value, tangent.astype(value.dtype)


def _tangent(call: _Call, rows: Rows, v: jax.Array) -> jax.Array:
    return call.function.tangent(call.backend, rows, v.astype(rows.total.dtype))


_jvp.defjvp(_jvp_rule, symbolic_zeros=True)
