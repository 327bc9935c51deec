"""The primitives, written the way that is fast on XLA:CPU.

Four habits of that compiler matter. It does not fuse a compare-and-select into a row's reduction:
it first writes out the masked terms, an array as large as the logits. It also writes out in full
whatever two reductions share. It widens all half-precision logits before it reduces them. And a
loop over a long row that computes much waits for memory, where one over a short row is unrolled and
loads ahead. `docs/performance.md` says what each workaround costs and saves.

So rows are taken in blocks that stay in the cache, where writing out is cheap. With too few rows
for that, sums are taken over chunks of classes without a mask, and the label's chunk separately.
Large results are written as an array of short rows, which is the same memory.

Where a forward pass and its gradient are wanted at once, the exponentials can be written to the
gradient's memory, summed there and scaled in place.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_softmax.ops._backends import compensated
from jax_softmax.ops._backends.chunks import Chunk, fold_chunks
from jax_softmax.ops._backends.interface import (
    Arrays,
    Backend,
    Logits,
    OfShare,
    Pass,
    Results,
    RowShare,
    T,
    finite_shift,
    is_class,
)
from jax_softmax.ops._backends.sums import chunk_sum, row_sum
from jax_softmax.ops._backends.xla import XLA, Xla
from jax_softmax.ops._mesh import explicit_axes, on_one_device

# The preferred number of classes in a chunk, and the acceptable ones.
_CHUNK = 128
_CHUNKS_THAT_DO = range(16, 4097)
# An array of at least this many numbers is worth writing to in place.
_LARGE = 2**20
# An array of at most this many numbers is better left to the compiler.
_SMALL = 2**12
# Bytes of a block's float32 logits, per processor.
_BLOCK_BYTES = 2**21
# With fewer blocks, it is better that forward and backward pass share what they compute.
_FEWEST_BLOCKS = 8
# How many numbers of a total are added to at a time: 4 MB of float32, which stay in the cache
# between the product and the sum.
_PART = 2**20
# Exponentials that are kept are doubled this many times. They are relative to the row's largest
# logit, and on a confident row they would underflow long before their sum's share does. The sum of
# any number of classes stays far from overflow.
_DOUBLINGS = 60
# Up to this many classes, a select costs less than a number written into each row, unless short
# rows must be kept by such a write.
_FEW = 128
# Class indices up to this are exact as float32, which `_selected` compares.
_EXACT_IN_FLOAT32 = 2**24
# Classes to a short row: the most that LLVM unrolls, in whole vectors.
_SHORT_ROWS = range(64, 8, -8)


class Cpu(Xla):
    """Rows in blocks, sums in chunks, and barriers where sharing would be slow."""

    def again(self, x: T) -> T:
        """`x` behind a barrier, so that each reduction fuses its own copy of the few operations."""
        # One by one: inside shard_map, a joint barrier would make each vary as all of them do.
        apart: T = jax.tree.map(lax.optimization_barrier, x)
        return apart

    def likeliest(self, z: jax.Array) -> jax.Array:
        """Finds the chunk, then the class in it: argmax on XLA:CPU runs one element at a time."""
        chunk = _chunk_size(z)
        if chunk is None:
            return XLA.likeliest(z)
        first = jnp.argmax(jnp.max(_in_chunks(z, chunk), -1), -1).astype(jnp.int32) * chunk
        return first + jnp.argmax(_chunk_of(z, first, chunk), -1).astype(jnp.int32)

    def top_k(self, x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
        """Behind a barrier: where the result is sliced, XLA:CPU would sort all of the row."""
        return self.again(XLA.top_k(x, k))

    def share(self, logits: Logits, index: jax.Array) -> RowShare:
        """Works in chunks if it can; gathers the label's chunk once for both reductions."""
        chunk = _chunk_size(logits.stored)
        if chunk is None:
            alone = not _is_small(logits.stored) and on_one_device(logits.stored, index)
            return IN_CACHE.share(logits, index) if alone else XLA.share(logits, index)
        # The maximum reads the logits by itself, so that the sum does not share that.
        stored = lax.optimization_barrier(logits.stored)
        own, apart = _chunk_apart(logits.stored, index, chunk)
        largest = logits.read(_largest_other(stored, own, apart, index, chunk))
        label_logit = logits.read(jnp.sum(jnp.where(apart, own, 0), -1))
        shift = finite_shift(largest)
        others = _sum_exp_of_other_chunks(logits.values(), index, shift, chunk)
        left = jnp.where(apart, -jnp.inf, logits.read(own))
        return RowShare(largest, label_logit, others + row_sum(jnp.exp(left - shift[..., None])))

    def pick(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """Gathers, where each device holds its own arrays."""
        if not on_one_device(x, index):
            return XLA.pick(x, index)
        # A negative index would count from the end.
        column = jnp.where(index < 0, x.shape[-1], index)[..., None]
        return jnp.take_along_axis(x, column, -1, mode="fill", fill_value=0)[..., 0]

    def sum_apart(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """Works in chunks if it can."""
        chunk = _chunk_size(x)
        if chunk is None:
            return XLA.sum_apart(x, index)
        at = _chunk_index(index, x.shape[-1], chunk)
        parts = jnp.sum(_in_chunks(x, chunk), -1)
        rest = row_sum(jnp.where(is_class(at, parts.shape[-1]), 0, parts))
        return rest + XLA.sum_apart(_chunk_of(x, index, chunk), index - at * chunk)

    def put_at_label(
        self, x: jax.Array, index: jax.Array, value: jax.Array, *, final: bool
    ) -> jax.Array:
        """Writes in place, where `x` is large and final and each device holds its own.

        If more arithmetic follows, that would cost a pass over `x`; a select fuses instead.
        """
        if not (final and writes_over(x, index, value)):
            return XLA.put_at_label(x, index, value, final=final)
        short = _in_short_rows(x)
        return _in_long_rows(_written(short, index, value, x.shape[-1]), x.shape)

    def add_by_class(
        self,
        add: Callable[[jax.Array, jax.Array], jax.Array],
        total: jax.Array,
        gradient: jax.Array,
        axis: int,
    ) -> jax.Array:
        """Adds a chunk at a time, so no product as large as the total is written out."""
        classes = gradient.shape[-1]
        if not all(isinstance(size, int) for size in total.shape):
            return XLA.add_by_class(add, total, gradient, axis)
        width = max(1, min(classes, _PART * classes // max(1, total.size)))

        def add_chunk(total: jax.Array, chunk: Chunk) -> jax.Array:
            return chunk.update(total, axis, lambda old: add(old, chunk.cut(gradient, -1)))

        return fold_chunks(classes, width, add_chunk, total)

    def by_rows(
        self, f: Callable[[Backend, Arrays], Results], arrays: Arrays, rows: tuple[int, ...]
    ) -> Results:
        """Takes blocks, where there are many rows and each device holds its own."""
        size = block_rows(arrays, rows)
        if size is None:
            return f(self, arrays)
        return _in_blocks(lambda block: f(IN_CACHE, block), arrays, rows, size)

    def reads_once(self, logits: Logits, index: jax.Array, to_do: Pass) -> bool:
        """For large float32 logits, where nothing else is to be summed.

        Half-precision exponentials would be as large as two results. Few classes that lie apart
        would be written one by one.
        """
        stored, classes = logits.stored, logits.stored.shape[-1]
        wanted = logits.plain and stored.dtype == to_do.dtype == jnp.float32
        wanted = wanted and not to_do.below and to_do.classes is None
        wanted = wanted and writes_over(stored, index) and classes <= _EXACT_IN_FLOAT32
        return wanted and not (to_do.moved and classes <= _FEW)

    def share_and_gradient(
        self,
        logits: Logits,
        index: jax.Array,
        of_share: OfShare,
        given: Sequence[jax.Array],
        to_do: Pass,
    ) -> tuple[RowShare, jax.Array]:
        """Keeps the exponentials in the gradient's memory, and scales them in place."""
        if not self.reads_once(logits, index, to_do):
            return super().share_and_gradient(logits, index, of_share, given, to_do)
        z = logits.values()
        # Of all classes: these exponentials are exact at any distance.
        largest = logits.read(jnp.max(lax.stop_gradient(logits.stored), -1))
        # In short rows throughout: were the gradient's first shape the logits', it would be a copy.
        short = _in_short_rows(z)
        per_row = functools.partial(_of_short_rows, rows=len(short))
        terms = compensated.exponentials(short, per_row(finite_shift(largest)), _DOUBLINGS)
        # Written once, for the sum and for the gradient: with 0 at the label, so without a mask.
        terms = _selected(terms, index, jnp.zeros(index.shape, z.dtype), z.shape[-1])
        terms = lax.optimization_barrier(terms)
        others = row_sum(terms.reshape(z.shape)) * 2.0**-_DOUBLINGS
        share = RowShare(largest, logits.read(self.pick(logits.stored, index)), others)
        found = of_share(share, given)
        if found.keep is not None:
            # Both, for the sake of second derivatives: 0 times NaN is NaN.
            terms = jnp.where(per_row(found.keep)[:, None] & (terms > 0), terms, 0)
        gradient = per_row(found.scale)[:, None] * (terms * 2.0**-_DOUBLINGS)
        few = z.shape[-1] == short.shape[-1] <= _FEW
        gradient = (_selected if few else _written)(gradient, index, found.at_label, z.shape[-1])
        return share, _in_long_rows(gradient, z.shape)


class _InCache(Cpu):
    """The primitives for a block of rows that fits in the cache."""

    def share(self, logits: Logits, index: jax.Array) -> RowShare:
        """Writes out the other classes' logits once, for both reductions."""
        z = logits.values()
        others = lax.optimization_barrier(jnp.where(is_class(index, z.shape[-1]), -jnp.inf, z))
        largest = jnp.max(lax.stop_gradient(others), -1)
        terms = jnp.exp(others - finite_shift(largest)[..., None])
        return RowShare(largest, self.pick(z, index), row_sum(terms))

    def sum_apart(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """Uses a masked sum: a block has few rows."""
        return XLA.sum_apart(x, index)


CPU = Cpu()
IN_CACHE = _InCache()


# Chunks


@functools.cache
def _divisor_near_a_chunk(classes: int) -> int | None:
    sizes = [size for size in _CHUNKS_THAT_DO if size < classes and classes % size == 0]
    return min(sizes, key=lambda size: abs(math.log(size / _CHUNK)), default=None)


def _chunk_size(x: jax.Array) -> int | None:
    """The divisor of V nearest to 128 for `x [..., V]`; None if the classes stay together.

    They do if V is small, symbolic or has no such divisor, or if sharding is part of `x`'s type.
    """
    classes = x.shape[-1]
    if not isinstance(classes, int) or classes <= 2 * _CHUNK or explicit_axes(x):
        return None
    return _divisor_near_a_chunk(classes)


def _in_chunks(z: jax.Array, chunk: int) -> jax.Array:
    """`z [..., V]` as `[..., V / chunk, chunk]`."""
    return z.reshape(*z.shape[:-1], z.shape[-1] // chunk, chunk)


def _chunk_index(index: jax.Array, classes: int, chunk: int) -> jax.Array:
    """The chunk that holds class `index`, `[...]`; the nearest one if none does."""
    return jnp.clip(index, 0, classes - 1) // chunk


def _chunk_of(z: jax.Array, index: jax.Array, chunk: int) -> jax.Array:
    """Each row's chunk for class `index [...]` (see `_chunk_index`): `[..., chunk]`."""

    def of_row(row: jax.Array, start: jax.Array) -> jax.Array:
        return lax.dynamic_slice_in_dim(row, start, chunk)

    # One range per row: XLA:CPU gathers it faster than as many single elements.
    of_rows = functools.reduce(lambda f, _: jax.vmap(f), range(index.ndim), of_row)
    return of_rows(z, _chunk_index(index, z.shape[-1], chunk) * chunk)


def _chunk_apart(z: jax.Array, index: jax.Array, chunk: int) -> tuple[jax.Array, jax.Array]:
    """The chunk that holds class `index`, and where in it that class is."""
    within = index - _chunk_index(index, z.shape[-1], chunk) * chunk
    return _chunk_of(z, index, chunk), is_class(within, chunk)


def _largest_other(
    z: jax.Array, own: jax.Array, apart: jax.Array, index: jax.Array, chunk: int
) -> jax.Array:
    """The largest logit but the one at `index`, from `_chunk_apart`; `[...]`, a constant."""
    elsewhere = _largest_of_other_chunks(lax.stop_gradient(z), index, chunk)
    within = jnp.max(jnp.where(apart, -jnp.inf, lax.stop_gradient(own)), -1)
    return lax.stop_gradient(jnp.maximum(elsewhere, within))


def _largest_of_other_chunks(z: jax.Array, index: jax.Array, chunk: int) -> jax.Array:
    """The largest logit outside the chunk that holds class `index`, `[...]`."""
    at = _chunk_index(index, z.shape[-1], chunk)
    # Half chunks: XLA:CPU takes maxima of 64 faster than of 128. Sums are not faster that way.
    parts = math.gcd(chunk, 2)
    maxima = jnp.max(_in_chunks(z, chunk // parts), -1)
    apart = lax.broadcasted_iota(jnp.int32, maxima.shape, index.ndim) // parts
    return jnp.max(jnp.where(apart == at[..., None], -jnp.inf, maxima), -1)


def _sum_exp_of_other_chunks(
    z: jax.Array, index: jax.Array, shift: jax.Array, chunk: int
) -> jax.Array:
    """`sum exp(z_j - shift)` outside the chunk that holds class `index`, `[...]`."""
    at = _chunk_index(index, z.shape[-1], chunk)
    z = _in_chunks(z, chunk)
    # A distance of -inf makes the label's chunk sum to 0. If it were masked later, autodiff would
    # multiply an overflow in it by 0.
    shifts = jnp.where(is_class(at, z.shape[-2]), jnp.inf, shift[..., None])
    return chunk_sum(jnp.exp(z - shifts[..., None]))


# Short rows


@functools.cache
def _short_row(classes: int) -> int:
    """The largest divisor of V that makes a short row; V itself if there is none."""
    return next((n for n in _SHORT_ROWS if classes % n == 0), classes)


def _in_short_rows(x: jax.Array) -> jax.Array:
    """`x [..., V]` as `[rows V / width, width]`, the same memory."""
    return x.reshape(-1, _short_row(x.shape[-1]))


def _in_long_rows(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`x` in that shape again, for whatever comes next.

    XLA would make the reshape part of that, which could then not be done in place. So something is
    written first, out of bounds: once would be seen through, twice is not.
    """
    x = x.reshape(-1, shape[-1])
    outside = np.full(2, shape[-1])
    at = x.at[np.arange(2), outside]
    done = at.set(0, mode="drop", unique_indices=True, indices_are_sorted=True)
    return done.reshape(shape)


def _of_short_rows(x: jax.Array, rows: int) -> jax.Array:
    """`x [...]`, one number a row, as one for each of so many short rows."""
    x = x.reshape(-1, 1)
    return jnp.broadcast_to(x, (len(x), rows // len(x))).reshape(rows)


def _written(x: jax.Array, index: jax.Array, value: jax.Array, classes: int) -> jax.Array:
    """`x [rows V / width, width]` with `value [...]` at each row's class `index [...]`."""
    width = x.shape[-1]
    index, value = index.reshape(-1), value.reshape(-1)
    inside = (index >= 0) & (index < classes)
    index = jnp.where(inside, index, 0)
    row = lax.iota(jnp.int32, len(index)) * (classes // width) + index // width
    at = x.at[row, jnp.where(inside, index % width, width)]
    # Each row occurs once, in order.
    return at.set(value, mode="drop", unique_indices=True, indices_are_sorted=True)


def _selected(x: jax.Array, index: jax.Array, value: jax.Array, classes: int) -> jax.Array:
    """`_written` by a select, which fuses with what was computed before."""
    width = x.shape[-1]
    first = lax.iota(jnp.float32, classes // width)[None] * width
    within = (index.reshape(-1, 1).astype(jnp.float32) - first).reshape(-1, 1)
    # Floats, and not an iota: LLVM compares integers in twice the width.
    at_label = within == np.arange(width, dtype=np.float32)[None]
    return jnp.where(at_label, _of_short_rows(value, len(x))[:, None], x)


def writes_over(x: jax.Array, *others: jax.Array) -> bool:
    """Whether `put_at_label` of a final result differs from plain XLA's."""
    large = all(isinstance(size, int) for size in x.shape) and x.size >= _LARGE
    return large and on_one_device(x, *others)


def _is_small(x: jax.Array) -> bool:
    """Whether an array is so small that each operation costs more than its arithmetic."""
    return all(isinstance(size, int) for size in x.shape) and x.size <= _SMALL


# Blocks of rows


def block_rows(arrays: object, rows: tuple[int, ...]) -> int | None:
    """How many rows are in a block; None if all rows are better taken together.

    Rows that may be spread over devices stay together: each device would need part of every block.
    """
    leaves = jax.tree.leaves(arrays)
    widths = [x.shape[-1] for x in leaves if x.ndim > len(rows)]
    if not all(isinstance(n, int) for n in (*rows, *widths)):
        return None  # exported for any size
    classes = max(widths)
    size = max(1, _BLOCK_BYTES * processors() // (4 * max(1, classes)))
    few = math.prod(rows) < _FEWEST_BLOCKS * size
    return None if few or not on_one_device(*leaves) else size


@functools.cache
def processors() -> int:
    """How many processors this process may use, by its affinity and its control group."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:  # not on macOS or Windows
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, _quota(Path("/sys/fs/cgroup/cpu.max")) or allowed))


def _quota(file: Path) -> int | None:
    """How many processors a control group (version 2) may use; None if it has no limit."""
    try:
        quota, period = file.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None


def _in_blocks(
    f: Callable[[Arrays], Results], arrays: Arrays, shape: tuple[int, ...], size: int
) -> Results:
    rows = math.prod(shape)
    count = -(-rows // size)
    before = (count - 1) * size
    flat = jax.tree.map(lambda x: _flat(x, shape), arrays)

    @jax.checkpoint
    def block(i: jax.Array) -> Results:
        # Makes the arrays seem to depend on `i`, or XLA:CPU would widen them before the loop.
        here, i = lax.optimization_barrier((flat, i))
        # The last block is as large as the others: it may begin with rows of the one before.
        start = jnp.minimum(i * size, rows - size)

        def take(x: jax.Array) -> jax.Array:
            return x if len(x) == 1 else lax.dynamic_slice_in_dim(x, start, size)

        return f(lax.optimization_barrier(jax.tree.map(take, here)))

    def join(x: jax.Array) -> jax.Array:
        rest = x.shape[2:]
        whole = x[:-1].reshape(before, *rest)
        return jnp.concatenate([whole, x[-1, before - rows :]]).reshape(*shape, *rest)

    joined: Results = jax.tree.map(join, lax.map(block, jnp.arange(count)))
    return joined


def _flat(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`x` as `[rows]`, `[rows, V]` or, where it is the same for all rows, `[1, V]`."""
    rest = x.shape[len(shape) :]
    if rest and math.prod(x.shape[: len(shape)]) == 1:
        return x.reshape(1, *rest)
    return jnp.broadcast_to(x, (*shape, *rest)).reshape(-1, *rest)
