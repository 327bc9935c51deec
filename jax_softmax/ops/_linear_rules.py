"""The loss of `features @ kernel + bias` and its derivatives, a block of logits at a time.

With logits Z = X K + b and G = dL/dZ, which is a row's own business (see `_integer_labels`),

    dL/dX = G K^T        dL/dK = X^T G        dL/db = sum over the rows of G

so a block of rows gives its rows of dL/dX and its share of dL/dK and dL/db, and its logits and G
are then forgotten. A total's G is known up to the cotangent of the total, a number by which the
gradients are multiplied later: the forward rule computes them, with three products in all. Where
each row has a cotangent of its own, the backward rule makes the logits again: four products.

Gradients are float32 (float64) until they have met the cotangent. Those of half-precision features,
the one array that is as large as they are, are kept as the sum of two numbers of half precision,
the first of which gives its memory to the result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jax_softmax.ops import _integer_labels
from jax_softmax.ops._class_pieces import Piece, each_piece, fold_pieces
from jax_softmax.ops._integer_labels import Constants
from jax_softmax.ops._linear_products import Linear, Parts, Product, sums_dtype
from jax_softmax.ops._options import Options, exclude
from jax_softmax.ops._row_blocks import RowBlocks
from jax_softmax.ops._rules import multiply
from jax_softmax.ops._slices import AxisName, Slices, sum_slices
from jax_softmax.ops._varying import zeros_varying


class Static(NamedTuple):
    """What is constant in the compiled program.

    Attributes:
      options: of the loss.
      product: how products are taken.
      blocks: how rows are taken.
      class_block: None, or how many classes are taken at a time.
      axis_name: the mesh axis that the classes are spread over, or None.
    """

    options: Options
    product: Product
    blocks: RowBlocks
    class_block: int | None
    axis_name: AxisName


def _wanted(linear: Linear | Parts, is_wanted: Callable[[Any], bool]) -> Parts:
    """`()` for what is to be differentiated, else None: a structure is known when compiling."""
    return Parts(*(None if x is None or not is_wanted(x) else () for x in linear))


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


# A total


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def total_vjp(
    static: Static, linear: Linear, constants: Constants, weights: jax.Array
) -> jax.Array:
    """`sum(weights * loss)`, with the gradients computed in the forward rule."""
    (loss, *_), _ = _forward_sweep(static, linear, constants)
    return jnp.sum(multiply(weights, loss))


def _total_fwd(static, linear, constants, weights):
    wanted = _wanted(linear, lambda primal: primal.perturbed)
    linear, constants, weights = jax.tree.map(
        lambda primal: primal.value, (linear, constants, weights)
    )
    loss, gradients = _gradient_sweep(static, linear, constants, [weights], wanted)
    total = jnp.sum(multiply(weights, loss))
    loss = jnp.where(weights == 0, 0, loss)
    features = _halves(gradients.features, linear.features.dtype)
    # Of the primals no more than their dtypes is kept.
    like = jax.tree.map(lambda x: jnp.zeros((), x.dtype), linear)
    return total, (gradients._replace(features=features), loss, like)


def _total_bwd(static, residuals, g):
    gradients, loss, like = residuals
    gradients = gradients._replace(features=_sum_of_halves(gradients.features, g.dtype))
    return _rounded(gradients, like, lambda x: g * x), None, g * loss


def _halves(x: jax.Array | None, dtype: jnp.dtype) -> tuple[jax.Array, ...] | None:
    """`x` as numbers of `dtype` that sum to it, to twice the precision of `dtype`."""
    if x is None or dtype == x.dtype:
        return None if x is None else (x,)
    kind = jnp.finfo(dtype)
    # Not a cast there and back, which XLA may take for no change.
    high = lax.reduce_precision(x, kind.nexp, kind.nmant)
    low = jnp.where(jnp.isfinite(high), x - high, 0)
    return high.astype(dtype), low.astype(dtype)


def _sum_of_halves(halves: tuple[jax.Array, ...] | None, dtype: jnp.dtype) -> Any:
    return None if halves is None else sum(half.astype(dtype) for half in halves)


def _rounded(gradients: Parts, like: Any, scaled: Callable[[jax.Array], jax.Array]) -> Linear:
    """The gradients in the dtypes of `like`, None for those that are not wanted."""
    pairs = zip(gradients, like, strict=True)
    rounded: Any = (None if x is None else scaled(x).astype(to.dtype) for x, to in pairs)
    return Linear(*rounded)


total_vjp.defvjp(_total_fwd, _total_bwd, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def total_jvp(
    static: Static, linear: Linear, constants: Constants, weights: jax.Array
) -> jax.Array:
    """The same with forward mode: a tangent is the gradients' product with the tangents."""
    return total_vjp(static, linear, constants, weights)


def _total_jvp(static, primals, tangents):
    linear, constants, weights = primals
    dots, _, weights_dot = tangents
    wanted = _wanted(dots, lambda dot: not _is_zero(dot))
    loss, gradients = _gradient_sweep(static, linear, constants, [weights], wanted)
    tangent = jnp.zeros((), loss.dtype)
    for gradient, dot in zip(gradients, dots, strict=True):
        if gradient is not None:
            tangent += jnp.sum(gradient * dot.astype(gradient.dtype))
    if not _is_zero(weights_dot):
        tangent += jnp.sum(jnp.where(weights == 0, 0, loss) * weights_dot)
    return jnp.sum(multiply(weights, loss)), tangent


total_jvp.defjvp(_total_jvp, symbolic_zeros=True)


# Rows


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def rows_vjp(static: Static, linear: Linear, constants: Constants) -> tuple[jax.Array, ...]:
    """`(loss,)`, or with statistics `(loss, logsumexp, label_log_prob, entropy, argmax)`."""
    return _forward_sweep(static, linear, constants)[0]


def _rows_fwd(static, linear, constants):
    wanted = _wanted(linear, lambda primal: primal.perturbed)
    linear, constants = jax.tree.map(lambda primal: primal.value, (linear, constants))
    outputs, numbers = _forward_sweep(static, linear, constants)
    return outputs, (linear, constants, numbers, wanted)


def _rows_bwd(static, residuals, cotangents):
    linear, constants, numbers, wanted = residuals
    used = [None if isinstance(g, SymbolicZero) else g for g in cotangents[:4]]
    _, gradients = _gradient_sweep(static, linear, constants, used, wanted, numbers)
    return _rounded(gradients, linear, lambda x: x), None


rows_vjp.defvjp(_rows_fwd, _rows_bwd, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def rows_jvp(static: Static, linear: Linear, constants: Constants) -> tuple[jax.Array, ...]:
    """The same with forward mode; what it needs beside rows is made again in reverse."""
    return rows_vjp(static, linear, constants)


def _rows_jvp(static, primals, tangents):
    linear, constants = primals
    outputs, numbers = _forward_sweep(static, linear, constants)
    # In the dtype of the statistics, so that in reverse the blocks' shares are summed in it.
    wide = outputs[0].dtype
    dots = Parts(
        *(None if dot is None or _is_zero(dot) else dot.astype(wide) for dot in tangents[0])
    )
    along = _tangent_sweep(static, linear, constants, numbers, dots)
    if static.options.stats:
        along = (*along, SymbolicZero(jax.typeof(outputs[-1]).to_tangent_aval()))
    return outputs, along


rows_jvp.defjvp(_rows_jvp, symbolic_zeros=True)


# Sweeps over the blocks of rows


class _Rows(NamedTuple):
    """What the rows bring, in blocks: `[blocks, *block, ...]` each."""

    features: jax.Array
    constants: tuple[Any, ...]
    cotangents: tuple[jax.Array | None, ...] = ()
    numbers: Any = None
    features_dot: jax.Array | None = None


def _rows(static: Static, linear: Linear, constants: Constants, cotangents=(), dot=None) -> _Rows:
    kept = constants.kept
    if static.blocks.padded and kept is None:
        kept = jnp.ones(static.blocks.shape, bool)
    rowwise = (constants.label_column, constants.valid, constants.label_weight, kept)
    rows = _Rows(linear.features, rowwise, tuple(cotangents), features_dot=dot)
    return jax.tree.map(static.blocks.split, rows)


def _of_block(rows: _Rows, linear: Linear, constants: Constants) -> tuple[Linear, Constants]:
    """The layer and the constants as a block of rows sees them."""
    label_column, valid, label_weight, kept = rows.constants
    features = rows.features
    if kept is not None:
        # Whatever a row that does not count holds would meet a gradient of 0, and 0 * NaN is NaN.
        features = jnp.where(kept[..., None], features, 0)
    at = constants._replace(
        label_column=label_column, valid=valid, label_weight=label_weight, kept=kept
    )
    return linear._replace(features=features), at


def _forward_sweep(static: Static, linear: Linear, constants: Constants):
    """The outputs of all rows, and their numbers as the blocks left them."""

    def block(_, rows):
        outputs, numbers, _ = _forward(static, *_of_block(rows, linear, constants))
        return None, (outputs, numbers)

    _, (outputs, numbers) = lax.scan(jax.checkpoint(block), None, _rows(static, linear, constants))
    return jax.tree.map(static.blocks.join, outputs), numbers


def _gradient_sweep(static, linear, constants, cotangents, wanted, numbers=None):
    """The losses (None with `numbers`), and the gradients in the dtype of the statistics."""

    def block(sums, rows):
        here, at = _of_block(rows, linear, constants)
        loss, logits, numbers = None, None, rows.numbers
        if numbers is None:
            (loss, *_), numbers, logits = _forward(static, here, at)
        cotangents = list(rows.cotangents)
        sums = _add_gradients(static, here, at, numbers, cotangents, wanted, sums, logits)
        return sums._replace(features=None), (loss, sums.features)

    rows = _rows(static, linear, constants, cotangents)._replace(numbers=numbers)
    wide = sums_dtype(linear)
    start = Parts(
        None,
        None if wanted.kernel is None else zeros_varying(linear.kernel, wide),
        None if wanted.bias is None else zeros_varying(linear.bias, wide),
    )
    sums, (loss, features) = lax.scan(jax.checkpoint(block), start, rows)
    loss, features = jax.tree.map(static.blocks.join, (loss, features))
    return loss, sums._replace(features=features)


def _tangent_sweep(static, linear, constants, numbers, dots):
    """The tangents of the differentiable outputs."""

    def block(_, rows):
        here, at = _of_block(rows, linear, constants)
        here_dots = dots._replace(features=rows.features_dot)
        return None, _tangents(static, here, at, rows.numbers, here_dots)

    rows = _rows(static, linear, constants, dot=dots.features)._replace(numbers=numbers)
    _, tangents = lax.scan(jax.checkpoint(block), None, rows)
    return jax.tree.map(static.blocks.join, tangents)


# A block of rows, all of its classes or a piece of them at a time


def _of_piece(static: Static, linear: Linear, constants: Constants, piece: Piece):
    """The layer and the constants as a piece of the classes sees them."""
    if piece.width is None:
        return linear, constants
    first = piece.first if constants.first is None else constants.first + piece.first
    at = constants._replace(
        label_column=constants.label_column - piece.first,
        mask=piece.cut(constants.mask, -1),
        class_weights=piece.cut(constants.class_weights, -1),
        first=first,
    )
    return static.product.cut(linear, piece), at


def _forward(static: Static, linear: Linear, constants: Constants):
    """A block's outputs and numbers, and its logits where they were made whole."""
    whole_logits = static.product.logits(linear) if static.class_block is None else None

    def each(f):
        def of_piece(piece):
            here, at = _of_piece(static, linear, constants, piece)
            logits = static.product.logits(here) if whole_logits is None else whole_logits
            return f(exclude(logits, at.mask), at)

        return each_piece(static.product.classes(linear), static.class_block, of_piece)

    slices = Slices(each, static.axis_name)
    outputs, numbers = _integer_labels.forward(static.options, slices, constants)
    if static.options.stats:
        outputs = (*outputs, numbers.argmax)
    return outputs, numbers._replace(argmax=None), whole_logits


def _add_gradients(static, linear, constants, numbers, cotangents, wanted, sums, whole_logits):
    """What the sums become with a block's gradients, in the dtype of the statistics."""

    def add(sums: Parts, piece: Piece) -> Parts:
        here, at = _of_piece(static, linear, constants, piece)
        logits = static.product.logits(here) if whole_logits is None else whole_logits
        (gradient,) = _integer_labels.gradients(static.options, (logits,), at, numbers, cotangents)
        return static.product.transposed(gradient, here, wanted, sums, piece)

    start = sums
    if wanted.features is not None and static.class_block is not None:
        start = sums._replace(features=zeros_varying(linear.features, sums_dtype(linear)))
    return fold_pieces(static.product.classes(linear), static.class_block, add, start)


def _tangents(static, linear, constants, numbers, dots) -> tuple[jax.Array, ...]:
    """A block's tangents: the sums over the classes of gradient times the logits' tangent."""
    count = 4 if static.options.stats else 1
    one = jnp.ones(linear.features.shape[:-1], sums_dtype(linear))

    def of_piece(piece):
        here, at = _of_piece(static, linear, constants, piece)
        logits = static.product.logits(here)
        logits_dot = static.product.logits_tangent(here, static.product.cut(dots, piece))
        tangents = []
        for i in range(count):
            cotangents = [one if i == j else None for j in range(count)]
            (gradient,) = _integer_labels.gradients(
                static.options, (logits,), at, numbers, cotangents
            )
            tangents.append(jnp.sum(gradient * logits_dot, -1))
        return jnp.stack(tangents)

    shares = each_piece(static.product.classes(linear), static.class_block, of_piece)
    return tuple(sum_slices(shares, static.axis_name))
