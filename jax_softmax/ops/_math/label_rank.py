"""How many classes of a row are likelier than its label."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._math.logits import CappedLogits
from jax_softmax.ops._math.row_data import RowData
from jax_softmax.ops._math.slices import Slices


def label_rank(
    slices: Slices, column: Callable[[RowData], jax.Array], nowhere: jax.Array
) -> jax.Array:
    """How many classes have a larger stored logit than the label, `[...]` int32.

    Args:
      slices: the logits.
      column: the label's column of a slice, `[...]`.
      nowhere: `[...]` booleans, the rows whose rank is the largest number: comparisons with NaN
        would all be false.
    """
    backend = slices.backend

    def own(logits: CappedLogits, at: RowData) -> jax.Array:
        return backend.pick(lax.stop_gradient(logits.stored), column(at))

    label = slices.sum(own)

    def larger(logits: CappedLogits, _: RowData) -> jax.Array:
        stored = backend.again(lax.stop_gradient(logits.stored))
        return jnp.sum(stored > label[..., None], -1, dtype=jnp.int32)

    return jnp.where(nowhere, jnp.iinfo(jnp.int32).max, slices.sum(larger))
