"""The k likeliest classes of a row and their log-probabilities, of which nothing is differentiated.

Each slice of the classes gives its own k largest logits, and the k largest of those are the row's:
of equal logits the lower class comes first, in a slice and among slices. Log-probabilities are
`-((m - z) + log(total))`, from the statistics with the likeliest class set apart.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._math import rows as row_math
from jax_softmax.ops._math.log_probs import Residuals, log_probs_of
from jax_softmax.ops._math.logits import CappedLogits, held_logits
from jax_softmax.ops._math.row_data import Gradients, Outputs, RowData
from jax_softmax.ops._math.row_loss import RowLoss
from jax_softmax.ops._math.slices import Slices
from jax_softmax.ops._options import Options


@functools.cache
def loss_of(k: int) -> RowLoss:
    """The `k` likeliest as the outputs of rows, for a sweep; the same object for the same `k`."""
    return RowLoss(functools.partial(_forward, k), _no_gradients)


def _forward(k: int, options: Options, slices: Slices, data: RowData) -> tuple[Outputs, Residuals]:
    stored, index = _largest(k, slices)
    top = row_math.likeliest(slices.share(lambda at: at.column_of(index[..., 0])), index[..., 0])
    z = held_logits(stored, None, options).values()
    log_probs = log_probs_of(top.log_total, top.rows.shift, z)
    outputs = Outputs(label_log_prob=log_probs, argmax=index)
    return outputs, Residuals(top.rows, index[..., 0], top.log_total, stored)


def _largest(k: int, slices: Slices) -> tuple[jax.Array, jax.Array]:
    """The largest logits as they are stored, and their classes: `[..., k]` each, in order."""

    def of_slice(logits: CappedLogits, data: RowData) -> tuple[jax.Array, jax.Array]:
        # -0 is 0, of which the lower class comes first.
        stored = jnp.where(logits.stored == 0, 0, logits.stored)
        here = stored.shape[-1]
        held = min(k, here) if isinstance(here, int) else k
        values, columns = slices.backend.top_k(stored, held)
        classes = columns if data.first is None else columns + jnp.asarray(data.first, jnp.int32)
        # A slice of fewer than k classes: what is missing comes after every class.
        missing = [(0, 0)] * (stored.ndim - 1) + [(0, k - held)]
        last = jnp.iinfo(jnp.int32).max
        return (
            jnp.pad(values, missing, constant_values=-jnp.inf),
            jnp.pad(classes, missing, constant_values=last),
        )

    values, classes = (slices.gathered(x) for x in slices.each(of_slice))
    if values.shape[-1] == k:
        return values, classes
    # Of equal values the lower class first; top_k would need them in the order of their classes.
    order, classes = lax.sort((-values, classes), num_keys=2)
    # A NaN comes last, after what is missing.
    classes = jnp.where(classes == jnp.iinfo(jnp.int32).max, 0, classes)
    return slices.same_everywhere(-order[..., :k]), slices.same_everywhere(classes[..., :k])


def _no_gradients(*_: object) -> Gradients:
    raise NotImplementedError("the likeliest classes have no derivative")
