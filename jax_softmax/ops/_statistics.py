"""The few numbers of a row from which every loss and derivative follows.

A row `z` of `V` logits with one class `y` set apart (a label, or the most likely class) needs

    m      = max_j z_j                        the shift
    others = sum_{j != y} exp(z_j - m)        everything but the class set apart
    total  = others + exp(z_y - m)

The class is set apart because on a confident row (`z_y` far above the rest) `total` rounds to 1 and
swallows `others`, while the loss is `log1p(others)` and the derivative at the label is
`-others / total`: with `others` summed by itself both keep full relative precision, where
`log(total)` and `p_y - 1` cancel to exactly 0.

`others` is summed relative to the largest of *its own* logits, then scaled to `m`. So the terms
that matter have exponents near 0, and the rounding of `z_j - shift`, which costs `|z_j - shift|`
eps, does not matter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._exponentials import difference, shifted_exp
from jax_softmax.ops._row_sums import chunk_sum, row_sum
from jax_softmax.ops._varying import on_one_device

# About how many classes to a chunk of the sum on a CPU, and what will do.
_CHUNK = 128
_CHUNKS_THAT_DO = range(16, 4097)
# Numbers in an array that is worth another way of writing to it.
_LARGE = 2**20

Read = Callable[[jax.Array], jax.Array]
Results = TypeVar("Results")


class RowStatistics(NamedTuple):
    """What a row's loss and derivative need, each `[...]` (see the module's docstring).

    Attributes:
      shift: m, and 0 for a row of `-inf`.
      own: the term of the class set apart, `exp(z_y - m)`.
      others: 0 where the class set apart cannot happen: nor has it a gradient.
      total: 1 for a row of `-inf`.
    """

    shift: jax.Array
    own: jax.Array
    others: jax.Array
    total: jax.Array


class RowShare(NamedTuple):
    """What a row's classes, or some of them, add to its statistics: `[...]` each.

    Attributes:
      largest_other: the largest logit but the label's, `-inf` where there is none.
      label_logit: 0 where the label is not among these classes.
      others: `sum exp(z_j - largest_other)` over all but the label's.
    """

    largest_other: jax.Array
    label_logit: jax.Array
    others: jax.Array


def row_share(logits: jax.Array, read: Read, index: jax.Array, in_cache: bool = False) -> RowShare:
    """Reads each row twice and returns its share, with class `index` set apart.

    Args:
      logits: `[..., V]` of any floating dtype. `-inf` are classes that cannot happen.
      read: elementwise and increasing, from logits as stored to float32 or float64 ones.
        The maximum is taken before it: XLA:CPU writes out, in full, what two reductions share.
      index: `[...]` int32; outside `[0, V)` for a class that is not among these.
      in_cache: whether the logits are a block of rows that a CPU has in its cache.
    """
    if in_cache:
        return _share_in_cache(read(logits), index)
    own = _chunk_of(logits, index)
    largest_other, label_logit = map(read, _largest_other(unshared(logits), own, index))
    largest_other = lax.stop_gradient(largest_other)
    own = None if own is None else read(own)
    others = _sum_exp_others(read(logits), own, index, _finite_shift(largest_other))
    return RowShare(largest_other, label_logit, others)


def _share_in_cache(z: jax.Array, index: jax.Array) -> RowShare:
    """The same, with the other classes' logits written out: there it costs next to nothing.

    Two reductions of one array are what XLA:CPU is fast at, of few classes above all, where the
    label's chunk would be most of a row: 8 million numbers take 20 ms in rows of 10, where
    reductions with a select in them take 47, and 7 ms in rows of 128, where chunks take 13.
    """
    classes = z.shape[-1]
    others = lax.optimization_barrier(jnp.where(is_class(index, classes), -jnp.inf, z))
    largest = jnp.max(lax.stop_gradient(others), -1)
    # A negative index would count from the end.
    column = jnp.where(index < 0, classes, index)[..., None]
    own = jnp.take_along_axis(z, column, -1, mode="fill", fill_value=0)[..., 0]
    return RowShare(largest, own, row_sum(jnp.exp(others - _finite_shift(largest)[..., None])))


def joined_share(shares: RowShare, largest: jax.Array) -> jax.Array:
    """`others` of shares `[B, ...]`, each relative to the `largest [...]` of all."""
    scale = shifted_exp(_finite_shift(shares.largest_other), _finite_shift(largest)[None])
    return jnp.where(shares.others == 0, 0, shares.others * scale)


def row_statistics(share: RowShare, valid: jax.Array | None = None) -> RowStatistics:
    """The statistics of rows from the share of all their classes.

    A row of `-inf` has shift 0 and total 1; one with NaN or `+inf`, or that is not `valid [...]`,
    has total NaN.
    """
    label_logit, others = share.label_logit, share.others
    largest_other = _finite_shift(share.largest_other)
    # A row whose other classes are all -inf has others = 0, whatever their shift was replaced by.
    shift = jnp.where(others == 0, label_logit, jnp.maximum(largest_other, label_logit))
    shift = _finite_shift(lax.stop_gradient(shift))
    others = jnp.where(others == 0, 0, others * shifted_exp(largest_other, shift))
    own = shifted_exp(label_logit, shift)
    total = others + own
    total = jnp.where(total == 0, 1, total)
    if valid is not None:
        total = jnp.where(valid, total, jnp.nan)
    return RowStatistics(shift, own, jnp.where(label_logit == -jnp.inf, 0, others), total)


def log_total(rows: RowStatistics) -> jax.Array:
    """`log(total)`, `[...]`, with full relative precision where it is near 0.

    Where the class set apart leads, its own term is exactly 1 and this is `log1p(others)`; else
    `others` is at least 1. (The term is written out in both: its derivative counts.)
    """
    beyond_one = jnp.where(
        rows.own == 1, rows.others + (rows.own - 1), (rows.others - 1) + rows.own
    )
    return jnp.log1p(jnp.where(rows.others == 0, rows.total - 1, beyond_one))


class Likeliest(NamedTuple):
    """A row's statistics with its likeliest class set apart, `[...]` each.

    Attributes:
      rows: the statistics.
      column: int32, the likeliest class.
      log_total: `log(total)`.
      near: the largest logit but that one, or the shift where there is none.
      logit: that class's own.
    """

    rows: RowStatistics
    column: jax.Array
    log_total: jax.Array
    near: jax.Array
    logit: jax.Array


def normalizer(logits: jax.Array, read: Read, in_cache: bool = False) -> Likeliest:
    """What normalises rows of logits `[..., V]`; the arguments are those of `row_share`."""
    index = most_likely(lax.stop_gradient(logits))
    return likeliest(row_share(logits, read, index, in_cache), index)


def likeliest(share: RowShare, index: jax.Array) -> Likeliest:
    """The same of the share of all classes, with the likeliest, `index`, set apart."""
    rows = row_statistics(share)
    near = jnp.where(share.largest_other == -jnp.inf, rows.shift, share.largest_other)
    near = lax.stop_gradient(near)
    return Likeliest(rows, index, log_total(rows), near, share.label_logit)


def logsumexp(rows: RowStatistics, log_total: jax.Array) -> jax.Array:
    """`log sum_j exp(z_j)`, `[...]`, of the statistics that `normalizer` returns."""
    return jnp.where(rows.own == 0, -jnp.inf, rows.shift + log_total)


def surprisal(z: jax.Array, shift: jax.Array, log_total: jax.Array) -> jax.Array:
    """`-log p_j = (shift - z_j) + log(total)`, `[..., V]`, corrected for rounding."""
    distance, error = difference(shift[..., None], z)
    return distance + (error + log_total[..., None])


def entropy(logits: jax.Array, read: Read, top: Likeliest) -> jax.Array:
    """`-sum_j p_j log p_j = log(total) + sum_j e_j (shift - z_j) / total`, `[...]`."""
    return entropy_of(entropy_share(logits, read, top), top)


def entropy_share(logits: jax.Array, read: Read, top: Likeliest) -> jax.Array:
    """`sum_j exp(z_j - near) (shift - z_j)`, `[...]`.

    The likeliest class adds nothing, and the others are taken relative to the largest of them, as
    `others` is.
    """
    z, shift, near = map(unshared, (read(logits), top.rows.shift, top.near))
    return row_sum(_entropy_terms(z, shift[..., None], near[..., None]))


def _entropy_terms(z: jax.Array, shift: jax.Array, near: jax.Array) -> jax.Array:
    # Both factors are finite, for the likeliest class (whose distance is 0) may lead by any
    # exponent, and one that cannot happen is at any distance. Only these two feel it.
    return jnp.exp(jnp.minimum(z - near, 1)) * jnp.minimum(shift - z, _far(z))


def entropy_of(share: jax.Array, top: Likeliest) -> jax.Array:
    """The entropy from the share of all classes."""
    rows = top.rows
    # The likeliest class's term is 0 and its derivative, which second derivatives need, is not: in
    # the share it is the bounded exponential's. Its own term is e (shift - z) = -e log(e).
    share -= _entropy_terms(top.logit, rows.shift, top.near)
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
    # Clipped: at a class that cannot happen p is 0 and its surprisal infinite.
    beyond = jnp.minimum(surprisal(z, rows.shift, log_total), _far(z)) - entropy[..., None]
    return (g / rows.total)[..., None] * terms * beyond


def weighted_surprisal(
    z: jax.Array, shift: jax.Array, log_total: jax.Array, weights: jax.Array | float
) -> jax.Array:
    """`sum_j w_j (-log p_j)`, `[...]`, with `0 * inf = 0`, for weights that broadcast to `z`."""
    if isinstance(weights, float):
        z, shift, log_total = map(unshared, (z, shift, log_total))
        return weights * row_sum((shift[..., None] - z) + log_total[..., None])

    def selected(
        z: jax.Array, shift: jax.Array, log_total: jax.Array, weights: jax.Array
    ) -> jax.Array:
        surprisal = (shift[..., None] - z) + log_total[..., None]
        return row_sum(jnp.where(weights == 0, 0, weights * surprisal))

    def arithmetic(
        z: jax.Array, shift: jax.Array, log_total: jax.Array, weights: jax.Array
    ) -> jax.Array:
        # The same without a compare-and-select, and of arrays that no other reduction shares.
        z, shift, log_total, weights = map(unshared, (z, shift, log_total, weights))
        far, most = _far(z), float(jnp.finfo(z.dtype).max)
        surprisal = (shift[..., None] - z) + log_total[..., None]
        finite = jnp.minimum(surprisal, most)
        # far where it is infinite, else 0. (Not a clip, which XLA:CPU does not fuse either.)
        beyond = jnp.minimum(surprisal / 4, 2 * far) - jnp.minimum(surprisal / 4, far)
        charged = 4 * jnp.minimum(jnp.abs(weights) * far, 1)  # 0 at a weight of 0
        total = row_sum(weights * finite + lax.stop_gradient(beyond * charged))
        return jnp.where(total > 3 * far, jnp.inf, total)

    weights = weights.reshape((1,) * (z.ndim - weights.ndim) + weights.shape)
    return lax.platform_dependent(z, shift, log_total, weights, cpu=arithmetic, default=selected)


def unshared(x: jax.Array) -> jax.Array:
    """`x`, so that XLA:CPU reads it anew.

    Two reductions of one elementwise array make XLA:CPU write that array out, as large as the
    logits, where each would fuse its own copy of the few operations. TPU and GPU fuse the
    reductions into one, which this would keep them from.
    """
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)


def class_index(labels: jax.Array, classes: int) -> tuple[jax.Array, jax.Array]:
    """Labels as int32 indices, 0 where they are no class, and whether they are one.

    Compared in their own dtype: a cast first would wrap 2**32 to class 0.
    """
    last = min(classes - 1, int(jnp.iinfo(labels.dtype).max))
    valid = (labels >= 0) & (labels <= last)
    return jnp.where(valid, labels, 0).astype(jnp.int32), valid


def is_class(index: jax.Array, classes: int) -> jax.Array:
    """`[..., V]` booleans, True at `index [...]`: the one-hot row, as a comparison that fuses."""
    return lax.broadcasted_iota(jnp.int32, (*index.shape, classes), index.ndim) == index[..., None]


def select_at_label(x: jax.Array, index: jax.Array, value: jax.Array) -> jax.Array:
    """`x [..., V]` with `value [...]` at `index [...]`, where that is a class of `x`."""
    return jnp.where(is_class(index, x.shape[-1]), value[..., None], x)


def put_at_label(x: jax.Array, index: jax.Array, value: jax.Array) -> jax.Array:
    """The same, written on a CPU over what is in memory.

    There a select costs every element a third of its time (72 ms against 40 for a pass over
    4096 x 32768 exponentials), and writing 4096 numbers nothing. It is a select all the same where
    an array is small, where its rows may be over several devices, and elsewhere than on a CPU.
    """
    large = all(isinstance(size, int) for size in x.shape) and x.size >= _LARGE
    if not large or not on_one_device(x, index, value):
        return select_at_label(x, index, value)

    def written(x: jax.Array, index: jax.Array, value: jax.Array) -> jax.Array:
        classes = x.shape[-1]
        flat, index, value = x.reshape(-1, classes), index.reshape(-1), value.reshape(-1)
        # A negative index would count from the end.
        index = jnp.where(index < 0, classes, index)
        at = flat.at[lax.iota(jnp.int32, len(flat)), index]
        # Each row once, in order.
        done = at.set(value, mode="drop", unique_indices=True, indices_are_sorted=True)
        return done.reshape(x.shape)

    return lax.platform_dependent(x, index, value, cpu=written, default=select_at_label)


def most_likely(z: jax.Array) -> jax.Array:
    """`[...]` int32, the first class of each row's largest logit in `z [..., V]`.

    In two steps over chunks where the classes divide, for XLA:CPU's argmax runs one element at a
    time: 308 ms where the maximum of the same 4096 x 32768 array takes 20 ms.
    """
    chunk = _chunk_size(z.shape[-1])
    if chunk is None:
        return jnp.argmax(z, -1).astype(jnp.int32)
    first = jnp.argmax(jnp.max(_chunks(z, chunk), -1), -1).astype(jnp.int32) * chunk
    own = _chunk_of(z, first)
    assert own is not None
    return first + jnp.argmax(own, -1).astype(jnp.int32)


def _finite_shift(shift: jax.Array) -> jax.Array:
    return jnp.where(shift == -jnp.inf, 0, shift)


@functools.cache
def _chunk_size(classes: int) -> int | None:
    """The divisor of `classes` nearest to 128 that makes a chunk, or None."""
    sizes = [size for size in _CHUNKS_THAT_DO if size < classes and classes % size == 0]
    return min(sizes, key=lambda size: abs(math.log(size / _CHUNK)), default=None)


def _chunks(z: jax.Array, chunk: int) -> jax.Array:
    """`z [..., V]` as `[..., V / chunk, chunk]`."""
    return z.reshape(*z.shape[:-1], z.shape[-1] // chunk, chunk)


def _chunk_of(z: jax.Array, index: jax.Array) -> jax.Array | None:
    """`[..., chunk]`, each row's chunk `_chunk_index` of class `index [...]`; None without any."""
    chunk = _chunk_size(z.shape[-1])
    if chunk is None:
        return None

    def of_row(row: jax.Array, start: jax.Array) -> jax.Array:
        return lax.dynamic_slice_in_dim(row, start, chunk)

    # A slice a row: XLA:CPU gathers it four times faster than as many single elements.
    of_rows = functools.reduce(lambda f, _: jax.vmap(f), range(index.ndim), of_row)
    return of_rows(z, _chunk_index(index, z.shape[-1], chunk) * chunk)


def _chunk_index(index: jax.Array, classes: int, chunk: int) -> jax.Array:
    """The chunk that holds class `index`, `[...]`; the nearest one where none does."""
    return jnp.clip(index, 0, classes - 1) // chunk


def _largest_other(
    z: jax.Array, own: jax.Array | None, index: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The largest logit but the one at `index`, and that one: `[...]` each.

    Args:
      z: `[..., V]` logits.
      own: `[..., chunk]`, what `_chunk_of` says of them.
      index: `[...]`.
    """

    def masked(
        z: jax.Array, own: jax.Array | None, index: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        apart = is_class(index, z.shape[-1])
        largest = jnp.max(jnp.where(apart, -jnp.inf, lax.stop_gradient(z)), -1)
        return largest, jnp.sum(jnp.where(apart, z, 0), -1)

    def chunked(z: jax.Array, own: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        chunk = own.shape[-1]
        at = _chunk_index(index, z.shape[-1], chunk)
        # Halves of chunks: XLA:CPU takes the maxima of 64 in two thirds of the time of those of 128
        # (20 ms against 31 on 4096 x 32768), where their sums take longer (49 against 45).
        parts = math.gcd(chunk, 2)
        maxima = jnp.max(_chunks(lax.stop_gradient(z), chunk // parts), -1)
        apart = lax.broadcasted_iota(jnp.int32, maxima.shape, index.ndim) // parts
        rest = jnp.where(apart == at[..., None], -jnp.inf, maxima)
        largest, label_logit = masked(own, None, index - at * chunk)
        return jnp.maximum(jnp.max(rest, -1), largest), label_logit

    if own is None:
        return masked(z, own, index)
    return _by_platform(chunked, masked, z, own, index)


def _far(z: jax.Array) -> float:
    """A quarter of the largest number, `exp` of minus which is 0."""
    return float(jnp.finfo(z.dtype).max) / 4


def _sum_exp_others(
    z: jax.Array, own: jax.Array | None, index: jax.Array, shift: jax.Array
) -> jax.Array:
    """`sum_{j != index} exp(z_j - shift)`, `[...]`.

    Args:
      z: `[..., V]` logits.
      own: `[..., chunk]`, what `_chunk_of` says of them.
      index: `[...]` the class left out.
      shift: `[...]`.
    """

    def masked(
        z: jax.Array, own: jax.Array | None, index: jax.Array, shift: jax.Array
    ) -> jax.Array:
        # Masked before the exponential, which may overflow: autodiff would multiply infinity by 0.
        left = jnp.where(is_class(index, z.shape[-1]), -jnp.inf, z)
        return row_sum(jnp.exp(left - shift[..., None]))

    def chunked(z: jax.Array, own: jax.Array, index: jax.Array, shift: jax.Array) -> jax.Array:
        chunk = own.shape[-1]
        at = _chunk_index(index, z.shape[-1], chunk)
        z = _chunks(z, chunk)
        # The label's chunk is summed to 0 here, by a distance of -inf, for the same reason.
        shifts = jnp.where(is_class(at, z.shape[-2]), jnp.inf, shift[..., None])
        rest = chunk_sum(jnp.exp(z - shifts[..., None]))
        return rest + masked(own, None, index - at * chunk, shift)

    if own is None:
        return masked(z, own, index, shift)
    return _by_platform(chunked, masked, z, own, index, shift)


def _by_platform(
    chunked: Callable[..., Results], masked: Callable[..., Results], *operands: jax.Array
) -> Results:
    """`chunked` on a CPU, `masked` elsewhere: the same values.

    XLA:CPU does not fuse a compare-and-select into a row reduction; it writes the masked terms out
    first, as large as the logits, and takes 4 times as long. TPU and GPU fuse it and read once.
    """
    return lax.platform_dependent(*operands, cpu=chunked, default=masked)
