"""Passes over the blocks of rows of a linear layer: values, gradients and tangents.

A block's logits are made, and forgotten with the block. Gradients of the kernel and the bias are
summed over the blocks, those of the features put where the block's rows are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast, overload

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops import _integer_labels
from jax_softmax.ops._class_pieces import Piece, each_piece, fold_pieces
from jax_softmax.ops._integer_labels import Constants, Numbers
from jax_softmax.ops._linear_products import Linear, Parts, Product, sums_dtype
from jax_softmax.ops._options import Options, exclude
from jax_softmax.ops._row_blocks import RowBlocks
from jax_softmax.ops._row_sums import row_sum
from jax_softmax.ops._rules import Cotangents, Outputs
from jax_softmax.ops._slices import AxisName, Slices, sum_slices
from jax_softmax.ops._varying import sum_over_missing, zeros_varying

# Of more blocks, each sum over rows is taken in two levels: of 128 one level errs by 1.4 eps.
_MOST_IN_A_SUM = 128

Results = TypeVar("Results")


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


# All rows

Block = Callable[[Parts, "_Rows"], tuple[Parts, Any]]


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
    cotangents: Sequence[jax.Array | None]
    numbers: Any


def _rows(
    static: Static,
    constants: Constants,
    cotangents: Sequence[jax.Array | None] = (),
    numbers: Numbers | None = None,
) -> _Rows:
    kept = constants.kept
    if static.blocks.padded and kept is None:
        kept = jnp.ones(static.blocks.shape, bool)
    rowwise = (constants.label_column, constants.valid, constants.label_weight, kept)
    rowwise, cotangents = jax.tree.map(static.blocks.split, (rowwise, tuple(cotangents)))
    return _Rows(jnp.arange(static.blocks.number), rowwise, cotangents, numbers)


def _of_block(
    static: Static, linear: Linear, constants: Constants, rows: _Rows
) -> tuple[Linear, Constants]:
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


def forward_sweep(static: Static, linear: Linear, constants: Constants) -> tuple[Outputs, Numbers]:
    """The outputs of all rows, and their numbers as the blocks left them."""
    linear = linear._replace(features=static.blocks.view(linear.features))

    def block(_: jax.Array | None, rows: _Rows) -> tuple[None, tuple[Outputs, Numbers]]:
        outputs, numbers, _ = _forward(static, *_of_block(static, linear, constants, rows))
        return None, (outputs, numbers)

    _, (outputs, numbers) = lax.scan(jax.checkpoint(block), None, _rows(static, constants))
    return jax.tree.map(static.blocks.join, outputs), numbers


@overload
def gradient_sweep(
    static: Static,
    linear: Linear,
    constants: Constants,
    cotangents: Cotangents,
    wanted: Parts,
    numbers: None = None,
) -> tuple[Outputs, Numbers, Parts]: ...


@overload
def gradient_sweep(
    static: Static,
    linear: Linear,
    constants: Constants,
    cotangents: Cotangents,
    wanted: Parts,
    numbers: Numbers,
) -> tuple[None, None, Parts]: ...


def gradient_sweep(
    static: Static,
    linear: Linear,
    constants: Constants,
    cotangents: Cotangents,
    wanted: Parts,
    numbers: Numbers | None = None,
) -> tuple[Outputs | None, Numbers | None, Parts]:
    """Outputs and numbers (None where numbers are given), and gradients before they are rounded.

    The gradient of the features is a tuple of views that sum to it; where numbers are given, and
    the cotangents so those of the rows and not of a total, one view, rounded. Those of kernel and
    bias are in the dtype of the sums.
    """
    wide, kind = sums_dtype(linear), linear.features.dtype
    kinds = _part_dtypes(kind, wide) if numbers is None else (kind,)
    linear = linear._replace(features=static.blocks.view(linear.features))

    def block(sums: Parts, rows: _Rows) -> tuple[Parts, tuple[Outputs | None, Numbers | None]]:
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
        None
        if wanted.bias is None
        else zeros_varying(cast("jax.Array", linear.bias), wide, *linear[:2]),
    )
    rows = _rows(static, constants, cotangents, numbers)
    sums, (outputs, found) = _scan_in_groups(jax.checkpoint(block), start, rows)
    return jax.tree.map(static.blocks.join, outputs), found, sums


def _scan_in_groups(block: Block, start: Parts, rows: _Rows) -> tuple[Parts, Any]:
    """`lax.scan(block, start, rows)`, the kernel's and the bias's gradients summed in two levels.

    Of many blocks: in groups of `sqrt(blocks)`, and over the groups. Of 8192, the sums err by 1.2
    eps (of the terms' sizes) where one running sum errs by 9.7. It takes one more array like the
    kernel. `start` has zeros.
    """
    count = len(rows.i)
    if count <= _MOST_IN_A_SUM:
        return lax.scan(block, start, rows)
    size = math.isqrt(count)
    groups = count // size

    def group(sums: Parts, rows: _Rows) -> tuple[Parts, Any]:
        share, found = lax.scan(block, sums._replace(kernel=start.kernel, bias=start.bias), rows)
        total = jax.tree.map(jnp.add, (sums.kernel, sums.bias), (share.kernel, share.bias))
        return Parts(share.features, *total), found

    whole = jax.tree.map(lambda x: x[: groups * size].reshape(groups, size, *x.shape[1:]), rows)
    sums, found = lax.scan(group, start, whole)
    found = jax.tree.map(lambda x: x.reshape(groups * size, *x.shape[2:]), found)
    if groups * size == count:
        return sums, found
    sums, last = group(sums, jax.tree.map(lambda x: x[groups * size :], rows))
    return sums, jax.tree.map(lambda *parts: jnp.concatenate(parts), found, last)


def tangent_sweep(
    static: Static, linear: Linear, constants: Constants, numbers: Numbers, dots: Parts
) -> Outputs:
    """The tangents of the differentiable outputs."""
    view = static.blocks.view
    linear = linear._replace(features=view(linear.features))
    if dots.features is not None:
        dots = dots._replace(features=view(dots.features))

    def block(_: None, rows: _Rows) -> tuple[None, Outputs]:
        here, at = _of_block(static, linear, constants, rows)
        here_dots = dots
        if dots.features is not None:
            here_dots = dots._replace(features=static.blocks.take(dots.features, rows.i))
        return None, _tangents(static, here, at, rows.numbers, here_dots)

    _, tangents = lax.scan(jax.checkpoint(block), None, _rows(static, constants, (), numbers))
    return jax.tree.map(static.blocks.join, tangents)


# A block of rows, all of its classes or a piece of them at a time


def _of_piece(
    static: Static, linear: Linear, constants: Constants, piece: Piece
) -> tuple[Linear, Constants]:
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


def _forward(
    static: Static, linear: Linear, constants: Constants
) -> tuple[Outputs, Numbers, jax.Array | None]:
    """A block's outputs and numbers, and its logits where they were made whole."""
    whole_logits = static.product.logits(linear) if static.class_block is None else None

    def each(f: Callable[[jax.Array, Constants], Results]) -> Results:
        def of_piece(piece: Piece) -> Results:
            here, at = _of_piece(static, linear, constants, piece)
            logits = static.product.logits(here) if whole_logits is None else whole_logits
            return f(exclude(logits, at.mask), at)

        return each_piece(static.product.classes(linear), static.class_block, of_piece)

    slices = Slices(each, static.axis_name)
    outputs, numbers = _integer_labels.forward(static.options, slices, constants)
    if static.options.stats:
        outputs = (*outputs, cast("jax.Array", numbers.argmax))
    return outputs, numbers._replace(argmax=None), whole_logits


def _add_gradients(
    static: Static,
    linear: Linear,
    constants: Constants,
    numbers: Numbers,
    cotangents: Cotangents,
    wanted: Parts,
    sums: Parts,
    whole_logits: jax.Array | None,
) -> Parts:
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


def _tangents(
    static: Static, linear: Linear, constants: Constants, numbers: Numbers, dots: Parts
) -> tuple[jax.Array, ...]:
    """A block's tangents: the sums over the classes of gradient times the logits' tangent."""
    count = 4 if static.options.stats else 1
    one = jnp.ones(linear.features.shape[:-1], sums_dtype(linear))

    def of_piece(piece: Piece) -> jax.Array:
        here, at = _of_piece(static, linear, constants, piece)
        logits = static.product.logits(here)
        logits_dot = static.product.logits_tangent(here, static.product.cut(dots, piece))
        tangents = []
        for i in range(count):
            cotangents = [one if i == j else None for j in range(count)]
            (gradient,) = _integer_labels.gradients(
                static.options, (logits,), at, numbers, cotangents
            )
            tangents.append(row_sum(gradient * logits_dot))
        return jnp.stack(tangents)

    shares = each_piece(static.product.classes(linear), static.class_block, of_piece)
    return tuple(sum_slices(shares, static.axis_name))


# What waits for the cotangent of a total


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
