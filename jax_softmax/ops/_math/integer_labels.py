"""A row's loss, statistics and gradient for an integer label.

With m = max_j z_j, others = sum_{j != y} exp(z_j - m), e_y = exp(z_y - m), total = others + e_y:

    nll = log sum_j exp(z_j) - z_y = (m - z_y) + log(total)

If the label leads, m - z_y = 0 and e_y = 1: nll is log1p(others). If it does not, others >= 1 and
the argument of log1p is (others - 1) + e_y. Neither term is negative: nothing cancels.

    dnll/dz_j = exp(z_j - m) / total = p_j                                   for j != y
    dnll/dz_y = e_y / total - 1 = (e_y - total) / total = -others / total

The last form keeps a confident row's gradient: there e_y / total rounds to 1, so subtracting 1
leaves 0, while others / total keeps every bit of others.

With smoothing alpha over n classes, class weights w, s_j = alpha / n w_j, S = sum_j s_j, a z-loss
of c and lse = m + log(total),

    loss = (1 - alpha) w_y nll + sum_j s_j (lse - z_j) + c lse^2
    sum_j s_j (lse - z_j) = S log(total) + sum_j s_j (m - z_j)

and with cotangents g, g_lse, g_lp, g_H of the loss, lse, the label's log-probability -nll and the
entropy H,

    dL/dz_j = ((1 - alpha) w_y g - g_lp) dnll/dz_j
              + (g S + 2 c g lse + g_lse) p_j - g s_j + g_H p_j (-log p_j - H)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_softmax.ops._backends.compensated import difference
from jax_softmax.ops._backends.interface import Backend, Coefficients, Pass, RowShare, finite_shift
from jax_softmax.ops._backends.sums import row_sum
from jax_softmax.ops._math import rows as row_math
from jax_softmax.ops._math.entropy import entropy_gradient, entropy_of, entropy_share
from jax_softmax.ops._math.label_rank import label_rank
from jax_softmax.ops._math.logits import CappedLogits, held_logits
from jax_softmax.ops._math.row_data import Gradients, Outputs, RowData, drop_rows
from jax_softmax.ops._math.row_loss import RowLoss
from jax_softmax.ops._math.rows import RowStatistics
from jax_softmax.ops._math.slices import Slices, whole
from jax_softmax.ops._math.smoothing import charged_surprisal, counted_classes, spread
from jax_softmax.ops._options import Options


class Residuals(NamedTuple):
    """What the gradient needs of a row, `[...]` each.

    Attributes:
      rows: statistics with the label set apart.
      logsumexp: with a z-loss.
      spread_sum: with smoothing and a mask or class weights, the sum of what smoothing adds to each
        class.
      counted: with smoothing and a mask, how many classes count.
      entropy: with statistics, H.
      log_total: with statistics, the `log(total)` that the entropy was computed with.
    """

    rows: RowStatistics
    logsumexp: jax.Array | None = None
    spread_sum: jax.Array | None = None
    counted: jax.Array | None = None
    entropy: jax.Array | None = None
    log_total: jax.Array | None = None


def class_index(labels: jax.Array, classes: int) -> tuple[jax.Array, jax.Array]:
    """Labels as int32 indices, 0 where they are not a class; and whether they are.

    Compared in a dtype that holds both: a cast to int32 would wrap 2**32 to class 0.
    """
    wide = labels if jnp.iinfo(labels.dtype).bits >= 32 else labels.astype(jnp.int32)
    valid = (labels >= 0) & (wide < jnp.asarray(classes, wide.dtype))
    return jnp.where(valid, labels, 0).astype(jnp.int32), valid


def _on_label(data: RowData, options: Options) -> jax.Array | float:
    """`(1 - alpha) w_y`."""
    share = 1 - options.label_smoothing
    return share if data.label_weight is None else share * data.label_weight


def _charged(weight: jax.Array | float, nll: jax.Array) -> jax.Array:
    """`weight * nll` with `0 * inf = 0 * nan = 0`."""
    if isinstance(weight, float):
        return weight * nll if weight else jnp.zeros_like(nll)
    return jnp.where(weight == 0, 0, weight * nll)


def _column(data: RowData) -> jax.Array:
    assert data.column is not None
    return data.column


def _forward(options: Options, slices: Slices, data: RowData) -> tuple[Outputs, Residuals]:
    share = slices.share(_column, below=_spreads_evenly(options, data))
    return _of_share(options, slices, data, share)


def _spreads_evenly(options: Options, data: RowData) -> bool:
    """Whether smoothing adds the same to each class."""
    even = data.class_weights is None and (data.mask is None or _is_padding(options, data))
    return bool(options.label_smoothing) and even


def _is_padding(options: Options, data: RowData) -> bool:
    """Whether all that the mask excludes is the columns beyond `options.classes`."""
    return options.classes is not None and data.first is None


def _of_share(
    options: Options, slices: Slices, data: RowData, share: RowShare
) -> tuple[Outputs, Residuals]:
    rows = row_math.row_statistics(share, data.valid)
    log_total = row_math.log_total(rows)
    gap, error = difference(rows.shift, share.label_logit)
    # total is NaN where the label is not a class.
    nll = jnp.where(jnp.isnan(rows.total), jnp.nan, gap + (error + log_total))
    loss = _charged(_on_label(data, options), nll)
    total_spread = None
    count = counted_classes(data.mask, options, rows.total)
    if options.label_smoothing:

        def smoothing(logits: CappedLogits, at: RowData) -> jax.Array:
            if share.below is not None:
                classes = options.classes or logits.stored.shape[-1]
                of_others = rows.shift - finite_shift(share.largest_other)
                surprisal = share.below + (classes - 1) * of_others
                surprisal += (rows.shift - share.label_logit) + classes * log_total
                return options.label_smoothing / classes * surprisal
            each = spread(logits.values(), at.mask, at.class_weights, options, count)
            return charged_surprisal(slices.backend, logits, rows.shift, log_total, each)

        loss += slices.sum(smoothing)
        if not (data.mask is None and data.class_weights is None):
            total_spread = slices.sum(
                lambda logits, at: _spread_sum(slices.backend, options, count, logits, at)
            )
            total_spread = jnp.broadcast_to(total_spread, rows.total.shape)
    lse = rows.shift + log_total if options.z_loss else None
    if lse is not None:
        loss += options.z_loss * jnp.square(lse)
    # Once more, since a weight of 0 drops the NaN of nll.
    loss = jnp.where(jnp.isnan(rows.total), jnp.nan, loss)
    residuals = Residuals(rows, lse, total_spread, count)
    if not options.stats:
        return Outputs(loss), residuals
    # Now with the likeliest class set apart, so that the entropy of a confident row is exact even
    # if its label is another class.
    top = slices.top()
    entropy = entropy_of(
        slices.sum(lambda logits, at: entropy_share(slices.backend, logits, top)), top
    )
    rank = label_rank(slices, _column, jnp.isnan(rows.total))
    lse = row_math.logsumexp(top.rows, top.log_total)
    outputs = Outputs(loss, lse, -nll, entropy, top.column, rank)
    return outputs, residuals._replace(entropy=entropy, log_total=top.log_total)


def _spread_sum(
    backend: Backend,
    options: Options,
    count: jax.Array | None,
    logits: CappedLogits,
    data: RowData,
) -> jax.Array:
    # Reads the mask again: XLA may write out the spread if another sum shares it.
    mask = None if data.mask is None else backend.again(data.mask)
    return row_sum(spread(logits.values(), mask, data.class_weights, options, count))


def _gradients(
    backend: Backend,
    options: Options,
    logits: jax.Array,
    data: RowData,
    residuals: Residuals,
    cotangents: Outputs,
    final: bool,
) -> Gradients:
    """`dL/dz`, `[..., V]`; the module's docstring has the formula."""
    kept = data.kept(residuals.rows.total)
    logits, residuals, cotangents = drop_rows(kept, logits, residuals, cotangents)
    if kept is not None and data.label_weight is not None:
        data = data._replace(label_weight=jnp.where(kept, data.label_weight, 0))
    rows = residuals.rows
    g, g_lse, g_log_prob, g_entropy, *_ = cotangents.zeros_for_none(rows.total)
    held = held_logits(logits, data.mask, options)
    z = held.values()

    on_nll = _on_label(data, options) * g - g_log_prob
    on_all = g_lse
    if residuals.logsumexp is not None:
        on_all += 2 * options.z_loss * g * residuals.logsumexp
    each = jnp.zeros((), z.dtype)
    if options.label_smoothing:
        each = spread(z, data.mask, data.class_weights, options, residuals.counted)
        total_spread = residuals.spread_sum
        on_all += g * (options.label_smoothing if total_spread is None else total_spread)

    at_label = _at_label(rows, on_nll, on_all)
    terms = backend.exponentials(z, rows.shift, rounded=logits.dtype != z.dtype)
    gradient = ((on_nll + on_all) / rows.total)[..., None] * terms
    more = options.label_smoothing or options.soft_cap is not None or options.temperature != 1
    more = more or cotangents.entropy is not None or logits.dtype != z.dtype
    gradient = backend.put_at_label(gradient, _column(data), at_label, final=final and not more)
    if options.label_smoothing:
        gradient -= jnp.where(z == -jnp.inf, 0, g[..., None] * each)
    if residuals.entropy is not None and cotangents.entropy is not None:
        assert residuals.log_total is not None
        gradient += entropy_gradient(
            z, terms, rows, residuals.entropy, residuals.log_total, g_entropy
        )
    return Gradients(held.through_cap(gradient))


def _at_label(rows: RowStatistics, on_nll: jax.Array, on_all: jax.Array) -> jax.Array:
    """The gradient at the label, without what smoothing takes off each class."""
    at_label = -(on_nll / rows.total) * rows.others
    at_label += on_all / rows.total * rows.own
    # Both are 0 at a label that cannot happen, but its infinite loss may send back an infinite
    # cotangent. 0 * total rather than 0, so that a NaN row is NaN here too.
    never = (rows.others == 0) & (rows.own == 0)
    return jnp.where(never, 0 * rows.total, at_label)


# Loss and gradient at once, where the cotangents are known beforehand


def _coefficients(
    smoothing: float,
    each: float,
    z_loss: float,
    drops: bool,
    share: RowShare,
    given: Sequence[jax.Array],
) -> Coefficients:
    """A row's coefficients from its share, for a cotangent of the loss only.

    Args:
      smoothing: alpha.
      each: what smoothing adds to each class.
      z_loss: c.
      drops: whether some rows may not count.
      share: of all classes.
      given: a result of `_given`, or a row of it.
    """
    g, on_nll, valid, *drop = given
    rows = row_math.row_statistics(share, valid != 0)
    keep = None
    if drops:
        counted, weightless = drop
        keep = (counted != 0) & ~((weightless != 0) & jnp.isnan(rows.total))
        rows = RowStatistics(*(jnp.where(keep, x, 1) for x in rows))
        g, on_nll = (jnp.where(keep, x, 0) for x in (g, on_nll))
    on_all = smoothing * g
    if z_loss:
        on_all += 2 * z_loss * g * (rows.shift + row_math.log_total(rows))
    at_label = _at_label(rows, on_nll, on_all)
    offset = None
    if each:
        offset = each * g
        at_label -= jnp.where(share.label_logit == -jnp.inf, 0, offset)
    return Coefficients(rows.shift, (on_nll + on_all) / rows.total, at_label, offset, keep)


def _given(options: Options, data: RowData, weights: jax.Array) -> list[jax.Array]:
    """What `_coefficients` takes, `[...]` each in the dtype of the weights."""
    given = [weights, _on_label(data, options) * weights, data.valid]
    if data.counted is not None or data.weightless is not None:
        given += [data.counted, data.weightless]
    absent = iter((1, 1, 1, 1, 0))
    return [
        jnp.broadcast_to(jnp.asarray(otherwise if x is None else x, weights.dtype), weights.shape)
        for x, otherwise in zip(given, absent, strict=False)
    ]


def _reads_once(
    backend: Backend, options: Options, logits: jax.Array, data: RowData, dtype: Any
) -> bool:
    if options.stats or not (data.mask is None or _is_padding(options, data)):
        return False
    if options.label_smoothing and not _spreads_evenly(options, data):
        return False
    held = held_logits(logits, None, options)
    return backend.reads_once(held, _column(data), _pass(options, dtype))


def _pass(options: Options, dtype: Any) -> Pass:
    smoothing = bool(options.label_smoothing)
    return Pass(dtype, below=smoothing, classes=options.classes, moved=options.moved)


def _at_once(
    backend: Backend,
    options: Options,
    logits: jax.Array,
    data: RowData,
    weights: jax.Array,
    dtype: Any,
) -> tuple[Outputs, Residuals, jax.Array]:
    smoothing, given = options.label_smoothing, _given(options, data, weights)
    each = smoothing / (options.classes or logits.shape[-1])
    to_do = _pass(options, dtype)
    held = held_logits(logits, None, options)
    of_share = partial(_coefficients, smoothing, each, options.z_loss, len(given) > 3)
    share, gradient = backend.share_and_gradient(held, _column(data), of_share, given, to_do)
    slices = whole(backend, logits, data, options)
    outputs, residuals = _of_share(options, slices, data, share)
    return outputs, residuals, gradient


LOSS = RowLoss(_forward, _gradients, _reads_once, _at_once)
