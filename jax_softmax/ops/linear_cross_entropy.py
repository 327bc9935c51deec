"""Softmax cross-entropy on features and a linear layer, whose logits are never held whole.

The mathematics of a row is in `_integer_labels`, that of the layer and its blocks in
`_linear_rules`. Here are the checks, what the rows are weighted and reduced by, and what concerns
several devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jax_softmax.ops._arguments import (
    Reduction,
    broadcast_rows,
    check_floating,
    check_ignore_index,
    check_reduction,
    label_array,
    real_array,
)
from jax_softmax.ops._integer_labels import Constants
from jax_softmax.ops._linear_products import KernelLayout, Linear, Product, sums_dtype
from jax_softmax.ops._linear_rules import rows_jvp, rows_vjp, total_jvp, total_vjp
from jax_softmax.ops._linear_sweeps import Static
from jax_softmax.ops._options import Rule, check_options, check_rule, weight_of
from jax_softmax.ops._row_blocks import BlockSize, check_block_size, choose_block_size, row_blocks
from jax_softmax.ops._rules import multiply
from jax_softmax.ops._slices import AxisName, axis_names
from jax_softmax.ops._statistics import class_index
from jax_softmax.ops._varying import all_axes_manual, explicit_axes, vary, varying_axes
from jax_softmax.ops.cross_entropy import Loss, SoftmaxStats


def linear_softmax_cross_entropy(
    features: jax.typing.ArrayLike,
    kernel: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    bias: jax.typing.ArrayLike | None = None,
    kernel_layout: KernelLayout = "dv",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    class_weights: jax.typing.ArrayLike | None = None,
    sample_weight: jax.typing.ArrayLike | None = None,
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
) -> Any:  # jax.Array; with return_stats=True (jax.Array, SoftmaxStats)
    r"""Cross-entropy of the logits `features @ kernel + bias` and integer labels.

    The loss, options and exactness of `softmax_cross_entropy_with_integer_labels` on those logits,
    which are made, used and forgotten a block of rows at a time. A total (`"mean"`, `"sum"`) takes
    one matrix product, and three with its gradients, which the forward pass computes; losses of
    rows (`"none"`), and what differentiates statistics, make their logits again when
    differentiated, and take four.

    Products of half-precision arrays are accumulated in float32, the logits and all that follows
    are float32, and gradients are rounded once, after the cotangent.

    Args:
      features: `[..., D]` floating.
      kernel: `[D, V]` floating.
      labels: `[...]` integers in `[0, V)`.
      bias: None, or `[V]`.
      kernel_layout: `"dv"`, or `"vd"` for a kernel `[V, D]`, such as tied embeddings; neither is
        transposed in memory.
      ignore_index: None, or the label of rows that do not count.
      label_smoothing: in [0, 1]: labels become `(1 - label_smoothing) onehot +
        label_smoothing / V`.
      class_weights: None, or `[V]` factors of the classes, at least 0; no derivative.
      sample_weight: None, or factors of the rows that broadcast to `[...]`, with a derivative.
        Rows of weight 0 are left out, whatever they hold.
      z_loss: factor of the squared logsumexp.
      soft_cap: None, or `c > 0`: logits become `c * tanh(logits / c)`.
      return_stats: return `(loss, SoftmaxStats)`.
      rule: `"vjp"`, reverse mode (and forward over reverse, as in `jax.hessian`), or `"jvp"`, which
        has `jax.jvp`, `jax.jacfwd` and `jax.linearize` too.
      reduction: `"none"`, `"sum"`, or `"mean"`: the sum over that of
        `sample_weight * class_weights[y]` of the rows that count, 0 where that is 0.
      precision: of the products, as in `jnp.matmul`.
      block_size: rows of a block of logits at most, or `(rows, classes)` to take the classes in
        blocks too (a total then takes one more product, and options that sum over all classes
        another); None chooses: 64 MiB of float32 logits or 512 rows, whichever is more, and blocks
        of classes where 128 rows would take over 1 GiB.
      axis_name: inside `jax.shard_map`, the mesh axis over which the classes are spread: `kernel`,
        `bias` and `class_weights` are this device's slice of them, in the order of the devices.
      data_axis_name: inside `jax.shard_map`, the mesh axis over which the rows are spread: a total
        is then that of all of them, and not of this device's.
      num_classes: how many classes there are where the slices are padded: later columns, of finite
        numbers, do not count. None for as many as all slices have.

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
    options = check_options(label_smoothing, z_loss, soft_cap, return_stats)
    check_rule(rule)
    check_reduction(reduction)
    linear, labels = check_arrays(features, kernel, bias, kernel_layout, labels, ignore_index)
    check_ignore_index(ignore_index, labels.dtype)
    block = check_block_size(block_size)
    held = linear.kernel.shape[kernel_layout.index("v")]
    check_distinct(axis_name, data_axis_name)
    _check_varies("axis_name", axis_name, "kernel", linear.kernel)
    _check_varies("data_axis_name", data_axis_name, "features", linear.features)
    classes = _check_classes(num_classes, held, axis_name)
    dtype = sums_dtype(linear)
    weights = _check_weights(class_weights, sample_weight, held, labels.shape, dtype)
    _check_same(axis_name, labels=labels, sample_weight=weights[1])
    split = axis_name is not None or classes != held
    call = _Call(
        options._replace(classes=classes if split else None),
        rule,
        reduction,
        Product(kernel_layout, precision),
        ignore_index,
        block,
        axis_name,
        data_axis_name,
        classes,
    )
    return _placed(call, linear)(linear, labels, *weights)


class _Call(NamedTuple):
    """What is constant in the compiled program."""

    options: Any
    rule: Rule
    reduction: Reduction
    product: Product
    ignore_index: int | None
    block: BlockSize | None
    axis_name: AxisName
    data_axis_name: AxisName
    classes: int


def _placed(call: _Call, linear: Linear) -> Callable[..., Any]:
    """The loss as a function of arrays, on a mesh whose axes are part of their types too."""
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
    # Blocks of sharded rows, and sums over them, are the compiler's to place.
    return jax.sharding.auto_axes(loss, axes=tuple(sorted(explicit)), out_sharding=placed)


@partial(jax.jit, static_argnums=0)
def _loss(
    call: _Call,
    linear: Linear,
    labels: jax.Array,
    class_weights: jax.Array | None,
    sample_weight: jax.Array | None,
) -> Loss:
    dtype = sums_dtype(linear)
    kept = None if call.ignore_index is None else labels != call.ignore_index
    if sample_weight is not None:
        counts = sample_weight != 0
        kept = counts if kept is None else kept & counts
    # What a row that does not count is labelled must not matter, not even by 0 * NaN.
    labels = labels if kept is None else jnp.where(kept, labels, 0)
    constants = _constants(call, linear, labels, kept, class_weights)
    static = _static(call, linear)

    weight = jnp.ones(labels.shape, dtype) if sample_weight is None else sample_weight
    if kept is not None:
        weight = jnp.where(kept, weight, 0)
    if call.reduction == "mean":
        by_label = 1 if constants.label_weight is None else constants.label_weight
        divisor = _over(call.data_axis_name, jnp.sum(weight * by_label))
        if not call.options.stats and (kept is not None or class_weights is not None):
            # With a divisor of 0 no row counts, whatever it holds. (Its statistics do.)
            kept = (divisor != 0) & (jnp.ones(labels.shape, bool) if kept is None else kept)
            constants = constants._replace(kept=kept)
        weight = jnp.where(divisor == 0, 0, weight / jnp.where(divisor == 0, 1, divisor))
    linear, constants, weight = _varying(call, linear, constants, weight)
    if call.reduction != "none" and call.rule == "vjp":
        loss, *stats = total_vjp(static, linear, constants, weight)
    elif call.reduction != "none" and not call.options.stats:
        loss = total_jvp(static, linear, constants, weight)
    else:
        by_rows = rows_vjp if call.rule == "vjp" else rows_jvp
        loss, *stats = by_rows(static, linear, constants)
        dropped = kept is not None or class_weights is not None
        loss = multiply(weight, loss) if dropped else weight * loss
        loss = loss if call.reduction == "none" else jnp.sum(loss)
    if call.reduction != "none":
        loss = _over(call.data_axis_name, loss)
    if not call.options.stats:
        return loss
    if kept is not None:
        stats = [jnp.where(kept, value, 0) for value in stats]
    return loss, SoftmaxStats(*stats)


def _constants(
    call: _Call,
    linear: Linear,
    labels: jax.Array,
    kept: jax.Array | None,
    class_weights: jax.Array | None,
) -> Constants:
    """What is said of rows and classes, for the classes that are held here."""
    index, valid = class_index(labels, call.classes)
    held = call.product.classes(linear)
    first = None if call.axis_name is None else lax.axis_index(call.axis_name) * held
    column = index if first is None else index - first
    mask, weight = None, None
    ones = (1,) * labels.ndim
    if call.options.classes is not None:
        mask = lax.broadcasted_iota(jnp.int32, (*ones, held), labels.ndim)
        mask = (mask if first is None else mask + first) < call.classes
    if class_weights is not None:
        here = (column >= 0) & (column < held)
        weight = jnp.where(here, weight_of(class_weights, jnp.clip(column, 0, held - 1)), 0)
        # NaN where there is no class: a mean would divide by it.
        weight = jnp.where(valid, _over(call.axis_name, weight), jnp.nan)
        class_weights = class_weights.reshape(*ones, held)
    return Constants(column, valid, weight, kept, mask, class_weights, first)


def _static(call: _Call, linear: Linear) -> Static:
    rows, held = linear.features.shape[:-1], call.product.classes(linear)
    itemsize = sums_dtype(linear).itemsize
    block = call.block or choose_block_size(math.prod(rows), held, itemsize)
    class_block = None if block.classes is None or block.classes >= held else block.classes
    options = call.options
    if class_block is not None:
        options = options._replace(classes=call.classes)
    blocks = row_blocks(rows, block.rows, contiguous=all_axes_manual())
    return Static(options, call.product, blocks, class_block, call.axis_name)


def _over(axis_name: AxisName, x: jax.Array) -> jax.Array:
    """The sum over the devices along a mesh axis."""
    return x if axis_name is None else lax.psum(x, axis_name)


def _varying(
    call: _Call, linear: Linear, constants: Constants, weight: jax.Array
) -> tuple[Linear, Constants, jax.Array]:
    """The arguments, marked as varying over every mesh axis that any of them varies over.

    All but the kernel and the bias: what is the same on several devices has the sum of their
    derivatives, and those of the kernel are to be summed before they round, by the rules. Features
    and weights stay the same over the devices of the classes, each of which is to have all of
    their derivative.
    """
    rows = varying_axes(linear.features, constants.valid, constants.kept, weight)
    everywhere = rows | varying_axes(linear.kernel, linear.bias)
    everywhere -= frozenset(axis_names(call.axis_name))
    features = vary(linear.features, everywhere)
    return linear._replace(features=features), constants, vary(weight, everywhere)


# Checks


def check_arrays(
    features: jax.typing.ArrayLike,
    kernel: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike | None,
    kernel_layout: KernelLayout,
    labels: jax.typing.ArrayLike,
    ignore_index: int | None,
) -> tuple[Linear, jax.Array]:
    """The layer and the labels as arrays; raises if their shapes or dtypes do not fit."""
    if kernel_layout not in get_args(KernelLayout):
        raise ValueError(f"kernel_layout: expected 'dv' or 'vd', got {kernel_layout!r}.")
    features, kernel = map(jnp.asarray, (features, kernel))
    labels = label_array(labels, ignore_index)
    bias = None if bias is None else jnp.asarray(bias)
    for name, x in (("features", features), ("kernel", kernel), ("bias", bias)):
        if x is not None:
            check_floating(name, x)
    if features.ndim == 0:
        raise ValueError("features: expected shape [..., D], got a number.")
    width, order = features.shape[-1], f"[{', '.join(kernel_layout.upper())}]"
    if kernel.ndim != 2 or kernel.shape[kernel_layout.index("d")] != width:
        raise ValueError(
            f"kernel: expected {order} with D = {width} (the features' last axis) for "
            f"kernel_layout={kernel_layout!r}, got shape {kernel.shape}."
        )
    classes = kernel.shape[kernel_layout.index("v")]
    if classes == 0:
        raise ValueError(f"kernel: expected at least one class, got shape {kernel.shape}.")
    if bias is not None and bias.shape != (classes,):
        raise ValueError(f"bias: expected shape {(classes,)}, got {bias.shape}.")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels: expected an integer dtype, got {labels.dtype}.")
    if labels.shape != features.shape[:-1]:
        raise ValueError(
            f"labels: expected shape {features.shape[:-1]} (the features' {features.shape} without "
            f"the last axis), got {labels.shape}."
        )
    return Linear(features, kernel, bias), labels


def _check_classes(num_classes: int | None, held: int, axis_name: AxisName) -> int:
    """How many classes there are on all devices."""
    there = held * (1 if axis_name is None else lax.axis_size(axis_name))
    if num_classes is None:
        return there
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise TypeError(f"num_classes: expected None or a Python integer, got {num_classes!r}.")
    if not 0 < num_classes <= there:
        raise ValueError(
            f"num_classes: expected at most the {there} classes that the kernel has "
            f"({held} a device), got {num_classes}."
        )
    return num_classes


def _check_varies(argument: str, axis_name: AxisName, name: str, x: jax.Array) -> None:
    for axis in axis_names(axis_name):
        try:
            lax.axis_size(axis)
        except NameError as error:
            raise ValueError(
                f"{argument}: expected the name of a mesh axis, inside jax.shard_map over it, got "
                f"{axis_name!r}."
            ) from error
        if axis not in varying_axes(x):
            raise ValueError(
                f"{argument}={axis_name!r}: expected {name} to be this device's part, got the same "
                f"on all devices of {axis!r}; shard it in in_specs, and leave jax.shard_map's "
                f"check_vma on: without it derivatives would be wrong."
            )


def _check_same(axis_name: AxisName, **arrays: jax.Array | None) -> None:
    """What is said of rows is to be the same for all devices of the classes."""
    for name, x in arrays.items():
        different = frozenset(axis_names(axis_name)) & varying_axes(x)
        if different:
            raise ValueError(
                f"{name}: expected the same on all devices of axis_name={axis_name!r}, got what "
                f"varies over {sorted(different)}; if it is the same (gathered, say), mark it so "
                f"with jax.lax.pmax({name}, {axis_name!r})."
            )


def check_distinct(axis_name: AxisName, data_axis_name: AxisName) -> None:
    """Raises ValueError if classes and rows are to be spread over one mesh axis."""
    both = sorted(set(axis_names(axis_name)) & set(axis_names(data_axis_name)))
    if both:
        raise ValueError(
            f"axis_name and data_axis_name: expected different mesh axes for classes and rows, got "
            f"{both} for both."
        )


def _check_weights(
    class_weights: jax.typing.ArrayLike | None,
    sample_weight: jax.typing.ArrayLike | None,
    held: int,
    rows: tuple[int, ...],
    dtype: jnp.dtype,
) -> tuple[jax.Array | None, jax.Array | None]:
    """Both weights in the dtype of the statistics, `[V]` and `[...]`."""
    if class_weights is not None:
        class_weights = lax.stop_gradient(real_array("class_weights", class_weights).astype(dtype))
        if class_weights.shape != (held,):
            raise ValueError(f"class_weights: expected shape {(held,)}, got {class_weights.shape}.")
    if sample_weight is not None:
        sample_weight = broadcast_rows(sample_weight, rows, dtype)
    return class_weights, sample_weight
