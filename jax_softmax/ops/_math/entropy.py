"""The entropy of a row, and what its derivative needs.

    H = -sum_j p_j log p_j = log(total) + sum_j e_j (m - z_j) / total
    dH/dz_j = p_j (-log p_j - H)

Both terms of H are nonnegative. The likeliest class adds nothing to the sum, so this is taken
relative to the largest of the other logits, as `others` is.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_softmax.ops._backends.compensated import difference, shifted_exp
from jax_softmax.ops._backends.interface import Backend, Logits
from jax_softmax.ops._backends.sums import row_sum
from jax_softmax.ops._math.rows import Likeliest, RowStatistics


def surprisal(z: jax.Array, shift: jax.Array, log_total: jax.Array) -> jax.Array:
    """`-log p_j = (shift - z_j) + log(total)`, `[..., V]`, corrected for rounding."""
    distance, error = difference(shift[..., None], z)
    return distance + (error + log_total[..., None])


def entropy_share(backend: Backend, logits: Logits, top: Likeliest) -> jax.Array:
    """`sum_j exp(z_j - near) (shift - z_j)` over some or all classes, `[...]`."""
    z, shift, near = backend.again((logits.values(), top.rows.shift, top.near))
    return row_sum(_terms(z, shift[..., None], near[..., None]))


def _terms(z: jax.Array, shift: jax.Array, near: jax.Array) -> jax.Array:
    # Both factors are kept finite. The likeliest class, at distance 0, may lead `near` by any
    # exponent, and a class that cannot happen is infinitely far. No other class is affected.
    return jnp.exp(jnp.minimum(z - near, 1)) * jnp.minimum(shift - z, _far(z))


def entropy_of(share: jax.Array, top: Likeliest) -> jax.Array:
    """The entropy from the share of all classes."""
    rows = top.rows
    # The likeliest class's term is 0, but second derivatives need its derivative, which is not. The
    # share has the bounded term; this puts in the true one, e (shift - z) = -e log(e).
    share -= _terms(top.logit, rows.shift, top.near)
    own = jnp.where(rows.own == 0, 1, rows.own)
    scale = shifted_exp(top.near, rows.shift) / rows.total
    return top.log_total + share * scale - own * jnp.log(own) / rows.total


def entropy_gradient(
    z: jax.Array,
    terms: jax.Array,
    rows: RowStatistics,
    entropy: jax.Array,
    log_total: jax.Array,
    g: jax.Array,
) -> jax.Array:
    """`g p_j (-log p_j - H)`, `[..., V]`, where `terms` are `exp(z_j - shift)`."""
    # Clipped: at a class that cannot happen p is 0 and the surprisal is infinite.
    beyond = jnp.minimum(surprisal(z, rows.shift, log_total), _far(z)) - entropy[..., None]
    return (g / rows.total)[..., None] * terms * beyond


def _far(z: jax.Array) -> float:
    """A quarter of the largest number; `exp` of its negative is 0."""
    return float(jnp.finfo(z.dtype).max) / 4
