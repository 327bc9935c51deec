"""A row's loss, statistics and gradient for an integer label.

With m = max_j z_j, others = sum_{j != y} exp(z_j - m), e_y = exp(z_y - m), total = others + e_y:

    nll = log sum_j exp(z_j) - z_y = (m - z_y) + log(total)

If the label leads, m - z_y = 0 and e_y = 1: nll is log1p(others). If it does not, others >= 1 and
the argument of log1p is (others - 1) + e_y. Neither term is negative: nothing cancels.

    dnll/dz_j = exp(z_j - m) / total = p_j                                   for j != y
    dnll/dz_y = e_y / total - 1 = (e_y - total) / total = -others / total

The last form is what keeps a confident row's gradient: e_y / total rounds to 1 and minus 1 leaves
0, while others / total keeps every bit of others.

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

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_softmax.ops import _statistics as statistics
from jax_softmax.ops._options import Options, exclude, read, spread, spread_sum, through_cap
from jax_softmax.ops._rules import build_rules, drop_rows, multiply, with_zeros
from jax_softmax.ops._statistics import RowStatistics


class Constants(NamedTuple):
    """What is not differentiated.

    Attributes:
      labels: `[...]` integers.
      mask: None, or `[..., V]` booleans: the classes that count.
      kept: None, or `[...]` booleans: the rows that count.
      class_weights: None, or `[1, ..., V]`, the rank of the logits, in the dtype of the
        statistics.
    """

    labels: jax.Array
    mask: jax.Array | None
    kept: jax.Array | None
    class_weights: jax.Array | None

    def label_weight(self) -> jax.Array | float:
        """`w_y`: 1, or `[...]`."""
        if self.class_weights is None:
            return 1.0
        index, _ = statistics.class_index(self.labels, self.class_weights.size)
        return self.class_weights.reshape(-1)[index]


class Numbers(NamedTuple):
    """What the gradient needs of a row, `[...]` each.

    Attributes:
      rows: statistics with the label set apart.
      logsumexp: with a z-loss.
      entropy: with statistics, the entropy and the `log(total)` it was computed with.
    """

    rows: RowStatistics
    logsumexp: jax.Array | None = None
    entropy: tuple[jax.Array, jax.Array] | None = None


def _forward(options: Options, arrays: tuple[jax.Array], constants: Constants):
    """`(loss,)`, or `(loss, logsumexp, label_log_prob, entropy)`, and the numbers."""
    (logits,) = arrays
    logits = exclude(logits, constants.mask)
    reader = partial(read, options=options)
    z = reader(logits)
    rows = statistics.row_statistics(logits, reader, constants.labels)
    log_total = statistics.log_total(rows)
    gap, error = statistics.difference(rows.shift, rows.label_logit)
    nll = gap + (error + log_total)
    loss = multiply((1 - options.label_smoothing) * constants.label_weight(), nll)
    if options.label_smoothing:
        each = spread(z, constants.mask, constants.class_weights, options)
        loss += statistics.weighted_surprisal(z, rows.shift, log_total, each)
    lse = rows.shift + log_total if options.z_loss else None
    if lse is not None:
        loss += options.z_loss * jnp.square(lse)
    # total carries the NaN of a label that is no class.
    loss = jnp.where(jnp.isnan(rows.total), jnp.nan, loss)
    if not options.stats:
        return (loss,), Numbers(rows, lse)
    # Set apart from the likeliest class now, so that the entropy of a confident row is exact when
    # its label is another class.
    top, index, exact_log_total = statistics.normalizer(logits, reader)
    entropy = statistics.entropy(logits, reader, index, top, exact_log_total)
    outputs = (loss, statistics.logsumexp(top, exact_log_total), -nll, entropy)
    return outputs, Numbers(rows, lse, (entropy, exact_log_total))


def _gradients(
    options: Options,
    arrays: tuple[jax.Array],
    constants: Constants,
    numbers: Numbers,
    cotangents: list[jax.Array | None],
) -> tuple[jax.Array]:
    """`dL/dz`, `[..., V]`; the formula is the module's."""
    (logits,) = arrays
    if constants.kept is not None:
        logits, numbers, cotangents = drop_rows(constants.kept, logits, numbers, cotangents)
    rows, lse, entropy = numbers
    g, g_lse, g_log_prob, g_entropy = with_zeros(cotangents, rows.total)
    logits = exclude(logits, constants.mask)
    z = read(logits, options)
    classes = z.shape[-1]

    on_nll = (1 - options.label_smoothing) * constants.label_weight() * g - g_log_prob
    on_all = g_lse
    if lse is not None:
        on_all += 2 * options.z_loss * g * lse
    each: jax.Array | float = 0.0
    if options.label_smoothing:
        each = spread(z, constants.mask, constants.class_weights, options)
        on_all += g * spread_sum(each, classes)

    at_label = -(on_nll / rows.total) * rows.others
    at_label += on_all / rows.total * statistics.shifted_exp(rows.label_logit, rows.shift)
    # 0 * total rather than 0: a row that is NaN is so at an impossible class too.
    at_label = jnp.where(rows.label_logit == -jnp.inf, 0 * rows.total, at_label)

    terms = statistics.shifted_exp(z, rows.shift[..., None])
    index, _ = statistics.class_index(constants.labels, classes)
    gradient = jnp.where(
        statistics.is_class(index, classes),
        at_label[..., None],
        ((on_nll + on_all) / rows.total)[..., None] * terms,
    )
    if options.label_smoothing:
        gradient -= jnp.where(z == -jnp.inf, 0, g[..., None] * each)
    if entropy is not None and cotangents[3] is not None:
        gradient += statistics.entropy_gradient(z, terms, rows, *entropy, g_entropy)
    return (through_cap(gradient, logits, options),)


RULES = build_rules(_forward, _gradients)
