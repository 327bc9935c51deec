"""Softmax of rows in a wide type, without cancellation, and what an exact quantity is.

With k the likeliest class, e_j = exp(z_j - z_k) and o = sum_{j != k} e_j:

    log s = log1p(o)        p_j = e_j / (1 + o)        1 - p_k = o / (1 + o)
    u_j = -log p_j = (z_k - z_j) + log s
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jax_softmax.verification.cases import tiny


@dataclass(frozen=True)
class Exact:
    """A quantity as it should be and what its error is measured by; arrays of one shape.

    Attributes:
      value: the exact value.
      scale: what the error is divided by: `|value|`, or `terms` where the terms cancel.
      terms: what the textbook's form rounds relative to: the absolute values of its terms.
      slack: how far off underflow may leave it: up to the smallest normal number of what
        underflows, times what that is multiplied by; infinite where it may overflow.
      dtype: the dtype the quantity is due in.
      reach: for the gradient, `terms` as if each probability were 1; else None.
      summed: how many numbers are added up as they come, without compensation.
      roundings: how often it is rounded to half precision, if that is its dtype.
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

    Where a product on the way comes near the smallest normal number it may be lost, and what is
    multiplied with it after makes that larger. 0 elsewhere.
    """
    least = tiny(dtype)
    near = factor * np.minimum(np.abs(g), 1) < 64 * least
    return np.where(near & (g != 0), 8 * least * np.maximum(np.abs(g), 1) * (1 + reach), 0)


@dataclass(frozen=True)
class SoftmaxRows:
    """`p`, `not_p = 1 - p` and `u = -log p`, `[N, V]`; `largest` and `log_s`, `[N, 1]`."""

    p: np.ndarray
    not_p: np.ndarray
    u: np.ndarray
    largest: np.ndarray
    log_s: np.ndarray


def softmax_rows(z: np.ndarray, where: np.ndarray | None) -> SoftmaxRows:
    """The rows of `z [N, V]` over the classes of `where`, each of which has one."""
    if where is not None:
        z = np.where(where, z, -np.inf)
    largest = z.max(-1, keepdims=True)
    top = np.arange(z.shape[-1]) == z.argmax(-1)[:, None]
    e = np.exp(z - largest)
    others = np.sum(np.where(top, 0, e), -1, keepdims=True)
    p = e / (1 + others)
    log_s = np.log1p(others)
    not_p = np.where(top, others / (1 + others), 1 - p)
    return SoftmaxRows(p, not_p, largest - z + log_s, largest, log_s)
