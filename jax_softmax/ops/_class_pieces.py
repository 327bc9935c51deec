"""Classes in pieces, where a block of rows with all of its logits is too much to hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

T = TypeVar("T")


class Piece(NamedTuple):
    """`width` classes from `first` on; a width of None are all of them."""

    first: jax.Array | int = 0
    width: int | None = None

    def cut(self, x: jax.Array | None, axis: int) -> jax.Array | None:
        """The piece of an array that has the classes along `axis`."""
        if x is None or self.width is None:
            return x
        return lax.dynamic_slice_in_dim(x, self.first, self.width, axis)

    def update(
        self, x: jax.Array, axis: int, change: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        """`x` with its piece changed."""
        if self.width is None:
            return change(x)
        old = lax.dynamic_slice_in_dim(x, self.first, self.width, axis)
        return lax.dynamic_update_slice_in_dim(x, change(old), self.first, axis)


def fold_pieces(classes: int, width: int | None, step: Callable[[T, Piece], T], start: T) -> T:
    """Folds `step` over pieces of `width` of the classes, and one of what is left."""
    if width is None:
        return step(start, Piece())
    pieces, rest = divmod(classes, width)
    end = lax.fori_loop(0, pieces, lambda i, sums: step(sums, Piece(i * width, width)), start)
    return step(end, Piece(classes - rest, rest)) if rest else end


def each_piece(classes: int, width: int | None, f: Callable[[Piece], Any]) -> Any:
    """The results of `f`, arrays, for each of those pieces, stacked: `[pieces, ...]`."""
    if width is None:
        return jax.tree.map(lambda x: x[None], f(Piece()))
    pieces, rest = divmod(classes, width)
    found = lax.map(jax.checkpoint(lambda i: f(Piece(i * width, width))), jnp.arange(pieces))
    if not rest:
        return found
    last = f(Piece(classes - rest, rest))
    return jax.tree.map(lambda x, end: jnp.concatenate([x, end[None]]), found, last)
