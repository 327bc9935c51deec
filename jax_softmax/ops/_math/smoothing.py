"""Label smoothing, and sums over the classes of charges times surprisals.

Smoothing alpha over the n classes that count, with class weights w, adds `alpha / n w_j` to the
label of each of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_softmax.ops._backends.interface import Backend, Logits
from jax_softmax.ops._backends.sums import row_sum
from jax_softmax.ops._options import Options


def counted_classes(mask: jax.Array | None, options: Options, rows: jax.Array) -> jax.Array | None:
    """How many classes count by the mask, at least 1, `[...]` as `rows`; for `spread`.

    None where `spread` does not need it. Kept for the gradient, which would else count them again.
    """
    if mask is None or options.classes is not None or not options.label_smoothing:
        return None
    count = jnp.maximum(jnp.sum(mask, -1, dtype=rows.dtype), 1)
    return jnp.broadcast_to(count, rows.shape)


def spread(
    z: jax.Array,
    mask: jax.Array | None,
    class_weights: jax.Array | None,
    options: Options,
    count: jax.Array | None,
) -> jax.Array:
    """What smoothing adds to each class of `z`, `alpha / n w_j`: a scalar, or `[..., V]`.

    `count` is the result of `counted_classes`.
    """
    alpha = jnp.asarray(options.label_smoothing, z.dtype)
    if count is None:
        each = alpha / jnp.asarray(options.classes or z.shape[-1], z.dtype)
    else:
        each = alpha / count[..., None]
    weighted = each if class_weights is None else each * class_weights
    return weighted if mask is None else jnp.where(mask, weighted, 0)


def charged_surprisal(
    backend: Backend,
    logits: Logits,
    shift: jax.Array,
    log_total: jax.Array,
    charges: jax.Array,
) -> jax.Array:
    """`sum_j t_j (-log p_j)`, `[...]`, with `0 * inf = 0`, for charges that broadcast to `logits`.

    Uses no select, which not every compiler fuses into a sum. The derivative by a charge of 0 is
    `-log p_j` as well, except at a class that cannot happen.
    """
    z, shift, log_total, charges = backend.again((logits.values(), shift, log_total, charges))
    surprisal = (shift[..., None] - z) + log_total[..., None]
    if charges.ndim == 0:
        return charges * row_sum(surprisal)
    most = float(jnp.finfo(z.dtype).max)
    bounded = jnp.minimum(surprisal, most)
    # The largest number where the surprisal is infinite, else 0.
    beyond = jax.lax.stop_gradient(jnp.minimum(surprisal - bounded, most))
    finite = bounded - beyond
    charges = charges.reshape((1,) * (z.ndim - charges.ndim) + charges.shape)
    # 0 for a charge of 0, else 2: times `beyond`, it overflows for a class that cannot happen.
    charged = 2 * jnp.minimum(jnp.abs(jax.lax.stop_gradient(charges)) * most, 1)
    return row_sum(charges * finite + charged * beyond)
