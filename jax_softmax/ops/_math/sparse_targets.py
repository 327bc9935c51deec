"""A row's cross-entropy from the masses of a few of its classes, and of each of the rest.

With masses t_k of K classes, and a mass u_j of every other class, the same for all of them,

    loss = sum_k t_k (-log p_k) + sum_j u_j (-log p_j)

    dloss/dz_j = sum_k t_k (p_j - delta_jk) + U p_j - u_j,    U = sum_j u_j

The first part is that of log-probabilities with cotangents -t_k. In the second

    U p_j - u_j = (U - u_j) p_j - u_j (1 - p_j)

where 1 - p_L = others / total for the likeliest class L, as in `class_probabilities`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_softmax.ops._backends.interface import Backend, is_class
from jax_softmax.ops._math import log_probs
from jax_softmax.ops._math.log_probs import Residuals
from jax_softmax.ops._math.logits import CappedLogits, held_logits
from jax_softmax.ops._math.row_data import Gradients, Outputs, RowData, drop_rows
from jax_softmax.ops._math.row_loss import RowLoss
from jax_softmax.ops._math.slices import Slices
from jax_softmax.ops._math.smoothing import charged_surprisal
from jax_softmax.ops._options import Options


def _targets(data: RowData) -> jax.Array:
    assert data.targets is not None
    return data.targets


def _each(backend: Backend, like: jax.Array, data: RowData) -> jax.Array:
    """u, `[..., V]`."""
    assert data.rest is not None
    assert data.column is not None
    each = jnp.broadcast_to(data.rest[..., None].astype(like.dtype), like.shape)
    nothing = jnp.zeros(data.column.shape, like.dtype)
    each = backend.put_several(each, data.column, nothing, final=False)
    return each if data.mask is None else jnp.where(data.mask, each, 0)


def _forward(options: Options, slices: Slices, data: RowData) -> tuple[Outputs, Residuals]:
    found, residuals = log_probs.LOSS.forward(options, slices, data)
    t = _targets(data)
    loss = jnp.sum(jnp.where(t == 0, 0, t * -found.label_log_prob), -1)
    rows, log_total = residuals.rows, residuals.log_total
    masses = jnp.sum(t, -1)
    if data.rest is not None:
        masses += data.rest

        def charged(logits: CappedLogits, at: RowData) -> jax.Array:
            each = _each(slices.backend, logits.values(), at)
            return charged_surprisal(slices.backend, logits, rows.shift, log_total, each)

        loss += slices.sum(charged)
    # A row is NaN by its masses as by its logits, and is left out as such.
    total = jnp.where(jnp.isnan(masses), jnp.nan, rows.total)
    loss = jnp.where(jnp.isnan(total), jnp.nan, loss)
    return Outputs(loss), residuals._replace(rows=rows._replace(total=total))


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
    if kept is not None:
        rest = None if data.rest is None else jnp.where(kept, data.rest, 0)
        targets = jnp.where(kept[..., None], _targets(data), 0)
        data = data._replace(targets=targets, rest=rest)
    g = cotangents.zeros_for_none(residuals.rows.total).loss
    of_masses = Outputs(label_log_prob=-g[..., None] * _targets(data))
    found = log_probs.LOSS.gradients(
        backend, options, logits, data, residuals, of_masses, final and data.rest is None
    )
    if data.rest is None:
        return found
    logits, residuals, cotangents = drop_rows(kept, logits, residuals, Outputs(g))
    held, rows = held_logits(logits, data.mask, options), residuals.rows
    z = held.values()
    terms = backend.exponentials(z, rows.shift, rounded=logits.dtype != z.dtype)
    p = terms / rows.total[..., None]
    top = is_class(data.column_of(residuals.likeliest), z.shape[-1])
    not_p = jnp.where(top, (rows.others / rows.total)[..., None], 1 - p)
    each = _each(backend, z, data)
    listed = _targets(data).shape[-1]
    others = ((options.classes or z.shape[-1]) - listed) * data.rest.astype(z.dtype)
    of_rest = cotangents.loss[..., None] * ((others[..., None] - each) * p - each * not_p)
    of_rest = jnp.where(z == -jnp.inf, 0 * rows.total[..., None], of_rest)
    return Gradients(found.logits + held.through_cap(of_rest))


LOSS = RowLoss(_forward, _gradients)
