"""The primitives that the formulas need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")
Arrays = TypeVar("Arrays")
Results = TypeVar("Results")


class RowShare(NamedTuple):
    """What some or all classes of a row contribute to its statistics, `[...]` each.

    Attributes:
      largest_other: the largest logit except the label's (or of all, where `others` is exact
        relative to that too), `-inf` if there is none; a constant for differentiation.
      label_logit: 0 if the label is not among these classes.
      others: `sum exp(z_j - largest_other)` over all classes but the label.
      below: None, or `sum (largest_other - z_j)` over all classes but the label, with 0 in place of
        a `largest_other` of `-inf`.
    """

    largest_other: jax.Array
    label_logit: jax.Array
    others: jax.Array
    below: jax.Array | None = None


class Pass(NamedTuple):
    """What is to be done in a pass over the logits, constant in the compiled program.

    Attributes:
      dtype: what the gradient is rounded to; None if there is none.
      below: whether the share has `below`.
      classes: None, or how many of the first columns are classes: the rest are padding, have a
        gradient of 0, and may hold anything.
      moved: whether the classes lie apart in memory.
    """

    dtype: Any
    below: bool = False
    classes: int | None = None
    moved: bool = False


class Coefficients(NamedTuple):
    """What a row's gradient is made of: `scale exp(z_j - shift) - offset`, `[...]` each.

    Attributes:
      shift: at least the largest logit.
      scale: the factor of the exponentials.
      at_label: the gradient at the label.
      offset: None for 0; does not apply to classes of `-inf`.
      keep: None for all, or booleans: the rows whose gradient is not 0, whatever they hold.
    """

    shift: jax.Array
    scale: jax.Array
    at_label: jax.Array
    offset: jax.Array | None = None
    keep: jax.Array | None = None


# The coefficients of rows from their share and from what is given with them, `[...]` each. A kernel
# calls it too, with numbers instead of arrays.
OfShare = Callable[[RowShare, Sequence[jax.Array]], Coefficients]


class Logits(Protocol):
    """Logits as they are stored, `[..., V]`, and how they are read."""

    @property
    def plain(self) -> bool:
        """Whether they are an argument as it came, and reading only widens."""

    @property
    def stored(self) -> jax.Array:
        """The logits in any floating dtype."""

    def of(self, stored: jax.Array) -> Logits:
        """Other logits that are read in the same way."""

    def read(self, x: jax.Array) -> jax.Array:
        """Maps stored logits to float32 or float64; elementwise and increasing."""

    def values(self) -> jax.Array:
        """All logits, read."""


class Backend(Protocol):
    """The primitives. Except for rounding, their values do not depend on the backend.

    `logits` and `x` have the classes last, `[..., V]`; `index` is `[...]` int32, and outside
    `[0, V)` for a class that is not among them.
    """

    def again(self, x: T) -> T:
        """The arrays `x` for a second use, which should not share the first one's computations."""

    def likeliest(self, z: jax.Array) -> jax.Array:
        """The first class that has the row's largest logit, `[...]` int32."""

    def top_k(self, x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
        """The k largest of each row and where they are, int32; of equal ones the first."""

    def share(self, logits: Logits, index: jax.Array) -> RowShare:
        """The maximum and the sum of exponentials, with class `index` set apart."""

    def pick(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """`x` at `index`, `[...]`; 0 where `index` is outside `[0, V)`."""

    def pick_several(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """`x` at each of `index [..., K]`; 0 where one is outside `[0, V)`."""

    def sum_apart(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """`sum_{j != index} x_j`, `[...]`."""

    def share_and_below(self, logits: Logits, index: jax.Array) -> RowShare:
        """`share` with `below`."""

    def exponentials(self, z: jax.Array, shift: jax.Array, *, rounded: bool) -> jax.Array:
        """`exp(z - shift)`, `[..., V]`, to about an eps, for `z` no larger than `shift [...]`.

        `rounded` says that only half precision is left of the result.
        """

    def reads_once(self, logits: Logits, index: jax.Array, to_do: Pass) -> bool:
        """Whether doing this at once is faster than one thing after another.

        Where the platform decides: on the one that the program is most likely for.
        """

    def share_and_gradient(
        self,
        logits: Logits,
        index: jax.Array,
        of_share: OfShare,
        given: Sequence[jax.Array],
        to_do: Pass,
    ) -> tuple[RowShare, jax.Array]:
        """The share and the gradient that its coefficients make, `[..., V]`.

        Args:
          logits: as for `share`.
          index: the label's class.
          of_share: the coefficients from the share and `given`.
          given: `[...]` each, in the dtype of the statistics.
          to_do: see `Pass`.
        """

    def put_at_label(
        self, x: jax.Array, index: jax.Array, value: jax.Array, *, final: bool
    ) -> jax.Array:
        """`x` with `value [...]` at `index`.

        `final` says that the result goes to memory, with no further computation.
        """

    def put_several(
        self, x: jax.Array, index: jax.Array, values: jax.Array, *, final: bool
    ) -> jax.Array:
        """`x` with `values [..., K]` at `index [..., K]`; the same index has the same value."""

    def add_by_class(
        self,
        add: Callable[[jax.Array, jax.Array], jax.Array],
        total: jax.Array,
        gradient: jax.Array,
        axis: int,
    ) -> jax.Array:
        """`add(total, gradient)`, which treats each class by itself.

        Args:
          add: takes a total and a gradient, and returns the new total.
          total: with the classes along `axis`.
          gradient: `[..., V]`.
          axis: the class axis of `total`.
        """

    def by_rows(
        self,
        f: Callable[[Backend, Arrays], Results],
        arrays: Arrays,
        rows: tuple[int, ...],
    ) -> Results:
        """`f(backend, arrays)`, perhaps a block of rows at a time.

        Args:
          f: returns arrays `[*rows]`, where each row depends on that row of its arguments only.
          arrays: a tree of arrays that are `[*rows]` or `[*rows, V]`, or broadcast to that.
          rows: the shape of the rows.
        """


def is_class(index: jax.Array, classes: int) -> jax.Array:
    """The one-hot rows of `index [...]`, `[..., V]` booleans: a comparison, which fuses."""
    shape = (*index.shape, classes)
    return jax.lax.broadcasted_iota(jnp.int32, shape, index.ndim) == index[..., None]


def finite_shift(shift: jax.Array) -> jax.Array:
    """A maximum to subtract: 0 in place of `-inf`, the maximum of no class."""
    return jnp.where(shift == -jnp.inf, 0, shift)
