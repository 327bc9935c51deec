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

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_softmax.ops import _statistics as statistics
from jax_softmax.ops._arguments import statistics_dtype
from jax_softmax.ops._exponentials import difference, exponentials
from jax_softmax.ops._options import (
    Options,
    counted_classes,
    exclude,
    read,
    spread,
    through_cap,
)
from jax_softmax.ops._row_sums import row_sum
from jax_softmax.ops._rules import Outputs, build_rules, drop_rows, multiply, with_zeros
from jax_softmax.ops._slices import Slices, whole
from jax_softmax.ops._statistics import RowShare, RowStatistics


class Constants(NamedTuple):
    """What is not differentiated.

    Attributes:
      label_column: `[...]` int32, the label's place among the columns of the logits; outside of
        them where another slice of the classes holds it.
      valid: `[...]` booleans: the rows whose label is a class.
      label_weight: None, or `[...]`: the label's class weight.
      kept: None, or `[...]` booleans: the rows that count.
      mask: None, or `[..., V]` booleans, which broadcast: the classes that count.
      class_weights: None, or `[1, ..., V]`, the rank of the logits, in the dtype of the
        statistics.
      first: None for 0, or the class of the first column.
    """

    label_column: jax.Array
    valid: jax.Array
    label_weight: jax.Array | None = None
    kept: jax.Array | None = None
    mask: jax.Array | None = None
    class_weights: jax.Array | None = None
    first: jax.Array | int | None = None

    def column_of(self, classes: jax.Array) -> jax.Array:
        """The columns of `classes [...]`; outside of the logits' where another slice has them."""
        return classes if self.first is None else classes - self.first


class Numbers(NamedTuple):
    """What the gradient needs of a row, `[...]` each.

    Attributes:
      rows: statistics with the label set apart.
      logsumexp: with a z-loss.
      spread_sum: with smoothing over classes that a mask or weights tell apart, the sum of what it
        adds to each.
      counted: with smoothing and a mask, how many classes count.
      entropy: with statistics, the entropy and the `log(total)` it was computed with.
      argmax: with statistics, the likeliest class; the gradient does not need it.
    """

    rows: RowStatistics
    logsumexp: jax.Array | None = None
    spread_sum: jax.Array | None = None
    counted: jax.Array | None = None
    entropy: tuple[jax.Array, jax.Array] | None = None
    argmax: jax.Array | None = None


def on_label(constants: Constants, options: Options) -> jax.Array | float:
    """`(1 - alpha) w_y`."""
    share = 1 - options.label_smoothing
    return share if constants.label_weight is None else share * constants.label_weight


def _forward(
    options: Options, arrays: tuple[jax.Array], constants: Constants
) -> tuple[Outputs, Numbers]:
    (logits,) = arrays
    logits = exclude(logits, constants.mask)
    outputs, numbers = forward(options, whole(logits, constants), constants)
    return outputs, numbers._replace(argmax=None)


def forward(options: Options, slices: Slices, constants: Constants) -> tuple[Outputs, Numbers]:
    """`(loss,)`, or `(loss, logsumexp, label_log_prob, entropy)`, and the numbers."""
    reader = partial(read, options=options)

    def apart(index: Callable[[Constants], jax.Array]) -> RowShare:
        return slices.share(
            lambda logits, at: statistics.row_share(logits, reader, index(at), options.in_cache)
        )

    share = apart(lambda at: at.label_column)
    rows = statistics.row_statistics(share, constants.valid)
    log_total = statistics.log_total(rows)
    gap, error = difference(rows.shift, share.label_logit)
    # total carries the NaN of a label that is no class.
    nll = jnp.where(jnp.isnan(rows.total), jnp.nan, gap + (error + log_total))
    loss = multiply(on_label(constants, options), nll)
    total_spread = None
    count = counted_classes(constants.mask, options, rows.total)
    if options.label_smoothing:

        def smoothing(logits: jax.Array, at: Constants) -> jax.Array:
            z = reader(logits)
            each = spread(z, at.mask, at.class_weights, options, count)
            return statistics.weighted_surprisal(z, rows.shift, log_total, each)

        loss += slices.sum(smoothing)
        if not (constants.mask is None and constants.class_weights is None):
            total_spread = slices.sum(partial(_spread_sum, options, count))
            total_spread = jnp.broadcast_to(total_spread, rows.total.shape)
    lse = rows.shift + log_total if options.z_loss else None
    if lse is not None:
        loss += options.z_loss * jnp.square(lse)
    # Again, for a weight of 0 drops nll.
    loss = jnp.where(jnp.isnan(rows.total), jnp.nan, loss)
    if not options.stats:
        return (loss,), Numbers(rows, lse, total_spread, count)
    # Set apart from the likeliest class now, so that the entropy of a confident row is exact when
    # its label is another class.
    index = slices.most_likely()
    top = statistics.likeliest(apart(lambda at: at.column_of(index)), index)
    entropy = statistics.entropy_of(
        slices.sum(lambda logits, at: statistics.entropy_share(logits, reader, top)), top
    )
    outputs = (loss, statistics.logsumexp(top.rows, top.log_total), -nll, entropy)
    return outputs, Numbers(rows, lse, total_spread, count, (entropy, top.log_total), index)


def _spread_sum(
    options: Options, count: jax.Array | None, logits: jax.Array, constants: Constants
) -> jax.Array:
    # Of a mask read anew: a sum that shares it would have XLA:CPU write the spread out.
    mask = None if constants.mask is None else statistics.unshared(constants.mask)
    each = spread(read(logits, options), mask, constants.class_weights, options, count)
    return row_sum(jnp.asarray(each))


def gradients(
    options: Options,
    arrays: tuple[jax.Array],
    constants: Constants,
    numbers: Numbers,
    cotangents: list[jax.Array | None],
    is_result: bool = False,
) -> tuple[jax.Array]:
    """`dL/dz`, `[..., V]`; the formula is the module's.

    `is_result` says that it is what a caller asked for, which has memory of its own. Where it goes
    on into products, a select leaves it to the compiler to put it into the logits' memory.
    """
    (logits,) = arrays
    if constants.kept is not None:
        logits, numbers, cotangents = drop_rows(constants.kept, logits, numbers, cotangents)
    rows, lse, total_spread, count, entropy, _ = numbers
    g, g_lse, g_log_prob, g_entropy = with_zeros(cotangents, rows.total)
    logits = exclude(logits, constants.mask)
    z = read(logits, options)

    on_nll = on_label(constants, options) * g - g_log_prob
    on_all = g_lse
    if lse is not None:
        on_all += 2 * options.z_loss * g * lse
    each: jax.Array | float = 0.0
    if options.label_smoothing:
        each = spread(z, constants.mask, constants.class_weights, options, count)
        on_all += g * (options.label_smoothing if total_spread is None else total_spread)

    at_label = -(on_nll / rows.total) * rows.others
    at_label += on_all / rows.total * rows.own
    # Both are 0 at a label that cannot happen, whose infinite loss may send back an infinite
    # cotangent. 0 * total rather than 0: a row that is NaN is so there too.
    never = (rows.others == 0) & (rows.own == 0)
    at_label = jnp.where(never, 0 * rows.total, at_label)

    terms = exponentials(z, rows.shift)
    gradient = ((on_nll + on_all) / rows.total)[..., None] * terms
    last = is_result and _label_comes_last(options, logits, cotangents)
    place = statistics.put_at_label if last else statistics.select_at_label
    gradient = place(gradient, constants.label_column, at_label)
    if options.label_smoothing:
        gradient -= jnp.where(z == -jnp.inf, 0, g[..., None] * each)
    if entropy is not None and cotangents[3] is not None:
        gradient += statistics.entropy_gradient(z, terms, rows, *entropy, g_entropy)
    return (through_cap(gradient, logits, options),)


def _label_comes_last(
    options: Options, logits: jax.Array, cotangents: list[jax.Array | None]
) -> bool:
    """Whether the gradient is done once its label's element is in place: it may be written there.

    More arithmetic, or a cast, would be one more pass over the array.
    """
    more = options.label_smoothing or options.soft_cap is not None
    more = more or any(g is not None for g in cotangents[3:])
    return not more and logits.dtype == statistics_dtype(logits.dtype)


RULES = build_rules(_forward, partial(gradients, is_result=True))
