"""Which mesh axes an array's values vary over, inside `jax.shard_map`; nothing elsewhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def varying_axes(*arrays: jax.Array | None) -> frozenset[str]:
    """The mesh axes that any of the arrays varies over."""
    axes = (_axes(x) for x in arrays if x is not None)
    return frozenset().union(*axes)


def vary(x: jax.Array, axes: frozenset[str]) -> jax.Array:
    """`x`, marked as varying over `axes` too; transposed, it sums over those it did not."""
    missing = tuple(sorted(axes - _axes(x)))
    return lax.pcast(x, missing, to="varying") if missing else x


def zeros_varying(like: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Zeros of the shape of `like` that vary as it does, as what a loop sums into must."""
    return vary(jnp.zeros(like.shape, dtype), varying_axes(like))


def _axes(x: jax.Array) -> frozenset[str]:
    return jax.typeof(x).manual_axis_type.varying
