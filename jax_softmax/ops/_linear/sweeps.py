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

from jax_softmax.ops._linear.layer import Linear, Parts, sums_dtype
from jax_softmax.ops._linear.one_block import (
    Static,
    add_gradients,
    at_once,
    forward,
    reads_once,
    tangent_outputs,
    taught,
)
from jax_softmax.ops._linear.skipping import for_rows, skipping
from jax_softmax.ops._math.row_data import (
    Outputs,
    Residuals,
    RowData,
)
from jax_softmax.ops._mesh import sum_over_missing, zeros_varying

# With more blocks, sums over rows are taken in two levels. One level of 128 errs by 1.4 eps.
_MOST_IN_A_SUM = 128


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

_BY_ROW = ("column", "valid", "targets", "rest", "label_weight", "counted", "weightless")


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


def _block(static: Static, linear: Linear, data: RowData, rows: _Rows) -> tuple[Linear, RowData]:
    """The layer and the data of a block's rows; those of `linear` and a teacher are views."""
    data = data._replace(**{name: getattr(rows.data, name) for name in _BY_ROW})
    if data.teacher is not None:
        data = data._replace(teacher=_of_block(static, data.teacher, rows.i))
    return taught(static, _of_block(static, linear, rows.i), data)


def _data_in_views(static: Static, data: RowData, features: jax.Array) -> RowData:
    """The data with a view of the teacher's features."""
    if data.teacher is None:
        return data
    return data._replace(teacher=for_rows(static.skips, _viewed(static, data.teacher), features))


def forward_sweep(static: Static, linear: Linear, data: RowData) -> Sweep:
    """The outputs of all rows, and their residuals."""
    views = _data_in_views(static, data, linear.features)
    linear = for_rows(static.skips, _viewed(static, linear), linear.features)

    def block(_: None, rows: _Rows) -> tuple[None, tuple[Outputs, Residuals]]:
        return None, forward(static, *_block(static, linear, views, rows))[:2]

    _, found = lax.scan(jax.checkpoint(skipping(static.skips, block)), None, _rows(static, data))
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
    kinds = (kind,) if given else part_dtypes(kind, wide)
    views = _data_in_views(static, data, linear.features)
    linear = for_rows(static.skips, _viewed(static, linear), linear.features)

    def block(sums: Parts, rows: _Rows) -> tuple[Parts, tuple[Outputs, Residuals]]:
        here, at = _block(static, linear, views, rows)
        features, labels = sums.features, sums.labels
        sums = sums._replace(features=None, labels=None)
        if not given and reads_once(static, here, at, wanted):
            outputs, residuals, sums = at_once(static, here, at, rows.cotangents, wanted, sums)
        else:
            outputs, residuals, logits = Outputs(), rows.residuals, None
            if not given:
                outputs, residuals, logits = forward(static, here, at)
            sums = add_gradients(static, here, at, residuals, rows.cotangents, wanted, sums, logits)
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
    block = jax.checkpoint(skipping(static.skips, block))
    sums, (outputs, found) = _scan_in_groups(block, start, rows)
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
    views = _data_in_views(static, data, linear.features)
    linear, dots = (
        for_rows(static.skips, _viewed(static, parts), linear.features) for parts in (linear, dots)
    )

    def block(_: None, rows: _Rows) -> tuple[None, Outputs]:
        along = _of_block(static, dots, rows.i)
        return None, tangent_outputs(
            static, *_block(static, linear, views, rows), rows.residuals, along
        )

    rows = _rows(static, data, residuals=residuals)
    _, tangents = lax.scan(jax.checkpoint(skipping(static.skips, block)), None, rows)
    return cast("Outputs", jax.tree.map(static.blocks.join, tangents))


# Gradients that wait for the cotangent of a total


def part_dtypes(kind: jnp.dtype, wide: jnp.dtype) -> tuple[jnp.dtype, ...]:
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
