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
from jax_softmax.ops._varying import sum_over_missing, vary, varying_axes, zeros_varying


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
) -> tuple[jax.Array, ...]:
    """`(sum(weights * loss),)`, and with statistics those of the rows (see `rows_vjp`)."""
    (loss, *stats), _ = _forward_sweep(static, linear, constants)
    return jnp.sum(multiply(weights, loss)), *stats


def _total_fwd(static, linear, constants, weights):
    wanted = _wanted(linear, lambda primal: primal.perturbed)
    linear, constants, weights = jax.tree.map(
        lambda primal: primal.value, (linear, constants, weights)
    )
    of_rows = [weights, None, None, None]
    (loss, *stats), numbers, gradients = _gradient_sweep(static, linear, constants, of_rows, wanted)
    total = jnp.sum(multiply(weights, loss))
    loss = jnp.where(weights == 0, 0, loss)
    # Of the primals no more than their dtypes is kept, and over which devices they vary.
    like = jax.tree.map(lambda x: vary(jnp.zeros((), x.dtype), varying_axes(x)), linear)
    # The rest is kept only for cotangents of statistics, which the forward rule cannot know.
    rest = (linear, constants, weights, numbers, wanted) if static.options.stats else None
    return (total, *stats), (gradients, loss, like, rest)


def _total_bwd(static, residuals, cotangents):
    gradients, loss, like, rest = residuals
    g, *of_stats = (None if _is_zero(g) else g for g in cotangents[:4])
    if g is None or any(x is not None for x in of_stats):
        linear, constants, weights, numbers, wanted = rest
        of_rows = [None if g is None else g * weights, *of_stats]
        rows = (linear, constants, numbers, wanted)
        found, _ = _rows_bwd(static, rows, of_rows)
        return found, None, None if g is None else g * loss
    features = gradients.features
    if features is not None:
        features = _scaled_features(static, features, like.features.dtype, g)
    kernel, bias = (None if x is None else g * x for x in gradients[1:])
    return _rounded(Parts(features, kernel, bias), like), None, g * loss


def _part_dtypes(kind: jnp.dtype, wide: jnp.dtype) -> tuple[jnp.dtype, ...]:
    """The dtypes in which the features' gradient waits for the cotangent of a total.

    Two halves for bfloat16, which has the range of float32; float16 would lose what is small.
    """
    return (kind, kind) if kind == jnp.bfloat16 else (wide,)


def _parts(x: jax.Array, kinds: tuple[jnp.dtype, ...]) -> tuple[jax.Array, ...]:
    """`x` as numbers that sum to it, to twice the precision of the first where there are two."""
    if len(kinds) == 1:
        return (x.astype(kinds[0]),)
    info = jnp.finfo(kinds[0])
    # Not a cast there and back, which XLA may take for no change.
    high = lax.reduce_precision(x, info.nexp, info.nmant)
    low = jnp.where(jnp.isfinite(high), x - high, 0)
    return high.astype(kinds[0]), low.astype(kinds[1])


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

    def block(i, high):
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


def _total_jvp(static, primals, tangents):
    linear, constants, weights = primals
    dots, _, weights_dot = tangents
    wanted = _wanted(dots, lambda dot: not _is_zero(dot))
    (loss,), _, gradients = _gradient_sweep(static, linear, constants, [weights], wanted)
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
    return _forward_sweep(static, linear, constants)[0]


def _rows_fwd(static, linear, constants):
    wanted = _wanted(linear, lambda primal: primal.perturbed)
    linear, constants = jax.tree.map(lambda primal: primal.value, (linear, constants))
    outputs, numbers = _forward_sweep(static, linear, constants)
    return outputs, (linear, constants, numbers, wanted)


def _rows_bwd(static, residuals, cotangents):
    linear, constants, numbers, wanted = residuals
    used = [None if isinstance(g, SymbolicZero) else g for g in cotangents[:4]]
    _, _, gradients = _gradient_sweep(static, linear, constants, used, wanted, numbers)
    if gradients.features is not None:
        gradients = gradients._replace(features=static.blocks.unview(gradients.features[0]))
    return _rounded(gradients, linear), None


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
    """What the rows bring beside their features, `[blocks, *block]` each, and the blocks' numbers.

    Attributes:
      i: `[blocks]`, 0, 1, ...
      constants: label columns, which of them are valid, label weights, which rows are kept.
      cotangents: those of the outputs.
      numbers: what the forward pass keeps.
    """

    i: jax.Array
    constants: tuple[Any, ...]
    cotangents: tuple[jax.Array | None, ...]
    numbers: Any


def _rows(static: Static, constants: Constants, cotangents=(), numbers=None) -> _Rows:
    kept = constants.kept
    if static.blocks.padded and kept is None:
        kept = jnp.ones(static.blocks.shape, bool)
    rowwise = (constants.label_column, constants.valid, constants.label_weight, kept)
    rowwise, cotangents = jax.tree.map(static.blocks.split, (rowwise, tuple(cotangents)))
    return _Rows(jnp.arange(static.blocks.number), rowwise, cotangents, numbers)


def _of_block(static: Static, linear: Linear, constants: Constants, rows: _Rows):
    """The layer, given with a view of the features, and the constants as a block sees them."""
    label_column, valid, label_weight, kept = rows.constants
    features = static.blocks.take(linear.features, rows.i)
    if kept is not None:
        # Whatever a row that does not count holds would meet a gradient of 0, and 0 * NaN is NaN.
        features = jnp.where(kept[..., None], features, 0)
    at = constants._replace(
        label_column=label_column, valid=valid, label_weight=label_weight, kept=kept
    )
    return linear._replace(features=features), at


def _forward_sweep(static: Static, linear: Linear, constants: Constants):
    """The outputs of all rows, and their numbers as the blocks left them."""
    linear = linear._replace(features=static.blocks.view(linear.features))

    def block(_, rows):
        outputs, numbers, _ = _forward(static, *_of_block(static, linear, constants, rows))
        return None, (outputs, numbers)

    _, (outputs, numbers) = lax.scan(jax.checkpoint(block), None, _rows(static, constants))
    return jax.tree.map(static.blocks.join, outputs), numbers


def _gradient_sweep(static, linear, constants, cotangents, wanted, numbers=None):
    """Outputs and numbers (None where numbers are given), and gradients before they are rounded.

    The gradient of the features is a tuple of views that sum to it; where numbers are given, and
    the cotangents so those of the rows and not of a total, one view, rounded. Those of kernel and
    bias are in the dtype of the sums.
    """
    wide, kind = sums_dtype(linear), linear.features.dtype
    kinds = _part_dtypes(kind, wide) if numbers is None else (kind,)
    linear = linear._replace(features=static.blocks.view(linear.features))

    def block(sums, rows):
        here, at = _of_block(static, linear, constants, rows)
        outputs, logits, numbers = None, None, rows.numbers
        if numbers is None:
            outputs, numbers, logits = _forward(static, here, at)
        cotangents, parts = list(rows.cotangents), sums.features
        sums = sums._replace(features=None)
        sums = _add_gradients(static, here, at, numbers, cotangents, wanted, sums, logits)
        if parts is not None:
            # Over the devices of the classes, in the dtype of the sums.
            found = _parts(sum_over_missing(sums.features, linear.features), kinds)
            pairs = zip(parts, found, strict=True)
            parts = tuple(static.blocks.put(all_rows, rows.i, part) for all_rows, part in pairs)
        return sums._replace(features=parts), (
            outputs,
            None if rows.numbers is not None else numbers,
        )

    start = Parts(
        None
        if wanted.features is None
        else tuple(zeros_varying(linear.features, part) for part in kinds),
        None if wanted.kernel is None else zeros_varying(linear.kernel, wide, linear.features),
        None if wanted.bias is None else zeros_varying(linear.bias, wide, *linear[:2]),
    )
    rows = _rows(static, constants, cotangents, numbers)
    sums, (outputs, found) = lax.scan(jax.checkpoint(block), start, rows)
    return jax.tree.map(static.blocks.join, outputs), found, sums


def _tangent_sweep(static, linear, constants, numbers, dots):
    """The tangents of the differentiable outputs."""
    view = static.blocks.view
    linear = linear._replace(features=view(linear.features))
    if dots.features is not None:
        dots = dots._replace(features=view(dots.features))

    def block(_, rows):
        here, at = _of_block(static, linear, constants, rows)
        here_dots = dots
        if dots.features is not None:
            here_dots = dots._replace(features=static.blocks.take(dots.features, rows.i))
        return None, _tangents(static, here, at, rows.numbers, here_dots)

    _, tangents = lax.scan(jax.checkpoint(block), None, _rows(static, constants, (), numbers))
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
        zeros = zeros_varying(linear.features, sums_dtype(linear), linear.kernel)
        start = sums._replace(features=zeros)
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
