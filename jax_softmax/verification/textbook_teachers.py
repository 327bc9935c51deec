"""The textbook's losses of a teacher, from the logits of both, differentiated by JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jax_softmax.ops._linear.layer import KernelLayout
from jax_softmax.ops._options import Reduction, Rule


def of_teachers(log_softmax: Callable[..., jax.Array]) -> tuple[Callable[..., Any], ...]:
    """`softmax_kl_divergence`, and the losses of layers, built on a `log_softmax`."""

    def divergence(
        logits: jax.Array,
        teacher_logits: jax.Array,
        axis: int = -1,
        where: jax.Array | None = None,
        *,
        direction: str = "forward",
        temperature: float = 1.0,
        soft_cap: float | None = None,
        sample_weight: jax.Array | None = None,
        rule: Rule = "vjp",
        reduction: Reduction = "none",
    ) -> jax.Array:
        kept = None
        if where is not None and where.ndim < logits.ndim:
            kept, where = where, None
        mask = jnp.ones(logits.shape, bool) if where is None else where

        def log_probabilities(z: jax.Array) -> jax.Array:
            z = z if kept is None else jnp.where(kept[:, None], z, 0)
            z = z if soft_cap is None else soft_cap * jnp.tanh(z / soft_cap)
            return jnp.where(mask, log_softmax(z / temperature, -1, where), 0)

        found = _divergence(
            log_probabilities(logits), log_probabilities(teacher_logits), mask, direction
        )
        return _reduced(found, kept, sample_weight, reduction)

    def of_layers(
        features: jax.Array,
        kernel: jax.Array,
        teacher_features: jax.Array,
        teacher_kernel: jax.Array,
        *,
        kernel_layout: KernelLayout = "dv",
        where: jax.Array | None = None,
        block_size: Any = None,
        precision: jax.lax.PrecisionLike = None,
        **options: Any,
    ) -> jax.Array:
        z, t = (
            _logits(x, k, kernel_layout)
            for x, k in ((features, kernel), (teacher_features, teacher_kernel))
        )
        return divergence(z, t, -1, where, **options)

    def of_named(
        features: jax.Array,
        kernel: jax.Array,
        teacher_log_probs: jax.Array,
        teacher_indices: jax.Array,
        *,
        kernel_layout: KernelLayout = "dv",
        where: jax.Array | None = None,
        rest: str = "ignore",
        temperature: float = 1.0,
        sample_weight: jax.Array | None = None,
        rule: Rule = "vjp",
        reduction: Reduction = "none",
        block_size: Any = None,
        precision: jax.lax.PrecisionLike = None,
    ) -> jax.Array:
        z = _logits(features, kernel, kernel_layout) / temperature
        masses = jnp.exp(teacher_log_probs)
        total = jnp.sum(masses, -1, keepdims=True)
        unnamed = max(z.shape[-1] - masses.shape[-1], 1)
        each = jnp.maximum(1 - total, 0) / unnamed if rest == "uniform" else jnp.zeros_like(total)
        if rest == "renormalise":
            masses = masses / total
        rows = jnp.arange(len(z))[:, None]
        targets = jnp.broadcast_to(each, z.shape).astype(z.dtype).at[rows, teacher_indices]
        found = -jnp.sum(targets.set(masses) * log_softmax(z), -1)
        return _reduced(found, where, sample_weight, reduction)

    return divergence, of_layers, of_named


def _logits(features: jax.Array, kernel: jax.Array, layout: KernelLayout) -> jax.Array:
    kernel = kernel if layout == "dv" else kernel.T
    return jnp.matmul(features, kernel, precision="highest")


def _divergence(log_q: jax.Array, log_p: jax.Array, mask: jax.Array, direction: str) -> jax.Array:
    q, p = (jnp.where(mask, jnp.exp(x), 0) for x in (log_q, log_p))
    if direction == "forward":
        return jnp.sum(p * (log_p - log_q), -1)
    if direction == "reverse":
        return jnp.sum(q * (log_q - log_p), -1)
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
    log_m = jnp.where(mask, log_m, 0)
    return jnp.sum(p * (log_p - log_m) + q * (log_q - log_m), -1) / 2


def _reduced(
    loss: jax.Array,
    kept: jax.Array | None,
    sample_weight: jax.Array | None,
    reduction: Reduction,
) -> jax.Array:
    weight = jnp.ones(loss.shape, loss.dtype) if sample_weight is None else sample_weight
    weight = weight if kept is None else weight * kept
    if reduction == "none":
        return weight * loss
    total = jnp.sum(weight * loss)
    return total if reduction == "sum" else total / jnp.sum(weight)
