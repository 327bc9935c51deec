"""Rows of features on a device, a block at a time: dense ones, and SciPy's sparse ones."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


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
        """`[B, D]`, the rows of these numbers, where a block is one row."""
        count = rows.shape[0]
        places = self.places[rows] + self.width * jnp.arange(count, dtype=jnp.int32)[:, None]
        flat = jnp.zeros(count * self.width, self.values.dtype)
        flat = flat.at[places].add(self.values[rows], mode="promise_in_bounds")
        return flat.reshape(count, self.width)


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
