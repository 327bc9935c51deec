"""Softmax cross-entropy on features and a linear layer, whose logits are never held whole.

The formulas for a row are in `_math`, those for the layer and its blocks in `_linear`. This module
has the checks and the handling of several devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, Unpack, overload

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jax_softmax.ops._arguments import (
    broadcast_rows,
    class_weight_array,
)
from jax_softmax.ops._autodiff import names_forward_mode
from jax_softmax.ops._backends.dispatch import check_implementation, on_a_gpu
from jax_softmax.ops._backends.gpu import gpu_memory
from jax_softmax.ops._jit import jitted
from jax_softmax.ops._linear.arguments import (
    check_arrays,
    check_classes,
    check_distinct,
    check_row_mask,
    check_same,
    check_varies,
    warn_of_unlike_means,
)
from jax_softmax.ops._linear.blocks import (
    BlockSize,
    check_block_size,
    choose_block_size,
    choose_gpu_block_size,
    row_blocks,
)
from jax_softmax.ops._linear.layer import KernelLayout, Linear, Product, product_dtype, sums_dtype
from jax_softmax.ops._linear.rules import rows_jvp, rows_vjp, total_jvp, total_vjp
from jax_softmax.ops._linear.sweeps import Static
from jax_softmax.ops._math import class_probabilities, integer_labels
from jax_softmax.ops._math.row_data import RowData
from jax_softmax.ops._mesh import (
    AxisName,
    all_axes_manual,
    axis_names,
    explicit_axes,
    sum_over,
    vary,
    varying_axes,
)
from jax_softmax.ops._options import (
    Implementation,
    LinearLossOptions,
    Options,
    Reduction,
    Rule,
    check_options,
    check_reduction,
    check_rule,
)
from jax_softmax.ops._reduction import (
    Loss,
    SoftmaxStats,
    counted_rows,
    label_weights,
    row_weights,
    total_of,
    totalled,
    with_stats,
)


@overload
def linear_softmax_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    return_stats: Literal[False] = False,
    **options: Unpack[LinearLossOptions],
) -> jax.Array: ...


@overload
def linear_softmax_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    return_stats: Literal[True],
    **options: Unpack[LinearLossOptions],
) -> tuple[jax.Array, SoftmaxStats]: ...


@overload
def linear_softmax_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    return_stats: bool,
    **options: Unpack[LinearLossOptions],
) -> Loss: ...


@names_forward_mode
def linear_softmax_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    kernel_layout: KernelLayout = "dv",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    return_stats: bool = False,
    rule: Rule = "vjp",
    reduction: Reduction = "mean",
    precision: jax.lax.PrecisionLike = None,
    block_size: int | tuple[int, int] | None = None,
    axis_name: AxisName = None,
    data_axis_name: AxisName = None,
    num_classes: int | None = None,
    implementation: Implementation | None = None,
) -> Loss:
    r"""Cross-entropy of the logits `features @ kernel + bias` and labels.

    The loss, options and accuracy are those of `softmax_cross_entropy_with_integer_labels` on these
    logits (of `softmax_cross_entropy`, for class probabilities), but the logits are computed, used
    and dropped a block of rows at a time. A total (`"mean"`, `"sum"`) takes one matrix product, or
    three with its gradients, which the forward pass computes. Losses of rows (`"none"`) and
    derivatives of statistics compute the logits again in the backward pass: four products.

    Products of half-precision arrays are accumulated in float32. The logits and all that follows
    are float32. Gradients are rounded once, after they are multiplied by the cotangent.

    Args:
      features: `[..., D]` floating.
      kernel: `[D, V]` floating.
      labels: `[...]` integers in `[0, V)`, or class probabilities `[..., V]`, which have a
        derivative.
      bias: None, or `[V]`.
      where: None, or booleans that broadcast to `[...]`: the rows that count, whatever the others
        hold.
      kernel_layout: `"dv"`, or `"vd"` for a kernel `[V, D]`, such as tied embeddings; neither is
        transposed in memory.
      ignore_index: None, or the integer label of rows that do not count.
      label_smoothing: in [0, 1]: labels become `(1 - label_smoothing) onehot +
        label_smoothing / V`.
      class_weights: None, or `[V]` factors of the classes, at least 0; constants, so that
        differentiating them raises.
      sample_weight: None, or factors of the rows that broadcast to `[...]`, with a derivative.
        Rows of weight 0 are left out, whatever they hold; the derivative by such a weight is the
        row's loss, or 0 if that is not finite.
      z_loss: factor of the squared logsumexp.
      soft_cap: None, or `c > 0`: logits become `c * tanh(logits / c)`.
      return_stats: return `(loss, SoftmaxStats)`.
      rule: `"vjp"`, reverse mode (and forward over reverse, as in `jax.hessian`), or `"jvp"`, which
        supports `jax.jvp`, `jax.jacfwd` and `jax.linearize` too.
      reduction: `"none"`, `"sum"`, or `"mean"`: the sum divided by the sum of
        `sample_weight * class_weights[y]` of the rows that count (of `sample_weight` for class
        probabilities), 0 if that is 0. Inside `jax.shard_map` see `data_axis_name`.
      precision: of the products, as in `jnp.matmul`.
      block_size: the most rows in a block of logits, or `(rows, classes)` to split the classes too
        (a total then takes one more product, and another with options that sum over all classes).
        None chooses: 64 MiB of float32 logits or 512 rows, whichever is more; the classes are split
        if 128 rows would take over 1 GiB.
      axis_name: inside `jax.shard_map`, the mesh axis over which the classes are spread: `kernel`,
        `bias`, `class_weights` and class probabilities are this device's slice, in the order of the
        devices.
      data_axis_name: inside `jax.shard_map`, the mesh axis over which the rows are spread: a total
        is then over all rows. Without it a total is over this device's rows only. The mean of such
        means is not the mean of all rows if some devices' rows weigh more: a warning says so. Pass
        `()` if this is intended.
      num_classes: how many classes there are if the slices are padded: later columns, which must be
        finite, do not count. None if all columns of all slices are classes.
      implementation: None for the platform's own implementation, or `"xla"`, `"cpu"` or
        `"mosaic_gpu"`; the values differ only by rounding.

    Returns:
      `[...]` losses (natural log), or a scalar, in the dtype of the logits (float32 for half
      precision). A row with a NaN or `+inf` logit is NaN.

    Raises:
      TypeError: if an array's or option's type does not fit, or an option is traced.
      ValueError: if shapes, an option or a mesh axis do not fit.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> features = jax.random.normal(jax.random.key(0), (6, 4))
    >>> kernel = jax.random.normal(jax.random.key(1), (4, 10))
    >>> labels = jnp.arange(6)
    >>> loss, gradients = jax.value_and_grad(linear_softmax_cross_entropy, (0, 1))(
    ...     features, kernel, labels
    ... )
    >>> loss.shape, [gradient.shape for gradient in gradients]
    ((), [(6, 4), (4, 10)])
    """
    axis_name = axis_name or None
    call = _Call(
        check_options(label_smoothing, z_loss, soft_cap, return_stats, implementation),
        rule,
        reduction,
        Product(kernel_layout, precision),
        ignore_index,
        check_block_size(block_size),
        axis_name,
        data_axis_name or None,
    )
    check_rule(rule)
    check_reduction(reduction)
    check_implementation(implementation)
    linear, index = check_arrays(features, kernel, bias, kernel_layout, labels, ignore_index)
    rows, held = linear.features.shape[:-1], linear.kernel.shape[kernel_layout.index("v")]
    check_distinct(axis_name, data_axis_name)
    check_varies("axis_name", axis_name, "kernel", linear.kernel)
    check_varies("data_axis_name", data_axis_name, "features", linear.features)
    classes = check_classes(num_classes, held, axis_name)
    dtype = sums_dtype(linear)
    by_class = class_weight_array(class_weights, held, dtype)
    by_row = None if sample_weight is None else broadcast_rows(sample_weight, rows, dtype)
    mask = None if where is None else check_row_mask(where, rows, held)
    check_same(axis_name, labels=index, sample_weight=by_row, where=mask)
    if reduction == "mean":
        warn_of_unlike_means(
            axis_name,
            data_axis_name,
            (linear.features, linear.labels, index, mask, by_row),
            {
                "where": where,
                "ignore_index": ignore_index,
                "sample_weight": sample_weight,
                "class_weights": None if index is None else class_weights,
            },
        )
    split = axis_name is not None or classes != held
    options = call.options._replace(classes=classes if split else None)
    call = call._replace(options=options, classes=classes)
    return _placed(call, linear)(linear, _Rows(index, mask, by_class, by_row))


# A GPU's products take rows of multiples of this many numbers at full speed.
_GPU_CLASSES = 128


class _Call(NamedTuple):
    """What is constant in the compiled program."""

    options: Options
    rule: Rule
    reduction: Reduction
    product: Product
    ignore_index: int | None
    block: BlockSize | None
    axis_name: AxisName
    data_axis_name: AxisName
    classes: int = 0


class _Rows(NamedTuple):
    """What comes with the layer; `labels` are None if the layer has class probabilities."""

    labels: jax.Array | None
    mask: jax.Array | None
    class_weights: jax.Array | None
    sample_weight: jax.Array | None


def _placed(call: _Call, linear: Linear) -> Callable[..., Loss]:
    """The loss as a function of arrays, even if mesh axes are part of the arrays' types."""
    loss = partial(_loss, call)
    features = jax.typeof(linear.features).sharding
    explicit = explicit_axes(linear.features, linear.kernel)
    if not explicit:
        return loss
    rows = NamedSharding(features.mesh, PartitionSpec(*features.spec[:-1]))
    total = NamedSharding(features.mesh, PartitionSpec())
    placed: Any = rows if call.reduction == "none" else total
    if call.options.stats:
        stats: Any = (rows,) * len(SoftmaxStats._fields)
        placed = (placed, SoftmaxStats(*stats))
    # The compiler places blocks of sharded rows, and sums over them.
    auto: Callable[..., Loss] = jax.sharding.auto_axes(
        loss, axes=tuple(sorted(explicit)), out_sharding=placed
    )
    return auto


@jitted(0)
def _loss(call: _Call, linear: Linear, rows: _Rows) -> Loss:
    linear, rows, call = _padded(call, linear, rows)
    shape, labels = linear.features.shape[:-1], rows.labels
    not_ignored = None
    if labels is not None and call.ignore_index is not None:
        not_ignored = labels != call.ignore_index
    counted = counted_rows(shape, not_ignored, rows.mask)
    if labels is not None and counted is not None:
        # The label of a row that does not count must not matter, not even through 0 * NaN.
        labels = jnp.where(counted, labels, 0)
    data = _row_data(call, linear, rows._replace(labels=labels))
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
    linear, weight = _varying(call, linear, data, weights.weight)
    weights = weights._replace(weight=weight)
    static = _static(call, linear)
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
    loss = outputs.loss
    if call.reduction != "none":
        loss = total_of(loss, weights, outputs.finite, call.data_axis_name)
    return loss if not call.options.stats else with_stats(loss, weights, outputs)


def _padded(call: _Call, linear: Linear, rows: _Rows) -> tuple[Linear, _Rows, _Call]:
    """The layer with classes added that do not count, where a GPU's products want them.

    These take several times as long if rows of logits do not start at multiples of 16 bytes.
    """
    held, itemsize = call.product.classes(linear), product_dtype(linear).itemsize
    alone = call.axis_name is None and isinstance(held, int) and linear.labels is None
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


def _row_data(call: _Call, linear: Linear, rows: _Rows) -> RowData:
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
    data = RowData(mask=mask, class_weights=by_class, first=first)
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


def _static(call: _Call, linear: Linear) -> Static:
    rows, held = linear.features.shape[:-1], call.product.classes(linear)
    implementation = call.options.implementation
    block = call.block or default_block(math.prod(rows), held, sums_dtype(linear), implementation)
    class_block = None if block.classes is None or block.classes >= held else block.classes
    options = call.options
    if class_block is not None:
        options = options._replace(classes=call.classes)
    blocks = row_blocks(rows, block.rows, contiguous=all_axes_manual())
    loss = (integer_labels if linear.labels is None else class_probabilities).LOSS
    return Static(loss, options, call.product, blocks, class_block, call.axis_name)


def _varying(
    call: _Call, linear: Linear, data: RowData, weight: jax.Array
) -> tuple[Linear, jax.Array]:
    """The arguments, marked as varying over every mesh axis that any of them varies over.

    Except the kernel and the bias. An array that is the same on several devices gets the sum of
    their derivatives, and the rules must sum those of the kernel before they round. Features and
    weights stay the same over the devices of the classes, since each of these needs their whole
    derivative.
    """
    rows = varying_axes(linear.features, data.valid, data.counted, weight)
    everywhere = rows | varying_axes(linear.kernel, linear.bias, linear.labels)
    classes = frozenset(axis_names(call.axis_name))
    features = vary(linear.features, everywhere - classes)
    labels = None if linear.labels is None else vary(linear.labels, everywhere)
    linear = linear._replace(features=features, labels=labels)
    return linear, vary(weight, everywhere - classes)
