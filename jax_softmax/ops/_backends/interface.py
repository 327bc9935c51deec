"""What the formulas ask of a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")
Arrays = TypeVar("Arrays")
Results = TypeVar("Results")


class RowShare(NamedTuple):
    """What a row's classes, or some of them, add to its statistics: `[...]` each.

    Attributes:
      largest_other: the largest logit but the label's, `-inf` where there is none; a constant for
        differentiation.
      label_logit: 0 where the label is not among these classes.
      others: `sum exp(z_j - largest_other)` over all but the label's.
    """

    largest_other: jax.Array
    label_logit: jax.Array
    others: jax.Array


class Logits(Protocol):
    """Logits as they are stored, `[..., V]`, and how they are read."""

    @property
    def stored(self) -> jax.Array:
        """In any floating dtype."""

    def of(self, stored: jax.Array) -> Logits:
        """Others that are read in the same way."""

    def read(self, x: jax.Array) -> jax.Array:
        """Elementwise and increasing, from stored logits to float32 or float64 ones."""

    def values(self) -> jax.Array:
        """All of them, read."""


class Backend(Protocol):
    """The primitives. Their values do not depend on who computes them, but for rounding.

    `logits` and `x` have the classes last, `[..., V]`; `index` is `[...]` int32, and outside
    `[0, V)` for a class that is not among these.
    """

    def again(self, x: T) -> T:
        """`x`, arrays, for a second use that is not to share what the first computes of them."""

    def likeliest(self, z: jax.Array) -> jax.Array:
        """`[...]` int32, the first class of each row's largest logit."""

    def share(self, logits: Logits, index: jax.Array) -> RowShare:
        """The maximum and the sum of exponentials with class `index` apart."""

    def pick(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """`x` at `index`, `[...]`; 0 where that is no class of these."""

    def sum_apart(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """`sum_{j != index} x_j`, `[...]`."""

    def exponentials(self, z: jax.Array, shift: jax.Array) -> jax.Array:
        """`exp(z - shift)`, `[..., V]`, to an eps; `z` no larger than `shift [...]`."""

    def put_at_label(
        self, x: jax.Array, index: jax.Array, value: jax.Array, *, final: bool
    ) -> jax.Array:
        """`x` with `value [...]` at `index`.

        `final` says that nothing more is computed of the result, which is to lie in memory.
        """

    def add_by_class(
        self,
        add: Callable[[jax.Array, jax.Array], jax.Array],
        total: jax.Array,
        gradient: jax.Array,
        axis: int,
    ) -> jax.Array:
        """`add(total, gradient)`, of which a class's part needs that class's parts alone.

        Args:
          add: from a total and a gradient to the total with something added.
          total: with the classes along `axis`.
          gradient: `[..., V]`.
          axis: of the total.
        """

    def by_rows(
        self,
        f: Callable[[Backend, Arrays], Results],
        arrays: Arrays,
        rows: tuple[int, ...],
    ) -> Results:
        """`f(backend, arrays)`, perhaps some rows at a time.

        Args:
          f: from arrays to arrays `[*rows]`, each row's numbers from that row of the arrays alone.
          arrays: a tree of arrays `[*rows]` and `[*rows, V]`, or that broadcast to it.
          rows: their shape.
        """


def is_class(index: jax.Array, classes: int) -> jax.Array:
    """`[..., V]` booleans, True at `index [...]`: the one-hot row, as a comparison that fuses."""
    shape = (*index.shape, classes)
    return jax.lax.broadcasted_iota(jnp.int32, shape, index.ndim) == index[..., None]


def finite_shift(shift: jax.Array) -> jax.Array:
    """A maximum to subtract: 0 where it is that of no class."""
    return jnp.where(shift == -jnp.inf, 0, shift)
