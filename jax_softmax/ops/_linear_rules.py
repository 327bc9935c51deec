"""The loss of `features @ kernel + bias` and its derivatives, a block of logits at a time.

With logits Z = X K + b and G = dL/dZ, which is a row's own business (see `_integer_labels`),

    dL/dX = G K^T        dL/dK = X^T G        dL/db = sum over the rows of G

so a block of rows gives its rows of dL/dX and its share of dL/dK and dL/db, and its logits and G
are then forgotten. A total's G is known up to the cotangent of the total, a number by which the
gradients are multiplied later: the forward rule computes them, with three products in all. Where
each row has a cotangent of its own, the backward rule makes the logits again: four products.

Gradients are float32 (float64) until they have met the cotangent. Those of bfloat16 features,
perhaps the largest array that is left, are kept as the sum of two bfloat16 numbers, the first of
which gives its memory to the result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jax_softmax.ops._integer_labels import Constants, Numbers
from jax_softmax.ops._linear_products import Linear, Parts
from jax_softmax.ops._linear_sweeps import Static, forward_sweep, gradient_sweep, tangent_sweep
from jax_softmax.ops._rules import Outputs, multiply
from jax_softmax.ops._varying import sum_over_missing, vary, varying_axes

# Their leaves are jax.custom_derivatives.CustomVJPPrimal, whatever the tree.
Primals = Any
# Their leaves are arrays or SymbolicZero, whatever the tree.
Tangents = Any

RowResiduals = tuple[Linear, Constants, Numbers, Parts]
StatsResiduals = tuple[Linear, Constants, jax.Array, Numbers, Parts]
TotalResiduals = tuple[Parts, jax.Array, Linear, StatsResiduals | None]


def _wanted(linear: Linear | Parts, is_wanted: Callable[[Any], bool]) -> Parts:
    """`()` for what is to be differentiated, else None: a structure is known when compiling."""
    return Parts(*(None if x is None or not is_wanted(x) else () for x in linear))


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


# A total


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def total_vjp(
    static: Static, linear: Linear, constants: Constants, weights: jax.Array
) -> tuple[jax.Array, ...]:
    """`(sum(weights * loss),)`, and with statistics those of the rows (see `rows_vjp`)."""
    (loss, *stats), _ = forward_sweep(static, linear, constants)
    return jnp.sum(multiply(weights, loss)), *stats


def _total_fwd(
    static: Static, linear: Primals, constants: Primals, weights: Primals
) -> tuple[Outputs, TotalResiduals]:
    wanted = _wanted(linear, lambda primal: primal.perturbed)
    linear, constants, weights = jax.tree.map(
        lambda primal: primal.value, (linear, constants, weights)
    )
    of_rows = [weights, None, None, None]
    (loss, *stats), numbers, gradients = gradient_sweep(static, linear, constants, of_rows, wanted)
    total = jnp.sum(multiply(weights, loss))
    loss = jnp.where(weights == 0, 0, loss)
    # Of the primals no more than their dtypes is kept, and over which devices they vary.
    like = jax.tree.map(lambda x: vary(jnp.zeros((), x.dtype), varying_axes(x)), linear)
    # The rest is kept only for cotangents of statistics, which the forward rule cannot know.
    rest = (linear, constants, weights, numbers, wanted) if static.options.stats else None
    return (total, *stats), (gradients, loss, like, rest)


def _total_bwd(
    static: Static, residuals: TotalResiduals, cotangents: Tangents
) -> tuple[Linear, None, jax.Array | None]:
    gradients, loss, like, rest = residuals
    g, *of_stats = (None if _is_zero(g) else g for g in cotangents[:4])
    if g is None or any(x is not None for x in of_stats):
        linear, constants, weights, numbers, wanted = cast("StatsResiduals", rest)
        of_rows = [None if g is None else g * weights, *of_stats]
        rows = (linear, constants, numbers, wanted)
        found, _ = _rows_bwd(static, rows, of_rows)
        return found, None, None if g is None else g * loss
    features = gradients.features
    if features is not None:
        features = _scaled_features(static, features, like.features.dtype, g)
    kernel, bias = (None if x is None else g * x for x in gradients[1:])
    return _rounded(Parts(features, kernel, bias), like), None, g * loss


def _rounded(gradients: Parts, like: Any) -> Linear:
    """The gradients in the dtypes of `like`; None for those that are not wanted.

    Of what is the same on several devices, summed over them first.
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

    # A block at a time, in place: at once, XLA would give the result memory of its own.
    return static.blocks.unview(lax.fori_loop(0, static.blocks.number, block, high))


total_vjp.defvjp(_total_fwd, _total_bwd, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def total_jvp(
    static: Static, linear: Linear, constants: Constants, weights: jax.Array
) -> jax.Array:
    """The total without statistics, with forward mode: a tangent is that of the gradients."""
    (total,) = total_vjp(static, linear, constants, weights)
    return total


def _total_jvp(
    static: Static,
    primals: tuple[Linear, Constants, jax.Array],
    tangents: tuple[Tangents, Tangents, Tangents],
) -> tuple[jax.Array, jax.Array]:
    linear, constants, weights = primals
    dots, _, weights_dot = tangents
    wanted = _wanted(dots, lambda dot: not _is_zero(dot))
    (loss,), _, gradients = gradient_sweep(static, linear, constants, [weights], wanted)
    tangent = jnp.zeros((), loss.dtype)
    if gradients.features is not None:
        views = (static.blocks.unview(part).astype(loss.dtype) for part in gradients.features)
        gradients = gradients._replace(features=sum(views))
    for gradient, dot in zip(gradients, dots, strict=True):
        if gradient is not None:
            tangent += sum_over_missing(jnp.sum(gradient * dot.astype(loss.dtype)), loss)
    if not _is_zero(weights_dot):
        tangent += jnp.sum(jnp.where(weights == 0, 0, loss) * weights_dot)
    return jnp.sum(multiply(weights, loss)), tangent


total_jvp.defjvp(_total_jvp, symbolic_zeros=True)


# Rows


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def rows_vjp(static: Static, linear: Linear, constants: Constants) -> tuple[jax.Array, ...]:
    """`(loss,)`, or with statistics `(loss, logsumexp, label_log_prob, entropy, argmax)`."""
    return forward_sweep(static, linear, constants)[0]


def _rows_fwd(static: Static, linear: Primals, constants: Primals) -> tuple[Outputs, RowResiduals]:
    wanted = _wanted(linear, lambda primal: primal.perturbed)
    linear, constants = jax.tree.map(lambda primal: primal.value, (linear, constants))
    outputs, numbers = forward_sweep(static, linear, constants)
    return outputs, (linear, constants, numbers, wanted)


def _rows_bwd(static: Static, residuals: RowResiduals, cotangents: Tangents) -> tuple[Linear, None]:
    linear, constants, numbers, wanted = residuals
    used = [None if _is_zero(g) else g for g in cotangents[:4]]
    _, _, gradients = gradient_sweep(static, linear, constants, used, wanted, numbers)
    if gradients.features is not None:
        gradients = gradients._replace(features=static.blocks.unview(gradients.features[0]))
    return _rounded(gradients, linear), None


rows_vjp.defvjp(_rows_fwd, _rows_bwd, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def rows_jvp(static: Static, linear: Linear, constants: Constants) -> tuple[jax.Array, ...]:
    """The same with forward mode; what it needs beside rows is made again in reverse."""
    return rows_vjp(static, linear, constants)


def _rows_jvp(
    static: Static, primals: tuple[Linear, Constants], tangents: tuple[Tangents, Tangents]
) -> tuple[Outputs, Tangents]:
    linear, constants = primals
    outputs, numbers = forward_sweep(static, linear, constants)
    # In the dtype of the statistics, so that in reverse the blocks' shares are summed in it.
    wide = outputs[0].dtype
    dots = Parts(
        *(None if dot is None or _is_zero(dot) else dot.astype(wide) for dot in tangents[0])
    )
    along: tuple[jax.Array | SymbolicZero, ...] = tangent_sweep(
        static, linear, constants, numbers, dots
    )
    if static.options.stats:
        along = (*along, SymbolicZero(jax.typeof(outputs[-1]).to_tangent_aval()))
    return outputs, along


rows_jvp.defjvp(_rows_jvp, symbolic_zeros=True)
