"""The options of the losses: their checks, and the logits and gradients under them."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jax_softmax.ops._arguments import statistics_dtype

Rule = Literal["vjp", "jvp"]


class Options(NamedTuple):
    """The options that are constants of the compiled program.

    Attributes:
      label_smoothing: alpha in [0, 1]: labels become (1 - alpha) labels + alpha / classes.
      z_loss: what the squared logsumexp is multiplied by.
      soft_cap: None, or c in c tanh(z / c), which the logits become.
      stats: whether the statistics of `SoftmaxStats` are outputs too.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    soft_cap: float | None = None
    stats: bool = False


def check_options(
    label_smoothing: float, z_loss: float, soft_cap: float | None, stats: bool
) -> Options:
    """The options as Python numbers.

    Raises:
      TypeError: if one is traced or no number; the message names it.
      ValueError: if one is out of its range.
    """
    alpha = _number("label_smoothing", label_smoothing)
    if not 0 <= alpha <= 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1], got {alpha}.")
    z_loss = _number("z_loss", z_loss)
    if not math.isfinite(z_loss):
        raise ValueError(f"z_loss: expected a finite number, got {z_loss}.")
    if soft_cap is not None:
        soft_cap = _number("soft_cap", soft_cap)
        if not (math.isfinite(soft_cap) and soft_cap > 0):
            raise ValueError(f"soft_cap: expected None or a number above 0, got {soft_cap}.")
    return Options(alpha, z_loss, soft_cap, bool(stats))


def check_rule(rule: str) -> None:
    """Raises ValueError unless `rule` is one that the losses have."""
    if rule not in get_args(Rule):
        raise ValueError(f"rule: expected 'vjp' or 'jvp', got {rule!r}.")


def _number(name: str, value: float) -> float:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name}: expected a Python number, got a traced array; it is a constant of the "
            f"compiled program, so pass it outside jit or mark it static (static_argnames)."
        )
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected a Python number, got {value!r}.") from error


def read_logits(logits: jax.Array, mask: jax.Array | None, options: Options) -> jax.Array:
    """The logits in the dtype of the statistics, capped, `-inf` where `mask` excludes them."""
    z = _cap(logits.astype(statistics_dtype(logits.dtype)), options.soft_cap)
    return z if mask is None else jnp.where(mask, z, -jnp.inf)


def _cap(z: jax.Array, soft_cap: float | None) -> jax.Array:
    """`c tanh(z / c)`; `-inf` stays the class that cannot happen, and `+inf` no number."""
    if soft_cap is None:
        return z
    far = float(jnp.finfo(z.dtype).max) / 2
    # A clip that only infinities feel, for XLA:CPU does not fuse a select into a row reduction.
    return jnp.clip(soft_cap * jnp.tanh(z / soft_cap), z - far, z + far)


def through_cap(gradient: jax.Array, logits: jax.Array, options: Options) -> jax.Array:
    """The gradient by the logits as given, from that by the capped ones: the cap's derivative.

    `d(c tanh(z / c))/dz = 4 q / (1 + q)^2` with `q = exp(-2 |z| / c)`, and not `1 - tanh^2`, which
    cancels where the cap bites.
    """
    if options.soft_cap is None:
        return gradient
    q = jnp.exp(-2 * jnp.abs(logits.astype(gradient.dtype)) / options.soft_cap)
    return gradient * (4 * q / jnp.square(1 + q))


def spread(
    classes: int, mask: jax.Array | None, class_weights: jax.Array | None, options: Options
) -> jax.Array | float:
    """What smoothing adds to each class, `alpha / n w_j`: a number, `[V]` or `[..., V]`."""
    if mask is None:
        each = options.label_smoothing / classes
        return each if class_weights is None else each * class_weights
    count = jnp.maximum(jnp.sum(mask, -1, keepdims=True, dtype=jnp.float32), 1)
    weights = 1.0 if class_weights is None else class_weights
    return jnp.where(mask, options.label_smoothing / count * weights, 0)


def spread_sum(each: jax.Array | float, classes: int) -> jax.Array | float:
    """The sum of `spread` over the classes: a number, or `[...]`."""
    return each * classes if isinstance(each, float) else jnp.sum(each, -1)
