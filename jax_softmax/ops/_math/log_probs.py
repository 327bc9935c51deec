"""The log-probabilities of chosen classes of a row, and its entropy.

With the likeliest class L set apart, m = z_L, others = sum_{j != L} exp(z_j - m), total = 1 +
others and log(total) = log1p(others), the log-probability of class k is minus two terms of one
sign:

    log p_k = -((m - z_k) + log(total))

With a cotangent g_k for each chosen class k (a class may be chosen more than once), and g_H for the
entropy H, let t_j be the sum of the cotangents of class j, and r_j that of all others. Then

    dL/dz_j = t_j (1 - p_j) - r_j p_j + g_H p_j (-log p_j - H)

where 1 - p_L = others / total, so that the likeliest class keeps its gradient where p_L rounds to
1. For every other class p_j <= 1/2, so 1 - p_j is harmless; t_j is 0 for those that were not
chosen. r_j is summed without t_j rather than as a difference, which t_j might outweigh.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_softmax.ops._backends.compensated import difference, shifted_exp
from jax_softmax.ops._backends.interface import Backend
from jax_softmax.ops._math.entropy import entropy_gradient, entropy_of, entropy_share
from jax_softmax.ops._math.logits import held_logits
from jax_softmax.ops._math.row_data import Gradients, Outputs, RowData, drop_rows
from jax_softmax.ops._math.row_loss import RowLoss
from jax_softmax.ops._math.rows import RowStatistics
from jax_softmax.ops._math.slices import Slices
from jax_softmax.ops._options import Options


class Residuals(NamedTuple):
    """What the gradient needs of a row.

    Attributes:
      rows: statistics with the likeliest class set apart, `[...]` each; NaN for a row with a chosen
        class that is none.
      likeliest: `[...]` int32, that class.
      log_total: `[...]`, `log(total)`.
      chosen: `[..., K]`, the logits of the chosen classes as they are stored.
      entropy: `[...]`, if it is an output.
    """

    rows: RowStatistics
    likeliest: jax.Array
    log_total: jax.Array
    chosen: jax.Array
    entropy: jax.Array | None = None


def _columns(data: RowData) -> tuple[jax.Array, jax.Array]:
    assert data.column is not None
    assert data.valid is not None
    return data.column, data.valid


def log_probs_of(log_total: jax.Array, shift: jax.Array, z: jax.Array) -> jax.Array:
    """`log p` of logits `z [..., K]`, from statistics of their rows."""
    gap, error = difference(shift[..., None], z)
    return -(gap + (error + log_total[..., None]))


def _forward(options: Options, slices: Slices, data: RowData) -> tuple[Outputs, Residuals]:
    backend, (_, valid) = slices.backend, _columns(data)
    top = slices.top()
    chosen = slices.sum(lambda logits, at: backend.pick_several(logits.stored, _columns(at)[0]))
    z = held_logits(chosen, None, options).values()
    log_probs = jnp.where(valid, log_probs_of(top.log_total, top.rows.shift, z), jnp.nan)
    total = jnp.where(jnp.all(valid, -1), top.rows.total, jnp.nan)
    residuals = Residuals(top.rows._replace(total=total), top.column, top.log_total, chosen)
    if not options.stats:
        return Outputs(label_log_prob=log_probs), residuals
    share = slices.sum(lambda logits, at: entropy_share(backend, logits, top))
    entropy = entropy_of(share, top)
    outputs = Outputs(label_log_prob=log_probs, entropy=entropy)
    return outputs, residuals._replace(entropy=entropy)


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
    rows, (column, _) = residuals.rows, _columns(data)
    g = cotangents.label_log_prob
    held = held_logits(logits, data.mask, options)
    z = held.values()
    terms = backend.exponentials(z, rows.shift, rounded=logits.dtype != z.dtype)
    by_entropy = _by_entropy(residuals, cotangents, z, terms)
    if g is None:
        return Gradients(held.through_cap(jnp.broadcast_to(by_entropy, z.shape)))
    gradient = -(jnp.sum(g, -1) / rows.total)[..., None] * terms + by_entropy
    at_chosen = _at_chosen(residuals, cotangents, held.read(residuals.chosen), column, data, g)
    at_chosen = held.of(residuals.chosen).through_cap(at_chosen)
    return Gradients(
        backend.put_several(
            held.through_cap(gradient), column, at_chosen, final=final and logits.dtype == z.dtype
        )
    )


def _by_entropy(
    residuals: Residuals, cotangents: Outputs, z: jax.Array, terms: jax.Array
) -> jax.Array | float:
    """The entropy's part of the gradient, for any of the classes."""
    if residuals.entropy is None or cotangents.entropy is None:
        return 0.0
    rows, entropy, log_total = residuals.rows, residuals.entropy, residuals.log_total
    return entropy_gradient(z, terms, rows, entropy, log_total, cotangents.entropy)


def _at_chosen(
    residuals: Residuals,
    cotangents: Outputs,
    z: jax.Array,
    column: jax.Array,
    data: RowData,
    g: jax.Array,
) -> jax.Array:
    """The gradient at the chosen classes, `[..., K]`, the same for those that are the same."""
    rows = residuals.rows
    total = rows.total[..., None]
    terms = shifted_exp(z, rows.shift[..., None])
    p = terms / total
    leads = column == data.column_of(residuals.likeliest)[..., None]
    not_p = jnp.where(leads, rows.others[..., None] / total, 1 - p)
    of_class, of_others = _sums_by_class(column, g)
    gradient = of_class * not_p - of_others * p
    gradient += _by_entropy(residuals, cotangents, z, terms)
    # 0 * total rather than 0, so that a NaN row is NaN here too.
    return jnp.where(z == -jnp.inf, 0 * total, gradient)


def _sums_by_class(column: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array | float]:
    """For each of the K, the sums of the cotangents of its class and of the other classes."""
    if column.shape[-1] == 1:
        return g, 0.0
    same = column[..., :, None] == column[..., None, :]
    each = jnp.broadcast_to(g[..., None, :], same.shape)
    return jnp.sum(jnp.where(same, each, 0), -1), jnp.sum(jnp.where(same, 0, each), -1)


def _outputs(options: Options) -> tuple[str, ...]:
    return ("label_log_prob", "entropy") if options.stats else ("label_log_prob",)


LOSS = RowLoss(_forward, _gradients, outputs=_outputs)
