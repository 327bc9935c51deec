"""Sums over the classes of rows, as exact for one row as for many."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._mesh import explicit_axes

# A sum of no more than this errs little whatever its order.
_SHORT = 128
# Of arrays of no more than this, XLA:CPU has few partial sums for a row.
_SMALL = 8192
_PARTS = 16


def row_sum(terms: jax.Array) -> jax.Array:
    """`jnp.sum(terms, -1)` of `[..., V]`, in several partial sums.

    Where it fuses the terms' arithmetic into their sum, XLA:CPU has several partial sums for
    several rows, but adds up a single one, or those along an axis of 1, one term after another:
    4096 terms of three values come to 102 eps, and of two such rows to 1.1.
    """
    *rows, classes = terms.shape
    if not isinstance(classes, int) or explicit_axes(terms):
        return jnp.sum(terms, -1)  # of any number of classes, or as they lie over devices
    several = [size for size in rows if not _is_one(size)]
    terms = terms.reshape(*several, classes)
    if classes <= _SHORT or (several and not _is_small(terms)):
        return jnp.sum(terms, -1).reshape(rows)
    width = math.isqrt(classes // _PARTS) * _PARTS
    count, rest = divmod(classes, width)
    parts = terms[..., : classes - rest].reshape(*several, count, width)
    # Apart, or the two sums would be made one.
    total = row_sum(lax.optimization_barrier(jnp.sum(parts, -1)))
    if rest:
        total += jnp.sum(terms[..., classes - rest :], -1)
    return total.reshape(rows)


def chunk_sum(terms: jax.Array) -> jax.Array:
    """The same of rows in chunks, `[..., V / c, c]`."""
    parts = jnp.sum(terms, -1)
    return row_sum(lax.optimization_barrier(parts) if _is_small(terms) else parts)


def _is_one(size: int) -> bool:
    """Whether an axis has the size 1; of one that is a symbol, no."""
    return isinstance(size, int) and size == 1


def _is_small(x: jax.Array) -> bool:
    return all(isinstance(size, int) for size in x.shape) and x.size <= _SMALL
