"""The data that come with rows of logits, and the results of a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class RowData(NamedTuple):
    """The data that come with rows of logits `[..., V]`. Only `labels` are differentiated.

    Attributes:
      labels: None, or `[..., V]` class probabilities.
      column: None, or `[...]` int32, the column of the logits that is the integer label's; outside
        `[0, V)` if another slice of the classes holds it. `[..., K]` for K labels a row.
      valid: None, or booleans shaped like `column`: whether the integer label is a class.
      targets: None, or `[..., K]`: the masses of K labels a row.
      rest: None, or `[...]`: the mass of every other class.
      label_weight: None, or `[...]`: the label's class weight.
      counted: None for all, or `[...]` booleans: the rows that count.
      weightless: None for none, or `[...]` booleans: the rows whose loss is multiplied by 0. A NaN
        row among them is treated as if it did not count.
      mask: None, or booleans that broadcast to `[..., V]`: the classes that count.
      class_weights: None, or `[1, ..., V]`, the rank of the logits, in the dtype of the statistics.
      first: None for 0, or the class of the first column.
      teacher: None, or the linear layer that the labels, logits then, come from.
    """

    labels: jax.Array | None = None
    column: jax.Array | None = None
    valid: jax.Array | None = None
    targets: jax.Array | None = None
    rest: jax.Array | None = None
    label_weight: jax.Array | None = None
    counted: jax.Array | None = None
    weightless: jax.Array | None = None
    mask: jax.Array | None = None
    class_weights: jax.Array | None = None
    first: jax.Array | int | None = None
    teacher: Any = None

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
      label_log_prob: `log p_y`, or `sum_j q_j log p_j`; `[..., K]` for K labels a row.
      entropy: `-sum_j p_j log p_j`.
      argmax: int32, not differentiable.
      label_rank: int32, not differentiable.
      finite: booleans, whether each row's loss is finite; not differentiable. Only for a total.
    """

    loss: Any = None
    logsumexp: Any = None
    label_log_prob: Any = None
    entropy: Any = None
    argmax: Any = None
    label_rank: Any = None
    finite: Any = None

    def zeros_for_none(self, like: jax.Array) -> Outputs:
        """The cotangents, with zeros in place of None."""
        return Outputs(*(jnp.zeros_like(like) if g is None else g for g in self))


STATISTICS = ("logsumexp", "label_log_prob", "entropy")
DIFFERENTIABLE = ("loss", *STATISTICS)
NOT_DIFFERENTIABLE = ("argmax", "label_rank", "finite")


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
        jax.tree.map(lambda x: jnp.where(_for(kept, x), x, jnp.asarray(1, x.dtype)), residuals),
        Outputs(*(None if g is None else jnp.where(_for(kept, g), g, 0) for g in cotangents)),
    )


def _for(of_rows: jax.Array, x: jax.Array) -> jax.Array:
    """`of_rows [...]` with the rank of `x`, which is `[...]` or `[..., K]`."""
    return of_rows if of_rows.ndim == x.ndim else of_rows[..., None]


def unit_cotangents(name: str, rows: jax.Array, data: RowData) -> list[Outputs]:
    """A cotangent of 1 for each number that an output has a row: one, or for K labels, K.

    Args:
      name: the output's.
      rows: ones, `[...]`.
      data: the rows' data.
    """
    if name != "label_log_prob" or data.column is None or data.column.ndim == rows.ndim:
        return [Outputs(**{name: rows})]
    labels = data.column.shape[-1]
    none = jnp.zeros_like(rows)
    return [
        Outputs(label_log_prob=jnp.stack([rows if j == k else none for j in range(labels)], -1))
        for k in range(labels)
    ]


def output_of(name: str, numbers: Sequence[jax.Array], data: RowData) -> jax.Array:
    """An output, or its tangent, from a number a row for each of its `unit_cotangents`."""
    if name != "label_log_prob" or data.column is None or data.column.ndim == numbers[0].ndim:
        return numbers[0]
    return jnp.stack(list(numbers), -1)


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
