"""Which rows count, how they are weighted, and how their losses are reduced, for every loss.

A mean divides by the sum of `sample_weight * class_weights[y]` of the rows that count (integer
labels, as in PyTorch) or of `sample_weight` (class probabilities). If that sum is 0 the mean is 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jax_softmax.ops._math.row_data import Outputs
from jax_softmax.ops._mesh import AxisName, explicit_axes, sum_over
from jax_softmax.ops._options import Reduction


class SoftmaxStats(NamedTuple):
    """Statistics of a row's softmax, from the same pass as its loss: natural log, after `soft_cap`.

    Weights, smoothing and `reduction` do not affect them; rows that do not count are 0.

    Attributes:
      logsumexp: `[...]`, `log sum_j exp(z_j)`.
      label_log_prob: `[...]`, `log p_y`, or `sum_j q_j log p_j` for class probabilities.
      entropy: `[...]`, `-sum_j p_j log p_j`.
      argmax: `[...]` int32, the first class with the largest logit before `soft_cap`, which does
        not change their order. Not differentiable.
      label_rank: `[...]` int32, how many classes have a larger logit than the label: 0 if it has
        the largest, alone or beside others, and less than k if it is among the k likeliest. The
        largest int32 in a row with a NaN, or whose label is no class. Of class probabilities the
        label is the likeliest class, the first of them. Not differentiable.
      weight: `[...]`, what the row counts for in a mean: `sample_weight * class_weights[y]`
        (`sample_weight` for class probabilities), and 0 if it does not count.

    See Also:
      `summarize` for their means; `label_log_probs` for log-probability and entropy without a loss.

    >>> import jax.numpy as jnp
    >>> from jax_softmax import softmax_cross_entropy_with_integer_labels
    >>> logits, labels = jnp.array([[2.0, 0.0, 1.0]]), jnp.array([2])
    >>> _, stats = softmax_cross_entropy_with_integer_labels(logits, labels, return_stats=True)
    >>> print(stats.argmax, stats.label_rank)
    [0] [1]
    """

    logsumexp: jax.Array
    label_log_prob: jax.Array
    entropy: jax.Array
    argmax: jax.Array
    label_rank: jax.Array
    weight: jax.Array


Loss = jax.Array | tuple[jax.Array, SoftmaxStats]


class RowWeights(NamedTuple):
    """The weights of the rows of a call.

    Attributes:
      weight: `[...]`, the factor of each row's loss; a mean's divisor is included.
      counted: None for all, or `[...]` booleans: the rows that count.
      weightless: None for none, or `[...]` booleans: the rows of weight 0.
      seen: None for all, or `[...]` booleans: the rows that have statistics.
      charged: None, or for a mean `[...]`, the terms of its divisor up to a constant factor.
      given: whether the user gave a `sample_weight`, which has a derivative.
    """

    weight: jax.Array
    counted: jax.Array | None
    weightless: jax.Array | None
    seen: jax.Array | None
    charged: jax.Array | None
    given: bool

    def times(self, loss: jax.Array) -> jax.Array:
        """The weighted losses."""
        if self.given:
            return weighted(self.weight, loss)
        if self.counted is None and self.weightless is None:
            return self.weight * loss
        return jnp.where(self.weight == 0, 0, self.weight * loss)


def counted_rows(rows: tuple[int, ...], *conditions: jax.Array | None) -> jax.Array | None:
    """`[...]` booleans, the rows that meet every condition; None if there is no condition."""
    counted = None
    for condition in conditions:
        if condition is not None:
            condition = jnp.broadcast_to(condition, rows)
            counted = condition if counted is None else counted & condition
    return counted


def label_weights(class_weights: jax.Array, index: jax.Array) -> jax.Array:
    """`class_weights [V]` at classes `index [...]`, laid out over devices as `index` is."""
    if not explicit_axes(index, class_weights):
        return class_weights[index]
    sharding = jax.typeof(index).sharding
    everywhere = jax.sharding.reshard(class_weights, sharding.update(spec=PartitionSpec()))
    found: jax.Array = everywhere.at[index].get(out_sharding=sharding)
    return found


def row_weights(
    reduction: Reduction,
    rows: tuple[int, ...],
    dtype: jnp.dtype,
    counted: jax.Array | None,
    sample_weight: jax.Array | None,
    label_weight: jax.Array | None = None,
    data_axis_name: AxisName = None,
) -> RowWeights:
    """The weights of rows `[*rows]`, from `sample_weight` and the class weights of their labels."""
    weight = jnp.ones(rows, dtype) if sample_weight is None else sample_weight
    if counted is not None:
        weight = jnp.where(counted, weight, 0)
    charged = None
    if reduction == "mean":
        weight, charged = _over_their_sum(weight, sample_weight, label_weight, data_axis_name)
    plain = sample_weight is None and label_weight is None and counted is None
    # If the divisor of a mean is 0, all rows have weight 0.
    zero_mean = reduction == "mean" and not plain
    weightless = weight == 0 if zero_mean or sample_weight is not None else None
    seen = counted_rows(rows, counted, None if sample_weight is None else sample_weight != 0)
    given = sample_weight is not None
    return RowWeights(weight, counted, weightless, seen, charged if given else None, given)


def _over_their_sum(
    weight: jax.Array,
    sample_weight: jax.Array | None,
    label_weight: jax.Array | None,
    data_axis_name: AxisName,
) -> tuple[jax.Array, jax.Array]:
    """`weight / sum(weight * label_weight)`, all 0 where that sum is 0, and the sum's terms.

    The sum is a constant for differentiation.
    """
    scale: jax.Array | float = 1.0
    if sample_weight is not None:
        weight = weight / _power_of_two(weight, data_axis_name)
    charged = weight
    if label_weight is not None:
        scale = _power_of_two(label_weight, data_axis_name)
        # A row of weight 0 may have a label that is no class.
        missing = (weight == 0) & jnp.isnan(label_weight)
        charged = weight * jnp.where(missing, 0, label_weight / scale)
    divisor = lax.stop_gradient(sum_over(data_axis_name, jnp.sum(charged)))
    # An infinite weight makes the mean NaN rather than 0.
    divisor = jnp.where(jnp.isinf(divisor), jnp.nan, divisor)
    none = divisor == 0
    return jnp.where(none, 0, weight / jnp.where(none, 1, divisor) / scale), charged


def _power_of_two(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """A power of 2 near the largest of `x`, so that sums of `x` divided by it stay within range.

    A constant for differentiation: the final result does not depend on it.
    """
    size = jnp.abs(lax.stop_gradient(x))
    largest = jnp.max(jnp.where(jnp.isfinite(size), size, 0), initial=0)
    if axis_name is not None:
        largest = lax.pmax(largest, axis_name)
    kind = jnp.finfo(x.dtype)
    _, exponent = jnp.frexp(jnp.where(largest > 0, largest, 1))
    # Clipped so that its inverse is a normal number too.
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent, kind.minexp + 2, -kind.minexp - 2))


@jax.custom_jvp
def weighted(weight: jax.Array, loss: jax.Array) -> jax.Array:
    """`weight * loss` of rows; 0 for a weight of 0, whatever the loss."""
    return weight * _finite_if_weightless(weight, loss)


@weighted.defjvp
def _weighted_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    weight, loss = primals
    weight_dot, loss_dot = tangents
    nothing = (weight == 0) & ~jnp.isfinite(loss)
    by_loss = weight * jnp.where(nothing, 0, loss_dot)
    return weighted(weight, loss), times_slope(weight_dot, weight, loss) + by_loss


def slope(weight: jax.Array, loss: jax.Array) -> jax.Array:
    """The derivative by a row's weight: its loss, or 0 for a weight of 0 and a loss not finite."""
    return _finite_if_weightless(weight, loss)


def times_slope(weight_dot: jax.Array, weight: jax.Array, loss: jax.Array) -> jax.Array:
    """`weight_dot * slope`, and 0 rather than NaN for a tangent of 0 beside an infinite loss.

    A tangent's rule must be linear, so it cannot select. Instead, an infinite loss becomes two
    factors of the largest number, whose product with the tangent overflows unless that is 0.
    """
    value = slope(weight, loss)
    most = float(jnp.finfo(loss.dtype).max)
    again = jnp.where(jnp.isinf(value), most, 1)
    return weight_dot * jnp.clip(value, -most, most) * again


def _finite_if_weightless(weight: jax.Array, loss: jax.Array) -> jax.Array:
    return jnp.where((weight == 0) & ~jnp.isfinite(loss), 0, loss)


def totalled(weight: jax.Array, outputs: Outputs) -> Outputs:
    """The outputs of rows, with the sum of their weighted losses as the loss."""
    finite = lax.stop_gradient(jnp.isfinite(outputs.loss))
    return outputs._replace(loss=jnp.sum(weighted(weight, outputs.loss)), finite=finite)


def total_of(total: jax.Array, rows: RowWeights, finite: jax.Array, axis: AxisName) -> jax.Array:
    """A sum or mean, over devices too, with the derivative of a mean's divisor.

    In the weights the divisor is a constant. A factor of 1 adds its derivative here: only now is it
    known which rows of weight 0 have a loss that is not `finite [...]`, and so no derivative.
    """
    total = sum_over(axis, total)
    if rows.charged is None:
        return total
    constant = lax.stop_gradient(rows.charged)
    charged = jnp.where((constant == 0) & ~finite, constant, rows.charged)
    divisor = sum_over(axis, jnp.sum(charged))
    none = divisor == 0
    divisor = jnp.where(none, 1, divisor)
    return total * (lax.stop_gradient(divisor) / divisor)


def with_stats(
    loss: jax.Array,
    rows: RowWeights,
    outputs: Outputs,
    sample_weight: jax.Array | None,
    label_weight: jax.Array | None,
) -> Loss:
    """The loss with the statistics of the rows that count."""
    weight = jnp.ones_like(rows.weight) if sample_weight is None else sample_weight
    if label_weight is not None:
        weight = weight * label_weight
    stats = SoftmaxStats(
        outputs.logsumexp,
        outputs.label_log_prob,
        outputs.entropy,
        outputs.argmax,
        outputs.label_rank,
        weight,
    )
    if rows.seen is None:
        return loss, stats
    seen = rows.seen
    return loss, jax.tree.map(lambda value: jnp.where(seen, value, 0), stats)


def place_stats(rows: Any) -> SoftmaxStats:
    """How statistics are spread over devices, where each of them is spread as `rows` says."""
    return SoftmaxStats(*[rows] * len(SoftmaxStats._fields))
