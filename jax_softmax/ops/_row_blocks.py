"""Rows in blocks: every n-th row of an axis, so that each device keeps the rows it has.

With the rows of `[N, D]` over devices, `[N] -> [N / n, n]` splits no device's rows from it, and the
n blocks are the columns. Contiguous blocks would move each block to all devices.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

# A block of float32 logits that is large enough to keep matrix units busy and small beside the
# model; below _LEAST_ROWS the kernel is read too often for what is done with it.
_BUDGET_BYTES = 2**26
_LEAST_ROWS = 512
_MOST_BYTES = 2**30


class BlockSize(NamedTuple):
    """Rows, and classes, of which a block of logits is made at most; None for all classes."""

    rows: int
    classes: int | None


def choose_block_size(rows: int, classes: int, itemsize: int = 4) -> BlockSize:
    """The block of `rows x classes` logits that fits the memory budget.

    64 MiB of logits or 512 rows, whichever is more, but at most 1 GiB. Where 128 rows would be more
    than that, the classes are taken in blocks as well, which costs a fourth matrix product.

    Args:
      rows: how many there are.
      classes: how many there are, on one device.
      itemsize: bytes a logit.
    """
    row_bytes = max(1, classes * itemsize)
    wanted = max(_BUDGET_BYTES // row_bytes, min(_LEAST_ROWS, _MOST_BYTES // row_bytes))
    if wanted < 128:
        return BlockSize(min(rows, _LEAST_ROWS), _MOST_BYTES // (_LEAST_ROWS * itemsize))
    return BlockSize(max(1, min(rows, wanted)), None)


def check_block_size(block_size: int | tuple[int, int] | None) -> BlockSize | None:
    """The block that was asked for; None where none was.

    Raises:
      TypeError: if it is neither None, an integer nor two of them.
      ValueError: if a number is below 1.
    """
    if block_size is None:
        return None
    sizes = block_size if isinstance(block_size, tuple) else (block_size,)
    if len(sizes) not in (1, 2) or not all(type(size) is int for size in sizes):
        raise TypeError(
            f"block_size: expected None, a number of rows, or (rows, classes) as Python integers, "
            f"got {block_size!r}."
        )
    if min(sizes) < 1:
        raise ValueError(f"block_size: expected at least 1, got {block_size!r}.")
    return BlockSize(sizes[0], sizes[1] if len(sizes) == 2 else None)


class RowBlocks(NamedTuple):
    """How rows `[*shape]` are taken: `counts[a]` blocks along axis `a`."""

    shape: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def block(self) -> tuple[int, ...]:
        """The shape of a block's rows."""
        return tuple(-(-n // k) for n, k in zip(self.shape, self.counts, strict=True))

    @property
    def padded(self) -> bool:
        """Whether the blocks have more rows than there are."""
        return any(n % k for n, k in zip(self.shape, self.counts, strict=True))

    def split(self, x: jax.Array) -> jax.Array:
        """`[*shape, ...]` as `[blocks, *block, ...]`, with zeros for rows that there are not."""
        axes, rest = len(self.shape), x.shape[len(self.shape) :]
        if self.padded:
            missing = [(0, b * k - n) for n, k, b in zip(*self, self.block, strict=True)]
            x = jnp.pad(x, [*missing, *[(0, 0)] * len(rest)])
        pairs = [size for both in zip(self.block, self.counts, strict=True) for size in both]
        x = x.reshape(*pairs, *rest)
        x = jnp.moveaxis(x, range(1, 2 * axes, 2), range(axes))
        return x.reshape(math.prod(self.counts), *self.block, *rest)

    def join(self, x: jax.Array) -> jax.Array:
        """Undoes `split`."""
        axes, rest = len(self.shape), x.shape[1 + len(self.shape) :]
        x = x.reshape(*self.counts, *self.block, *rest)
        x = jnp.moveaxis(x, range(axes), range(1, 2 * axes, 2))
        x = x.reshape(*(b * k for b, k in zip(self.block, self.counts, strict=True)), *rest)
        return x[tuple(slice(n) for n in self.shape)] if self.padded else x


def row_blocks(shape: tuple[int, ...], rows: int) -> RowBlocks:
    """Blocks of at most about `rows` rows, of the last axes first.

    An axis is cut into a divisor of its length where there is one between what is needed and twice
    that, and padded otherwise.
    """
    needed = -(-math.prod(shape) // rows)
    counts = []
    for length in reversed(shape):
        count = min(needed, max(1, length))
        divisors = (k for k in range(count, min(2 * count, length) + 1) if length % k == 0)
        counts.append(next(divisors, count))
        needed = -(-needed // counts[-1])
    return RowBlocks(shape, tuple(reversed(counts)))
