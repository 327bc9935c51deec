"""A call of a loss on logits: what is constant in it, its rows, and how these are reduced."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_softmax.ops._arguments import (
    Axis,
    broadcast_rows,
    canonical_axes,
    class_weight_array,
    classes_last,
    floating_array,
    mask_classes_last,
)
from jax_softmax.ops._autodiff import Inputs, Rules
from jax_softmax.ops._backends.dispatch import check_implementation
from jax_softmax.ops._math.logits import statistics_dtype
from jax_softmax.ops._math.row_data import RowData
from jax_softmax.ops._mesh import vary, varying_axes
from jax_softmax.ops._options import Options, Reduction, Rule, check_reduction, check_rule
from jax_softmax.ops._reduction import Loss, counted_rows, row_weights, total_of, with_stats


class Call(NamedTuple):
    """What is constant in the compiled program."""

    options: Options
    rule: Rule
    reduction: Reduction
    ignore_index: int | None = None


class Rows(NamedTuple):
    """What both losses take: logits `[..., V]`, masks and weights of classes and of rows."""

    logits: jax.Array
    mask: jax.Array | None
    row_mask: jax.Array | None
    class_weights: jax.Array | None
    sample_weight: jax.Array | None


def check_rows(
    call: Call,
    logits: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    class_weights: ArrayLike | None,
    sample_weight: ArrayLike | None,
) -> Rows:
    """The logits and what comes with them as arrays; raises if something does not fit."""
    check_rule(call.rule)
    check_reduction(call.reduction)
    check_implementation(call.options.implementation)
    z = floating_array("logits", logits)
    shape, axes = z.shape, canonical_axes(axis, z.ndim)
    z = classes_last(z, axes)
    classes = z.shape[-1]
    if classes == 0:
        raise ValueError(
            f"logits: expected at least one class along axis {axis}, got shape {shape}."
        )
    mask, row_mask = mask_classes_last(where, axes, shape)
    dtype = statistics_dtype(z.dtype)
    by_class = class_weight_array(class_weights, classes, dtype)
    by_row = None
    if sample_weight is not None:
        by_row = broadcast_rows(sample_weight, z.shape[:-1], dtype)
    return Rows(z, mask, row_mask, by_class, by_row)


def counted_by(rows: Rows, not_ignored: jax.Array | None = None) -> jax.Array | None:
    """`[...]` booleans, the rows that count; None if all do."""
    any_class = None if rows.mask is None else jnp.any(rows.mask, -1)
    return counted_rows(rows.logits.shape[:-1], rows.row_mask, any_class, not_ignored)


def reduced_loss(
    rules: Rules,
    call: Call,
    rows: Rows,
    inputs: Inputs,
    data: RowData,
    counted: jax.Array | None,
) -> Loss:
    """The rule's losses, weighted and reduced, with the statistics if asked for."""
    options, shape = call.options, rows.logits.shape[:-1]
    weights = row_weights(
        call.reduction,
        shape,
        statistics_dtype(rows.logits.dtype),
        counted,
        rows.sample_weight,
        data.label_weight,
    )
    by_class = rows.class_weights
    if by_class is not None:
        # Reshaped to the rank of the logits: nothing here relies on rank promotion.
        by_class = by_class.reshape((1,) * len(shape) + by_class.shape)
    data = data._replace(
        counted=counted, weightless=weights.weightless, mask=rows.mask, class_weights=by_class
    )
    axes = varying_axes(*jax.tree.leaves((inputs, data)), weights.weight)
    inputs = jax.tree.map(lambda x: vary(x, axes), inputs)
    total = None
    if call.reduction != "none" and not options.stats:
        if call.rule == "jvp":
            total = rules.total_jvp
        elif rules.reads_once(options, inputs, data):
            total = rules.total_vjp
    if total is not None:
        outputs = total(options, inputs, data, vary(weights.weight, axes))
        return total_of(outputs.loss, weights, outputs.finite, None)
    by_rows = rules.rows_vjp if call.rule == "vjp" else rules.rows_jvp
    outputs = by_rows(options, inputs, data)
    loss = weights.times(outputs.loss)
    if call.reduction != "none":
        loss = total_of(jnp.sum(loss), weights, jnp.isfinite(outputs.loss), None)
    if not options.stats:
        return loss
    return with_stats(loss, weights, outputs, rows.sample_weight, data.label_weight)
