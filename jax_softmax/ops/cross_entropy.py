"""Softmax cross-entropy on logits, from class probabilities or from integer labels.

The rows' mathematics is in `_integer_labels` and `_class_probabilities`, the ways JAX is told of it
in `_rules`. Here are the checks, and what the rows are weighted and reduced by.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_softmax.ops import _class_probabilities, _integer_labels
from jax_softmax.ops._arguments import (
    Axis,
    Reduction,
    broadcast_rows,
    canonical_axes,
    check_floating,
    check_ignore_index,
    check_reduction,
    classes_last,
    label_array,
    mask_classes_last,
    real_array,
    statistics_dtype,
)
from jax_softmax.ops._options import (
    Options,
    Rule,
    check_options,
    check_rule,
    exclude,
    weight_of,
)
from jax_softmax.ops._rules import Rules, multiply
from jax_softmax.ops._statistics import class_index, most_likely
from jax_softmax.ops._varying import vary, varying_axes


class SoftmaxStats(NamedTuple):
    """What a row's softmax says, in one pass with its loss: natural log, after `soft_cap`.

    Neither weights, smoothing nor `reduction` touch them; rows that do not count are 0.

    Attributes:
      logsumexp: `[...]`, `log sum_j exp(z_j)`.
      label_log_prob: `[...]`, `log p_y`, or `sum_j q_j log p_j` for class probabilities.
      entropy: `[...]`, `-sum_j p_j log p_j`.
      argmax: `[...]` int32, the first class of the largest logit before `soft_cap`, which keeps
        their order. Not differentiable.
    """

    logsumexp: jax.Array
    label_log_prob: jax.Array
    entropy: jax.Array
    argmax: jax.Array


Loss = jax.Array | tuple[jax.Array, SoftmaxStats]


def softmax_cross_entropy(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
    *,
    label_smoothing: float = 0.0,
    class_weights: jax.typing.ArrayLike | None = None,
    sample_weight: jax.typing.ArrayLike | None = None,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    return_stats: bool = False,
    rule: Rule = "vjp",
    reduction: Reduction = "none",
) -> Any:  # jax.Array; with return_stats=True (jax.Array, SoftmaxStats)
    r"""Cross-entropy :math:`-\sum_j q_j \log \mathrm{softmax}(z)_j` with class probabilities `q`.

    Takes `optax.softmax_cross_entropy`'s positional arguments and means the same, with two
    differences: losses of half-precision logits are float32, and forward mode needs `rule="jvp"`.
    (Labels broadcast to the logits, not the logits to them.)

    With options, `t = class_weights * ((1 - label_smoothing) q + label_smoothing / V)` takes the
    place of `q`, and a row's loss is
    :math:`w (-\sum_j t_j \log \mathrm{softmax}(z)_j + z\_loss \log^2 \sum_j e^{z_j})`.

    Args:
      logits: `[..., V]` floating, classes along `axis`. `-inf` is a class that cannot happen.
      labels: class probabilities, at least 0, that broadcast to `logits`; int and bool will do.
        They need not sum to 1, and have a derivative.
      axis: the class axis, a tuple of axes taken together, or None for all.
      where: None, or booleans of the logits' rank (classes that count) or without the class axes
        (rows that count). Labels on classes that do not count are dropped, as in optax.
      label_smoothing: in [0, 1]; spread over the classes that count.
      class_weights: None, or `[V]` factors of the classes, at least 0; no derivative.
      sample_weight: None, or factors of the rows that broadcast to `[...]`, with a derivative.
        Rows of weight 0 are left out, whatever they hold.
      z_loss: factor of the squared logsumexp.
      soft_cap: None, or `c > 0`: logits become `c * tanh(logits / c)`.
      return_stats: return `(loss, SoftmaxStats)`.
      rule: `"vjp"`, reverse mode (and forward over reverse, as in `jax.hessian`), or `"jvp"`, which
        has `jax.jvp`, `jax.jacfwd` and `jax.linearize` too.
      reduction: `"none"`, `"sum"`, or `"mean"`: the sum over that of `sample_weight` of the rows
        that count, 0 where that is 0.

    Returns:
      `[...]` losses (natural log), or a scalar; float32 for half-precision logits, else the logits'
      dtype. A row that `where` leaves nothing of is 0; a row with a NaN or `+inf` logit is NaN.

    Raises:
      TypeError: if `logits` is not floating, labels or weights are complex, or an option is traced
        or no number.
      ValueError: if shapes, `axis`, `where` or an option do not fit.

    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
    >>> with jnp.printoptions(precision=4):
    ...     print(softmax_cross_entropy(logits, jnp.eye(3)[:2]))
    [0.2761 2.9518]
    """
    options = check_options(label_smoothing, z_loss, soft_cap, return_stats)
    rows = _check_rows(logits, axis, where, class_weights, sample_weight, rule, reduction)
    labels = real_array("labels", labels)
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        labels = labels.astype(statistics_dtype(rows.logits.dtype))
    shape = jnp.shape(logits)
    try:
        labels = jnp.broadcast_to(labels, shape)
    except ValueError as error:
        raise ValueError(
            f"labels: expected class probabilities that broadcast to the logits' shape "
            f"{shape}, got {labels.shape}; for integer labels use "
            f"softmax_cross_entropy_with_integer_labels."
        ) from error
    labels = classes_last(labels, canonical_axes(axis, len(shape)))
    return _soft(options, rule, reduction, rows, labels)


def softmax_cross_entropy_with_integer_labels(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
    *,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    class_weights: jax.typing.ArrayLike | None = None,
    sample_weight: jax.typing.ArrayLike | None = None,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    return_stats: bool = False,
    rule: Rule = "vjp",
    reduction: Reduction = "none",
) -> Any:  # jax.Array; with return_stats=True (jax.Array, SoftmaxStats)
    r"""Cross-entropy :math:`\log \sum_j e^{z_j} - z_y` of logits `z` and integer labels `y`.

    Takes `optax.softmax_cross_entropy_with_integer_labels`'s positional arguments and means the
    same, with four differences: losses of half-precision logits are float32; forward mode needs
    `rule="jvp"`; a label outside `[0, V)` gives NaN, loss and gradient, never another class; and a
    label on a class that `where` excludes gives `+inf`.

    Without options, losses are within 3 eps and gradients within 5 eps of the exact values for the
    logits as given (on XLA:CPU; `jax-softmax verify` measures it elsewhere), on confident rows too,
    where `log(sum) - z_y` and `p_y - 1` round to 0.

    With options, a row's loss is that of `softmax_cross_entropy` for a one-hot label, none of which
    is made. `ignore_index`, `label_smoothing`, `class_weights` and `reduction` agree with
    `torch.nn.functional.cross_entropy`.

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
      class_weights: None, or `[V]` factors of the classes, at least 0; no derivative.
      sample_weight: None, or factors of the rows that broadcast to `[...]`, with a derivative.
        Rows of weight 0 are left out, whatever they hold.
      z_loss: factor of the squared logsumexp.
      soft_cap: None, or `c > 0`: logits become `c * tanh(logits / c)`.
      return_stats: return `(loss, SoftmaxStats)`.
      rule: `"vjp"`, reverse mode (and forward over reverse, as in `jax.hessian`), or `"jvp"`, which
        has `jax.jvp`, `jax.jacfwd` and `jax.linearize` too.
      reduction: `"none"`, `"sum"`, or `"mean"`: the sum over that of
        `sample_weight * class_weights[y]` of the rows that count, 0 where that is 0. (With
        `class_weights`, one label that is no class makes that sum NaN, and the mean.)

    Returns:
      `[...]` losses (natural log), or a scalar; float32 for half-precision logits, else the logits'
      dtype. A row that `where` leaves nothing of is 0; a row with a NaN or `+inf` logit is NaN.

    Raises:
      TypeError: if `logits` is not floating, `labels` is not an integer array, or an option is
        traced or no number.
      ValueError: if shapes, `axis`, `where` or an option do not fit.

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
    options = check_options(label_smoothing, z_loss, soft_cap, return_stats)
    rows = _check_rows(logits, axis, where, class_weights, sample_weight, rule, reduction)
    labels = label_array(labels, ignore_index)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels: expected an integer dtype, got {labels.dtype}; for class probabilities use "
            f"softmax_cross_entropy."
        )
    if labels.shape != rows.logits.shape[:-1]:
        raise ValueError(
            f"labels: expected shape {rows.logits.shape[:-1]} (the logits' {jnp.shape(logits)} "
            f"without axis {axis}), got {labels.shape}."
        )
    check_ignore_index(ignore_index, labels.dtype)
    return _integer(options, rule, reduction, ignore_index, rows, labels)


class _Rows(NamedTuple):
    """What both losses take: logits `[..., V]`, masks and weights of classes and of rows."""

    logits: jax.Array
    mask: jax.Array | None
    row_mask: jax.Array | None
    class_weights: jax.Array | None
    sample_weight: jax.Array | None


def _check_rows(
    logits: jax.typing.ArrayLike,
    axis: Axis,
    where: jax.typing.ArrayLike | None,
    class_weights: jax.typing.ArrayLike | None,
    sample_weight: jax.typing.ArrayLike | None,
    rule: Rule,
    reduction: Reduction,
) -> _Rows:
    check_rule(rule)
    check_reduction(reduction)
    logits = jnp.asarray(logits)
    check_floating("logits", logits)
    axes = canonical_axes(axis, logits.ndim)
    z = classes_last(logits, axes)
    classes = z.shape[-1]
    if classes == 0:
        raise ValueError(
            f"logits: expected at least one class along axis {axis}, got shape {logits.shape}."
        )
    mask, row_mask = mask_classes_last(where, axes, logits.shape)
    dtype = statistics_dtype(z.dtype)
    if class_weights is not None:
        class_weights = jax.lax.stop_gradient(
            real_array("class_weights", class_weights).astype(dtype)
        )
        if class_weights.shape != (classes,):
            raise ValueError(
                f"class_weights: expected shape {(classes,)}, got {class_weights.shape}."
            )
        class_weights = class_weights.reshape((1,) * (z.ndim - 1) + (classes,))
        # Of the rank of the logits: nothing here relies on rank promotion.
    if sample_weight is not None:
        sample_weight = broadcast_rows(sample_weight, z.shape[:-1], dtype)
    return _Rows(z, mask, row_mask, class_weights, sample_weight)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _integer(
    options: Options,
    rule: Rule,
    reduction: Reduction,
    ignore_index: int | None,
    rows: _Rows,
    labels: jax.Array,
) -> Loss:
    ignored = None if ignore_index is None else labels == ignore_index
    kept = _kept_rows(rows, ignored)
    # What a row that does not count is labelled must not matter, not even by 0 * NaN.
    labels = labels if kept is None else jnp.where(kept, labels, 0)
    index, valid = class_index(labels, rows.logits.shape[-1])
    weight = None
    if rows.class_weights is not None:
        # NaN where there is no class: a mean would divide by it.
        weight = jnp.where(valid, weight_of(rows.class_weights.reshape(-1), index), jnp.nan)
    constants = _integer_labels.Constants(index, valid, weight, kept, rows.mask, rows.class_weights)
    return _reduced(
        _integer_labels.RULES, options, rule, reduction, rows, (rows.logits,), constants, weight
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _soft(
    options: Options, rule: Rule, reduction: Reduction, rows: _Rows, labels: jax.Array
) -> Loss:
    constants = _class_probabilities.Constants(rows.mask, _kept_rows(rows), rows.class_weights)
    arrays = (rows.logits, labels)
    return _reduced(
        _class_probabilities.RULES, options, rule, reduction, rows, arrays, constants, None
    )


def _kept_rows(rows: _Rows, ignored: jax.Array | None = None) -> jax.Array | None:
    """`[...]` booleans, the rows that count; None if all do."""
    shape = rows.logits.shape[:-1]
    conditions = [
        rows.row_mask,
        None if rows.mask is None else jnp.any(rows.mask, -1),
        None if ignored is None else ~ignored,
        None if rows.sample_weight is None else rows.sample_weight != 0,
    ]
    kept = None
    for condition in conditions:
        if condition is not None:
            condition = jnp.broadcast_to(condition, shape)
            kept = condition if kept is None else kept & condition
    return kept


def _reduced(
    rules: Rules,
    options: Options,
    rule: Rule,
    reduction: Reduction,
    rows: _Rows,
    arrays: tuple[jax.Array, ...],
    constants: _integer_labels.Constants | _class_probabilities.Constants,
    label_weight: jax.Array | None,
) -> Loss:
    """The rule's losses, weighted and reduced, with the statistics if asked for.

    `label_weight` is None or what a row counts for in the mean's divisor beside its
    `sample_weight`.
    """
    dtype = statistics_dtype(rows.logits.dtype)
    shape = rows.logits.shape[:-1]
    kept = constants.kept
    weight = jnp.ones(shape, dtype) if rows.sample_weight is None else rows.sample_weight
    if kept is not None:
        weight = jnp.where(kept, weight, 0)
    if reduction == "mean":
        divisor = jnp.sum(weight if label_weight is None else weight * label_weight)
        if not options.stats and (kept is not None or label_weight is not None):
            # With a divisor of 0 no row counts, whatever it holds. (Its statistics do.)
            kept = (divisor != 0) & (jnp.ones(shape, bool) if kept is None else kept)
            constants = constants._replace(kept=kept)
        weight = jnp.where(divisor == 0, 0, weight / jnp.where(divisor == 0, 1, divisor))
    axes = varying_axes(*arrays, *jax.tree.leaves(constants), weight)
    arrays = tuple(vary(x, axes) for x in arrays)
    if rule == "jvp" and reduction != "none" and not options.stats:
        return rules.total_jvp(options, arrays, constants, weight)
    by_rows = rules.rows_vjp if rule == "vjp" else rules.rows_jvp
    loss, *stats = by_rows(options, arrays, constants)
    dropped = kept is not None or label_weight is not None
    loss = multiply(weight, loss) if dropped else weight * loss
    if reduction != "none":
        loss = jnp.sum(loss)
    if not options.stats:
        return loss
    top = most_likely(jax.lax.stop_gradient(exclude(rows.logits, constants.mask)))
    values = [*stats, top]
    if kept is not None:
        values = [jnp.where(kept, value, 0) for value in values]
    return loss, SoftmaxStats(*values)
