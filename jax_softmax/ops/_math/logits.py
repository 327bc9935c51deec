"""Logits as the formulas read them: widened, capped, divided, without classes that do not count.

With a soft cap `c` logits become `c tanh(z / c)`, whose derivative is

    1 - tanh^2(x) = 4 q / (1 + q)^2,    q = exp(-2 |x|),    x = z / c

and the right-hand side does not cancel where the logits are far beyond the cap. A temperature then
divides them, in the dtype of the statistics, as if the caller had.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_softmax.ops._options import Options


def statistics_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of row statistics and losses: float32 for half precision, else the input's own."""
    # Not promote_types, which raises if the user has turned on JAX's strict promotion.
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def exclude(logits: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The logits with `-inf` where `mask` excludes a class."""
    return logits if mask is None else jnp.where(mask, logits, -jnp.inf)


class CappedLogits(NamedTuple):
    """Logits as they are stored, and the cap and temperature they are read with (see `Logits`).

    `masked` says that `stored` is made from what came and a mask.
    """

    stored: jax.Array
    soft_cap: float | None
    masked: bool = False
    temperature: float = 1.0

    @property
    def plain(self) -> bool:
        """Whether they are an argument as it came, and reading only widens."""
        return self.soft_cap is None and self.temperature == 1 and not self.masked

    def of(self, stored: jax.Array) -> CappedLogits:
        """Other logits, read in the same way."""
        return self._replace(stored=stored)

    def values(self) -> jax.Array:
        """All logits, `[..., V]`, read."""
        return self.read(self.stored)

    def read(self, x: jax.Array) -> jax.Array:
        """Logits in the dtype of the statistics, capped, and then divided by the temperature.

        Infinities stay: `-inf` is a class that cannot happen, and `+inf` makes the row NaN.
        """
        z = _capped(x.astype(statistics_dtype(x.dtype)), self.soft_cap)
        return z if self.temperature == 1 else _divided(z, self.temperature)

    def through_cap(self, gradient: jax.Array) -> jax.Array:
        """The gradient by the stored logits, from the gradient by those that were read."""
        if self.soft_cap is not None:
            q = _decay(self.stored.astype(gradient.dtype), self.soft_cap)
            gradient = gradient * (4 * q / jnp.square(1 + q))
        return gradient if self.temperature == 1 else gradient / self.temperature


def held_logits(logits: jax.Array, mask: jax.Array | None, options: Options) -> CappedLogits:
    """The logits as the options say to read them, with `-inf` where `mask` excludes a class."""
    cap, temperature = options.soft_cap, options.temperature
    return CappedLogits(exclude(logits, mask), cap, mask is not None, temperature)


def _capped(z: jax.Array, cap: float | None) -> jax.Array:
    """`cap tanh(z / cap)`, but for infinities."""
    if cap is None:
        return z
    q = _decay(z, cap)
    # A library's tanh may lose 2.4 eps near 1, which the cap and then exp magnify.
    saturating = jnp.sign(z) * (1 - 2 * q / (1 + q))
    capped = cap * jnp.where(jnp.abs(z) > 0.45 * cap, saturating, jnp.tanh(z / cap))
    return jnp.where(jnp.isinf(z), z, capped)


def _divided(z: jax.Array, divisor: float) -> jax.Array:
    """`z / divisor`, rounded correctly: compilers multiply by the reciprocal, an ulp off.

    That would be an error of `|z|` eps in every probability.
    """
    divisor = float(np.asarray(divisor, z.dtype))
    if math.frexp(divisor)[0] == 0.5:  # a power of two, whose reciprocal is exact
        return z / divisor
    value, error = _quotient(z, divisor)
    return value + jnp.where(jnp.isfinite(value), error, 0)


def _decay(z: jax.Array, soft_cap: float) -> jax.Array:
    """`exp(-2 |z| / c)`, corrected for the argument's rounding: half an ulp of 80 is 32 eps."""
    ratio, error = _quotient(jnp.minimum(2 * jnp.abs(z), 1000 * soft_cap), soft_cap)
    return jnp.exp(-ratio) * (1 - error)


def _quotient(a: jax.Array, b: float) -> tuple[jax.Array, jax.Array]:
    """`a / b` as a rounded value and its error, `value + error == a / b` to twice the precision.

    Halves whose products are exact give the remainder `a - value b` (Dekker, 1971). `b` may have
    more digits than `a`'s dtype. The error is a constant for differentiation.
    """
    kind = jnp.finfo(a.dtype)
    value = a / b
    high = jax.lax.reduce_precision(value, kind.nexp, kind.nmant // 2)
    # The leading digits of b, a Python float: as many as keep the product with high exact.
    unit = 2.0 ** (math.frexp(b)[1] - (kind.nmant + 1) // 2)
    b_high = round(b / unit) * unit
    low, b_low = value - high, b - b_high
    remainder = ((a - high * b_high) - high * b_low) - low * b_high - low * b_low
    return value, jax.lax.stop_gradient(remainder / b)
