"""The loss of a language model: each token predicts the next of its document.

The shift, padding and packing are done here; the loss is `linear_softmax_cross_entropy`.
"""

from __future__ import annotations

from typing import Literal, Unpack, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_softmax.ops._arguments import as_array, floating_array, label_array, real_array
from jax_softmax.ops._options import CausalLossOptions
from jax_softmax.ops._reduction import Loss, SoftmaxStats
from jax_softmax.ops.linear_cross_entropy import linear_softmax_cross_entropy

# What PyTorch and its users take for no label.
_IGNORED = -100


@overload
def causal_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    tokens: ArrayLike,
    *,
    segment_ids: ArrayLike | None = None,
    loss_mask: ArrayLike | None = None,
    ignore_index: int | None = _IGNORED,
    return_stats: Literal[False] = False,
    **options: Unpack[CausalLossOptions],
) -> jax.Array: ...


@overload
def causal_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    tokens: ArrayLike,
    *,
    segment_ids: ArrayLike | None = None,
    loss_mask: ArrayLike | None = None,
    ignore_index: int | None = _IGNORED,
    return_stats: Literal[True],
    **options: Unpack[CausalLossOptions],
) -> tuple[jax.Array, SoftmaxStats]: ...


@overload
def causal_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    tokens: ArrayLike,
    *,
    segment_ids: ArrayLike | None = None,
    loss_mask: ArrayLike | None = None,
    ignore_index: int | None = _IGNORED,
    return_stats: bool,
    **options: Unpack[CausalLossOptions],
) -> Loss: ...


def causal_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    tokens: ArrayLike,
    *,
    segment_ids: ArrayLike | None = None,
    loss_mask: ArrayLike | None = None,
    ignore_index: int | None = _IGNORED,
    return_stats: bool = False,
    **options: Unpack[CausalLossOptions],
) -> Loss:
    r"""`linear_softmax_cross_entropy` of the features at each token and the token after it.

    A loss is :math:`-\log p(x_{t+1} | h_t)`: the features of token `t` predict token `t + 1` of the
    same document. The last token of a row or of a document predicts nothing, and a mean is over the
    tokens that are predicted. Features are not copied for the shift.

    Args:
      features: `[B, S, D]` floating, the model's last hidden states.
      kernel: `[D, V]` floating (`[V, D]` with `kernel_layout="vd"`).
      tokens: `[B, S]` integers in `[0, V)`, as the model read them: they are shifted here.
      segment_ids: None, or `[B, S]` integers that number the documents packed in a row, from 1; 0
        and less is padding, as in packed batches of grain and MaxText. No token predicts one of
        another document or padding.
      loss_mask: None, or `[B, S]` booleans, or weights, at least 0: which tokens are to be
        predicted. It is laid beside `tokens`: the entry of a token counts where that is predicted.
      ignore_index: the token that is not predicted; None if there is none.
      return_stats: return `(loss, SoftmaxStats)`.
      **options: those of `linear_softmax_cross_entropy` but `where` and `sample_weight`: `bias`,
        `kernel_layout`, `label_smoothing`, `class_weights`, `z_loss`, `soft_cap`, `temperature`,
        `rule`, `reduction`, `precision`, `block_size`, `axis_name`, `data_axis_name`,
        `num_classes`, `implementation`. Inside `jax.shard_map` a device has whole rows, and a mean
        wants `data_axis_name`.

    Returns:
      A scalar, or with `reduction="none"` `[B, S]` losses, that of predicting token `t + 1` at `t`,
      and 0 where nothing is predicted; in the dtype of the logits (float32 for half precision).

    Raises:
      TypeError: if an array's or option's type does not fit, or an option is traced.
      ValueError: if shapes, an option or a mesh axis do not fit.

    See Also:
      `linear_softmax_cross_entropy` for labels that are shifted already; `linear_label_log_probs`
      for the tokens' log-probabilities.

    Source: packing, Krell et al., arXiv:2107.02027.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> features = jax.random.normal(jax.random.key(0), (1, 6, 4))
    >>> kernel = jax.random.normal(jax.random.key(1), (4, 10))
    >>> tokens = jnp.array([[3, 1, 4, 1, 5, 0]])
    >>> packed = jnp.array([[1, 1, 1, 2, 2, 0]])  # two documents and padding
    >>> loss = causal_cross_entropy(
    ...     features, kernel, tokens, segment_ids=packed, reduction="none"
    ... )
    >>> (loss > 0).tolist()
    [[True, True, False, True, False, False]]
    """
    unknown = sorted(set(options) - set(CausalLossOptions.__annotations__))
    if unknown:
        raise TypeError(
            f"causal_cross_entropy: expected options of linear_softmax_cross_entropy, got "
            f"{unknown}; which tokens count, and how much, is loss_mask."
        )
    y = label_array(tokens, ignore_index, "tokens")
    if ignore_index == _IGNORED and jnp.issubdtype(y.dtype, jnp.unsignedinteger):
        ignore_index = None  # none of them can be it
    features = floating_array("features", features)
    rows = features.shape[:-1]
    if len(rows) != 2:
        raise ValueError(f"features: expected shape [B, S, D], got {features.shape}.")
    if y.shape != rows or not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(
            f"tokens: expected integers of shape {rows}, the features' without the last axis, got "
            f"{y.dtype} of shape {y.shape}."
        )
    predicts = jnp.arange(rows[1]) < rows[1] - 1
    predicts = jnp.broadcast_to(predicts, rows)
    if segment_ids is not None:
        segments = as_array("segment_ids", segment_ids)
        if segments.shape != rows or not jnp.issubdtype(segments.dtype, jnp.integer):
            raise ValueError(
                f"segment_ids: expected integers of the tokens' shape {rows}, got "
                f"{segments.dtype} of shape {segments.shape}."
            )
        predicts &= (segments == _next(segments)) & (segments > 0)
    weight = None
    if loss_mask is not None:
        mask = real_array("loss_mask", loss_mask)
        if mask.shape != rows:
            raise ValueError(
                f"loss_mask: expected the tokens' shape {rows}, got shape {mask.shape}."
            )
        if mask.dtype == bool:
            predicts &= _next(mask)
        else:
            weight = _next(mask)
    return linear_softmax_cross_entropy(
        features,
        kernel,
        _next(y),
        where=predicts,
        sample_weight=weight,
        ignore_index=ignore_index,
        return_stats=return_stats,
        **options,
    )


def _next(x: jax.Array) -> jax.Array:
    """`x [B, S]` of the next token."""
    return jnp.roll(x, -1, axis=1)
