"""Exact quantities, the scales of their errors, and the errors of computed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

LONGDOUBLE_IS_WIDER = bool(np.finfo(np.longdouble).eps < np.finfo(np.float64).eps)


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype of that name, bfloat16 included."""
    return jnp.dtype(name)


def statistics_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype that losses and statistics are due in, which is never half precision."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def widened(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`x` in the type for exact results due in `dtype`: `longdouble` for float64, else float64."""
    return x.astype(np.float64).astype(np.longdouble if dtype == np.float64 else np.float64)


def has_oracle(dtype: str) -> bool:
    """Whether this platform's NumPy has a type wider than `dtype`."""
    return dtype != "float64" or LONGDOUBLE_IS_WIDER


def tiny(dtype: Any) -> float:
    """The smallest normal number of `dtype`."""
    return float(jnp.finfo(dtype).tiny)


def eps(dtype: Any) -> float:
    """The machine epsilon of `dtype`."""
    return float(jnp.finfo(dtype).eps)


@dataclass(frozen=True)
class Exact:
    """An exact quantity and the scales of its error, arrays of one shape.

    Attributes:
      value: the exact value.
      scale: what the error is divided by: `|value|`, or `terms` where the terms cancel.
      terms: what the textbook's form rounds relative to: the absolute values of its terms.
      slack: how far off underflow may leave the result: up to the smallest normal number, times
        the factors of what underflows; infinite where the result may overflow.
      dtype: the dtype the quantity is due in.
      reach: for the gradient, `terms` as if each probability were 1; else None.
      summed: how many numbers are added up one after another, without compensation.
      roundings: how often the result is rounded to half precision, if that is its dtype.
    """

    value: np.ndarray
    scale: np.ndarray
    terms: np.ndarray
    slack: np.ndarray
    dtype: np.dtype
    reach: np.ndarray | None = None
    summed: int = 0
    roundings: int = 1


def as_exact(
    value: np.ndarray,
    scale: np.ndarray,
    dtype: np.dtype,
    *,
    terms: np.ndarray,
    slack: np.ndarray | float = 0.0,
    reach: np.ndarray | None = None,
) -> Exact:
    """An `Exact` whose slack also covers the result's own underflow in `dtype`."""
    least = tiny(dtype)
    slack = slack + np.where(np.abs(value) < least, least, 0)
    return Exact(value, scale, terms, slack, dtype, reach)


def underflow_slack(
    factor: np.ndarray, g: np.ndarray, reach: np.ndarray, dtype: np.dtype
) -> np.ndarray:
    """How far off `g * factor * c` may be, computed in `dtype` in any order, for `c` up to `reach`.

    An intermediate product near the smallest normal number may be lost, and later factors magnify
    that loss. Elsewhere 0.
    """
    least = tiny(dtype)
    near = factor * np.minimum(np.abs(g), 1) < 64 * least
    return np.where(near & (g != 0), 8 * least * np.maximum(np.abs(g), 1) * (1 + reach), 0)


def errors_in_eps(actual: np.ndarray, exact: Exact) -> np.ndarray:
    """`|actual - value|` beyond the slack, over the scale, in eps of the dtype it is due in.

    Where the exact value is infinite in that dtype, the same infinity has an error of 0, and
    anything else an infinite one. NaN always has an infinite error.
    """
    wide = actual.astype(np.float64).astype(exact.value.dtype)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        rounded = exact.value.astype(np.float64).astype(exact.dtype).astype(np.float64)
        off = np.abs(wide - exact.value)
        beyond = np.where(off <= exact.slack, 0, off - exact.slack)
        error = np.where(beyond == 0, 0, beyond / exact.scale / eps(exact.dtype))
    infinite = np.isinf(rounded) & ~np.isinf(exact.slack)
    error = np.where(infinite, np.where(wide == rounded, 0, np.inf), error)
    return np.where(np.isnan(error), np.inf, error).astype(np.float64)


def error_in_eps(
    actual: Any,
    value: np.ndarray,
    dtype: Any,
    representable: Any = True,
    scale: np.ndarray | None = None,
) -> np.ndarray:
    """`errors_in_eps` against `value`, over `scale` or `|value|`.

    Numbers that are not `representable` may be anything but NaN.
    """
    scale = np.abs(value) if scale is None else scale
    slack = np.where(np.broadcast_to(representable, value.shape), 0, np.inf)
    return errors_in_eps(np.asarray(actual), Exact(value, scale, scale, slack, np.dtype(dtype)))
