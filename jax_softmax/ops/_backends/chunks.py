"""Loops over chunks of the classes, where all of them are too many to hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, overload

import jax
import jax.numpy as jnp
from jax import lax

T = TypeVar("T")


class Chunk(NamedTuple):
    """`width` classes starting at `first`; all classes if `width` is None."""

    first: jax.Array | int = 0
    width: int | None = None

    @overload
    def cut(self, x: jax.Array, axis: int) -> jax.Array: ...

    @overload
    def cut(self, x: None, axis: int) -> None: ...

    def cut(self, x: jax.Array | None, axis: int) -> jax.Array | None:
        """The chunk of `x`, which has the classes along `axis`."""
        if x is None or self.width is None:
            return x
        return lax.dynamic_slice_in_dim(x, self.first, self.width, axis)

    def update(
        self, x: jax.Array, axis: int, change: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        """`x` with `change` applied to this chunk of it."""
        if self.width is None:
            return change(x)
        old = lax.dynamic_slice_in_dim(x, self.first, self.width, axis)
        return lax.dynamic_update_slice_in_dim(x, change(old), self.first, axis)


def fold_chunks(classes: int, width: int | None, step: Callable[[T, Chunk], T], start: T) -> T:
    """Folds `step` over chunks of `width` classes and one chunk of the rest."""
    if width is None:
        return step(start, Chunk())
    chunks, rest = divmod(classes, width)
    end = lax.fori_loop(0, chunks, lambda i, sums: step(sums, Chunk(i * width, width)), start)
    return step(end, Chunk(classes - rest, rest)) if rest else end


def each_chunk(classes: int, width: int | None, f: Callable[[Chunk], Any]) -> Any:
    """The arrays that `f` returns for each chunk, stacked: `[chunks, ...]`."""
    if width is None:
        return jax.tree.map(lambda x: x[None], f(Chunk()))
    chunks, rest = divmod(classes, width)
    found = lax.map(jax.checkpoint(lambda i: f(Chunk(i * width, width))), jnp.arange(chunks))
    if not rest:
        return found
    last = f(Chunk(classes - rest, rest))
    return jax.tree.map(lambda x, end: jnp.concatenate([x, end[None]]), found, last)
