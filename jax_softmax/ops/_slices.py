"""Rows whose classes come in slices: held by one array, by blocks of one, by several devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._statistics import RowShare, joined_share, most_likely

AxisName = str | tuple[str, ...] | None


def axis_names(axis_name: AxisName) -> tuple[str, ...]:
    """The names, however they were given."""
    return () if axis_name is None else axis_name if isinstance(axis_name, tuple) else (axis_name,)


class Slices(NamedTuple):
    """The classes of rows, a slice at a time.

    Attributes:
      each: `each(f)` is `f(logits, constants)` of every slice held here, stacked: `[B, ...]`.
        `logits` are `[..., c]` with the excluded classes at `-inf`; `constants` are the rows' with
        what they say of classes for those of the slice alone.
      axis_name: the mesh axis (or axes) whose devices hold the other slices; None if there are
        none.
    """

    each: Callable[[Callable[[jax.Array, Any], Any]], Any]
    axis_name: AxisName = None

    def sum(self, f: Callable[[jax.Array, Any], jax.Array]) -> jax.Array:
        """The sum of `f` over all slices."""
        return sum_slices(self.each(f), self.axis_name)

    def share(self, f: Callable[[jax.Array, Any], RowShare]) -> RowShare:
        """The share of all classes from `f`, that of a slice."""
        shares = self.each(f)
        if self._alone(shares.others):
            return jax.tree.map(lambda x: x[0], shares)
        largest = self._max(shares.largest_other)
        others = joined_share(shares, largest)
        # One sum over devices rather than two.
        label_logit, others = sum_slices(jnp.stack([shares.label_logit, others], 1), self.axis_name)
        return RowShare(largest, label_logit, others)

    def most_likely(self) -> jax.Array:
        """The first class of the largest logit, `[...]` int32, among all classes."""

        def candidate(logits: jax.Array, constants: Any) -> tuple[jax.Array, jax.Array]:
            logits = lax.stop_gradient(logits)
            index = most_likely(logits)
            if constants.first is not None:
                index += jnp.asarray(constants.first, index.dtype)
            return jnp.max(logits, -1), index

        largest, index = self.each(candidate)
        if self._alone(index):
            return index[0]
        leads = largest == self._max(largest)[None]
        # A row of NaN leads nowhere: whichever class it is given, its statistics are NaN.
        last = jnp.iinfo(index.dtype).max
        index = jnp.min(jnp.where(leads, index, last), 0)
        if self.axis_name is not None:
            index = lax.pmin(index, self.axis_name)
        return jnp.where(index == last, 0, index)

    def _alone(self, x: jax.Array) -> bool:
        return len(x) == 1 and self.axis_name is None

    def _max(self, x: jax.Array) -> jax.Array:
        largest = jnp.max(lax.stop_gradient(x), 0)
        return largest if self.axis_name is None else lax.pmax(largest, self.axis_name)


def sum_slices(shares: jax.Array, axis_name: AxisName) -> jax.Array:
    """The sum of the shares of all slices, `[B, ...]` on each device: `[...]`."""
    # Pairwise: a running sum over 128 blocks loses 14 eps.
    while len(shares) > 1:
        half = len(shares) // 2
        shares = jnp.concatenate([shares[:half] + shares[half : 2 * half], shares[2 * half :]])
    return shares[0] if axis_name is None else lax.psum(shares[0], axis_name)


def whole(logits: jax.Array, constants: Any) -> Slices:
    """All classes as one slice, `[..., V]`."""
    return Slices(lambda f: jax.tree.map(lambda x: x[None], f(logits, constants)))
