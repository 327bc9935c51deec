"""Numbers for a log line from the statistics of rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_softmax.ops._mesh import AxisName, axis_names, sum_over, varying_axes
from jax_softmax.ops._reduction import SoftmaxStats


def summarize(stats: SoftmaxStats, axis_name: AxisName = None) -> dict[str, jax.Array]:
    r"""The means of a loss's statistics, :math:`\sum_i w_i x_i / \sum_i w_i` by weight `w`.

    Works under `jit`. The means of several micro-batches are those of the concatenated statistics.

    Args:
      stats: what a loss returned with `return_stats=True`, of any number of rows.
      axis_name: inside `jax.shard_map`, the mesh axis (or axes) over which the rows are spread: the
        means are then of the rows of all its devices.

    Returns:
      Scalars by name. "loss" is the mean negative log-likelihood, and "perplexity" its exponential.
      "accuracy" and "top_5_accuracy" are the share of rows whose label is the likeliest class, or
      among the five likeliest; a tie counts for the label. They are left out for class
      probabilities, which have no one label. "entropy" is the mean entropy, and "count" (int32)
      how many rows have a weight. Without one, the means are 0.

    Raises:
      ValueError: if the rows are not spread over `axis_name`.

    See Also:
      `SoftmaxStats`; `evaluate` for a trained classifier.

    Source: perplexity, Jelinek et al. (J. Acoust. Soc. Am. 62, 1977).

    >>> import jax.numpy as jnp
    >>> from jax_softmax import softmax_cross_entropy_with_integer_labels
    >>> logits, labels = jnp.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), jnp.array([0, 2])
    >>> _, stats = softmax_cross_entropy_with_integer_labels(logits, labels, return_stats=True)
    >>> {name: round(float(value), 4) for name, value in summarize(stats).items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'loss': 0.8955, 'perplexity': 2.4485, 'accuracy': 0.5, 'top_5_accuracy': 1.0,
     'entropy': 0.8205, 'count': 2.0}
    """
    axis_name = axis_name or None
    missing = sorted(set(axis_names(axis_name)) - varying_axes(stats.label_log_prob))
    if missing:
        raise ValueError(
            f"axis_name={axis_name!r}: expected statistics of this device's rows, inside "
            f"jax.shard_map over it, got the same on all devices of {missing}."
        )
    weight = stats.weight
    # Each weight over their sum, and not the sum of products over it: that might overflow.
    total = sum_over(axis_name, jnp.sum(weight))
    share = jnp.where(total == 0, 0, weight / jnp.where(total == 0, 1, total))

    def mean(of_rows: jax.Array) -> jax.Array:
        terms = jnp.where(share == 0, 0, share * of_rows)
        return sum_over(axis_name, jnp.sum(terms))

    loss = mean(-stats.label_log_prob)
    found = {"loss": loss, "perplexity": jnp.exp(loss)}
    for name, best in (("accuracy", 1), ("top_5_accuracy", 5)):
        found[name] = mean((stats.label_rank < best).astype(weight.dtype))
    found["entropy"] = mean(stats.entropy)
    found["count"] = sum_over(axis_name, jnp.sum(weight != 0, dtype=jnp.int32))
    return found
