"""What is a row's own business, a few rows at a time on a CPU.

XLA:CPU does not fuse all that a row's numbers need into its reductions: half-precision logits, for
one, it widens first, all of them. In blocks of rows that happens to a block, and in the cache: the
loss of 4096 x 32768 bfloat16 logits takes 55 ms where at once it took 240. Of float32 ones it takes
the same time both ways (35 ms against 40), but that of 512 x 131072 28 ms against 132.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._varying import on_one_device

# Bytes of a block's logits in float32, for each processor.
_BLOCK_BYTES = 2**21
# Fewer blocks, and forward and backward pass better share what they compute.
_FEWEST_BLOCKS = 8

Arrays = TypeVar("Arrays")
Results = TypeVar("Results")


def in_row_blocks(
    f: Callable[[Arrays, bool], Results], arrays: Arrays, shape: tuple[int, ...]
) -> Results:
    """`f(arrays, in_cache)`, on a CPU computed a block of rows at a time.

    Rows that may be over several devices stay together: each device would need some of every block.

    Args:
      f: from arrays to arrays `[*shape]`, each row's numbers from that row of the arrays alone.
        `in_cache` says that they are a block, on a CPU.
      arrays: a tree of arrays `[*shape]` and `[*shape, V]`, or that broadcast to it.
      shape: of the rows.
    """
    leaves = jax.tree.leaves(arrays)
    classes = max(x.shape[-1] for x in leaves if x.ndim > len(shape))
    if not all(isinstance(n, int) for n in (*shape, classes)):
        return f(arrays, False)  # exported for any size
    size = _rows_of_block(classes)
    if math.prod(shape) < _FEWEST_BLOCKS * size or not on_one_device(*leaves):
        return f(arrays, False)
    return lax.platform_dependent(
        arrays,
        cpu=lambda arrays: _in_blocks(lambda block: f(block, True), arrays, shape, size),
        default=lambda arrays: f(arrays, False),
    )


def _rows_of_block(classes: int) -> int:
    return max(1, _BLOCK_BYTES * (os.cpu_count() or 1) // (4 * max(1, classes)))


def _in_blocks(
    f: Callable[[Arrays], Results], arrays: Arrays, shape: tuple[int, ...], size: int
) -> Results:
    rows = math.prod(shape)
    count = -(-rows // size)
    before = (count - 1) * size
    flat = jax.tree.map(lambda x: _flat(x, shape), arrays)

    @jax.checkpoint
    def block(i: jax.Array) -> Results:
        # As if the arrays depended on `i`: XLA:CPU would widen them before the loop.
        here, i = lax.optimization_barrier((flat, i))
        # The last block is as large as the others: it begins with rows of the one before it.
        start = jnp.minimum(i * size, rows - size)

        def take(x: jax.Array) -> jax.Array:
            return x if len(x) == 1 else lax.dynamic_slice_in_dim(x, start, size)

        return f(lax.optimization_barrier(jax.tree.map(take, here)))

    def join(x: jax.Array) -> jax.Array:
        return jnp.concatenate([x[:-1].reshape(before), x[-1, before - rows :]]).reshape(shape)

    return jax.tree.map(join, lax.map(block, jnp.arange(count)))


def _flat(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`x` as `[rows]`, `[rows, V]` or, where it is the same for all rows, `[1, V]`."""
    rest = x.shape[len(shape) :]
    if rest and math.prod(x.shape[: len(shape)]) == 1:
        return x.reshape(1, *rest)
    return jnp.broadcast_to(x, (*shape, *rest)).reshape(-1, *rest)
