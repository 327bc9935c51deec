"""Rows whose classes come in slices: in one array, in chunks of it, or on several devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._backends.interface import Backend, Logits, Pass, RowShare
from jax_softmax.ops._math.logits import CappedLogits, held_logits
from jax_softmax.ops._math.row_data import RowData
from jax_softmax.ops._math.rows import Likeliest, joined_share, likeliest
from jax_softmax.ops._mesh import AxisName
from jax_softmax.ops._options import Options

OfSlice = Callable[[CappedLogits, RowData], Any]


class Slices(NamedTuple):
    """The classes of rows, a slice at a time.

    Attributes:
      backend: computes a slice's part.
      each: `each(f)` is `f(logits, data)` of every slice held here, stacked: `[B, ...]`. `logits`
        are `[..., c]` with the excluded classes at `-inf`; `data` are the rows' data, cut to the
        slice's classes.
      axis_name: the mesh axis (or axes) whose devices hold the other slices; None if there are
        none.
    """

    backend: Backend
    each: Callable[[OfSlice], Any]
    axis_name: AxisName = None

    def sum(self, f: OfSlice) -> jax.Array:
        """The sum of `f`, an array, over all slices."""
        return sum_slices(self.each(f), self.axis_name)

    def share(self, index: Callable[[RowData], jax.Array], *, below: bool = False) -> RowShare:
        """The share of all classes, with the class in a slice's column `index(data)` set apart.

        If `below` is wanted, the share has it where it costs nothing.
        """

        def of_slice(logits: CappedLogits, data: RowData) -> RowShare:
            at = index(data)
            if below and self.backend.reads_once(logits, at, Pass(None, below=True)):
                return self.backend.share_and_below(logits, at)
            return self.backend.share(logits, at)

        shares = self.each(of_slice)
        if self._alone(shares.others):
            alone: RowShare = jax.tree.map(lambda x: x[0], shares)
            return alone
        largest = self._max(shares.largest_other)
        others = joined_share(shares, largest)
        # One sum over devices rather than two.
        label_logit, others = sum_slices(jnp.stack([shares.label_logit, others], 1), self.axis_name)
        return RowShare(largest, label_logit, others)

    def likeliest(self) -> jax.Array:
        """The first of all classes that has the largest logit, `[...]` int32."""

        def candidate(logits: Logits, data: RowData) -> tuple[jax.Array, jax.Array]:
            stored = lax.stop_gradient(logits.stored)
            index = self.backend.likeliest(stored)
            if data.first is not None:
                index += jnp.asarray(data.first, index.dtype)
            return jnp.max(stored, -1), index

        largest, index = self.each(candidate)
        if self._alone(index):
            return jnp.asarray(index[0])
        leads = largest == self._max(largest)[None]
        # A NaN row leads nowhere: its statistics are NaN, whichever class it is given.
        last = jnp.iinfo(index.dtype).max
        index = jnp.min(jnp.where(leads, index, last), 0)
        if self.axis_name is not None:
            index = lax.pmin(index, self.axis_name)
        return jnp.where(index == last, 0, index)

    def gathered(self, x: jax.Array) -> jax.Array:
        """What `each` found of every slice, `[B, ..., k]`, in the slices' order: `[..., B k]`.

        On several devices it varies over them, though it is the same: see `same_everywhere`.
        """
        x = jnp.moveaxis(x, 0, -2)
        x = x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
        if self.axis_name is None:
            return x
        found: jax.Array = lax.all_gather(x, self.axis_name, axis=x.ndim - 1, tiled=True)
        return found

    def same_everywhere(self, x: jax.Array) -> jax.Array:
        """`x`, which is the same on the devices of all slices, marked so."""
        return x if self.axis_name is None else lax.pmax(x, self.axis_name)

    def top(self) -> Likeliest:
        """The statistics of rows with the likeliest of all classes set apart."""
        index = self.likeliest()
        return likeliest(self.share(lambda at: at.column_of(index)), index)

    def _alone(self, x: jax.Array) -> bool:
        return len(x) == 1 and self.axis_name is None

    def _max(self, x: jax.Array) -> jax.Array:
        largest = jnp.max(lax.stop_gradient(x), 0)
        return largest if self.axis_name is None else lax.pmax(largest, self.axis_name)


def sum_slices(shares: jax.Array, axis_name: AxisName) -> jax.Array:
    """The sum over all slices of their shares, `[B, ...]` on each device: `[...]`."""
    # Pairwise: a running sum over 128 shares loses 14 eps.
    while len(shares) > 1:
        half = len(shares) // 2
        shares = jnp.concatenate([shares[:half] + shares[half : 2 * half], shares[2 * half :]])
    return shares[0] if axis_name is None else lax.psum(shares[0], axis_name)


def whole(backend: Backend, logits: jax.Array, data: RowData, options: Options) -> Slices:
    """All classes as one slice, `[..., V]`."""
    held = held_logits(logits, data.mask, options)
    return Slices(backend, lambda f: jax.tree.map(lambda x: x[None], f(held, data)))
