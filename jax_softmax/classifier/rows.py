"""Rows of features on a device, a block at a time: dense ones, and SciPy's sparse ones."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# One more than the largest of 32 bits with a sign.
_MOST = 2**31


class Rows(Protocol):
    """`[N, D]` features."""

    @property
    def width(self) -> int:
        """D."""

    def block(self, i: jax.Array, first: jax.Array, count: int) -> jax.Array:
        """`[count, D]`, the rows from `first` on, which is where the i-th block begins."""

    def take(self, rows: jax.Array) -> jax.Array:
        """`[B, D]`, the rows of these numbers."""


@partial(jax.tree_util.register_dataclass, data_fields=["features"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class DenseRows:
    """An array of features.

    Attributes:
      features: `[N, D]`.
    """

    features: jax.Array

    @property
    def width(self) -> int:
        """D."""
        return self.features.shape[1]

    def block(self, i: jax.Array, first: jax.Array, count: int) -> jax.Array:
        """`[count, D]`, the rows from `first` on."""
        return lax.dynamic_slice_in_dim(self.features, first, count)

    def take(self, rows: jax.Array) -> jax.Array:
        """`[B, D]`, the rows of these numbers."""
        return self.features.at[rows].get(mode="promise_in_bounds")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "places"],
    meta_fields=["width"],
)
@dataclasses.dataclass(frozen=True)
class SparseRows:
    """The numbers of sparse rows that are not 0, a block of rows to a line.

    Attributes:
      values: `[blocks, M]`, those of each block, filled up with 0.
      places: `[blocks, M]` int32, where each stands in a block that is laid out flat.
      width: D.
    """

    values: jax.Array
    places: jax.Array
    width: int

    def block(self, i: jax.Array, first: jax.Array, count: int) -> jax.Array:
        """`[count, D]`, the i-th block of rows, dense."""
        flat = jnp.zeros(count * self.width, self.values.dtype)
        flat = flat.at[self.places[i]].add(self.values[i], mode="promise_in_bounds")
        return flat.reshape(count, self.width)

    def take(self, rows: jax.Array) -> jax.Array:
        """Of blocks no single rows are taken."""
        raise NotImplementedError


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "columns", "starts"],
    meta_fields=["width", "longest"],
)
@dataclasses.dataclass(frozen=True)
class SingleRows:
    """The numbers of sparse rows that are not 0, to be taken by single rows, as CSR has them.

    Attributes:
      values: `[M]`, those of one row after another.
      columns: `[M]` int32, where each stands in its row.
      starts: `[N + 1]` int32, where each row begins, and where the last ends.
      width: D.
      longest: the most numbers of a row.
    """

    values: jax.Array
    columns: jax.Array
    starts: jax.Array
    width: int
    longest: int

    def block(self, i: jax.Array, first: jax.Array, count: int) -> jax.Array:
        """`[count, D]`, the rows from `first` on, dense."""
        return self.take(first + jnp.arange(count, dtype=jnp.int32))

    def take(self, rows: jax.Array) -> jax.Array:
        """`[B, D]`, the rows of these numbers, dense."""
        count = rows.shape[0]
        numbers = jnp.arange(self.longest, dtype=jnp.int32)
        begin, end = self.starts[rows][:, None], self.starts[rows + 1][:, None]
        there = begin + numbers < end
        taken = jnp.where(there, begin + numbers, 0)
        values = jnp.where(there, self.values[taken], 0)
        first = self.width * jnp.arange(count, dtype=jnp.int32)[:, None]
        places = first + jnp.where(there, self.columns[taken], 0)
        flat = jnp.zeros(count * self.width, self.values.dtype)
        return flat.at[places].add(values, mode="promise_in_bounds").reshape(count, self.width)


def single_rows(matrix: Any) -> SingleRows:
    """SciPy's CSR matrix `[N, D]` as rows to be taken one by one.

    Raises:
      ValueError: if it has more numbers than 32 bits count.
    """
    if matrix.nnz >= _MOST:
        raise ValueError(
            f"X: expected fewer than 2**31 numbers that are not 0 in a sparse matrix, got "
            f"{matrix.nnz:,}; fit parts of its rows by partial_fit."
        )
    width = matrix.shape[1]
    # Filled up to powers of two, so that few shapes are compiled for.
    more = (0, _power_of_two(matrix.nnz) - matrix.nnz)
    longest = _power_of_two(int(np.diff(matrix.indptr).max()))
    return SingleRows(
        values=jnp.asarray(np.pad(matrix.data, more)),
        columns=jnp.asarray(np.pad(matrix.indices.astype(np.int32), more)),
        starts=jnp.asarray(matrix.indptr.astype(np.int32)),
        width=width,
        longest=min(longest, width),
    )


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


def check_batch(features: Any, batch_size: int) -> None:
    """Raises ValueError if a batch of sparse rows, made dense, has more places than 2**31."""
    examples, width = features.shape
    size = min(batch_size, examples)
    if hasattr(features, "tocsr") and size * width >= _MOST:
        raise ValueError(
            f"batch_size: expected fewer than 2**31 numbers in a batch, which is made dense, got "
            f"{size:,} rows of {width:,} columns; take at most {(_MOST - 1) // width:,} rows."
        )


def sparse_rows(matrix: Any, block: int) -> SparseRows:
    """SciPy's CSR matrix `[N, D]` as rows that `_block` of the objective reads by so many."""
    examples, width = matrix.shape
    firsts = np.minimum(np.arange(0, examples, block), examples - block)
    # The last block may begin in the one before it: its numbers are there twice.
    begin, end = matrix.indptr[firsts], matrix.indptr[firsts + block]
    taken = np.r_[0 : end[-2] if len(end) > 1 else 0, begin[-1] : end[-1]]
    rows = np.repeat(np.arange(examples), np.diff(matrix.indptr))[taken]
    row_in_block = rows - np.repeat(firsts, end - begin)
    filled = np.arange(max(1, (end - begin).max())) < (end - begin)[:, None]
    values = np.zeros(filled.shape, matrix.dtype)
    places = np.zeros(filled.shape, np.int32)
    values[filled] = matrix.data[taken]
    places[filled] = row_in_block * width + matrix.indices[taken]
    return SparseRows(jnp.asarray(values), jnp.asarray(places), width)
