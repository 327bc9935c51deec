"""Losses that teach a student what a teacher knows: all of its classes, or the likeliest few.

The formulas for a row are in `_math/divergences.py` and `_math/sparse_targets.py`. The derivative
rules are those of the cross-entropies.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_softmax.ops._arguments import (
    Axis,
    canonical_axes,
    classes_last,
    floating_array,
    label_array,
    not_differentiated,
    real_array,
)
from jax_softmax.ops._autodiff import Inputs, build_rules, names_forward_mode
from jax_softmax.ops._call import Call, Rows, check_rows, counted_by, reduced_loss
from jax_softmax.ops._jit import jitted
from jax_softmax.ops._linear import call as layer
from jax_softmax.ops._linear.arguments import check_layer, check_varies
from jax_softmax.ops._linear.layer import KernelLayout, Linear, Product, sums_dtype
from jax_softmax.ops._math import sparse_targets
from jax_softmax.ops._math.divergences import DIVERGENCES
from jax_softmax.ops._math.logits import statistics_dtype
from jax_softmax.ops._math.row_data import RowData
from jax_softmax.ops._mesh import AxisName
from jax_softmax.ops._options import Implementation, Reduction, Rule, check_options

Direction = Literal["forward", "reverse", "js"]
Rest = Literal["ignore", "uniform", "renormalise"]

_RULES = {name: build_rules(loss) for name, loss in DIVERGENCES.items()}


@names_forward_mode
def softmax_kl_divergence(
    logits: ArrayLike,
    teacher_logits: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    direction: Direction = "forward",
    temperature: float = 1.0,
    soft_cap: float | None = None,
    sample_weight: ArrayLike | None = None,
    rule: Rule = "vjp",
    reduction: Reduction = "none",
    implementation: Implementation | None = None,
) -> jax.Array:
    r"""Kullback-Leibler divergence of a student's softmax `q` and a teacher's `p`.

    `"forward"` is :math:`KL(p \| q) = \sum_j p_j (\log p_j - \log q_j)`, `"reverse"`
    :math:`KL(q \| p)`, and `"js"` the Jensen-Shannon divergence
    :math:`(KL(p \| m) + KL(q \| m)) / 2` with :math:`m = (p + q) / 2`, at most :math:`\log 2`.

    It is summed in a form whose terms are not negative, :math:`\sum_j p_j (e^{d_j} - 1 - d_j)` with
    :math:`d_j = \log q_j - \log p_j`. So even the divergence of nearly equal rows is within 6 eps
    of its own size, where the textbook's form rounds to 0 or below.

    Args:
      logits: `[..., V]` floating, the student's, classes along `axis`.
      teacher_logits: floating of the same shape.
      axis: the class axis, a tuple of axes taken together, or None for all.
      where: None, or booleans of the logits' rank (classes that count, for both) or without the
        class axes (rows that count, whatever the others hold).
      direction: `"forward"`, `"reverse"` or `"js"`.
      temperature: what both logits are divided by, after `soft_cap`. Gradients shrink with its
        square: many multiply the loss by that.
      soft_cap: None, or `c > 0`: both logits become `c * tanh(logits / c)`.
      sample_weight: None, or factors of the rows that broadcast to `[...]`, with a derivative.
      rule: `"vjp"`, reverse mode (and forward over reverse), or `"jvp"`, which supports `jax.jvp`,
        `jax.jacfwd` and `jax.linearize` too.
      reduction: `"none"`, `"sum"`, or `"mean"`: the sum divided by the sum of `sample_weight` over
        the rows that count, 0 if that is 0.
      implementation: None for the platform's own implementation, or `"xla"`, `"cpu"` or
        `"mosaic_gpu"`; the values differ only by rounding.

    Returns:
      `[...]` divergences (natural log), or a scalar, in the wider dtype of both logits, float32 for
      half precision. `+inf` where a class has mass in the row that weighs the sum and none in the
      other, or where a row has no class that can happen; derivatives are then 0. Both logits have
      derivatives; those that are not asked for cost nothing.

    Raises:
      TypeError: if logits are not floating, or an option is traced or not a number.
      ValueError: if shapes, `axis`, `where` or an option do not fit.

    See Also:
      `linear_kl_divergence` without the logits; `softmax_cross_entropy` for a teacher's
      probabilities.

    Source: Hinton, Vinyals and Dean, arXiv:1503.02531; Jensen-Shannon, Lin (IEEE Trans. Inf.
    Theory 37, 1991).

    >>> import jax.numpy as jnp
    >>> teacher = jnp.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    >>> student = teacher + jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1e-4]])
    >>> with jnp.printoptions(precision=4):
    ...     print(softmax_kl_divergence(student, teacher))
    [9.6999e-02 1.1112e-09]
    """
    _check_direction(direction)
    options = check_options(0.0, 0.0, soft_cap, temperature, False, implementation)
    call = Call(options, rule, reduction)
    rows = check_rows(call, logits, axis, where, None, sample_weight)
    teacher = floating_array("teacher_logits", teacher_logits)
    if teacher.shape != np.shape(logits):
        raise ValueError(
            f"teacher_logits: expected the logits' shape {np.shape(logits)}, got {teacher.shape}."
        )
    teacher = classes_last(teacher, canonical_axes(axis, teacher.ndim))
    kinds = [statistics_dtype(x.dtype) for x in (rows.logits, teacher)]
    if kinds[0] != kinds[1]:
        wide = max(kinds, key=lambda kind: kind.itemsize)
        rows, teacher = rows._replace(logits=rows.logits.astype(wide)), teacher.astype(wide)
    found: jax.Array = _divergence((call, direction), rows, teacher)
    return found


@jitted(0)
def _divergence(call: tuple[Call, Direction], rows: Rows, teacher: jax.Array) -> Any:
    rules = _RULES[call[1]]
    inputs = Inputs(rows.logits, teacher)
    return reduced_loss(rules, call[0], rows, inputs, RowData(), counted_by(rows))


def _check_direction(direction: str) -> None:
    if direction not in get_args(Direction):
        known = ", ".join(map(repr, get_args(Direction)))
        raise ValueError(f"direction: expected one of {known}, got {direction!r}.")


@names_forward_mode
def linear_kl_divergence(
    features: ArrayLike,
    kernel: ArrayLike,
    teacher_features: ArrayLike,
    teacher_kernel: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    teacher_bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    kernel_layout: KernelLayout = "dv",
    teacher_kernel_layout: KernelLayout | None = None,
    direction: Direction = "forward",
    temperature: float = 1.0,
    soft_cap: float | None = None,
    sample_weight: ArrayLike | None = None,
    rule: Rule = "vjp",
    reduction: Reduction = "mean",
    precision: jax.lax.PrecisionLike = None,
    block_size: int | tuple[int, int] | None = None,
    axis_name: AxisName = None,
    data_axis_name: AxisName = None,
    num_classes: int | None = None,
    implementation: Implementation | None = None,
) -> jax.Array:
    r"""`softmax_kl_divergence` of two linear layers' logits, neither of which is ever held whole.

    It is :math:`\sum_j p_j (\log p_j - \log q_j)`, or as `direction` says. A block of rows of both
    logits is computed, used and dropped. A total (`"mean"`, `"sum"`) takes a product for the
    teacher's logits and three for the student's logits and gradients; `"none"` computes both logits
    again in the backward pass. The teacher is a constant: differentiating it raises, so pass
    `jax.lax.stop_gradient` of what the student shares with it.

    Args:
      features: `[..., D]` floating, the student's.
      kernel: `[D, V]` floating.
      teacher_features: `[..., E]` floating, of the same rows; `E` may differ from `D`.
      teacher_kernel: `[E, V]` floating.
      bias: None, or `[V]`.
      teacher_bias: None, or `[V]`.
      where: None, or booleans that broadcast to `[...]`: the rows that count, whatever the others
        hold.
      kernel_layout: `"dv"`, or `"vd"` for a kernel `[V, D]`, such as tied embeddings.
      teacher_kernel_layout: None for the same.
      direction: `"forward"`, `"reverse"` or `"js"`, as in `softmax_kl_divergence`.
      temperature: what both logits are divided by, after `soft_cap`.
      soft_cap: None, or `c > 0`: both logits become `c * tanh(logits / c)`.
      sample_weight: None, or factors of the rows that broadcast to `[...]`, with a derivative.
      rule: `"vjp"` or `"jvp"`, as in `softmax_kl_divergence`.
      reduction: `"none"`, `"sum"`, or `"mean"`: the sum divided by the sum of `sample_weight` over
        the rows that count, 0 if that is 0. Inside `jax.shard_map` see `data_axis_name`.
      precision: of the products, as in `jnp.matmul`.
      block_size: as in `linear_softmax_cross_entropy`.
      axis_name: inside `jax.shard_map`, the mesh axis over which the classes are spread: both
        kernels and biases are this device's slice, in the order of the devices.
      data_axis_name: inside `jax.shard_map`, the mesh axis over which the rows are spread, as in
        `linear_softmax_cross_entropy`.
      num_classes: how many classes there are if the slices are padded.
      implementation: as in `softmax_kl_divergence`.

    Returns:
      `[...]` divergences (natural log), or a scalar, in the wider dtype of both logits, float32 for
      half precision.

    Raises:
      TypeError: if an array's or option's type does not fit, an option is traced, or the teacher is
        differentiated.
      ValueError: if shapes, an option or a mesh axis do not fit.

    See Also:
      `softmax_kl_divergence` for logits; `linear_top_k_cross_entropy` from a teacher's likeliest
      classes.

    Source: Hinton, Vinyals and Dean, arXiv:1503.02531; Jensen-Shannon, Lin (IEEE Trans. Inf.
    Theory 37, 1991).

    >>> import jax
    >>> keys = jax.random.split(jax.random.key(0), 4)
    >>> student = jax.random.normal(keys[0], (6, 4)), jax.random.normal(keys[1], (4, 10))
    >>> teacher = jax.random.normal(keys[2], (6, 8)), jax.random.normal(keys[3], (8, 10))
    >>> loss, gradients = jax.value_and_grad(linear_kl_divergence, (0, 1))(*student, *teacher)
    >>> loss.shape, [gradient.shape for gradient in gradients]
    ((), [(6, 4), (4, 10)])
    """
    _check_direction(direction)
    linear = check_layer(features, kernel, bias, kernel_layout)
    product = Product(kernel_layout, precision)
    theirs = Product(teacher_kernel_layout or kernel_layout, precision)
    teacher = check_layer(
        teacher_features, teacher_kernel, teacher_bias, theirs.layout, whose="teacher_"
    )
    _check_teacher(linear, product, teacher, theirs)
    teacher = teacher._replace(
        features=not_differentiated("teacher_features", teacher.features),
        kernel=not_differentiated("teacher_kernel", teacher.kernel),
    )
    if teacher.bias is not None:
        teacher = teacher._replace(bias=not_differentiated("teacher_bias", teacher.bias))
    wide = max(sums_dtype(linear), sums_dtype(teacher), key=lambda kind: kind.itemsize)
    linear, teacher = (
        x if sums_dtype(x) == wide else x._replace(features=x.features.astype(wide))
        for x in (linear, teacher)
    )
    call = layer.Call(
        DIVERGENCES[direction],
        check_options(0.0, 0.0, soft_cap, temperature, False, implementation),
        product,
        rule,
        reduction,
        axis_name=axis_name,
        data_axis_name=data_axis_name,
        teachers_product=theirs,
    )
    check_varies("axis_name", axis_name or None, "teacher_kernel", teacher.kernel)
    call = layer.check_call(call, linear, block_size, num_classes)
    found: jax.Array = layer.loss_of(
        call, linear, layer.Rows(teacher=teacher), where, sample_weight
    )
    return found


def _check_teacher(linear: Linear, product: Product, teacher: Linear, theirs: Product) -> None:
    rows, classes = linear.features.shape[:-1], product.classes(linear)
    if teacher.features.shape[:-1] != rows:
        raise ValueError(
            f"teacher_features: expected the features' rows {rows}, got shape "
            f"{teacher.features.shape}."
        )
    if theirs.classes(teacher) != classes:
        raise ValueError(
            f"teacher_kernel: expected the kernel's {classes} classes, got "
            f"{theirs.classes(teacher)}; cut a padded vocabulary to the student's."
        )


@names_forward_mode
def linear_top_k_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    teacher_log_probs: ArrayLike,
    teacher_indices: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    kernel_layout: KernelLayout = "dv",
    rest: Rest = "ignore",
    temperature: float = 1.0,
    soft_cap: float | None = None,
    sample_weight: ArrayLike | None = None,
    rule: Rule = "vjp",
    reduction: Reduction = "mean",
    precision: jax.lax.PrecisionLike = None,
    block_size: int | tuple[int, int] | None = None,
    axis_name: AxisName = None,
    data_axis_name: AxisName = None,
    num_classes: int | None = None,
    implementation: Implementation | None = None,
) -> jax.Array:
    r"""Cross-entropy of a layer's logits and a teacher's k likeliest classes.

    A row's loss is :math:`-\sum_k t_k \log q_k` over the teacher's `k` classes, whose masses `t`
    are `exp(teacher_log_probs)`, as from `top_k_log_probs`. What the teacher gave to all other
    classes, `1 - sum(t)`, is left out (`rest="ignore"`), shared equally among them (`"uniform"`),
    or given to the `k` in proportion (`"renormalise"`: their masses then sum to 1, or to 0 where
    all are 0). Masses that sum to more than 1 are taken as they are. Without the teacher's entropy
    it is no divergence, but it has the derivative of one.

    As in `linear_softmax_cross_entropy`, the logits are never held whole, and a total takes three
    products with its gradients.

    Args:
      features: `[..., D]` floating.
      kernel: `[D, V]` floating.
      teacher_log_probs: `[..., k]`, natural log; `-inf` is a mass of 0. Constants: differentiating
        them raises.
      teacher_indices: `[..., k]` integers in `[0, V)`, different ones in a row.
      bias: None, or `[V]`.
      where: None, or booleans that broadcast to `[...]`: the rows that count, whatever the others
        hold.
      kernel_layout: `"dv"`, or `"vd"` for a kernel `[V, D]`, such as tied embeddings.
      rest: `"ignore"`, `"uniform"` or `"renormalise"`.
      temperature: what the student's logits are divided by, after `soft_cap`; have the teacher's
        log-probabilities computed with it too.
      soft_cap: None, or `c > 0`: logits become `c * tanh(logits / c)`.
      sample_weight: None, or factors of the rows that broadcast to `[...]`, with a derivative.
      rule: `"vjp"` or `"jvp"`, as in `softmax_kl_divergence`.
      reduction: `"none"`, `"sum"`, or `"mean"`: the sum divided by the sum of `sample_weight` over
        the rows that count, 0 if that is 0. Inside `jax.shard_map` see `data_axis_name`.
      precision: of the products, as in `jnp.matmul`.
      block_size: as in `linear_softmax_cross_entropy`.
      axis_name: inside `jax.shard_map`, the mesh axis over which the classes are spread: `kernel`
        and `bias` are this device's slice; the teacher's indices are of all classes.
      data_axis_name: inside `jax.shard_map`, the mesh axis over which the rows are spread, as in
        `linear_softmax_cross_entropy`.
      num_classes: how many classes there are if the slices are padded.
      implementation: as in `softmax_kl_divergence`.

    Returns:
      `[...]` losses (natural log), or a scalar, in the dtype of the logits (float32 for half
      precision). A row with an index that is no class is NaN.

    Raises:
      TypeError: if an array's or option's type does not fit, or an option is traced.
      ValueError: if shapes, an option or a mesh axis do not fit.

    See Also:
      `top_k_log_probs` and `linear_top_k_log_probs` for the teacher's part; `linear_kl_divergence`
      from all of its classes.

    Source: Hinton, Vinyals and Dean, arXiv:1503.02531.

    >>> import jax
    >>> from jax_softmax import linear_top_k_log_probs
    >>> keys = jax.random.split(jax.random.key(0), 4)
    >>> student = jax.random.normal(keys[0], (6, 4)), jax.random.normal(keys[1], (4, 100))
    >>> teacher = jax.random.normal(keys[2], (6, 8)), jax.random.normal(keys[3], (8, 100))
    >>> log_probs, indices = linear_top_k_log_probs(*teacher, 5)
    >>> linear_top_k_cross_entropy(*student, log_probs, indices, rest="uniform").shape
    ()
    """
    if rest not in get_args(Rest):
        known = ", ".join(map(repr, get_args(Rest)))
        raise ValueError(f"rest: expected one of {known}, got {rest!r}.")
    linear = check_layer(features, kernel, bias, kernel_layout)
    call = layer.Call(
        sparse_targets.LOSS,
        check_options(0.0, 0.0, soft_cap, temperature, False, implementation),
        Product(kernel_layout, precision),
        rule,
        reduction,
        axis_name=axis_name,
        data_axis_name=data_axis_name,
    )
    rows, dtype = linear.features.shape[:-1], sums_dtype(linear)
    index = label_array(teacher_indices, None, "teacher_indices")
    masses = real_array("teacher_log_probs", teacher_log_probs).astype(dtype)
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"teacher_indices: expected an integer dtype, got {index.dtype}.")
    if index.ndim != len(rows) + 1 or index.shape[:-1] != rows or index.shape[-1] == 0:
        raise ValueError(
            f"teacher_indices: expected shape {(*rows, 'k')}, rows as of the features, got "
            f"{index.shape}."
        )
    if masses.shape != index.shape:
        raise ValueError(
            f"teacher_log_probs: expected the indices' shape {index.shape}, got {masses.shape}."
        )
    call = layer.check_call(call, linear, block_size, num_classes)
    masses = not_differentiated("teacher_log_probs", masses)
    each = None
    if rest == "renormalise":
        # Relative to the largest, so that it does not matter how small they are.
        largest = jnp.max(masses, -1, keepdims=True)
        masses = jnp.exp(masses - jnp.where(largest == -jnp.inf, 0, largest))
        total = jnp.sum(masses, -1, keepdims=True)
        masses = masses / jnp.where(total == 0, 1, total)
    else:
        masses = jnp.exp(masses)
    if rest == "uniform":
        # Never below 0: what rounding took from a whole is no mass.
        left = jnp.maximum(1 - jnp.sum(masses, -1), 0)
        each = left / max(call.classes - index.shape[-1], 1)
    given = layer.Rows(labels=index, targets=masses, rest=each)
    found: jax.Array = layer.loss_of(call, linear, given, where, sample_weight)
    return found
