"""A row's loss, statistics and gradient for class probabilities.

With the most likely class k set apart, m = z_k, others = sum_{j != k} exp(z_j - m), total =
1 + others and log(total) = log1p(others), a loss is a sum of terms that are nonnegative if the
labels are. With labels q, smoothing alpha over n classes and class weights w,

    t_j = w_j ((1 - alpha) q_j + alpha / n),    T = sum_j t_j,    -log p_j = (m - z_j) + log(total)
    loss = sum_j t_j (-log p_j) + c lse^2,      lse = m + log(total)

    dloss/dz_j = T p_j - t_j + 2 c lse p_j = (T - t_j) p_j - t_j (1 - p_j) + 2 c lse p_j
    dloss/dq_j = (1 - alpha) w_j (-log p_j)

and 1 - p_k = others / total, so that a one-hot label on a confident row (T - t_k = 0) keeps its
gradient as an integer label does. For every other class p_j <= 1/2, so 1 - p_j is harmless.

The statistics are lse, sum_j q_j log p_j and the entropy H, with cotangents g_lse, g_lp and g_H.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_softmax.ops._backends.interface import Backend, is_class
from jax_softmax.ops._backends.sums import row_sum
from jax_softmax.ops._math import rows as row_math
from jax_softmax.ops._math.entropy import (
    entropy_gradient,
    entropy_of,
    entropy_share,
    surprisal,
)
from jax_softmax.ops._math.label_rank import label_rank
from jax_softmax.ops._math.logits import CappedLogits, held_logits
from jax_softmax.ops._math.row_data import Gradients, Outputs, RowData, drop_rows
from jax_softmax.ops._math.row_loss import RowLoss
from jax_softmax.ops._math.rows import RowStatistics
from jax_softmax.ops._math.slices import OfSlice, Slices
from jax_softmax.ops._math.smoothing import charged_surprisal, counted_classes, spread
from jax_softmax.ops._options import Options


class Residuals(NamedTuple):
    """What the gradient needs of a row, `[...]` each.

    Attributes:
      rows: statistics with the likeliest class set apart.
      likeliest: int32, that class.
      log_total: `log(total)`.
      target_sum: T.
      counted: with smoothing and a mask, how many classes count.
      label_sum: with statistics, `sum_j q_j`.
      entropy: with statistics, H.
    """

    rows: RowStatistics
    likeliest: jax.Array
    log_total: jax.Array
    target_sum: jax.Array
    counted: jax.Array | None = None
    label_sum: jax.Array | None = None
    entropy: jax.Array | None = None


def _labels(data: RowData, dtype: jnp.dtype) -> jax.Array:
    assert data.labels is not None
    q = data.labels.astype(dtype)
    return q if data.mask is None else jnp.where(data.mask, q, 0)


def _targets(q: jax.Array, data: RowData, options: Options, count: jax.Array | None) -> jax.Array:
    """`t = w ((1 - alpha) q + alpha / n)`, `[..., V]`."""
    t = q if data.class_weights is None else data.class_weights * q
    if not options.label_smoothing:
        return t
    each = spread(q, data.mask, data.class_weights, options, count)
    return (1 - options.label_smoothing) * t + each


def _forward(options: Options, slices: Slices, data: RowData) -> tuple[Outputs, Residuals]:
    backend = slices.backend
    top = slices.top()
    rows, index, log_total = top.rows, top.column, top.log_total
    dtype = rows.total.dtype
    count = counted_classes(data.mask, options, rows.total)

    def charged(logits: CappedLogits, at: RowData) -> jax.Array:
        t = _targets(_labels(at, dtype), at, options, count)
        return charged_surprisal(backend, logits, rows.shift, log_total, t)

    def targets(_: CappedLogits, at: RowData) -> jax.Array:
        at = at._replace(labels=backend.again(at.labels))
        return row_sum(_targets(_labels(at, dtype), at, options, count))

    loss = slices.sum(charged)
    if options.z_loss:
        loss += options.z_loss * jnp.square(rows.shift + log_total)
    # A row with a NaN logit is NaN even if no label is on it.
    loss = jnp.where(jnp.isnan(rows.total), jnp.nan, loss)
    residuals = Residuals(rows, index, log_total, slices.sum(targets), count)
    if not options.stats:
        return Outputs(loss), residuals

    def labelled(logits: CappedLogits, at: RowData) -> jax.Array:
        return charged_surprisal(backend, logits, rows.shift, log_total, _labels(at, dtype))

    def label_sum(_: CappedLogits, at: RowData) -> jax.Array:
        return row_sum(_labels(at._replace(labels=backend.again(at.labels)), dtype))

    entropy = entropy_of(slices.sum(lambda logits, at: entropy_share(backend, logits, top)), top)
    likeliest = _likeliest_label(slices, dtype)
    rank = label_rank(slices, lambda at: at.column_of(likeliest), jnp.isnan(rows.total))
    lse = row_math.logsumexp(rows, log_total)
    outputs = Outputs(loss, lse, -slices.sum(labelled), entropy, index, rank)
    return outputs, residuals._replace(label_sum=slices.sum(label_sum), entropy=entropy)


def _likeliest_label(slices: Slices, dtype: jnp.dtype) -> jax.Array:
    """The first class with the largest label, `[...]` int32."""

    def of_labels(f: OfSlice) -> Any:
        return slices.each(lambda _, at: f(CappedLogits(_labels(at, dtype), None), at))

    return slices._replace(each=of_labels).likeliest()


def _gradients(
    backend: Backend,
    options: Options,
    logits: jax.Array,
    data: RowData,
    residuals: Residuals,
    cotangents: Outputs,
    final: bool,
) -> Gradients:
    """`dL/dz` and `dL/dq`, `[..., V]` each; the module's docstring has the formulas."""
    # Labels may be NaN too.
    kept = data.kept(residuals.rows.total + residuals.target_sum)
    logits, residuals, cotangents = drop_rows(kept, logits, residuals, cotangents)
    if kept is not None and data.labels is not None:
        data = data._replace(labels=jnp.where(kept[..., None], data.labels, 0))
    rows, log_total = residuals.rows, residuals.log_total
    g, g_lse, g_log_prob, g_entropy, *_ = cotangents.zeros_for_none(rows.total)
    held = held_logits(logits, data.mask, options)
    z = held.values()
    q = _labels(data, z.dtype)
    t = _targets(q, data, options, residuals.counted)

    terms = backend.exponentials(z, rows.shift, rounded=logits.dtype != z.dtype)
    p = terms / rows.total[..., None]
    top = is_class(data.column_of(residuals.likeliest), z.shape[-1])
    not_p = jnp.where(top, (rows.others / rows.total)[..., None], 1 - p)
    gradient = g[..., None] * _from_targets(t, residuals.target_sum, p, not_p)
    if residuals.label_sum is not None and cotangents.label_log_prob is not None:
        gradient -= g_log_prob[..., None] * _from_targets(q, residuals.label_sum, p, not_p)
    if options.z_loss or cotangents.logsumexp is not None:
        on_all = 2 * options.z_loss * g * (rows.shift + log_total) + g_lse
        gradient += on_all[..., None] * p
    if residuals.entropy is not None and cotangents.entropy is not None:
        gradient += entropy_gradient(z, terms, rows, residuals.entropy, log_total, g_entropy)

    weights = 1 if data.class_weights is None else data.class_weights
    on_labels = (1 - options.label_smoothing) * weights * g[..., None] - g_log_prob[..., None]
    nothing = 0 * rows.total[..., None]  # NaN on a NaN row
    gradient = held.through_cap(jnp.where(z == -jnp.inf, nothing, gradient))
    # Read again: if two results share more than a cap's few operations, XLA may write that out.
    z = held.read(backend.again(held.stored))
    never = z == -jnp.inf
    # Selected twice: the derivative of a product with infinity is NaN even if it is not selected.
    by_label = on_labels * jnp.where(never, 0, surprisal(z, rows.shift, log_total))
    return Gradients(gradient, jnp.where(never, nothing, by_label))


def _from_targets(t: jax.Array, t_sum: jax.Array, p: jax.Array, not_p: jax.Array) -> jax.Array:
    """`T p - t`, as `(T - t) p - t (1 - p)`."""
    return (t_sum[..., None] - t) * p - t * not_p


LOSS = RowLoss(_forward, _gradients)
