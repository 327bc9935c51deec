"""The options of the losses: their checks, and the logits and gradients under them."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jax_softmax.ops._arguments import statistics_dtype
from jax_softmax.ops._varying import explicit_axes

Rule = Literal["vjp", "jvp"]


class Options(NamedTuple):
    """The options that are constants of the compiled program.

    Attributes:
      label_smoothing: alpha in [0, 1]: labels become (1 - alpha) labels + alpha / classes.
      z_loss: what the squared logsumexp is multiplied by.
      soft_cap: None, or c in c tanh(z / c), which the logits become.
      stats: whether the statistics of `SoftmaxStats` are outputs too.
      classes: how many classes there are, where an array holds a slice of them; None where an array
        holds them all.
      in_cache: whether the logits are a block of rows that a CPU has in its cache.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    soft_cap: float | None = None
    stats: bool = False
    classes: int | None = None
    in_cache: bool = False


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
        if not 1e-30 <= soft_cap <= 1e30:
            raise ValueError(
                f"soft_cap: expected None or a number from 1e-30 to 1e30, got {soft_cap}."
            )
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
        if isinstance(value, str | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected a Python number, got {value!r}.") from error


def weight_of(class_weights: jax.Array, index: jax.Array) -> jax.Array:
    """`class_weights [V]` at classes `index [...]`, laid out over devices as `index` is."""
    if not explicit_axes(index, class_weights):
        return class_weights[index]
    sharding = jax.typeof(index).sharding
    return (
        jax.sharding.reshard(class_weights, sharding.update(spec=P()))
        .at[index]
        .get(out_sharding=sharding)
    )


def exclude(logits: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The logits with `-inf` where `mask` excludes a class."""
    return logits if mask is None else jnp.where(mask, logits, -jnp.inf)


def read(logits: jax.Array, options: Options) -> jax.Array:
    """The logits in the dtype of the statistics, capped: `c tanh(z / c)`.

    `-inf` stays the class that cannot happen, and `+inf` no number.
    """
    z = logits.astype(statistics_dtype(logits.dtype))
    if options.soft_cap is None:
        return z
    cap = options.soft_cap
    q = _decay(z, cap)
    # XLA:CPU's tanh is off by 2.4 eps where it nears 1, which the cap and then exp multiply.
    saturating = jnp.sign(z) * (1 - 2 * q / (1 + q))
    capped = cap * jnp.where(jnp.abs(z) > 0.45 * cap, saturating, jnp.tanh(z / cap))
    return jnp.where(jnp.isinf(z), z, capped)


def through_cap(gradient: jax.Array, logits: jax.Array, options: Options) -> jax.Array:
    """The gradient by the logits as given, from that by the capped ones: the cap's derivative.

    `d(c tanh(z / c))/dz = 4 q / (1 + q)^2` with `q = exp(-2 |z| / c)`, and not `1 - tanh^2`, which
    cancels where the cap bites.
    """
    if options.soft_cap is None:
        return gradient
    q = _decay(logits.astype(gradient.dtype), options.soft_cap)
    return gradient * (4 * q / jnp.square(1 + q))


def _decay(z: jax.Array, soft_cap: float) -> jax.Array:
    """`exp(-2 |z| / c)`, corrected for its argument's rounding: half an ulp of 80 is 32 eps."""
    ratio, error = _quotient(jnp.minimum(2 * jnp.abs(z), 1000 * soft_cap), soft_cap)
    return jnp.exp(-ratio) * (1 - error)


def _quotient(a: jax.Array, b: float) -> tuple[jax.Array, jax.Array]:
    """`a / b` as a rounded value and its error, `value + error == a / b` to twice the precision.

    The remainder `a - value b` from halves whose products are exact (Dekker, 1971); `b` may have
    more digits than `a`'s dtype. The error is a constant for differentiation.
    """
    kind = jnp.finfo(a.dtype)
    value = a / b
    high = jax.lax.reduce_precision(value, kind.nexp, kind.nmant // 2)
    # b's digits as a Python float, in the places that high's leave to an exact product.
    unit = 2.0 ** (math.frexp(b)[1] - (kind.nmant + 1) // 2)
    b_high = round(b / unit) * unit
    low, b_low = value - high, b - b_high
    remainder = ((a - high * b_high) - high * b_low) - low * b_high - low * b_low
    return value, jax.lax.stop_gradient(remainder / b)


def counted_classes(mask: jax.Array | None, options: Options, rows: jax.Array) -> jax.Array | None:
    """What `spread` needs of a mask, `[...]` as `rows`: how many classes count, at least 1.

    None where it needs nothing. Kept for the gradient, which is not taken in blocks: there XLA:CPU
    would write all of the mask out as numbers to add up.
    """
    if mask is None or options.classes is not None or not options.label_smoothing:
        return None
    count = jnp.maximum(jnp.sum(mask, -1, dtype=rows.dtype), 1)
    return jnp.broadcast_to(count, rows.shape)


def spread(
    z: jax.Array,
    mask: jax.Array | None,
    class_weights: jax.Array | None,
    options: Options,
    count: jax.Array | None,
) -> jax.Array | float:
    """What smoothing adds to each class of `z`, `alpha / n w_j`: a number, or `[..., V]`.

    `count` is what `counted_classes` says.
    """
    if mask is None or count is None:
        each = options.label_smoothing / (options.classes or z.shape[-1])
        weighted = each if class_weights is None else each * class_weights
        return weighted if mask is None else jnp.where(mask, weighted, 0)
    weights = 1.0 if class_weights is None else class_weights
    return jnp.where(mask, options.label_smoothing / count[..., None] * weights, 0)
