"""Softmax of rows and its derivatives in a wide type, without cancellation.

With k the likeliest class, e_j = exp(z_j - z_k) and o = sum_{j != k} e_j:

    log s = log1p(o)        p_j = e_j / (1 + o)        1 - p_k = o / (1 + o)
    u_j = -log p_j = (z_k - z_j) + log s

For a cotangent g, with L the likeliest class, the derivatives and the scales of their errors are:

    softmax        p_k sum_i p_i (g_k - g_i)              p_k sum_i p_i |g_k - g_i|
    log_softmax    (1 - p_k) g_k - p_k sum_{i != k} g_i   (1 - p_k) |g_k| + p_k sum_{i != k} |g_i|

A sum of differences is a difference of sums, c_k - sum_i p_i c_i with c = g less any constant, but
the constant decides what cancels. It is g_L if L has most of the mass, since L's own term is then
exactly 0; else the mean, whose rounding the second sum takes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class SoftmaxRows:
    """Rows of probabilities.

    Attributes:
      p: `[N, V]`, 0 at a class that cannot happen, and so in a row with no other classes.
      not_p: `[N, V]`, `1 - p`.
      u: `[N, V]`, `-log p`.
      largest: `[N, 1]`, the largest logit, or 0 where it is `-inf`.
      log_s: `[N, 1]`; the logsumexp is `largest + log_s`.
    """

    p: np.ndarray
    not_p: np.ndarray
    u: np.ndarray
    largest: np.ndarray
    log_s: np.ndarray


def softmax_rows(z: np.ndarray, where: np.ndarray | None = None) -> SoftmaxRows:
    """The rows of `z [N, V]` over the classes of `where`; others are treated as `-inf`."""
    if where is not None:
        z = np.where(where, z, -np.inf)
    top = np.arange(z.shape[-1]) == z.argmax(-1)[:, None]
    largest = z.max(-1, keepdims=True)
    none = largest == -np.inf
    largest = np.where(none, 0, largest)
    e = np.exp(z - largest)
    others = np.sum(np.where(top, 0, e), -1, keepdims=True)
    log_s = np.where(none, -np.inf, np.log1p(others))
    not_p = np.where(top & ~none, others / (1 + others), 1 - e / (1 + others))
    with np.errstate(invalid="ignore"):
        u = np.where(z == -np.inf, np.inf, largest - z + log_s)
    return SoftmaxRows(e / (1 + others), not_p, u, largest, log_s)


class Derivative(NamedTuple):
    """A derivative `[N, V]` and the scales of its error.

    Attributes:
      value: the exact derivative.
      scale: what the contract divides the error by.
      terms: what the textbook's form rounds relative to.
      reach: `terms` as if each probability were 1.
      slack: the error that is allowed where `scale` is 0.
    """

    value: np.ndarray
    scale: np.ndarray
    terms: np.ndarray
    reach: np.ndarray
    slack: np.ndarray


def differences_from_mean(rows: SoftmaxRows, g: np.ndarray) -> np.ndarray:
    """`sum_i p_i (g_k - g_i)`, `[N, V]`."""
    leads = np.max(rows.p, -1, keepdims=True) > 0.5
    of_leader = np.take_along_axis(g, rows.p.argmax(-1)[:, None], -1)
    centred = g - np.where(leads, of_leader, np.sum(rows.p * g, -1, keepdims=True))
    return centred - np.sum(rows.p * centred, -1, keepdims=True)


def sizes_of_differences(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """`sum_i p_i |g_k - g_i|`, `[N, V]`.

    Sums over the sorted g. On the way up to g_k, each step counts with the mass before it; on the
    way down, with the mass behind it. Nothing else is subtracted, so a leader's own size keeps its
    digits.
    """
    order = np.argsort(g, -1, kind="stable")
    p, g = (np.take_along_axis(x, order, -1) for x in (p, g))
    steps = np.diff(g, axis=-1)
    before = np.cumsum(p, -1)[:, :-1] * steps
    behind = np.cumsum(p[:, :0:-1], -1)[:, ::-1] * steps
    nothing = np.zeros_like(p[:, :1])
    up = np.concatenate([nothing, np.cumsum(before, -1)], -1)
    down = np.concatenate([np.cumsum(behind[:, ::-1], -1)[:, ::-1], nothing], -1)
    sizes = np.empty_like(p)
    np.put_along_axis(sizes, order, up + down, -1)
    return sizes


def softmax_gradient(rows: SoftmaxRows, g: np.ndarray, eps: float) -> Derivative:
    """Softmax's derivative for a cotangent or along a tangent: its Jacobian is symmetric.

    Args:
      rows: the softmax.
      g: `[N, V]`.
      eps: that of the dtype that the op computes in.
    """
    size = np.sum(rows.p * np.abs(g), -1, keepdims=True)
    reach = np.abs(g) + size
    return Derivative(
        rows.p * differences_from_mean(rows, g),
        rows.p * sizes_of_differences(rows.p, g),
        rows.p * reach,
        reach,
        rows.p * _left(rows, g, eps),
    )


def log_softmax_gradient(rows: SoftmaxRows, g: np.ndarray) -> Derivative:
    """The derivative of log_softmax for a cotangent `g` `[N, V]`."""
    not_p = np.where(np.isinf(rows.u), 0, rows.not_p)  # nothing reaches an impossible class
    value = not_p * g - rows.p * _sum_of_others(rows, g)
    scale = not_p * np.abs(g) + rows.p * _sum_of_others(rows, np.abs(g))
    size = np.sum(np.abs(g), -1, keepdims=True)
    terms, reach = np.abs(g) + rows.p * size, np.abs(g) + size
    return Derivative(value, scale, terms, reach, np.zeros_like(value))


def _sum_of_others(rows: SoftmaxRows, g: np.ndarray) -> np.ndarray:
    """`sum_{i != k} g_i`; at the leader, whose g may outweigh the others, without adding its g."""
    top = np.arange(g.shape[-1]) == rows.p.argmax(-1)[:, None]
    others = np.sum(np.where(top, 0, g), -1, keepdims=True)
    return np.where(top, others, others - g + np.sum(np.where(top, g, 0), -1, keepdims=True))


def log_softmax_tangent(rows: SoftmaxRows, v: np.ndarray, eps: float) -> Derivative:
    """The derivative of log_softmax along `v` `[N, V]`: `sum_j p_j (v_k - v_j)`.

    At a class that cannot happen it is the tangent of an infinity, and may be any number.
    """
    of_softmax = softmax_gradient(rows, v, eps)
    return Derivative(
        differences_from_mean(rows, v),
        sizes_of_differences(rows.p, v),
        of_softmax.reach,
        of_softmax.reach,
        np.where(np.isinf(rows.u), np.inf, _left(rows, v, eps)),
    )


def _left(rows: SoftmaxRows, g: np.ndarray, eps: float) -> np.ndarray:
    """What may be left of equal cotangents, `[N, 1]`: rounding squared, as two means come off."""
    no_leader = np.max(rows.p, -1, keepdims=True) <= 0.5
    return np.where(no_leader, 4 * eps**2 * np.max(np.abs(g), -1, keepdims=True), 0)
