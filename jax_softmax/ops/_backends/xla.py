"""The primitives as plain array code, which XLA is left to optimize."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._backends import compensated
from jax_softmax.ops._backends.interface import (
    Arrays,
    Backend,
    Logits,
    OfShare,
    Pass,
    Results,
    RowShare,
    T,
    finite_shift,
    is_class,
)
from jax_softmax.ops._backends.sums import row_sum

# Up to this many labels a row, a masked sum or a select for each fuses with what is done anyway.
FEW_LABELS = 8


class Xla:
    """See `Backend` for what each primitive returns."""

    def again(self, x: T) -> T:
        """`x` itself: XLA merges reductions of one array into one pass."""
        return x

    def likeliest(self, z: jax.Array) -> jax.Array:
        """Uses `jnp.argmax`."""
        return jnp.argmax(z, -1).astype(jnp.int32)

    def top_k(self, x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
        """Uses `lax.top_k`."""
        values, index = lax.top_k(x, k)
        return values, index.astype(jnp.int32)

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

    def pick_several(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """Picks one after another, where they are few."""
        several = index.shape[-1]
        if several <= FEW_LABELS:
            return jnp.stack([self.pick(x, index[..., k]) for k in range(several)], -1)
        # A negative index would count from the end.
        index = jnp.where(index < 0, x.shape[-1], index)
        return jnp.take_along_axis(x, index, -1, mode="fill", fill_value=0)

    def sum_apart(self, x: jax.Array, index: jax.Array) -> jax.Array:
        """Uses a masked sum."""
        return row_sum(jnp.where(is_class(index, x.shape[-1]), 0, x))

    def share_and_below(self, logits: Logits, index: jax.Array) -> RowShare:
        """Sums under a mask once more."""
        share = self.share(logits, index)
        return share._replace(below=self.below(logits, index, share))

    def below(
        self, logits: Logits, index: jax.Array, share: RowShare, classes: int | None = None
    ) -> jax.Array:
        """What `share` lacks, of all columns or the first `classes`."""
        z = logits.values()
        distance = finite_shift(share.largest_other)[..., None] - z
        apart = is_class(index, z.shape[-1])
        if classes is not None:
            apart |= lax.broadcasted_iota(jnp.int32, z.shape, index.ndim) >= classes
        return row_sum(jnp.where(apart, 0, distance))

    def exponentials(self, z: jax.Array, shift: jax.Array, *, rounded: bool) -> jax.Array:
        """Uses `compensated.exponentials`."""
        return compensated.exponentials(z, shift)

    def put_at_label(
        self, x: jax.Array, index: jax.Array, value: jax.Array, *, final: bool
    ) -> jax.Array:
        """Uses a select."""
        return jnp.where(is_class(index, x.shape[-1]), value[..., None], x)

    def put_several(
        self, x: jax.Array, index: jax.Array, values: jax.Array, *, final: bool
    ) -> jax.Array:
        """Selects, which fuses, where they are few."""
        several = index.shape[-1]
        if several == 1:
            return self.put_at_label(x, index[..., 0], values[..., 0], final=final)
        if several <= FEW_LABELS:
            for k in range(several):
                x = XLA.put_at_label(x, index[..., k], values[..., k], final=False)
            return x

        def put(row: jax.Array, index: jax.Array, values: jax.Array) -> jax.Array:
            return row.at[index].set(values, mode="drop")

        index = jnp.where(index < 0, x.shape[-1], index)
        return functools.reduce(lambda f, _: jax.vmap(f), range(x.ndim - 1), put)(x, index, values)

    def reads_once(self, logits: Logits, index: jax.Array, to_do: Pass) -> bool:
        """Never."""
        return False

    def share_and_gradient(
        self,
        logits: Logits,
        index: jax.Array,
        of_share: OfShare,
        given: Sequence[jax.Array],
        to_do: Pass,
    ) -> tuple[RowShare, jax.Array]:
        """One after the other."""
        if to_do.classes is not None:
            column = lax.broadcasted_iota(jnp.int32, logits.stored.shape, index.ndim)
            logits = logits.of(jnp.where(column < to_do.classes, logits.stored, -jnp.inf))
        share, z = self.share(logits, index), logits.values()
        if to_do.below:
            share = share._replace(below=self.below(logits, index, share, to_do.classes))
        found = of_share(share, given)
        if found.keep is not None:
            z = jnp.where(found.keep[..., None], z, 0)
        rounded = to_do.dtype != z.dtype
        gradient = found.scale[..., None] * self.exponentials(z, found.shift, rounded=rounded)
        if found.offset is not None:
            gradient -= jnp.where(z == -jnp.inf, 0, found.offset[..., None])
        gradient = self.put_at_label(gradient, index, found.at_label, final=False)
        if found.keep is not None:
            gradient = jnp.where(found.keep[..., None], gradient, 0)
        return share, gradient.astype(to_do.dtype)

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
