"""The data that come with rows of logits, and the results of a loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class RowData(NamedTuple):
    """The data that come with rows of logits `[..., V]`. Only `labels` are differentiated.

    Attributes:
      labels: None, or `[..., V]` class probabilities.
      column: None, or `[...]` int32, the column of the logits that is the integer label's; outside
        `[0, V)` if another slice of the classes holds it.
      valid: None, or `[...]` booleans: the rows whose integer label is a class.
      label_weight: None, or `[...]`: the label's class weight.
      counted: None for all, or `[...]` booleans: the rows that count.
      weightless: None for none, or `[...]` booleans: the rows whose loss is multiplied by 0. A NaN
        row among them is treated as if it did not count.
      mask: None, or booleans that broadcast to `[..., V]`: the classes that count.
      class_weights: None, or `[1, ..., V]`, the rank of the logits, in the dtype of the statistics.
      first: None for 0, or the class of the first column.
    """

    labels: jax.Array | None = None
    column: jax.Array | None = None
    valid: jax.Array | None = None
    label_weight: jax.Array | None = None
    counted: jax.Array | None = None
    weightless: jax.Array | None = None
    mask: jax.Array | None = None
    class_weights: jax.Array | None = None
    first: jax.Array | int | None = None

    def column_of(self, classes: jax.Array) -> jax.Array:
        """The columns of `classes [...]`; outside `[0, V)` where another slice holds them."""
        return classes if self.first is None else classes - self.first

    def kept(self, of_rows: jax.Array) -> jax.Array | None:
        """None for all, or `[...]` booleans: the rows that have a gradient.

        `of_rows [...]` is NaN where a row is NaN.
        """
        if self.weightless is None:
            return self.counted
        number = ~(self.weightless & jnp.isnan(of_rows))
        return number if self.counted is None else number & self.counted


class Outputs(NamedTuple):
    """The outputs of rows, `[...]` each; or their cotangents, None where nothing depends on one.

    Attributes:
      loss: without `sample_weight`.
      logsumexp: with statistics, as are the next three.
      label_log_prob: `log p_y`, or `sum_j q_j log p_j`.
      entropy: `-sum_j p_j log p_j`.
      argmax: int32, not differentiable.
      finite: booleans, whether each row's loss is finite; not differentiable. Only for a total.
    """

    loss: Any = None
    logsumexp: Any = None
    label_log_prob: Any = None
    entropy: Any = None
    argmax: Any = None
    finite: Any = None

    def zeros_for_none(self, like: jax.Array) -> Outputs:
        """The cotangents, with zeros in place of None."""
        return Outputs(*(jnp.zeros_like(like) if g is None else g for g in self))


STATISTICS = ("logsumexp", "label_log_prob", "entropy")
DIFFERENTIABLE = ("loss", *STATISTICS)
NOT_DIFFERENTIABLE = ("argmax", "finite")


class Gradients(NamedTuple):
    """Gradients by the logits and, if there are any, by class probabilities: `[..., V]` each.

    They have the dtype of the statistics; whoever uses them rounds them, once.
    """

    logits: jax.Array
    labels: jax.Array | None = None


# Each loss has its own NamedTuple of arrays `[...]`: what its gradients need besides the logits.
Residuals = Any


def drop_rows(
    kept: jax.Array | None, logits: jax.Array, residuals: Residuals, cotangents: Outputs
) -> tuple[jax.Array, Residuals, Outputs]:
    """A gradient's inputs, with harmless values and cotangents of 0 in rows that have none.

    A NaN in such a row would otherwise meet a cotangent of 0, and 0 * NaN is NaN.
    """
    if kept is None:
        return logits, residuals, cotangents
    return (
        jnp.where(kept[..., None], logits, 0),
        jax.tree.map(lambda x: jnp.where(kept, x, 1), residuals),
        Outputs(*(None if g is None else jnp.where(kept, g, 0) for g in cotangents)),
    )


@jax.custom_jvp
def differentiated_where(counted: jax.Array, x: jax.Array) -> jax.Array:
    """`x [..., V]`, with a derivative only in rows that are `counted [...]`.

    A second derivative must not bring back 0 times the NaN of a row that does not count. Selecting
    `x` itself would cost first derivatives another pass.
    """
    return x


@differentiated_where.defjvp
def _differentiated_where_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    counted, x = primals
    return x, jnp.where(counted[..., None], tangents[1], 0)
