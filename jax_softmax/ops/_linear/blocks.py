"""Rows in blocks.

Under plain `jit` the rows of `[N, D]` may be spread over devices. There a block is every n-th row:
the blocks are the columns of `[N] -> [N / n, n]`, which leaves rows on their devices. Blocks of
adjacent rows would each be moved to all devices. Inside `jax.shard_map` blocks are adjacent rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

T = TypeVar("T")

# A block of float32 logits large enough to keep matrix units busy and small next to the model.
# With fewer rows than _LEAST_ROWS, the kernel is read too often for the work done with it.
_BUDGET_BYTES = 2**26
_LEAST_ROWS = 512
_MOST_BYTES = 2**30


# On a GPU the sum of the kernel's gradient, 8 D V bytes a block, wants many rows beside the 6 R D V
# operations of the products: 4096 of them make it a tenth of these on an H100.
_GPU_ROWS = 4096
# The part of a GPU's memory that a block's logits and their gradient may take.
_GPU_PART = 8


class BlockSize(NamedTuple):
    """The most rows, and classes, that a block of logits has; None for all classes."""

    rows: int
    classes: int | None


def choose_block_size(rows: int, classes: int, itemsize: int = 4) -> BlockSize:
    """The block of `rows x classes` logits that fits the memory budget.

    64 MiB of logits or 512 rows, whichever is more, but at most 1 GiB. If 128 rows would be more
    than that, the classes are split as well, which costs a fourth matrix product.

    Args:
      rows: how many rows there are.
      classes: how many classes there are on one device.
      itemsize: bytes per logit.
    """
    if not isinstance(classes, int):
        return BlockSize(_LEAST_ROWS, None)  # exported for any number of classes
    row_bytes = max(1, classes * itemsize)
    wanted = max(_BUDGET_BYTES // row_bytes, min(_LEAST_ROWS, _MOST_BYTES // row_bytes))
    held = None
    if wanted < 128:
        wanted, held = _LEAST_ROWS, _MOST_BYTES // (_LEAST_ROWS * itemsize)
    # A program exported for any number of rows may be given that many.
    return BlockSize(max(1, min(rows, wanted)) if isinstance(rows, int) else wanted, held)


def choose_gpu_block_size(rows: int, classes: int, itemsize: int, memory: int) -> BlockSize:
    """The block for a GPU: 4096 rows, fewer where that is over an eighth of its `memory`.

    Args:
      rows: how many rows there are.
      classes: how many classes.
      itemsize: bytes per logit.
      memory: bytes on the device.
    """
    plain = choose_block_size(rows, classes, itemsize)
    if not (isinstance(rows, int) and isinstance(classes, int)):
        return plain
    # The logits, and their gradient at the least in half precision.
    fitting = memory // _GPU_PART // (classes * (itemsize + 2))
    wanted = min(rows, _GPU_ROWS, fitting)
    return BlockSize(wanted, None) if wanted >= plain.rows and plain.classes is None else plain


def check_block_size(block_size: int | tuple[int, int] | None) -> BlockSize | None:
    """The block size that was asked for; None if none was.

    Raises:
      TypeError: if it is not None, an integer or a pair of integers.
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
    """How rows `[*shape]` are split: `counts[a]` blocks along axis `a`, numbered row-major.

    Attributes:
      shape: the shape of the rows.
      counts: how many blocks there are along each axis.
      block: the shape of a block's rows.
      contiguous: whether a block's rows lie side by side, or `counts[a]` apart.
    """

    shape: tuple[int, ...]
    counts: tuple[int, ...]
    block: tuple[int, ...]
    contiguous: bool

    @property
    def number(self) -> int:
        """How many blocks there are."""
        return math.prod(self.counts)

    @property
    def padded(self) -> bool:
        """Whether the blocks have more rows than there are; True if that is not known."""
        sizes = zip(self.shape, self.counts, strict=True)
        return any(not isinstance(n, int) or n % k for n, k in sizes)

    def view(self, x: jax.Array) -> jax.Array:
        """`[*shape, ...]` with each axis of rows split into blocks and rows, padded with zeros."""
        rest = x.shape[len(self.shape) :]
        if self.padded:
            sizes = zip(self.shape, self.block, self.counts, strict=True)
            missing = [(0, b * k - n) for n, b, k in sizes]
            x = jnp.pad(x, [*missing, *[(0, 0)] * len(rest)])
        return x.reshape(*self._in_pairs(self.counts, self.block), *rest)

    def unview(self, x: jax.Array) -> jax.Array:
        """Undoes `view`."""
        rest = x.shape[2 * len(self.shape) :]
        x = x.reshape(*(b * k for b, k in zip(self.block, self.counts, strict=True)), *rest)
        return x[tuple(slice(n) for n in self.shape)] if self.padded else x

    def take(self, view: jax.Array, i: jax.Array) -> jax.Array:
        """Block `i`, `[*block, ...]`, of a result of `view`."""
        rest = view.shape[2 * len(self.shape) :]
        sizes = self._in_pairs([1] * len(self.shape), self.block)
        return lax.dynamic_slice(view, self._start(i, rest), (*sizes, *rest)).reshape(
            *self.block, *rest
        )

    def put(self, view: jax.Array, i: jax.Array, block: jax.Array) -> jax.Array:
        """`view` with block `i` replaced."""
        rest = view.shape[2 * len(self.shape) :]
        sizes = self._in_pairs([1] * len(self.shape), self.block)
        return lax.dynamic_update_slice(view, block.reshape(*sizes, *rest), self._start(i, rest))

    def split(self, x: jax.Array) -> jax.Array:
        """`[*shape, ...]` as `[blocks, *block, ...]`, a copy: for small arrays."""
        view, axes = self.view(x), len(self.shape)
        first = range(0, 2 * axes, 2) if self.contiguous else range(1, 2 * axes, 2)
        blocks = jnp.moveaxis(view, first, range(axes))
        return blocks.reshape(self.number, *self.block, *x.shape[axes:])

    def join(self, x: jax.Array) -> jax.Array:
        """Undoes `split`."""
        axes = len(self.shape)
        first = range(0, 2 * axes, 2) if self.contiguous else range(1, 2 * axes, 2)
        blocks = x.reshape(*self.counts, *self.block, *x.shape[1 + axes :])
        return self.unview(jnp.moveaxis(blocks, range(axes), first))

    def _in_pairs(self, of_blocks: Sequence[T], of_rows: Sequence[T]) -> tuple[T, ...]:
        """One entry per axis of a view: blocks before rows if contiguous, else after."""
        pairs = zip(of_blocks, of_rows, strict=True)
        return tuple(x for pair in pairs for x in (pair if self.contiguous else pair[::-1]))

    def _start(self, i: jax.Array, rest: tuple[int, ...]) -> tuple[jax.Array | int, ...]:
        at: list[jax.Array | int] = []
        for count in reversed(self.counts):
            at.insert(0, i % count)
            i = i // count
        zeros: list[jax.Array | int] = [0] * len(at)
        return (*self._in_pairs(at, zeros), *[0] * len(rest))


def row_blocks(shape: tuple[int, ...], rows: int, contiguous: bool) -> RowBlocks:
    """Blocks of at most `rows` rows; the last axes are split first.

    The number of blocks along an axis divides its length, if a number from the least needed to
    twice that does (four times, for rows that may be spread over devices). If not, it is padded.
    """
    counts: list[int] = []
    if not all(isinstance(length, int) for length in shape):
        return _blocks_of_any_number(shape, rows, contiguous)
    others = math.prod(shape)
    for length in reversed(shape):
        others //= max(1, length)
        needed = -(-max(1, length) // max(1, rows // max(1, others)))
        count = needed if contiguous else _count_over_devices(length, needed)
        if length % count:
            count = next((k for k in range(needed, 2 * needed) if length % k == 0), needed)
        counts.insert(0, count)
        others *= -(-length // count)
    block = tuple(-(-n // k) for n, k in zip(shape, counts, strict=True))
    return RowBlocks(shape, tuple(counts), block, contiguous)


def _blocks_of_any_number(shape: tuple[int, ...], rows: int, contiguous: bool) -> RowBlocks:
    """Blocks along the first axis, for a program exported for any number of rows."""
    first, *others = shape
    known = all(isinstance(length, int) for length in others)
    size = max(1, rows // max(1, math.prod(others))) if known else 1
    counts = (-(-first // size), *[1] * len(others))
    return RowBlocks(shape, counts, (size, *others), contiguous)


def _count_over_devices(length: int, needed: int) -> int:
    """The fewest blocks, `needed` or a few more, whose rows all devices can share evenly.

    How rows are laid out is not known during tracing; most likely the devices divide them. If there
    is no such number, takes one that leaves a block many factors of 2.
    """
    devices = jax.device_count()
    divisors = [k for k in range(needed, min(4 * needed, length) + 1) if length % k == 0]
    even = [k for k in divisors if (length // k) % devices == 0]
    if even:
        return even[0]
    close = [k for k in divisors if k <= 2 * needed]
    return max(close, key=lambda k: (length // k) & -(length // k), default=needed)
