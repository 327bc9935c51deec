"""Exact values in NumPy: `longdouble` where the platform has one, float64 for half precision."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

LONGDOUBLE_IS_WIDER = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps


class Exact(NamedTuple):
    """Losses `[N]`, their derivatives for a cotangent of 1 `[N, V]`, and probabilities `[N, V]`."""

    loss: np.ndarray
    gradient: np.ndarray
    probability: np.ndarray


def integer_cross_entropy(logits, labels) -> Exact:
    """The loss with integer labels and its derivative, with the label's class summed apart."""
    half = logits.dtype.itemsize == 2
    z = np.asarray(logits, np.float64).astype(np.float64 if half else np.longdouble)
    rows = np.arange(len(z))
    largest = z.max(-1)
    terms = np.exp(z - largest[:, None])
    label_term = terms[rows, labels]
    apart = terms.copy()
    apart[rows, labels] = 0
    others = apart.sum(-1)
    total = others + label_term
    gap = largest - z[rows, labels]
    loss = np.where(gap == 0, np.log1p(others), gap + np.log(total))
    gradient = terms / total[:, None]
    probability = gradient.copy()
    gradient[rows, labels] = -others / total
    return Exact(loss, gradient, probability)


def softmax(x, axes=-1, where=True):
    """Probabilities in float64 along one axis or a tuple of them, among the classes `where`."""
    x = np.asarray(x, np.float64)
    e = np.where(where, np.exp(x - x.max(axes, keepdims=True, where=where, initial=-np.inf)), 0)
    return e / e.sum(axes, keepdims=True)


def cross_entropy(logits, q, axes=-1, where=True):
    """Losses in float64 against class probabilities, and their derivative by the logits."""
    p, q = softmax(logits, axes, where), np.where(where, np.asarray(q, np.float64), 0)
    terms = q * np.log(p, where=q != 0, out=np.zeros(q.shape))
    return -terms.sum(axes), p * q.sum(axes, keepdims=True) - q


def error_in_eps(actual, exact, dtype, representable) -> np.ndarray:
    """`|actual - exact| / |exact|` in machine epsilons of `dtype`; 0 where not `representable`.

    Where `exact` rounds to infinity in `dtype`, `actual` must be that infinity.
    """
    wide = np.asarray(actual, np.float64).astype(exact.dtype)
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float64).astype(dtype).astype(np.float64)
    overflows = np.isinf(rounded)
    scale = np.where(representable & ~overflows, np.abs(exact), 1)
    difference = np.where(overflows, 0, exact) - np.where(overflows, 0, wide)
    error = np.abs(difference) / scale / exact.dtype.type(jnp.finfo(dtype).eps)
    error = np.where(representable, error, 0)
    return np.where(overflows & (wide != rounded), np.inf, error).astype(np.float64)


def tiny(dtype) -> float:
    """The smallest normal number of `dtype`, bfloat16 included."""
    return float(jnp.finfo(dtype).tiny)
