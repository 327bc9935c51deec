"""A row's loss, statistics and gradient for class probabilities.

With the most likely class k set apart, m = z_k, others = sum_{j != k} exp(z_j - m), total =
1 + others and log(total) = log1p(others), a loss is a sum of terms that are not negative where the
labels are not. With labels q, smoothing alpha over n classes and class weights w,

    t_j = w_j ((1 - alpha) q_j + alpha / n),    T = sum_j t_j,    -log p_j = (m - z_j) + log(total)
    loss = sum_j t_j (-log p_j) + c lse^2,      lse = m + log(total)

    dloss/dz_j = T p_j - t_j + 2 c lse p_j = (T - t_j) p_j - t_j (1 - p_j) + 2 c lse p_j
    dloss/dq_j = (1 - alpha) w_j (-log p_j)

and 1 - p_k = others / total, so that a one-hot label on a confident row (T - t_k = 0) keeps its
gradient as an integer one does. For every other class p_j <= 1/2 and 1 - p_j is harmless.

The statistics are lse, sum_j q_j log p_j and the entropy H, with cotangents g_lse, g_lp and g_H.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_softmax.ops import _statistics as statistics
from jax_softmax.ops._exponentials import exponentials
from jax_softmax.ops._options import (
    Options,
    counted_classes,
    exclude,
    read,
    spread,
    through_cap,
)
from jax_softmax.ops._row_sums import row_sum
from jax_softmax.ops._rules import Outputs, build_rules, drop_rows, with_zeros
from jax_softmax.ops._statistics import RowStatistics


class Constants(NamedTuple):
    """What is not differentiated.

    Attributes:
      mask: None, or `[..., V]` booleans: the classes that count.
      kept: None, or `[...]` booleans: the rows that count.
      class_weights: None, or `[1, ..., V]`, the rank of the logits, in the dtype of the
        statistics.
    """

    mask: jax.Array | None
    kept: jax.Array | None
    class_weights: jax.Array | None


class Numbers(NamedTuple):
    """What the gradient needs of a row, `[...]` each; the last two only with `stats`.

    `counted` with smoothing and a mask: how many classes count.
    """

    rows: RowStatistics
    top: jax.Array
    log_total: jax.Array
    target_sum: jax.Array
    counted: jax.Array | None
    label_sum: jax.Array | None = None
    entropy: jax.Array | None = None


def _labels(labels: jax.Array, constants: Constants, dtype: jnp.dtype) -> jax.Array:
    q = labels.astype(dtype)
    return q if constants.mask is None else jnp.where(constants.mask, q, 0)


def _targets(
    q: jax.Array, constants: Constants, options: Options, count: jax.Array | None
) -> jax.Array:
    """`t = w ((1 - alpha) q + alpha / n)`, `[..., V]`."""
    weights = 1 if constants.class_weights is None else constants.class_weights
    t = q if constants.class_weights is None else weights * q
    if not options.label_smoothing:
        return t
    each = spread(q, constants.mask, constants.class_weights, options, count)
    return (1 - options.label_smoothing) * t + each


def _forward(
    options: Options, arrays: tuple[jax.Array, jax.Array], constants: Constants
) -> tuple[Outputs, Numbers]:
    """`(loss,)`, or `(loss, logsumexp, label_log_prob, entropy)`, and the numbers."""
    logits, labels = arrays
    logits = exclude(logits, constants.mask)
    reader = partial(read, options=options)
    z = reader(logits)
    top = statistics.normalizer(logits, reader, options.in_cache)
    rows, log_total = top.rows, top.log_total
    q = _labels(labels, constants, z.dtype)
    count = counted_classes(constants.mask, options, rows.total)
    t = _targets(q, constants, options, count)
    loss = statistics.weighted_surprisal(z, rows.shift, log_total, t)
    if options.z_loss:
        loss += options.z_loss * jnp.square(rows.shift + log_total)
    # A row with NaN is NaN even where its label is elsewhere.
    loss = jnp.where(jnp.isnan(rows.total), jnp.nan, loss)
    # Of labels read anew: a sum that shares them would have XLA:CPU write the targets out.
    again = _labels(statistics.unshared(labels), constants, z.dtype)
    target_sum = row_sum(_targets(again, constants, options, count))
    if not options.stats:
        return (loss,), Numbers(rows, top.column, log_total, target_sum, count)
    entropy = statistics.entropy(logits, reader, top)
    label_log_prob = -statistics.weighted_surprisal(z, rows.shift, log_total, q)
    outputs = (loss, statistics.logsumexp(rows, log_total), label_log_prob, entropy)
    return outputs, Numbers(rows, top.column, log_total, target_sum, count, row_sum(again), entropy)


def _gradients(
    options: Options,
    arrays: tuple[jax.Array, jax.Array],
    constants: Constants,
    numbers: Numbers,
    cotangents: list[jax.Array | None],
) -> tuple[jax.Array, jax.Array]:
    """`dL/dz` and `dL/dq`, `[..., V]` each; the formulas are the module's."""
    logits, labels = arrays
    if constants.kept is not None:
        kept = constants.kept
        logits, numbers, cotangents = drop_rows(kept, logits, numbers, cotangents)
        labels = jnp.where(kept[..., None], labels, 0)
    rows, top, log_total, target_sum, count, label_sum, entropy = numbers
    g, g_lse, g_log_prob, g_entropy = with_zeros(cotangents, rows.total)
    logits = exclude(logits, constants.mask)
    z = read(logits, options)
    q = _labels(labels, constants, z.dtype)
    t = _targets(q, constants, options, count)

    terms = exponentials(z, rows.shift)
    p = terms / rows.total[..., None]
    not_p = jnp.where(
        statistics.is_class(top, z.shape[-1]), (rows.others / rows.total)[..., None], 1 - p
    )
    gradient = g[..., None] * _from_targets(t, target_sum, p, not_p)
    if label_sum is not None and cotangents[2] is not None:
        gradient -= g_log_prob[..., None] * _from_targets(q, label_sum, p, not_p)
    if options.z_loss or (cotangents[1:] and cotangents[1] is not None):
        on_all = 2 * options.z_loss * g * (rows.shift + log_total) + g_lse
        gradient += on_all[..., None] * p
    if entropy is not None and cotangents[3] is not None:
        gradient += statistics.entropy_gradient(z, terms, rows, entropy, log_total, g_entropy)

    weights = 1 if constants.class_weights is None else constants.class_weights
    on_labels = (1 - options.label_smoothing) * weights * g[..., None] - g_log_prob[..., None]
    nothing = 0 * rows.total[..., None]  # NaN on a row that is
    gradient = through_cap(jnp.where(z == -jnp.inf, nothing, gradient), logits, options)
    # Two results that share more than a cap's few operations have XLA:CPU write those out.
    z = read(statistics.unshared(logits), options)
    labels_gradient = on_labels * statistics.surprisal(z, rows.shift, log_total)
    return gradient, jnp.where(z == -jnp.inf, nothing, labels_gradient)


def _from_targets(t: jax.Array, t_sum: jax.Array, p: jax.Array, not_p: jax.Array) -> jax.Array:
    """`T p - t`, as `(T - t) p - t (1 - p)`."""
    return (t_sum[..., None] - t) * p - t * not_p


RULES = build_rules(_forward, _gradients)
