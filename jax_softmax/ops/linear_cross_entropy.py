"""Softmax cross-entropy on features and a linear layer, whose logits are never held whole.

The formulas for a row are in `_math`, those for the layer and its blocks in `_linear`. This module
has the checks and the handling of several devices.
"""

from __future__ import annotations

from typing import Literal, Unpack, overload

import jax
from jax.typing import ArrayLike

from jax_softmax.ops._arguments import (
    class_weight_array,
)
from jax_softmax.ops._autodiff import names_forward_mode
from jax_softmax.ops._linear.arguments import (
    check_arrays,
)
from jax_softmax.ops._linear.call import Call, Rows, check_call, loss_of
from jax_softmax.ops._linear.layer import KernelLayout, Product, sums_dtype
from jax_softmax.ops._math import class_probabilities, integer_labels
from jax_softmax.ops._mesh import (
    AxisName,
)
from jax_softmax.ops._options import (
    Implementation,
    LinearLossOptions,
    Reduction,
    Rule,
    check_options,
)
from jax_softmax.ops._reduction import (
    Loss,
    SoftmaxStats,
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
    temperature: float = 1.0,
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
    r"""Cross-entropy :math:`\log \sum_j e^{z_j} - z_y` of the logits `features @ kernel + bias`.

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
      temperature: what logits are divided by, after `soft_cap` and in the dtype of the losses.
      return_stats: return `(loss, SoftmaxStats)`.
      rule: `"vjp"`, reverse mode (and forward over reverse, as in `jax.hessian`), or `"jvp"`, which
        supports `jax.jvp`, `jax.jacfwd` and `jax.linearize` too.
      reduction: `"none"`, `"sum"`, or `"mean"`: the sum divided by the sum of
        `sample_weight * class_weights[y]` of the rows that count (of `sample_weight` for class
        probabilities), 0 if that is 0. Inside `jax.shard_map` see `data_axis_name`.
      precision: of the products, as in `jnp.matmul`.
      block_size: the most rows in a block of logits, or `(rows, classes)` to split the classes too
        (a total then takes one more product, and another with options that sum over all classes).
        None chooses: 64 MiB of float32 logits or 512 rows, whichever is more (half of
        that on a CPU where nothing is differentiated); the classes are split if 128 rows would take
        over 1 GiB.
      axis_name: inside `jax.shard_map`, the mesh axis over which the classes are spread: `kernel`,
        `bias`, `class_weights` and class probabilities are this device's slice, in the order of the
        devices.
      data_axis_name: inside `jax.shard_map`, the mesh axis over which the rows are spread: a total
        is then over all rows. Without it a total is over this device's rows only. The mean of such
        means is not the mean of all rows if some devices' rows weigh more, and so that raises; pass
        `()` if it is intended.
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

    See Also:
      `sharded_linear_softmax_cross_entropy` outside `jax.shard_map`; `causal_cross_entropy`,
      `contrastive_cross_entropy`; `linear_label_log_probs`.

    Source: Hsu et al., Liger Kernel, arXiv:2410.10989; Wijmans et al., Cut Your Losses in
    Large-Vocabulary Language Models, arXiv:2411.09009.

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
    linear, index = check_arrays(features, kernel, bias, kernel_layout, labels, ignore_index)
    options = check_options(
        label_smoothing, z_loss, soft_cap, temperature, return_stats, implementation
    )
    call = Call(
        (class_probabilities if index is None else integer_labels).LOSS,
        options,
        Product(kernel_layout, precision),
        rule,
        reduction,
        ignore_index,
        axis_name=axis_name,
        data_axis_name=data_axis_name,
    )
    call = check_call(call, linear, block_size, num_classes)
    held = call.product.classes(linear)
    rows = Rows(index, class_weights=class_weight_array(class_weights, held, sums_dtype(linear)))
    found: Loss = loss_of(
        call,
        linear,
        rows,
        where,
        sample_weight,
        ignore_index=ignore_index,
        class_weights=None if index is None else class_weights,
    )
    return found
