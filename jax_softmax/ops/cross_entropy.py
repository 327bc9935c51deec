"""Softmax cross-entropy on logits, from class probabilities or from integer labels."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jax_softmax.ops._arguments import (
    Axis,
    Reduction,
    canonical_axes,
    check_floating,
    check_reduction,
    classes_last,
    mask_classes_last,
    reduce_rows,
)
from jax_softmax.ops._statistics import (
    class_index,
    difference,
    is_class,
    normalizer,
    read_logits,
    row_statistics,
    shifted_exp,
)


def softmax_cross_entropy(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
    *,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Cross-entropy :math:`-\sum_j q_j \log \mathrm{softmax}(z)_j` with class probabilities `q`.

    Takes `optax.softmax_cross_entropy`'s positional arguments and means the same, with one
    difference: losses of half-precision logits are float32.

    Args:
      logits: `[..., V]` floating, classes along `axis`. `-inf` is a class that cannot happen.
      labels: class probabilities that broadcast to `logits`; int and bool will do. They need not
        sum to 1, and have a derivative.
      axis: the class axis, a tuple of axes taken together, or None for all.
      where: None, or booleans of the logits' rank (classes that count) or without the class axes
        (rows that count). Labels on classes that do not count are dropped, as in optax.
      reduction: `"none"`, `"sum"`, or `"mean"` over the rows that count; a mean over no rows is 0.

    Returns:
      `[...]` losses (natural log), or a scalar; float32 for half-precision logits, else the logits'
      dtype. A row that `where` leaves nothing of is 0; a row with a NaN or `+inf` logit is NaN.

    Raises:
      TypeError: if `logits` is not floating.
      ValueError: if shapes, `axis`, `where` or `reduction` do not fit.

    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
    >>> with jnp.printoptions(precision=4):
    ...     print(softmax_cross_entropy(logits, jnp.eye(3)[:2]))
    [0.2761 2.9518]
    """
    z, axes, mask, logits_shape = _rows(logits, axis, where, reduction)
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        labels = labels.astype(z.dtype)
    try:
        labels = jnp.broadcast_to(labels, logits_shape)
    except ValueError as error:
        raise ValueError(
            f"labels: expected class probabilities that broadcast to the logits' shape "
            f"{logits_shape}, got {labels.shape}; for integer labels use "
            f"softmax_cross_entropy_with_integer_labels."
        ) from error
    return _jitted(_soft, z, classes_last(labels, axes), mask, reduction)


def softmax_cross_entropy_with_integer_labels(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
    *,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Cross-entropy :math:`\log \sum_j e^{z_j} - z_y` of logits `z` and integer labels `y`.

    Takes `optax.softmax_cross_entropy_with_integer_labels`'s positional arguments and means the
    same, with three differences: losses of half-precision logits are float32; a label outside
    `[0, V)` gives NaN, loss and gradient, never another class; and a label on a class that `where`
    excludes gives `+inf`.

    Losses are within 3 eps and gradients within 5 eps of the exact values for the logits as given,
    on confident rows too (where `log(sum) - z_y` and `p_y - 1` round to 0).

    Args:
      logits: `[..., V]` floating, classes along `axis`. `-inf` is a class that cannot happen:
        probability and derivative 0, loss `+inf` for a label on it.
      labels: `[...]` integers in `[0, V)`, the shape of `logits` without the class axes.
      axis: the class axis; for a tuple of axes (or None, all of them) a label is a flat index.
      where: None, or booleans of the logits' rank (classes that count) or without the class axes
        (rows that count, whatever the others hold).
      reduction: `"none"`, `"sum"`, or `"mean"` over the rows that count; a mean over no rows is 0.

    Returns:
      `[...]` losses (natural log), or a scalar; float32 for half-precision logits, else the logits'
      dtype. A row that `where` leaves nothing of is 0; a row with a NaN or `+inf` logit is NaN.

    Raises:
      TypeError: if `logits` is not floating or `labels` is not an integer array.
      ValueError: if shapes, `axis`, `where` or `reduction` do not fit.

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
    z, _, mask, logits_shape = _rows(logits, axis, where, reduction)
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels: expected an integer dtype, got {labels.dtype}; for class probabilities use "
            f"softmax_cross_entropy."
        )
    if labels.shape != z.shape[:-1]:
        raise ValueError(
            f"labels: expected shape {z.shape[:-1]} (the logits' {logits_shape} without axis "
            f"{axis}), got {labels.shape}."
        )
    return _jitted(_integer, z, labels, mask, reduction)


def _rows(logits, axis, where, reduction):
    """Checks what the two losses share; the logits as `[..., V]`, class axes, mask and shape."""
    check_reduction(reduction)
    logits = jnp.asarray(logits)
    check_floating("logits", logits)
    axes = canonical_axes(axis, logits.ndim)
    z = classes_last(logits, axes)
    if z.shape[-1] == 0:
        raise ValueError(
            f"logits: expected at least one class along axis {axis}, got shape {logits.shape}."
        )
    return z, axes, mask_classes_last(where, axes, logits.shape), logits.shape


@partial(jax.jit, static_argnums=(0, 4))
def _jitted(rule, logits, labels, mask, reduction):
    kept = None
    if mask is not None:
        kept = jnp.broadcast_to(jnp.any(mask, -1), logits.shape[:-1])
        if rule is _integer:
            # What a row that does not count is labelled must not matter, not even by 0 * NaN.
            labels = jnp.where(kept, labels, 0)
    loss = rule(logits, labels, mask)
    if kept is not None:
        loss = jnp.where(kept, loss, 0)
    return reduce_rows(loss, kept, reduction)


# Integer labels
#
# loss = log sum_j exp(z_j) - z_y. With m = max_j z_j, others = sum_{j != y} exp(z_j - m),
# e_y = exp(z_y - m), total = others + e_y:
#
#     loss = (m - z_y) + log(total)
#
# If the label leads, m - z_y = 0 and e_y = 1: the loss is log1p(others). If it does not,
# others >= 1 and the argument of log1p is (others - 1) + e_y. Neither term is negative: nothing
# cancels.
#
#     dloss/dz_j = exp(z_j - m) / total                              for j != y
#     dloss/dz_y = e_y / total - 1 = (e_y - total) / total = -others / total
#
# The last form is what keeps a confident row's gradient: e_y / total rounds to 1 and minus 1
# leaves 0, while others / total keeps every bit of others.


@jax.custom_vjp
def _integer(logits, labels, mask):
    return _integer_fwd(logits, labels, mask)[0]


def _integer_fwd(logits, labels, mask):
    rows = row_statistics(read_logits(logits, mask), labels)
    loss = _label_loss(rows)
    return loss, (logits, labels, mask, rows.shift, rows.label_logit, rows.others, rows.total)


def _label_loss(rows):
    gap, error = difference(rows.shift, rows.label_logit)
    label_term = shifted_exp(rows.label_logit, rows.shift)
    leads = rows.label_logit == rows.shift
    beyond_one = jnp.where(leads, rows.others + (label_term - 1), (rows.others - 1) + label_term)
    # A row of -inf: its gap is already +inf.
    beyond_one = jnp.where(rows.label_logit == -jnp.inf, rows.total - 1, beyond_one)
    # total carries the NaN of a label that is no class.
    return jnp.where(jnp.isnan(rows.total), jnp.nan, gap + (error + jnp.log1p(beyond_one)))


def _integer_bwd(residuals, g):
    logits, labels, mask, shift, label_logit, others, total = residuals
    z = read_logits(logits, mask)
    scale = g / total
    # 0 * total rather than 0: a row that is NaN is so at an impossible class too.
    at_label = jnp.where(label_logit == -jnp.inf, 0 * total, -scale * others)
    index, _ = class_index(labels, z.shape[-1])
    others_gradient = scale[..., None] * shifted_exp(z, shift[..., None])
    gradient = jnp.where(is_class(index, z.shape[-1]), at_label[..., None], others_gradient)
    return gradient.astype(logits.dtype), None, None


_integer.defvjp(_integer_fwd, _integer_bwd)


# Class probabilities
#
# loss = sum_j q_j (log sum_k exp(z_k) - z_j) = sum_j q_j (log(total) + (m - z_j)), with the most
# likely class k set apart, so that log(total) = log1p(others): a sum of non-negative terms where
# the labels are. With W = sum_j q_j,
#
#     dloss/dz_j = W p_j - q_j = (W - q_j) p_j - q_j (1 - p_j)
#     dloss/dq_j = log(total) + (m - z_j)
#
# and 1 - p_k = others / total, so a one-hot label on a confident row (W - q_k = 0) keeps its
# gradient as an integer one does. For every other class p_j <= 1/2 and 1 - p_j is harmless.


@jax.custom_vjp
def _soft(logits, labels, mask):
    return _soft_fwd(logits, labels, mask)[0]


def _soft_fwd(logits, labels, mask):
    z = read_logits(logits, mask)
    rows, top, log_total = normalizer(z)
    q = _read_labels(labels, mask, z.dtype)
    costs = _negative_log_probs(z, rows.shift, log_total)
    loss = jnp.sum(jnp.where(q == 0, 0, q * costs), -1)
    # A row with NaN is NaN even where its label is elsewhere.
    loss = jnp.where(jnp.isnan(rows.total), jnp.nan, loss)
    return loss, (logits, labels, mask, top, rows.shift, rows.others, rows.total, log_total)


def _read_labels(labels, mask, dtype):
    q = labels.astype(dtype)
    return q if mask is None else jnp.where(mask, q, 0)


def _negative_log_probs(z, shift, log_total):
    distance, error = difference(shift[..., None], z)
    return distance + (error + log_total[..., None])


def _soft_bwd(residuals, g):
    logits, labels, mask, top, shift, others, total, log_total = residuals
    z = read_logits(logits, mask)
    q = _read_labels(labels, mask, z.dtype)
    p = shifted_exp(z, shift[..., None]) / total[..., None]
    not_p = jnp.where(is_class(top, z.shape[-1]), (others / total)[..., None], 1 - p)
    weight = jnp.sum(q, -1, keepdims=True)
    possible = z != -jnp.inf
    nothing = 0 * total[..., None]  # NaN on a row that is
    logits_gradient = jnp.where(possible, (weight - q) * p - q * not_p, nothing)
    labels_gradient = jnp.where(possible, _negative_log_probs(z, shift, log_total), nothing)
    g = g[..., None]
    return (
        (g * logits_gradient).astype(logits.dtype),
        (g * labels_gradient).astype(labels.dtype),
        None,
    )


_soft.defvjp(_soft_fwd, _soft_bwd)
