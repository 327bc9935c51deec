"""Passes over the blocks of rows of a linear layer: values, gradients and tangents.

A block's logits are computed, and dropped with the block. Gradients of the kernel and the bias are
summed over the blocks; those of the features and of class probabilities are put where the block's
rows are. The loss of a row is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._backends.chunks import Chunk, each_chunk, fold_chunks
from jax_softmax.ops._backends.dispatch import backend_of, on_a_gpu
from jax_softmax.ops._backends.interface import Backend
from jax_softmax.ops._backends.sums import row_sum
from jax_softmax.ops._linear.blocks import RowBlocks
from jax_softmax.ops._linear.layer import Linear, Parts, Product, product_dtype, sums_dtype
from jax_softmax.ops._math.row_data import DIFFERENTIABLE, Outputs, Residuals, RowData
from jax_softmax.ops._math.row_loss import RowLoss
from jax_softmax.ops._math.slices import OfSlice, Slices, held_logits, sum_slices
from jax_softmax.ops._mesh import AxisName, sum_over_missing, zeros_varying
from jax_softmax.ops._options import Options

# With more blocks, sums over rows are taken in two levels. One level of 128 errs by 1.4 eps.
_MOST_IN_A_SUM = 128


class Static(NamedTuple):
    """What is constant in the compiled program.

    Attributes:
      loss: the loss of a row.
      options: the options of the loss.
      product: how products are taken.
      blocks: how rows are split.
      class_block: None, or how many classes are taken at a time.
      axis_name: the mesh axis that the classes are spread over, or None.
    """

    loss: RowLoss
    options: Options
    product: Product
    blocks: RowBlocks
    class_block: int | None
    axis_name: AxisName

    @property
    def backend(self) -> Backend:
        """The backend that computes."""
        return backend_of(self.options.implementation)


class Sweep(NamedTuple):
    """The results of a pass.

    Attributes:
      outputs: of all rows.
      residuals: of all rows, still in blocks.
      gradients: of the features, as a tuple of views that sum to it; of the labels, as a view; and
        of the kernel and the bias, in the dtype of the sums. None for what is not wanted.
    """

    outputs: Outputs
    residuals: Residuals
    gradients: Parts


# All rows


class _Rows(NamedTuple):
    """What comes with the rows besides the layer's arrays, `[blocks, *block]` each.

    Attributes:
      i: `[blocks]`, 0, 1, ...
      data: the fields of `RowData` that are `[...]`.
      cotangents: of the outputs.
      residuals: of the forward pass; None if there was none.
    """

    i: jax.Array
    data: RowData
    cotangents: Outputs
    residuals: Residuals


Block = Callable[[Parts, _Rows], tuple[Parts, Any]]

_BY_ROW = ("column", "valid", "label_weight", "counted", "weightless")


def _rows(
    static: Static,
    data: RowData,
    cotangents: Outputs | None = None,
    residuals: Residuals = None,
) -> _Rows:
    if static.blocks.padded and data.counted is None:
        data = data._replace(counted=jnp.ones(static.blocks.shape, bool))
    by_row = RowData(**{name: getattr(data, name) for name in _BY_ROW})
    by_row, given = jax.tree.map(static.blocks.split, (by_row, cotangents or Outputs()))
    return _Rows(jnp.arange(static.blocks.number), by_row, given, residuals)


def _viewed(static: Static, parts: Any) -> Any:
    """A layer's arrays, or its tangents, with those that have rows replaced by views."""
    view = static.blocks.view
    features, labels = (None if x is None else view(x) for x in (parts.features, parts.labels))
    return parts._replace(features=features, labels=labels)


def _of_block(static: Static, parts: Any, i: jax.Array) -> Any:
    """Block `i` of a result of `_viewed`."""
    features, labels = (
        None if x is None else static.blocks.take(x, i) for x in (parts.features, parts.labels)
    )
    return parts._replace(features=features, labels=labels)


def _data_of_block(data: RowData, rows: _Rows) -> RowData:
    return data._replace(**{name: getattr(rows.data, name) for name in _BY_ROW})


def forward_sweep(static: Static, linear: Linear, data: RowData) -> Sweep:
    """The outputs of all rows, and their residuals."""
    linear = _viewed(static, linear)

    def block(_: None, rows: _Rows) -> tuple[None, tuple[Outputs, Residuals]]:
        here = _of_block(static, linear, rows.i)
        return None, _forward(static, here, _data_of_block(data, rows))[:2]

    _, found = lax.scan(jax.checkpoint(block), None, _rows(static, data))
    outputs, residuals = found
    return Sweep(jax.tree.map(static.blocks.join, outputs), residuals, Parts())


def gradient_sweep(
    static: Static,
    linear: Linear,
    data: RowData,
    cotangents: Outputs,
    wanted: Parts,
    residuals: Residuals = None,
) -> Sweep:
    """Outputs, residuals (neither of them if residuals are given) and gradients.

    If residuals are given, the cotangents are those of rows and not of a total, so the gradients of
    the features and the labels are rounded here.
    """
    wide, kind = sums_dtype(linear), linear.features.dtype
    given = residuals is not None
    kinds = (kind,) if given else _part_dtypes(kind, wide)
    linear = _viewed(static, linear)

    def block(sums: Parts, rows: _Rows) -> tuple[Parts, tuple[Outputs, Residuals]]:
        here, at = _of_block(static, linear, rows.i), _data_of_block(data, rows)
        features, labels = sums.features, sums.labels
        sums = sums._replace(features=None, labels=None)
        if not given and _reads_once(static, here, at, wanted):
            outputs, residuals, sums = _at_once(static, here, at, rows.cotangents, wanted, sums)
        else:
            outputs, residuals, logits = Outputs(), rows.residuals, None
            if not given:
                outputs, residuals, logits = _forward(static, here, at)
            sums = _add_gradients(
                static, here, at, residuals, rows.cotangents, wanted, sums, logits
            )
        if features is not None:
            # Summed over the devices of the classes, in the dtype of the sums.
            found = _parts(sum_over_missing(sums.features, linear.features), kinds)
            pairs = zip(features, found, strict=True)
            features = tuple(static.blocks.put(all_rows, rows.i, part) for all_rows, part in pairs)
        if labels is not None:
            labels = static.blocks.put(labels, rows.i, sums.labels.astype(labels.dtype))
        sums = sums._replace(features=features, labels=labels)
        return sums, (outputs, None if given else residuals)

    start = _zeros(linear, wanted, kinds, given)
    rows = _rows(static, data, cotangents, residuals)
    sums, (outputs, found) = _scan_in_groups(jax.checkpoint(block), start, rows)
    return Sweep(jax.tree.map(static.blocks.join, outputs), found, sums)


def _zeros(linear: Linear, wanted: Parts, kinds: tuple[jnp.dtype, ...], rounded: bool) -> Parts:
    """Zeros that the gradients are summed into, or put into."""
    wide = sums_dtype(linear)
    features, kernel, bias, labels = linear
    return Parts(
        None if wanted.features is None else tuple(zeros_varying(features, k) for k in kinds),
        None if wanted.kernel is None else zeros_varying(kernel, wide, features),
        None if wanted.bias is None or bias is None else zeros_varying(bias, wide, *linear[:2]),
        None
        if wanted.labels is None or labels is None
        else zeros_varying(labels, labels.dtype if rounded else wide, *linear[:2]),
    )


def _scan_in_groups(block: Block, start: Parts, rows: _Rows) -> tuple[Parts, Any]:
    """`lax.scan(block, start, rows)`, the kernel's and the bias's gradients summed in two levels.

    Many blocks are summed in groups of `sqrt(blocks)`, then over the groups. With 8192 blocks this
    errs by 1.2 eps (of the terms' sizes), one running sum by 9.7. It takes one more array like the
    kernel. `start` must be zeros.
    """
    count = rows.i.shape[0]
    if not isinstance(count, int) or count <= _MOST_IN_A_SUM:
        return lax.scan(block, start, rows)
    size = math.isqrt(count)
    groups = count // size

    def group(sums: Parts, rows: _Rows) -> tuple[Parts, Any]:
        share, found = lax.scan(block, sums._replace(kernel=start.kernel, bias=start.bias), rows)
        kernel, bias = jax.tree.map(jnp.add, (sums.kernel, sums.bias), (share.kernel, share.bias))
        return share._replace(kernel=kernel, bias=bias), found

    whole = jax.tree.map(lambda x: x[: groups * size].reshape(groups, size, *x.shape[1:]), rows)
    sums, found = lax.scan(group, start, whole)
    found = jax.tree.map(lambda x: x.reshape(groups * size, *x.shape[2:]), found)
    if groups * size == count:
        return sums, found
    sums, last = group(sums, jax.tree.map(lambda x: x[groups * size :], rows))
    return sums, jax.tree.map(lambda *parts: jnp.concatenate(parts), found, last)


def tangent_sweep(
    static: Static, linear: Linear, data: RowData, residuals: Residuals, dots: Parts
) -> Outputs:
    """The tangents of the differentiable outputs."""
    linear, dots = _viewed(static, linear), _viewed(static, dots)

    def block(_: None, rows: _Rows) -> tuple[None, Outputs]:
        here, along = (_of_block(static, parts, rows.i) for parts in (linear, dots))
        return None, _tangents(static, here, _data_of_block(data, rows), rows.residuals, along)

    rows = _rows(static, data, residuals=residuals)
    _, tangents = lax.scan(jax.checkpoint(block), None, rows)
    return cast("Outputs", jax.tree.map(static.blocks.join, tangents))


# A block of rows, all of its classes or a chunk of them at a time


def _of_chunk(
    static: Static, linear: Linear, data: RowData, chunk: Chunk
) -> tuple[Linear, RowData]:
    """The layer and the rows' data, cut to a chunk of the classes."""
    here = static.product.cut(linear, chunk)
    data = data._replace(labels=here.labels)
    if chunk.width is None:
        return here, data
    first = chunk.first if data.first is None else data.first + chunk.first
    return here, data._replace(
        column=None if data.column is None else data.column - chunk.first,
        mask=chunk.cut(data.mask, -1),
        class_weights=chunk.cut(data.class_weights, -1),
        first=first,
    )


def _forward(
    static: Static, linear: Linear, data: RowData
) -> tuple[Outputs, Residuals, jax.Array | None]:
    """A block's outputs and residuals, and its logits if those of all classes were computed."""
    linear = _with_rows(linear, data.counted)
    whole_logits = static.product.logits(linear) if static.class_block is None else None

    def each(f: OfSlice) -> Any:
        def of_chunk(chunk: Chunk) -> Any:
            here, at = _of_chunk(static, linear, data, chunk)
            logits = static.product.logits(here) if whole_logits is None else whole_logits
            return f(held_logits(logits, at, static.options.soft_cap), at)

        return each_chunk(static.product.classes(linear), static.class_block, of_chunk)

    slices = Slices(static.backend, each, static.axis_name)
    outputs, residuals = static.loss.forward(static.options, slices, data)
    return outputs, residuals, whole_logits


def _gradient_dtype(linear: Linear, wanted: Parts) -> jnp.dtype:
    """What the gradient of a block's logits can be rounded to: all that is left of it in products.

    float16 products scale it first, and a bias has the sum of it.
    """
    narrow = product_dtype(linear)
    return narrow if narrow == jnp.bfloat16 and wanted.bias is None else sums_dtype(linear)


def _reads_once(static: Static, linear: Linear, data: RowData, wanted: Parts) -> bool:
    if not on_a_gpu(static.options.implementation):
        return False  # a CPU's blocks are in its caches anyway
    if static.class_block is not None or static.axis_name is not None:
        return False
    classes, rows = static.product.classes(linear), linear.features.shape[:-1]
    logits: Any = jax.ShapeDtypeStruct((*rows, classes), sums_dtype(linear))
    return static.loss.reads_once(
        static.backend, static.options, logits, data, _gradient_dtype(linear, wanted)
    )


def _at_once(
    static: Static, linear: Linear, data: RowData, cotangents: Outputs, wanted: Parts, sums: Parts
) -> tuple[Outputs, Residuals, Parts]:
    """A block's outputs and residuals, and the sums with its gradients added."""
    logits = static.product.logits(_with_rows(linear, data.counted))
    dtype = _gradient_dtype(linear, wanted)
    assert static.loss.at_once is not None
    outputs, residuals, gradient = static.loss.at_once(
        static.backend, static.options, logits, data, cotangents.loss, dtype
    )
    by_rows = _with_rows(linear, data.kept(residuals.rows.total))
    sums = static.product.transposed(static.backend, gradient, by_rows, wanted, sums, Chunk())
    return outputs, residuals, sums


def _with_rows(linear: Linear, kept: jax.Array | None) -> Linear:
    """The layer with features of 0 for rows that are not kept.

    A NaN in such a row would otherwise meet a gradient of 0, and 0 * NaN is NaN.
    """
    if kept is None:
        return linear
    return linear._replace(features=jnp.where(kept[..., None], linear.features, 0))


def _add_gradients(
    static: Static,
    linear: Linear,
    data: RowData,
    residuals: Residuals,
    cotangents: Outputs,
    wanted: Parts,
    sums: Parts,
    whole_logits: jax.Array | None,
) -> Parts:
    """The sums with a block's gradients added, in the dtype of the statistics."""
    classes, wide = static.product.classes(linear), sums_dtype(linear)
    by_rows = _with_rows(linear, data.kept(residuals.rows.total))

    def add(sums: Parts, chunk: Chunk) -> Parts:
        here, at = _of_chunk(static, linear, data, chunk)
        logits = static.product.logits(here) if whole_logits is None else whole_logits
        found = static.loss.gradients(
            static.backend, static.options, logits, at, residuals, cotangents, False
        )
        here = static.product.cut(by_rows, chunk)
        if wanted.labels is not None:
            of_chunk = cast("jax.Array", found.labels)
            whole = static.class_block is None
            labels = of_chunk if whole else chunk.update(sums.labels, -1, lambda _: of_chunk)
            sums = sums._replace(labels=labels)
        return static.product.transposed(static.backend, found.logits, here, wanted, sums, chunk)

    start = sums
    if static.class_block is not None:
        if wanted.features is not None:
            zeros = zeros_varying(linear.features, wide, linear.kernel)
            start = start._replace(features=zeros)
        if wanted.labels is not None:
            zeros = zeros_varying(cast("jax.Array", linear.labels), wide, *linear[:2])
            start = start._replace(labels=zeros)
    return fold_chunks(classes, static.class_block, add, start)


def _tangents(
    static: Static, linear: Linear, data: RowData, residuals: Residuals, dots: Parts
) -> Outputs:
    """A block's tangents: the sums over the classes of gradients times tangents."""
    names = DIFFERENTIABLE if static.options.stats else ("loss",)
    one = jnp.ones(linear.features.shape[:-1], sums_dtype(linear))
    by_rows = _with_rows(linear, data.kept(residuals.rows.total))

    def of_chunk(chunk: Chunk) -> jax.Array:
        here, at = _of_chunk(static, linear, data, chunk)
        logits = static.product.logits(here)
        along = static.product.cut(dots, chunk)
        logits_dot = static.product.logits_tangent(static.product.cut(by_rows, chunk), along)

        def tangent(cotangents: Outputs) -> jax.Array:
            found = static.loss.gradients(
                static.backend, static.options, logits, at, residuals, cotangents, False
            )
            total = row_sum(found.logits * logits_dot)
            if along.labels is not None and found.labels is not None:
                total += row_sum(found.labels * along.labels)
            return total

        return jnp.stack([tangent(Outputs(**{name: one})) for name in names])

    shares = each_chunk(static.product.classes(linear), static.class_block, of_chunk)
    along = sum_slices(shares, static.axis_name)
    return Outputs(**dict(zip(names, along, strict=True)))


# Gradients that wait for the cotangent of a total


def _part_dtypes(kind: jnp.dtype, wide: jnp.dtype) -> tuple[jnp.dtype, ...]:
    """The dtypes in which the features' gradient waits for the cotangent of a total.

    Two halves for bfloat16, which has the range of float32; float16 would lose small numbers.
    """
    return (kind, kind) if kind == jnp.bfloat16 else (wide,)


def _parts(x: jax.Array, kinds: tuple[jnp.dtype, ...]) -> tuple[jax.Array, ...]:
    """`x` as arrays that sum to it; if there are two, to twice the precision of the first."""
    if len(kinds) == 1:
        return (x.astype(kinds[0]),)
    info = jnp.finfo(kinds[0])
    # Not a cast there and back, which XLA may drop as no change.
    high = lax.reduce_precision(x, info.nexp, info.nmant)
    low = jnp.where(jnp.isfinite(high), x - high, 0)
    return high.astype(kinds[0]), low.astype(kinds[1])
