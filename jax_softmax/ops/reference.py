"""The textbook definitions, differentiated by JAX: an oracle for the hand-written rules.

Shares no code with the rest of `ops`. It is simple rather than exact: on confident rows it has the
cancellations that the rules avoid, so it is used in float64, or where rounding does not matter.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Axis = int | tuple[int, ...] | None


def log_softmax(
    x: jax.Array, axis: Axis = -1, where: jax.typing.ArrayLike | None = None
) -> jax.Array:
    """`x_i - log(sum_j exp(x_j))`, shifted by the maximum, `-inf` where `where` is False.

    Args:
      x: `[...]` floating.
      axis: the class axis or axes.
      where: None, or booleans that broadcast to `x`.

    Returns:
      `[...]`, the shape and dtype of `x`.
    """
    if where is not None:
        x = jnp.where(where, x, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(x, axis, keepdims=True))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    return x - largest - jnp.log(jnp.sum(jnp.exp(x - largest), axis, keepdims=True))


def softmax(x: jax.Array, axis: Axis = -1, where: jax.typing.ArrayLike | None = None) -> jax.Array:
    """`exp(x_i) / sum_j exp(x_j)`; arguments and result as for `log_softmax`."""
    return jnp.exp(log_softmax(x, axis, where))


def softmax_cross_entropy(
    logits: jax.Array,
    labels: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """`-sum_j labels_j log_softmax(logits)_j`, with `0 log 0 = 0`.

    Args:
      logits: `[..., V]` floating, classes along `axis`.
      labels: broadcasts to `logits`, class probabilities.
      axis: the class axis or axes.
      where: None, or booleans that broadcast to `logits`.

    Returns:
      `[...]`, one loss per row.
    """
    log_probs = log_softmax(logits, axis, where)
    labels = jnp.broadcast_to(jnp.asarray(labels, logits.dtype), logits.shape)
    return -jnp.sum(jnp.where(labels == 0, 0, labels * log_probs), axis)


def softmax_cross_entropy_with_integer_labels(
    logits: jax.Array,
    labels: jax.typing.ArrayLike,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """`-log_softmax(logits)_y`.

    Args:
      logits: `[..., V]` floating, classes along `axis` (one axis).
      labels: `[...]` integers in `[0, V)`.
      axis: the class axis.
      where: None, or booleans that broadcast to `logits`.

    Returns:
      `[...]`, one loss per row.
    """
    log_probs = log_softmax(logits, axis, where)
    picked = jnp.take_along_axis(log_probs, jnp.expand_dims(labels, axis), axis)
    return -jnp.squeeze(picked, axis)
