"""Others on the same inputs: autodiff of the textbook form, jax.nn and optax.

Each is an `OpsUnderTest` whose losses build the options around the functions of that library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_softmax.ops import SoftmaxStats, reference
from jax_softmax.ops._arguments import Axis
from jax_softmax.ops._linear.layer import KernelLayout
from jax_softmax.ops._options import Reduction, Rule
from jax_softmax.ops._reduction import Loss
from jax_softmax.testing.options import CAUSAL, CONTRASTIVE, LARGEST, LOSSES, OF_LABELS, Option
from jax_softmax.verification.textbook_teachers import of_teachers
from jax_softmax.verification.under_test import OpsUnderTest


@dataclass(frozen=True)
class Peer:
    """A library's functions, and whether it has an option of an op."""

    ops: OpsUnderTest
    has: Callable[[str, Option], bool]


def composed(softmax: Callable[..., Any], log_softmax: Callable[..., Any]) -> OpsUnderTest:
    """The textbook's losses, built on a `log_softmax` and differentiated by JAX."""

    def soft(
        logits: jax.Array,
        labels: jax.Array,
        axis: Axis = -1,
        where: jax.Array | None = None,
        **options: Any,
    ) -> Loss:
        logits, where, kept = _without_rows(logits, where)
        return _textbook(log_softmax, logits, labels, where, kept=kept, **options)

    def integer(
        logits: jax.Array,
        labels: jax.Array,
        axis: Axis = -1,
        where: jax.Array | None = None,
        *,
        ignore_index: int | None = None,
        **options: Any,
    ) -> Loss:
        logits, where, kept = _without_rows(logits, where)
        if ignore_index is not None:
            kept = labels != ignore_index
        one_hot = jnp.arange(logits.shape[-1]) == labels[:, None]
        if kept is not None:
            one_hot = one_hot | ~kept[:, None]  # any label: the row does not count
        one_hot = one_hot.astype(logits.dtype)
        return _textbook(log_softmax, logits, one_hot, where, kept=kept, by_index=True, **options)

    def log_probs(
        logits: jax.Array,
        labels: jax.Array,
        axis: Axis = -1,
        where: None = None,
        *,
        return_entropy: bool = False,
        **options: Any,
    ) -> Any:
        if labels.ndim == 2:
            return _several(log_probs, logits, labels, return_entropy, **options)
        _, stats = integer(logits, labels, axis, where, return_stats=True, **options)
        return (stats.label_log_prob, stats.entropy) if return_entropy else stats.label_log_prob

    divergence, of_layers, of_named = of_teachers(log_softmax)
    return OpsUnderTest(
        softmax,
        log_softmax,
        soft,
        integer,
        on_logits(integer, soft),
        log_probs,
        on_logits(log_probs, log_probs),
        divergence,
        of_layers,
        of_named,
        causal_cross_entropy=causal_of(on_logits(integer, soft)),
        contrastive_cross_entropy=contrastive_of(on_logits(integer, soft)),
        top_k_log_probs=partial(_largest, log_softmax),
        linear_top_k_log_probs=partial(_largest_of_layer, log_softmax),
    )


def contrastive_of(linear: Callable[..., Any]) -> Callable[..., Any]:
    """The contrastive loss with all similarities, of rows and of columns."""

    def contrastive(
        a: jax.Array,
        b: jax.Array,
        *,
        symmetric: bool = True,
        where: jax.Array | None = None,
        logit_scale: jax.Array | None = None,
        **options: Any,
    ) -> Any:
        bias = jnp.zeros(len(a), a.dtype)
        if where is not None:
            bias, options["where"] = jnp.where(where, 0, -1e9), where
        if logit_scale is not None:
            a = a * logit_scale

        def direction(rows: jax.Array, classes: jax.Array) -> Any:
            labels = jnp.arange(len(rows))
            return linear(rows, classes, labels, bias=bias, kernel_layout="vd", **options)

        return (direction(a, b) + direction(b, a)) / 2 if symmetric else direction(a, b)

    return contrastive


def _largest(
    log_softmax: Callable[..., jax.Array], logits: jax.Array, k: int, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """The k likeliest classes by sorting all of them."""
    order = jnp.argsort(-logits, -1, stable=True)[..., :k]
    return jnp.take_along_axis(log_softmax(logits / temperature, -1, None), order, -1), order


def _largest_of_layer(
    log_softmax: Callable[..., jax.Array],
    features: jax.Array,
    kernel: jax.Array,
    k: int,
    *,
    bias: jax.Array,
    kernel_layout: KernelLayout = "dv",
    precision: jax.lax.PrecisionLike = None,
    block_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> tuple[jax.Array, jax.Array]:
    kernel = kernel if kernel_layout == "dv" else kernel.T
    logits = jnp.matmul(features, kernel, precision=precision) + bias
    return _largest(log_softmax, logits, k, **options)


def _several(
    one: Callable[..., Any],
    logits: jax.Array,
    labels: jax.Array,
    return_entropy: bool,
    *,
    ignore_index: int | None = None,
    **options: Any,
) -> Any:
    """`one` label's log-probabilities, a column of labels `[N, K]` at a time, and the entropy."""
    columns = [
        one(logits, labels[:, k], ignore_index=ignore_index, **options)
        for k in range(labels.shape[-1])
    ]
    found = jnp.stack(columns, -1)
    if not return_entropy:
        return found
    counted = jnp.zeros_like(labels[:, 0])
    if ignore_index is not None:
        counted = jnp.where(jnp.any(labels != ignore_index, -1), counted, ignore_index)
    entropy = one(logits, counted, return_entropy=True, ignore_index=ignore_index, **options)[1]
    return found, entropy


def causal_of(linear: Callable[..., Any]) -> Callable[..., Any]:
    """The causal loss that cuts the last place off, and looks at each token's next."""

    def causal(
        features: jax.Array,
        kernel: jax.Array,
        tokens: jax.Array,
        *,
        segment_ids: jax.Array | None = None,
        loss_mask: jax.Array | None = None,
        ignore_index: int | None = -100,
        **options: Any,
    ) -> Any:
        nothing = jnp.zeros_like(tokens[:, :1])
        labels = jnp.concatenate([tokens[:, 1:], nothing], 1)
        kept = jnp.ones(labels.shape, bool).at[:, -1].set(False)
        if ignore_index is not None:
            kept &= labels != ignore_index
        if segment_ids is not None:
            after = jnp.concatenate([jnp.asarray(segment_ids)[:, 1:], nothing], 1)
            kept &= (after == segment_ids) & (after > 0)
        if loss_mask is not None:
            after = jnp.concatenate([loss_mask[:, 1:], nothing.astype(loss_mask.dtype)], 1)
            if loss_mask.dtype == bool:
                kept &= after
            else:
                options["sample_weight"] = after
        return linear(features, kernel, jnp.where(kept, labels, 0), where=kept, **options)

    return causal


def _without_rows(
    logits: jax.Array, where: jax.Array | None
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """The logits, a mask of classes and one of rows; rows that are left out become zeros."""
    if where is None or where.ndim == logits.ndim:
        return logits, where, None
    return jnp.where(where[:, None], logits, 0), None, where


def on_logits(integer: Callable[..., Any], soft: Callable[..., Any]) -> Callable[..., Any]:
    """The loss of a linear layer that passes all logits, `[N, V]`, to one of these losses."""

    def linear(
        features: jax.Array,
        kernel: jax.Array,
        labels: jax.Array,
        *,
        bias: jax.Array,
        sample_weight: jax.Array | None = None,
        where: jax.Array | None = None,
        kernel_layout: KernelLayout = "dv",
        block_size: int | tuple[int, int] | None = None,
        precision: jax.lax.PrecisionLike = None,
        **options: Any,
    ) -> Loss:
        kernel = kernel if kernel_layout == "dv" else kernel.T
        features_axes = features.ndim - 1
        features = features.reshape(-1, features.shape[-1])
        logits = jnp.matmul(features, kernel, precision=precision) + bias
        if sample_weight is not None:
            options["sample_weight"] = sample_weight.reshape(-1)
        loss, labels = (
            (soft, labels.reshape(logits.shape))
            if jnp.issubdtype(labels.dtype, jnp.floating)
            else (integer, labels.reshape(len(logits), *labels.shape[features_axes:]))
        )
        return loss(logits, labels, -1, None if where is None else where.reshape(-1), **options)

    return linear


def _textbook(
    log_softmax: Callable[..., jax.Array],
    logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None,
    *,
    kept: jax.Array | None = None,
    by_index: bool = False,
    class_weights: jax.Array | None = None,
    sample_weight: jax.Array | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    temperature: float = 1.0,
    return_stats: bool = False,
    rule: Rule = "vjp",
    reduction: Reduction = "none",
) -> Loss:
    """`v (-sum_j t_j log p_j + c lse^2)` as written, `[N]`; ignored rows are multiplied by 0.

    A mean divides by the rows' weights, times their labels' class weights if `by_index` says that
    each label is one class.
    """
    z = logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)
    z = z / temperature
    log_p = log_softmax(z, -1, where)
    mask = jnp.ones(z.shape, bool) if where is None else where
    log_p = jnp.where(mask, log_p, 0)
    classes = jnp.sum(mask, -1, keepdims=True).astype(z.dtype)
    t = (1 - label_smoothing) * labels + label_smoothing / classes
    t = jnp.where(mask, t if class_weights is None else t * class_weights.astype(z.dtype), 0)
    lse = jax.nn.logsumexp(z, -1, where=where)
    loss = -jnp.sum(t * log_p, -1)
    if z_loss:
        loss += z_loss * jnp.square(lse)
    weight = jnp.ones(loss.shape, loss.dtype) if sample_weight is None else sample_weight
    if kept is not None:
        weight = weight * kept
    loss = weight * jnp.where((weight == 0) & ~jnp.isfinite(loss), 0, loss)
    if reduction == "mean" and by_index and class_weights is not None:
        loss = jnp.sum(loss) / jnp.sum(weight * (labels @ class_weights.astype(z.dtype)))
    elif reduction == "mean":
        loss = jnp.sum(loss) / jnp.sum(weight)
    elif reduction == "sum":
        loss = jnp.sum(loss)
    if not return_stats:
        return loss
    p = jnp.where(mask, jnp.exp(log_p), 0)
    label_log_prob = jnp.sum(jnp.where(mask, labels * log_p, 0), -1)
    counts = weight != 0
    entropy = -jnp.sum(p * log_p, -1)
    of_label = jnp.take_along_axis(z, jnp.argmax(labels, -1, keepdims=True), -1)
    rank = jnp.sum(z > of_label, -1, dtype=jnp.int32)
    stats = SoftmaxStats(lse, label_log_prob, entropy, jnp.argmax(z, -1), rank, weight)
    return loss, jax.tree.map(lambda value: jnp.where(counts, value, 0), stats)


def _optax_soft(
    logits: jax.Array,
    labels: jax.Array,
    axis: Axis = -1,
    where: jax.Array | None = None,
    *,
    label_smoothing: float = 0.0,
    **options: Any,
) -> jax.Array:
    if label_smoothing:
        labels = optax.smooth_labels(labels, label_smoothing)
    return _weighted(optax.softmax_cross_entropy(logits, labels, axis, where), **options)


def _optax_integer(
    logits: jax.Array,
    labels: jax.Array,
    axis: int | tuple[int, ...] = -1,
    where: jax.Array | None = None,
    *,
    label_smoothing: float = 0.0,
    **options: Any,
) -> jax.Array:
    if label_smoothing:
        one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        return _optax_soft(logits, one_hot, label_smoothing=label_smoothing, **options)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels, axis, where)
    return _weighted(losses, **options)


def _weighted(
    losses: jax.Array,
    *,
    class_weights: None = None,
    sample_weight: jax.Array | None = None,
    rule: Rule = "vjp",
    reduction: Reduction = "none",
) -> jax.Array:
    if sample_weight is not None:
        losses = losses * sample_weight
    return jnp.mean(losses) if reduction == "mean" else losses


def _optax_has(op: str, option: Option) -> bool:
    of_losses = ("none", "soft_labels", "label_smoothing", "sample_weight", "where", "mean")
    of_layer = ("kernel_layout", "class_blocks")
    others = (*OF_LABELS, *LARGEST, CAUSAL, CONTRASTIVE)
    return op in LOSSES and op not in others and option.name in of_losses + of_layer


def _jax_nn_softmax(x: jax.Array, axis: Axis = -1, where: jax.Array | None = None) -> jax.Array:
    return jax.nn.softmax(x, axis, where=where)


def _jax_nn_log_softmax(x: jax.Array, axis: Axis = -1, where: jax.Array | None = None) -> jax.Array:
    return jax.nn.log_softmax(x, axis, where=where)


def _everything(op: str, option: Option) -> bool:
    return True


TEXTBOOK = Peer(composed(reference.softmax, reference.log_softmax), _everything)
PEERS = {
    "textbook": TEXTBOOK,
    "jax_nn": Peer(composed(_jax_nn_softmax, _jax_nn_log_softmax), _everything),
    "optax": Peer(
        OpsUnderTest(
            softmax_cross_entropy=_optax_soft,
            softmax_cross_entropy_with_integer_labels=_optax_integer,
            linear_softmax_cross_entropy=on_logits(_optax_integer, _optax_soft),
        ),
        _optax_has,
    ),
}
