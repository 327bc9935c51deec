"""The primitives as plain array code, which XLA is left to optimize."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._backends import compensated
from jax_softmax.ops._backends.interface import (
    Arrays,
    Backend,
    Logits,
    Results,
    RowShare,
    T,
    finite_shift,
    is_class,
)
from jax_softmax.ops._backends.sums import row_sum


class Xla:
    """See `Backend` for what each primitive returns."""

    def again(self, x: T) -> T:
        """`x` itself: XLA merges reductions of one array into one pass."""
        return x

    def likeliest(self, z: jax.Array) -> jax.Array:
        """Uses `jnp.argmax`."""
        return jnp.argmax(z, -1).astype(jnp.int32)

    def share(self, logits: Logits, index: jax.Array) -> RowShare:
        """Uses masked reductions.

        The maximum is taken of the stored logits; only the result is read.
        """
        apart = is_class(index, logits.stored.shape[-1])
        others = jnp.where(apart, -jnp.inf, lax.stop_gradient(logits.stored))
        largest = lax.stop_gradient(logits.read(jnp.max(others, -1)))
        label_logit = logits.read(self.pick(logits.stored, index))
        # Masked before the exponential, which may overflow: autodiff would multiply infinity by 0.
        left = jnp.where(apart, -jnp.inf, logits.values())
        terms = jnp.exp(left - finite_shift(largest)[..., None])
        return RowShare(largest, label_logit, row_sum(terms))

    def pick(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """Uses a masked sum, which needs no element of another device."""
        return jnp.sum(jnp.where(is_class(index, x.shape[-1]), x, 0), -1)

    def sum_apart(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """Uses a masked sum."""
        return row_sum(jnp.where(is_class(index, x.shape[-1]), 0, x))

    def exponentials(self, z: jax.Array, shift: jax.Array) -> jax.Array:
        """Uses `compensated.exponentials`."""
        return compensated.exponentials(z, shift)

    def put_at_label(
        self, x: jax.Array, index: jax.Array, value: jax.Array, *, final: bool
    ) -> jax.Array:
        """Uses a select."""
        return jnp.where(is_class(index, x.shape[-1]), value[..., None], x)

    def add_by_class(
        self,
        add: Callable[[jax.Array, jax.Array], jax.Array],
        total: jax.Array,
        gradient: jax.Array,
        axis: int,
    ) -> jax.Array:
        """Adds all classes at once."""
        return add(total, gradient)

    def by_rows(
        self, f: Callable[[Backend, Arrays], Results], arrays: Arrays, rows: tuple[int, ...]
    ) -> Results:
        """Takes all rows at once."""
        return f(self, arrays)


XLA = Xla()
