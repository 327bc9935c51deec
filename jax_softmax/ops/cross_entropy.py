"""Softmax cross-entropy on logits, from class probabilities or from integer labels.

The formulas for a row are in `_math`, the derivative rules in `_autodiff`, and the weighting and
reducing of rows in `_reduction`.
"""

from __future__ import annotations

from typing import Literal, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_softmax.ops._arguments import (
    Axis,
    canonical_axes,
    check_ignore_index,
    check_integer_labels,
    classes_last,
    label_array,
    real_array,
)
from jax_softmax.ops._autodiff import Inputs, build_rules, names_forward_mode
from jax_softmax.ops._call import Call, Rows, check_rows, counted_by, reduced_loss
from jax_softmax.ops._jit import jitted
from jax_softmax.ops._math import class_probabilities, integer_labels
from jax_softmax.ops._math.logits import statistics_dtype
from jax_softmax.ops._math.row_data import RowData
from jax_softmax.ops._options import (
    Implementation,
    IntegerLossOptions,
    LossOptions,
    Reduction,
    Rule,
    check_options,
)
from jax_softmax.ops._reduction import (
    Loss,
    SoftmaxStats,
    label_weights,
)

_INTEGER = build_rules(integer_labels.LOSS)
_SOFT = build_rules(class_probabilities.LOSS)


@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    return_stats: Literal[False] = False,
    **options: Unpack[LossOptions],
) -> jax.Array: ...


@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    return_stats: Literal[True],
    **options: Unpack[LossOptions],
) -> tuple[jax.Array, SoftmaxStats]: ...


@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    return_stats: bool,
    **options: Unpack[LossOptions],
) -> Loss: ...


@names_forward_mode
def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    temperature: float = 1.0,
    return_stats: bool = False,
    rule: Rule = "vjp",
    reduction: Reduction = "none",
    implementation: Implementation | None = None,
) -> Loss:
    r"""Cross-entropy :math:`-\sum_j q_j \log \mathrm{softmax}(z)_j` with class probabilities `q`.

    Takes the positional arguments of `optax.softmax_cross_entropy` and computes the same, with two
    differences: losses of half-precision logits are float32, and forward mode needs `rule="jvp"`.
    (Labels broadcast to the logits, but logits do not broadcast to labels.)

    With options, `t = class_weights * ((1 - label_smoothing) q + label_smoothing / V)` replaces
    `q`, and a row's loss is
    :math:`w (-\sum_j t_j \log \mathrm{softmax}(z)_j + z\_loss \log^2 \sum_j e^{z_j})`.

    Args:
      logits: `[..., V]` floating, classes along `axis`. `-inf` is a class that cannot happen.
      labels: class probabilities, at least 0, that broadcast to `logits`; may be int or bool. They
        need not sum to 1. They have a derivative.
      axis: the class axis, a tuple of axes taken together, or None for all.
      where: None, or booleans of the logits' rank (classes that count) or without the class axes
        (rows that count). Labels on classes that do not count are dropped, as in optax.
      label_smoothing: in [0, 1]; spread over the classes that count.
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
      reduction: `"none"`, `"sum"`, or `"mean"`: the sum divided by the sum of `sample_weight` over
        the rows that count, 0 if that is 0.
      implementation: None for the platform's own implementation, or `"xla"`, `"cpu"` or
        `"mosaic_gpu"`; the values differ only by rounding.

    Returns:
      `[...]` losses (natural log), or a scalar; float32 for half-precision logits, else the logits'
      dtype. A row that `where` excludes entirely is 0; a row with a NaN or `+inf` logit is NaN.

    Raises:
      TypeError: if `logits` is not floating, labels or weights are complex, or an option is traced
        or not a number.
      ValueError: if shapes, `axis`, `where` or an option do not fit.

    See Also:
      `softmax_cross_entropy_with_integer_labels` for one class a row; `softmax_kl_divergence` for a
      teacher's; `linear_softmax_cross_entropy` without the logits; `summarize`.

    Source: label smoothing, Szegedy et al., arXiv:1512.00567; z-loss, Chowdhery et al.,
    arXiv:2204.02311; soft cap, Gemma 2, arXiv:2408.00118.

    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
    >>> with jnp.printoptions(precision=4):
    ...     print(softmax_cross_entropy(logits, jnp.eye(3)[:2]))
    [0.2761 2.9518]
    """
    call = Call(
        check_options(label_smoothing, z_loss, soft_cap, temperature, return_stats, implementation),
        rule,
        reduction,
    )
    rows = check_rows(call, logits, axis, where, class_weights, sample_weight)
    q = real_array("labels", labels)
    if not jnp.issubdtype(q.dtype, jnp.floating):
        q = q.astype(statistics_dtype(rows.logits.dtype))
    shape = np.shape(logits)
    try:
        q = jnp.broadcast_to(q, shape)
    except ValueError as error:
        raise ValueError(
            f"labels: expected class probabilities that broadcast to the logits' shape "
            f"{shape}, got {q.shape}; for integer labels use "
            f"softmax_cross_entropy_with_integer_labels."
        ) from error
    loss: Loss = _soft(call, rows, classes_last(q, canonical_axes(axis, len(shape))))
    return loss


@overload
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    return_stats: Literal[False] = False,
    **options: Unpack[IntegerLossOptions],
) -> jax.Array: ...


@overload
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    return_stats: Literal[True],
    **options: Unpack[IntegerLossOptions],
) -> tuple[jax.Array, SoftmaxStats]: ...


@overload
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    return_stats: bool,
    **options: Unpack[IntegerLossOptions],
) -> Loss: ...


@names_forward_mode
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    temperature: float = 1.0,
    return_stats: bool = False,
    rule: Rule = "vjp",
    reduction: Reduction = "none",
    implementation: Implementation | None = None,
) -> Loss:
    r"""Cross-entropy :math:`\log \sum_j e^{z_j} - z_y` of logits `z` and integer labels `y`.

    Takes the positional arguments of `optax.softmax_cross_entropy_with_integer_labels` and computes
    the same, with four differences: losses of half-precision logits are float32; forward mode needs
    `rule="jvp"`; for a label outside `[0, V)` loss and gradient are NaN, never those of another
    class; and a label on a class that `where` excludes gives `+inf`.

    Without options, losses are within 3 eps and gradients within 5 eps of the exact values for the
    logits as given (on XLA:CPU; `jax-softmax verify` measures it elsewhere). This is so even on
    confident rows, where `log(sum) - z_y` and `p_y - 1` round to 0.

    With options, a row's loss is that of `softmax_cross_entropy` for a one-hot label, but one-hot
    labels are never made. `ignore_index`, `label_smoothing`, `class_weights` and `reduction` agree
    with `torch.nn.functional.cross_entropy`.

    Args:
      logits: `[..., V]` floating, classes along `axis`. `-inf` is a class that cannot happen:
        probability and derivative 0, loss `+inf` for a label on it (or with label smoothing).
      labels: `[...]` integers in `[0, V)`, the shape of `logits` without the class axes.
      axis: the class axis; for a tuple of axes (or None, all of them) a label is a flat index.
      where: None, or booleans of the logits' rank (classes that count) or without the class axes
        (rows that count, whatever the others hold).
      ignore_index: None, or the label of rows that do not count.
      label_smoothing: in [0, 1]: labels become `(1 - label_smoothing) onehot +
        label_smoothing / V`, spread over the classes that count.
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
        `sample_weight * class_weights[y]` of the rows that count, 0 if that is 0. (With
        `class_weights`, a single label that is not a class makes this divisor and the mean NaN.)
      implementation: None for the platform's own implementation, or `"xla"`, `"cpu"` or
        `"mosaic_gpu"`; the values differ only by rounding.

    Returns:
      `[...]` losses (natural log), or a scalar; float32 for half-precision logits, else the logits'
      dtype. A row that `where` excludes entirely is 0; a row with a NaN or `+inf` logit is NaN.

    Raises:
      TypeError: if `logits` is not floating, `labels` is not an integer array, or an option is
        traced or not a number.
      ValueError: if shapes, `axis`, `where` or an option do not fit.

    See Also:
      `softmax_cross_entropy` for class probabilities; `linear_softmax_cross_entropy` without the
      logits; `label_log_probs`; `summarize`.

    Source: label smoothing, Szegedy et al., arXiv:1512.00567; z-loss, Chowdhery et al.,
    arXiv:2204.02311; soft cap, Gemma 2, arXiv:2408.00118.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.2, -0.8, -0.5], [40.0, 0.0, 0.0]])
    >>> labels = jnp.array([0, 0])
    >>> loss = lambda z: softmax_cross_entropy_with_integer_labels(z, labels, reduction="sum")
    >>> with jnp.printoptions(precision=4):
    ...     print(softmax_cross_entropy_with_integer_labels(logits, labels))
    ...     print(jax.grad(loss)(logits)[1])
    [2.7613e-01 8.4967e-18]
    [-8.4967e-18  4.2484e-18  4.2484e-18]
    """
    call = Call(
        check_options(label_smoothing, z_loss, soft_cap, temperature, return_stats, implementation),
        rule,
        reduction,
        ignore_index,
    )
    rows = check_rows(call, logits, axis, where, class_weights, sample_weight)
    rank = np.ndim(logits)
    moved = canonical_axes(axis, rank) != (rank - 1,)
    call = call._replace(options=call.options._replace(moved=moved))
    index = label_array(labels, ignore_index)
    check_integer_labels(
        index,
        rows.logits.shape[:-1],
        "use softmax_cross_entropy",
        f"the logits' {np.shape(logits)} without axis {axis}",
    )
    check_ignore_index(ignore_index, index.dtype)
    loss: Loss = _integer(call, rows, index)
    return loss


@jitted(0)
def _integer(call: Call, rows: Rows, labels: jax.Array) -> Loss:
    not_ignored = None if call.ignore_index is None else labels != call.ignore_index
    counted = counted_by(rows, not_ignored)
    # The label of a row that does not count must not matter, not even through 0 * NaN.
    labels = labels if counted is None else jnp.where(counted, labels, 0)
    index, valid = integer_labels.class_index(labels, rows.logits.shape[-1])
    by_label = None
    if rows.class_weights is not None:
        # NaN where the label is not a class: a mean divides by these weights.
        by_label = jnp.where(valid, label_weights(rows.class_weights, index), jnp.nan)
    data = RowData(column=index, valid=valid, label_weight=by_label)
    return reduced_loss(_INTEGER, call, rows, Inputs(rows.logits), data, counted)


@jitted(0)
def _soft(call: Call, rows: Rows, labels: jax.Array) -> Loss:
    return reduced_loss(_SOFT, call, rows, Inputs(rows.logits, labels), RowData(), counted_by(rows))
