"""The loss of `features @ kernel + bias` and its derivatives, a block of logits at a time.

With logits Z = X K + b and G = dL/dZ, each row of which depends on that row only (see `_math`),

    dL/dX = G K^T        dL/dK = X^T G        dL/db = sum over the rows of G

So a block of rows gives its rows of dL/dX and its share of dL/dK and dL/db; its logits and G are
then dropped. A total's G is known up to the cotangent of the total, one number, and the gradients
can be multiplied by that later: the forward rule computes them, with three products in all. If each
row has its own cotangent, the backward rule computes the logits again: four products.

Gradients are float32 (float64) until they are multiplied by the cotangent. Those of bfloat16
features, perhaps the largest array that remains, are kept as the sum of two bfloat16 arrays; the
result takes over the memory of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jax_softmax.ops._autodiff import used, with_no_tangent
from jax_softmax.ops._jit import absent, is_absent
from jax_softmax.ops._linear.layer import Linear, Parts, sums_dtype
from jax_softmax.ops._linear.one_block import Static
from jax_softmax.ops._linear.sweeps import (
    forward_sweep,
    gradient_sweep,
    part_dtypes,
    tangent_sweep,
)
from jax_softmax.ops._math.row_data import STATISTICS, Outputs, Residuals, RowData
from jax_softmax.ops._mesh import sum_over_missing, vary, varying_axes
from jax_softmax.ops._reduction import slope, times_slope, totalled

# Any tree whose leaves are jax.custom_derivatives.CustomVJPPrimal.
Primals = Any
# Any tree whose leaves are arrays or SymbolicZero.
Tangents = Any


class RowsKept(NamedTuple):
    """What the forward rule keeps for the backward rule, if each row has a cotangent.

    `wanted` has an array for each of the layer's, absent for those that are not differentiated.
    """

    linear: Linear
    data: RowData
    residuals: Residuals
    wanted: Parts


class TotalKept(NamedTuple):
    """The same for a total.

    Attributes:
      gradients: the gradients for a cotangent of 1, absent where they are not wanted.
      slopes: `[...]`, the derivatives by the weights.
      like: scalars with the dtypes of the layer's arrays and the mesh axes that these vary over.
      weights: with statistics only, since the forward rule cannot know the cotangents of those.
      rows: with statistics only: what the gradients are computed from again.
    """

    gradients: Parts
    slopes: jax.Array
    like: Any
    weights: jax.Array | None
    rows: RowsKept | None


def _wanted(linear: Linear | Parts, is_wanted: Callable[[Any], bool]) -> Parts:
    """`()` for arrays that are differentiated, else None: a tree structure, known when tracing."""
    return Parts(*(None if x is None or not is_wanted(x) else () for x in linear))


def _flags(linear: Linear, wanted: Parts) -> Parts:
    """`wanted` as arrays: a tree of the same form whatever is wanted."""
    pairs = zip(linear, wanted, strict=True)
    return Parts(
        *(None if x is None else absent() if w is None else jnp.zeros(()) for x, w in pairs)
    )


def _filled(linear: Linear, gradients: Parts, kinds: int) -> Parts:
    """The gradients with what is not wanted absent; those of the features are `kinds` arrays."""
    features, *others = gradients
    features = (absent(),) * kinds if features is None else features
    pairs = zip(linear[1:], others, strict=True)
    rest = (None if x is None else absent() if g is None else g for x, g in pairs)
    return Parts(features, *rest)


def _there(x: Any) -> Any:
    """What is there of a tree's first level: None for what is absent."""
    gone = x is None or is_absent(x[0] if isinstance(x, tuple) else x)
    return None if gone else x


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


# A total


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def total_vjp(static: Static, linear: Linear, data: RowData, weights: jax.Array) -> Outputs:
    """Outputs with `sum(weights * loss)` as the loss; the statistics are those of the rows."""
    return totalled(weights, forward_sweep(static.for_values(), linear, data).outputs)


def _total_fwd(
    static: Static, linear: Primals, data: Primals, weights: Primals
) -> tuple[Outputs, TotalKept]:
    wanted = _wanted(linear, lambda primal: primal.perturbed)
    linear, data, weights = jax.tree.map(lambda primal: primal.value, (linear, data, weights))
    outputs, residuals, gradients = gradient_sweep(static, linear, data, Outputs(weights), wanted)
    slopes = slope(weights, outputs.loss)
    like = jax.tree.map(lambda x: vary(jnp.zeros((), x.dtype), varying_axes(x)), linear)
    stats = static.options.stats
    rows = RowsKept(linear, data, residuals, _flags(linear, wanted)) if stats else None
    kinds = len(part_dtypes(linear.features.dtype, sums_dtype(linear)))
    gradients = _filled(linear, gradients, kinds)
    kept = TotalKept(gradients, slopes, like, weights if stats else None, rows)
    return totalled(weights, outputs), kept


def _total_bwd(
    static: Static, kept: TotalKept, cotangents: Tangents
) -> tuple[Linear, None, jax.Array | None]:
    cotangents = used(cotangents)
    g = cotangents.loss
    by_weights = None if g is None else g * kept.slopes
    if g is None or any(getattr(cotangents, name) is not None for name in STATISTICS):
        rows, weights = cast("RowsKept", kept.rows), cast("jax.Array", kept.weights)
        of_rows = cotangents._replace(loss=None if g is None else g * weights)
        found, _ = _rows_bwd(static, rows, of_rows)
        return found, None, by_weights
    features, kernel, bias, labels = map(_there, kept.gradients)
    if features is not None:
        features = _scaled_features(static, features, kept.like.features.dtype, g)
    if labels is not None:
        labels = g * static.blocks.unview(labels)
    kernel, bias = (None if x is None else g * x for x in (kernel, bias))
    return _rounded(Parts(features, kernel, bias, labels), kept.like), None, by_weights


def _rounded(gradients: Parts, like: Any) -> Linear:
    """The gradients in the dtypes of `like`; None for those that are not wanted.

    If an array is the same on several devices, its gradient is first summed over them.
    """
    pairs = zip(gradients, like, strict=True)
    rounded: Any = (
        None if x is None else sum_over_missing(x, to).astype(to.dtype) for x, to in pairs
    )
    return Linear(*rounded)


def _scaled_features(
    static: Static, parts: tuple[jax.Array, ...], kind: jnp.dtype, g: jax.Array
) -> jax.Array:
    """`g` times the sum of `parts`, views of the features' gradient, rounded once."""
    if len(parts) == 1:
        return static.blocks.unview((g * parts[0]).astype(kind))
    high, low = parts
    take, put = static.blocks.take, static.blocks.put

    def block(i: jax.Array, high: jax.Array) -> jax.Array:
        total = take(high, i).astype(g.dtype) + take(low, i).astype(g.dtype)
        return put(high, i, (g * total).astype(kind))

    # A block at a time, in place. In one step, XLA would give the result memory of its own.
    return static.blocks.unview(lax.fori_loop(0, static.blocks.number, block, high))


total_vjp.defvjp(_total_fwd, _total_bwd, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def total_jvp(static: Static, linear: Linear, data: RowData, weights: jax.Array) -> Outputs:
    """The total without statistics, with forward mode: tangents come from the gradients."""
    return total_vjp(static, linear, data, weights)


def _total_jvp(
    static: Static,
    primals: tuple[Linear, RowData, jax.Array],
    tangents: tuple[Tangents, Tangents, Tangents],
) -> tuple[Outputs, Outputs]:
    linear, data, weights = primals
    dots, _, weights_dot = tangents
    wanted = _wanted(dots, lambda dot: not _is_zero(dot))
    outputs, _, gradients = gradient_sweep(static, linear, data, Outputs(weights), wanted)
    loss = outputs.loss
    tangent = jnp.zeros((), loss.dtype)
    unview = static.blocks.unview
    if gradients.features is not None:
        features = sum(unview(part).astype(loss.dtype) for part in gradients.features)
        gradients = gradients._replace(features=features)
    if gradients.labels is not None:
        gradients = gradients._replace(labels=unview(gradients.labels))
    for gradient, dot in zip(gradients, dots, strict=True):
        if gradient is not None:
            tangent += sum_over_missing(jnp.sum(gradient * dot.astype(loss.dtype)), loss)
    if not _is_zero(weights_dot):
        tangent += jnp.sum(times_slope(weights_dot, weights, loss))
    found = totalled(weights, outputs)
    return found, with_no_tangent(Outputs(tangent), found)


total_jvp.defjvp(_total_jvp, symbolic_zeros=True)


# Rows


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def rows_vjp(static: Static, linear: Linear, data: RowData) -> Outputs:
    """The outputs of the rows."""
    return forward_sweep(static.for_values(), linear, data).outputs


def _rows_fwd(static: Static, linear: Primals, data: Primals) -> tuple[Outputs, RowsKept]:
    wanted = _wanted(linear, lambda primal: primal.perturbed)
    linear, data = jax.tree.map(lambda primal: primal.value, (linear, data))
    outputs, residuals, _ = forward_sweep(static, linear, data)
    return outputs, RowsKept(linear, data, residuals, _flags(linear, wanted))


def _rows_bwd(static: Static, kept: RowsKept, cotangents: Tangents) -> tuple[Linear, None]:
    linear, data, residuals, flags = kept
    wanted = _wanted(Parts(*flags), lambda flag: not is_absent(flag))
    gradients = gradient_sweep(static, linear, data, used(cotangents), wanted, residuals).gradients
    unview = static.blocks.unview
    if gradients.features is not None:
        gradients = gradients._replace(features=unview(gradients.features[0]))
    if gradients.labels is not None:
        gradients = gradients._replace(labels=unview(gradients.labels))
    return _rounded(gradients, linear), None


rows_vjp.defvjp(_rows_fwd, _rows_bwd, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def rows_jvp(static: Static, linear: Linear, data: RowData) -> Outputs:
    """`rows_vjp` with forward mode; reverse mode keeps only numbers per row, and recomputes."""
    return rows_vjp(static, linear, data)


def _rows_jvp(
    static: Static, primals: tuple[Linear, RowData], tangents: tuple[Tangents, Tangents]
) -> tuple[Outputs, Outputs]:
    linear, data = primals
    outputs, residuals, _ = forward_sweep(static, linear, data)
    # In the dtype of the statistics, so that reverse mode sums the blocks' shares in it.
    wide = sums_dtype(linear)
    dots = Parts(
        *(None if dot is None or _is_zero(dot) else dot.astype(wide) for dot in tangents[0])
    )
    along = tangent_sweep(static, linear, data, residuals, dots)
    return outputs, with_no_tangent(along, outputs)


rows_jvp.defjvp(_rows_jvp, symbolic_zeros=True)
