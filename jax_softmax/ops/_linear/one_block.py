"""A block of rows of a linear layer: its logits, all of its classes or a chunk of them at a time.

The loss of a row is an argument.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from jax_softmax.ops._backends.chunks import Chunk, each_chunk, fold_chunks
from jax_softmax.ops._backends.dispatch import backend_of, on_a_gpu
from jax_softmax.ops._backends.interface import Backend
from jax_softmax.ops._backends.sums import row_sum
from jax_softmax.ops._linear.blocks import RowBlocks
from jax_softmax.ops._linear.layer import Linear, Parts, Product, product_dtype, sums_dtype
from jax_softmax.ops._math.logits import held_logits
from jax_softmax.ops._math.row_data import (
    Outputs,
    Residuals,
    RowData,
    output_of,
    unit_cotangents,
)
from jax_softmax.ops._math.row_loss import RowLoss
from jax_softmax.ops._math.slices import OfSlice, Slices, sum_slices, whole
from jax_softmax.ops._mesh import AxisName, zeros_varying
from jax_softmax.ops._options import Options


class Static(NamedTuple):
    """What is constant in the compiled program.

    Attributes:
      loss: the loss of a row.
      options: the options of the loss.
      product: how products are taken.
      blocks: how rows are split.
      value_blocks: the same, where nothing is differentiated.
      class_block: None, or how many classes are taken at a time.
      axis_name: the mesh axis that the classes are spread over, or None.
      skips: whether blocks without a row that counts are left out.
      teachers_product: None, or how those of `RowData.teacher` are taken.
    """

    loss: RowLoss
    options: Options
    product: Product
    blocks: RowBlocks
    value_blocks: RowBlocks
    class_block: int | None
    axis_name: AxisName
    skips: bool = False
    teachers_product: Product | None = None

    def for_values(self) -> Static:
        """The same, for a sweep after which no gradient is asked for."""
        return self._replace(blocks=self.value_blocks)

    @property
    def backend(self) -> Backend:
        """The backend that computes."""
        return backend_of(self.options.implementation)


def _of_chunk(
    static: Static, linear: Linear, data: RowData, chunk: Chunk
) -> tuple[Linear, RowData]:
    """The layer and the rows' data, cut to a chunk of the classes."""
    here = static.product.cut(linear, chunk)
    labels, teacher, product = here.labels, data.teacher, static.teachers_product
    if teacher is not None and product is not None:
        labels = product.logits(product.cut(teacher, chunk))
    data = data._replace(labels=labels, teacher=None)
    if chunk.width is None:
        return here, data
    first = chunk.first if data.first is None else data.first + chunk.first
    return here, data._replace(
        column=None if data.column is None else data.column - chunk.first,
        mask=chunk.cut(data.mask, -1),
        class_weights=chunk.cut(data.class_weights, -1),
        first=first,
    )


def taught(static: Static, linear: Linear, data: RowData) -> tuple[Linear, RowData]:
    """The layer with the teacher's logits as labels, if these are of all classes at once."""
    product = static.teachers_product
    if data.teacher is None or product is None or static.class_block is not None:
        return linear, data
    return linear._replace(labels=product.logits(data.teacher)), data._replace(teacher=None)


def forward(
    static: Static, linear: Linear, data: RowData
) -> tuple[Outputs, Residuals, jax.Array | None]:
    """A block's outputs and residuals, and its logits if those of all classes were computed."""
    linear = _with_rows(linear, data.counted)
    whole_logits = static.product.logits(linear) if static.class_block is None else None
    compared = static.teachers_product is not None and static.axis_name is None
    if compared and whole_logits is not None:
        # What is between two rows of logits and their divergence is as large as four of them: on a
        # CPU it is held for a few rows at a time.
        given = whole_logits, data._replace(labels=linear.labels)
        outputs, residuals = static.backend.by_rows(
            partial(_forward_of_rows, static), given, whole_logits.shape[:-1]
        )
        return outputs, residuals, whole_logits

    def each(f: OfSlice) -> Any:
        def of_chunk(chunk: Chunk) -> Any:
            here, at = _of_chunk(static, linear, data, chunk)
            logits = static.product.logits(here) if whole_logits is None else whole_logits
            return f(held_logits(logits, at.mask, static.options), at)

        return each_chunk(static.product.classes(linear), static.class_block, of_chunk)

    slices = Slices(static.backend, each, static.axis_name)
    outputs, residuals = static.loss.forward(static.options, slices, data)
    return outputs, residuals, whole_logits


def _forward_of_rows(
    static: Static, backend: Backend, given: tuple[jax.Array, RowData]
) -> tuple[Outputs, Residuals]:
    logits, data = given
    slices = whole(backend, logits, data, static.options)
    return static.loss.forward(static.options, slices, data)


def _gradient_dtype(linear: Linear, wanted: Parts) -> jnp.dtype:
    """What the gradient of a block's logits can be rounded to: all that is left of it in products.

    float16 products scale it first, and a bias has the sum of it.
    """
    narrow = product_dtype(linear)
    return narrow if narrow == jnp.bfloat16 and wanted.bias is None else sums_dtype(linear)


def reads_once(static: Static, linear: Linear, data: RowData, wanted: Parts) -> bool:
    if not on_a_gpu(static.options.implementation):
        return False  # a CPU's blocks are in its caches anyway
    if static.class_block is not None or static.axis_name is not None:
        return False
    classes, rows = static.product.classes(linear), linear.features.shape[:-1]
    logits: Any = jax.ShapeDtypeStruct((*rows, classes), sums_dtype(linear))
    return static.loss.reads_once(
        static.backend, static.options, logits, data, _gradient_dtype(linear, wanted)
    )


def at_once(
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


def add_gradients(
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


def tangent_outputs(
    static: Static, linear: Linear, data: RowData, residuals: Residuals, dots: Parts
) -> Outputs:
    """A block's tangents: the sums over the classes of gradients times tangents."""
    names = static.loss.outputs(static.options)
    one = jnp.ones(linear.features.shape[:-1], sums_dtype(linear))
    units_of = {name: unit_cotangents(name, one, data) for name in names}
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

        return jnp.stack([tangent(unit) for units in units_of.values() for unit in units])

    shares = each_chunk(static.product.classes(linear), static.class_block, of_chunk)
    along = iter(sum_slices(shares, static.axis_name))
    return Outputs(
        **{name: output_of(name, [next(along) for _ in units_of[name]], data) for name in names}
    )
