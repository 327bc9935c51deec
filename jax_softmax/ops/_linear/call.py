"""A call of a function of a linear layer: what is constant in it, where it runs, and its rows.

Every such function checks its arguments, and then runs rules on a layer, the rows' data and a
`Static`, all of which are made here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jax_softmax.ops._arguments import broadcast_rows
from jax_softmax.ops._backends.dispatch import check_implementation, on_a_cpu, on_a_gpu
from jax_softmax.ops._backends.gpu import gpu_memory
from jax_softmax.ops._jit import jitted
from jax_softmax.ops._linear.arguments import (
    check_classes,
    check_distinct,
    check_mean,
    check_row_mask,
    check_same,
    check_varies,
)
from jax_softmax.ops._linear.blocks import (
    BlockSize,
    check_block_size,
    choose_block_size,
    choose_gpu_block_size,
    row_blocks,
)
from jax_softmax.ops._linear.layer import Linear, Product, product_dtype, sums_dtype
from jax_softmax.ops._linear.one_block import Static
from jax_softmax.ops._linear.rules import rows_jvp, rows_vjp, total_jvp, total_vjp
from jax_softmax.ops._math import integer_labels
from jax_softmax.ops._math.row_data import RowData
from jax_softmax.ops._math.row_loss import RowLoss
from jax_softmax.ops._mesh import (
    AxisName,
    all_axes_manual,
    axis_names,
    explicit_axes,
    on_one_device,
    sum_over,
    vary,
    varying_axes,
)
from jax_softmax.ops._options import (
    Implementation,
    Options,
    Reduction,
    Rule,
    check_reduction,
    check_rule,
)
from jax_softmax.ops._reduction import (
    Loss,
    counted_rows,
    label_weights,
    place_stats,
    row_weights,
    total_of,
    totalled,
    with_stats,
)

R = TypeVar("R")

# A GPU's products take rows of multiples of this many numbers at full speed.
_GPU_CLASSES = 128


class Call(NamedTuple):
    """What is constant in the compiled program."""

    loss: RowLoss
    options: Options
    product: Product
    rule: Rule = "vjp"
    reduction: Reduction = "none"
    ignore_index: int | None = None
    block: BlockSize | None = None
    axis_name: AxisName = None
    data_axis_name: AxisName = None
    classes: int = 0
    teachers_product: Product | None = None


class Rows(NamedTuple):
    """What comes with the layer.

    Attributes:
      labels: None, or integers.
      mask: None, or booleans `[...]`: the rows that count.
      class_weights: None, or `[V]`.
      sample_weight: None, or `[...]`.
      targets: None, or the masses of labels `[..., K]`.
      rest: None, or the mass of every other class, `[...]`.
      teacher: None, or the layer that the rows are compared with.
    """

    labels: jax.Array | None = None
    mask: jax.Array | None = None
    class_weights: jax.Array | None = None
    sample_weight: jax.Array | None = None
    targets: jax.Array | None = None
    rest: jax.Array | None = None
    teacher: Linear | None = None


def check_call(
    call: Call,
    linear: Linear,
    block_size: int | tuple[int, int] | None,
    num_classes: int | None,
) -> Call:
    """The call with its block and classes; raises if these, the rule or mesh axes do not fit."""
    check_rule(call.rule)
    call = call._replace(
        block=check_block_size(block_size),
        axis_name=call.axis_name or None,
    )
    check_distinct(call.axis_name, call.data_axis_name)
    check_varies("axis_name", call.axis_name, "kernel", linear.kernel)
    check_varies("data_axis_name", call.data_axis_name, "features", linear.features)
    held = call.product.classes(linear)
    classes = check_classes(num_classes, held, call.axis_name)
    split = call.axis_name is not None or classes != held
    options = call.options._replace(classes=classes if split else None)
    return call._replace(options=options, classes=classes)


def placed(
    f: Callable[..., R], linear: Linear, results: Callable[[Any, Any], Any]
) -> Callable[..., R]:
    """`f` as a function of arrays, even if mesh axes are part of the arrays' types.

    Args:
      f: a function of arrays.
      linear: the layer.
      results: how what `f` returns is spread, from how rows are spread, and how a total is.
    """
    features = jax.typeof(linear.features).sharding
    explicit = explicit_axes(linear.features, linear.kernel)
    if not explicit:
        return f
    rows = NamedSharding(features.mesh, PartitionSpec(*features.spec[:-1]))
    total = NamedSharding(features.mesh, PartitionSpec())
    # The compiler places blocks of sharded rows, and sums over them.
    auto: Callable[..., R] = jax.sharding.auto_axes(
        f, axes=tuple(sorted(explicit)), out_sharding=results(rows, total)
    )
    return auto


def loss_of(
    call: Call,
    linear: Linear,
    rows: Rows,
    where: ArrayLike | None,
    sample_weight: ArrayLike | None,
    **weighing: ArrayLike | None,
) -> Any:
    """The loss, after the checks of what the losses of a layer have in common.

    Args:
      call: the result of `check_call`.
      linear: the layer.
      rows: what comes with it but a mask and weights.
      where: the mask.
      sample_weight: the weights.
      **weighing: what else makes rows weigh more or less.
    """
    check_reduction(call.reduction)
    check_implementation(call.options.implementation)
    shape, dtype = linear.features.shape[:-1], sums_dtype(linear)
    by_row = None if sample_weight is None else broadcast_rows(sample_weight, shape, dtype)
    mask = None if where is None else check_row_mask(where, shape, call.product.classes(linear))
    rows = rows._replace(mask=mask, sample_weight=by_row)
    given = {"labels": rows.labels, "teacher_log_probs": rows.targets}
    if rows.teacher is not None:
        given["teacher_features"] = rows.teacher.features
    check_same(call.axis_name, sample_weight=by_row, where=mask, **given)
    if call.reduction == "mean":
        weighing |= {"where": where, "sample_weight": sample_weight}
        of_rows = (linear.features, linear.labels, rows.labels, mask, by_row)
        check_mean(call.axis_name, call.data_axis_name, of_rows, weighing)
    stats = call.options.stats

    def results(rows: Any, total: Any) -> Any:
        loss = rows if call.reduction == "none" else total
        return (loss, place_stats(rows)) if stats else loss

    return placed(partial(_reduced, call), linear, results)(linear, rows)


@jitted(0)
def _reduced(call: Call, linear: Linear, rows: Rows) -> Loss:
    """The loss of the rows, weighted and reduced, with the statistics if asked for."""
    call = call._replace(data_axis_name=call.data_axis_name or None)
    linear, rows, call = padded(call, linear, rows)
    shape, labels = linear.features.shape[:-1], rows.labels
    not_ignored = None
    if labels is not None and call.ignore_index is not None:
        not_ignored = labels != call.ignore_index
    counted = counted_rows(shape, not_ignored, rows.mask)
    if labels is not None and counted is not None:
        # The label of a row that does not count must not matter, not even through 0 * NaN.
        same = counted if labels.ndim == counted.ndim else counted[..., None]
        labels = jnp.where(same, labels, 0)
    data = row_data(call, linear, rows._replace(labels=labels))
    weights = row_weights(
        call.reduction,
        shape,
        sums_dtype(linear),
        counted,
        rows.sample_weight,
        data.label_weight,
        call.data_axis_name,
    )
    data = data._replace(counted=counted, weightless=weights.weightless)
    linear, weight = varied(call, linear, data, weights.weight)
    weights = weights._replace(weight=weight)
    static = static_of(call, linear, data)
    if call.reduction != "none" and call.rule == "jvp" and not call.options.stats:
        outputs = total_jvp(static, linear, data, weight)
    elif call.reduction != "none" and call.rule == "vjp":
        outputs = total_vjp(static, linear, data, weight)
    else:
        by_rows = rows_vjp if call.rule == "vjp" else rows_jvp
        outputs = by_rows(static, linear, data)
        if call.reduction == "none":
            outputs = outputs._replace(loss=weights.times(outputs.loss))
        else:
            outputs = totalled(weight, outputs)
    loss: jax.Array = outputs.loss
    if call.reduction != "none":
        loss = total_of(loss, weights, outputs.finite, call.data_axis_name)
    if not call.options.stats:
        return loss
    return with_stats(loss, weights, outputs, rows.sample_weight, data.label_weight)


def padded(call: Call, linear: Linear, rows: Rows) -> tuple[Linear, Rows, Call]:
    """The layer with classes added that do not count, where a GPU's products want them.

    These take several times as long if rows of logits do not start at multiples of 16 bytes.
    """
    held, itemsize = call.product.classes(linear), product_dtype(linear).itemsize
    alone = call.axis_name is None and isinstance(held, int)
    alone = alone and linear.labels is None and rows.teacher is None
    if not (alone and on_a_gpu(call.options.implementation)) or held * itemsize % 16 == 0:
        return linear, rows, call
    more = -held % _GPU_CLASSES
    before = [(0, 0), (0, 0)]
    before[call.product.classes_axis] = (0, more)
    bias, by_class = (
        None if x is None else jnp.pad(x, (0, more)) for x in (linear.bias, rows.class_weights)
    )
    linear = linear._replace(kernel=jnp.pad(linear.kernel, before), bias=bias)
    call = call._replace(options=call.options._replace(classes=call.classes))
    return linear, rows._replace(class_weights=by_class), call


def row_data(call: Call, linear: Linear, rows: Rows) -> RowData:
    """The data of rows and classes, for the classes that this device holds."""
    held = call.product.classes(linear)
    first = None if call.axis_name is None else lax.axis_index(call.axis_name) * held
    mask, by_class = None, rows.class_weights
    ones = (1,) * (linear.features.ndim - 1)
    if call.options.classes is not None:
        mask = lax.broadcasted_iota(jnp.int32, (*ones, held), len(ones))
        mask = (mask if first is None else mask + first) < call.classes
    if by_class is not None:
        by_class = by_class.reshape(*ones, held)
    data = RowData(
        targets=rows.targets,
        rest=rows.rest,
        mask=mask,
        class_weights=by_class,
        first=first,
        teacher=rows.teacher,
    )
    if rows.labels is None:
        return data
    index, valid = integer_labels.class_index(rows.labels, call.classes)
    column = data.column_of(index)
    by_label = None
    if rows.class_weights is not None:
        here = (column >= 0) & (column < held)
        found = label_weights(rows.class_weights, jnp.clip(column, 0, held - 1))
        found = sum_over(call.axis_name, jnp.where(here, found, 0))
        # NaN where the label is not a class: a mean divides by these weights.
        by_label = jnp.where(valid, found, jnp.nan)
    return data._replace(column=column, valid=valid, label_weight=by_label)


def default_block(
    rows: int, classes: int, dtype: jnp.dtype, implementation: Implementation | None = None
) -> BlockSize:
    """The block of logits in `dtype` that `block_size=None` means, for the default device."""
    itemsize = jnp.dtype(dtype).itemsize
    if on_a_gpu(implementation):
        return choose_gpu_block_size(rows, classes, itemsize, gpu_memory())
    return choose_block_size(rows, classes, itemsize)


def static_of(call: Call, linear: Linear, data: RowData) -> Static:
    """What is constant in the rules: how rows and classes are split, above all."""
    rows, held = linear.features.shape[:-1], call.product.classes(linear)
    implementation = call.options.implementation
    number = math.prod(rows)
    block = call.block or default_block(number, held, sums_dtype(linear), implementation)
    # Without a kernel's gradient to read and write for each, half the memory takes about the same
    # time (docs/performance.md).
    several = isinstance(number, int) and block.rows < number
    whole = call.block is None and block.classes is None
    halved = whole and several and on_a_cpu(implementation)
    class_block = None if block.classes is None or block.classes >= held else block.classes
    options = call.options
    if class_block is not None:
        options = options._replace(classes=call.classes)
    skips = data.counted is not None
    # To leave out whole blocks, rows that are left out should be in one.
    adjacent = all_axes_manual() or (skips and on_one_device(linear.features, linear.kernel))
    split = partial(row_blocks, rows, contiguous=adjacent)
    return Static(
        call.loss,
        options,
        call.product,
        split(block.rows),
        split(-(-block.rows // 2) if halved else block.rows),
        class_block,
        call.axis_name,
        skips,
        call.teachers_product,
    )


def varied(
    call: Call, linear: Linear, data: RowData, weight: jax.Array
) -> tuple[Linear, jax.Array]:
    """The arguments, marked as varying over every mesh axis that any of them varies over.

    Except the kernel and the bias. An array that is the same on several devices gets the sum of
    their derivatives, and the rules must sum those of the kernel before they round. Features and
    weights stay the same over the devices of the classes, since each of these needs their whole
    derivative.
    """
    rows = varying_axes(linear.features, data.valid, data.counted, weight)
    everywhere = rows | varying_axes(linear.kernel, linear.bias, linear.labels)
    everywhere |= varying_axes(*jax.tree.leaves(data.teacher))
    classes = frozenset(axis_names(call.axis_name))
    features = vary(linear.features, everywhere - classes)
    labels = None if linear.labels is None else vary(linear.labels, everywhere)
    linear = linear._replace(features=features, labels=labels)
    return linear, vary(weight, everywhere - classes)
