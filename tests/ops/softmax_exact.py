"""The derivatives of `softmax` and `log_softmax` in NumPy, and the sizes of their terms.

Written out from the contract and not from the package: sums over pairs of classes, in `longdouble`.
Errors are held against the sum of the absolute values of the terms, for the terms may cancel.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

EPS = 5.0
HALF_EPS = 0.51


class Derivative(NamedTuple):
    """Exact values and the sizes of their terms, `[N, V]` each."""

    value: np.ndarray
    size: np.ndarray


def probabilities(x, where=True):
    """`p` and `1 - p`, each with its full relative precision, `[N, V]`; rows of nothing are 0."""
    x = np.asarray(x, np.float64).astype(np.longdouble)
    x = np.where(where, x, -np.inf)
    top = x.max(-1, keepdims=True)
    e = np.exp(x - np.where(np.isneginf(top), 0, top))
    total = e.sum(-1, keepdims=True)
    total = np.where(total == 0, 1, total)
    p = e / total
    apart = e.copy()
    np.put_along_axis(apart, x.argmax(-1)[:, None], 0, -1)
    rest = 1 - p
    np.put_along_axis(rest, x.argmax(-1)[:, None], apart.sum(-1, keepdims=True) / total, -1)
    return p, rest


def _pairs(f, p, g):
    """`sum_i p_i f(g_k - g_i)`, `[N, V]`, a row at a time: that of a pair of classes is V x V."""
    rows = zip(p, g, strict=True)
    return np.stack([f(b[:, None] - b[None]) @ a for a, b in rows]) if len(p) else np.zeros_like(p)


def of_softmax(x, g, where=True) -> Derivative:
    """`p_k sum_i p_i (g_k - g_i)`: the derivative for a cotangent `g`, and for a tangent."""
    p, _ = probabilities(x, where)
    g = np.asarray(g, np.float64).astype(np.longdouble)
    return Derivative(p * _pairs(np.asarray, p, g), p * _pairs(np.abs, p, g))


def of_log_softmax(x, g, where=True) -> Derivative:
    """`(1 - p_k) g_k - p_k sum_{i != k} g_i`, and 0 at a class that cannot happen."""
    p, rest = probabilities(x, where)
    g = np.asarray(g, np.float64).astype(np.longdouble)
    apart = ~np.eye(p.shape[-1], dtype=bool)
    others = np.stack([apart @ row for row in g])
    sizes = np.stack([apart @ np.abs(row) for row in g])
    possible = p.sum(-1, keepdims=True) * (where & ~np.isneginf(np.asarray(x, np.float64))) != 0
    value = np.where(possible, rest * g - p * others, 0)
    return Derivative(value, np.where(possible, rest * np.abs(g) + p * sizes, 0))


def of_log_softmax_tangent(x, v, where=True) -> Derivative:
    """`sum_j p_j (v_k - v_j)`."""
    p, _ = probabilities(x, where)
    v = np.asarray(v, np.float64).astype(np.longdouble)
    return Derivative(_pairs(np.asarray, p, v), _pairs(np.abs, p, v))


REVERSE = {"softmax": of_softmax, "log_softmax": of_log_softmax}
FORWARD = {"softmax": of_softmax, "log_softmax": of_log_softmax_tangent}


def excess(actual, exact: Derivative, g, dtype) -> np.ndarray:
    """The error over what the contract allows, `[N, V]`: at most 1.

    Five eps of the terms; in half precision those are float32's and the result is rounded once.
    What underflows may be lost: a probability, that is, for each class.
    """
    name = np.dtype(dtype).name
    inner = "float32" if name in ("float16", "bfloat16") else name
    allowed = EPS * np.finfo(inner).eps * exact.size
    if inner != name:
        allowed = allowed + HALF_EPS * float(jnp.finfo(dtype).eps) * np.abs(exact.value)
        allowed = allowed + float(jnp.finfo(dtype).smallest_subnormal)
    spread = np.maximum(np.abs(np.asarray(g, np.float64)).max(-1, keepdims=True), 1)
    lost = np.finfo(inner).tiny * exact.value.shape[-1] * spread
    actual = np.asarray(actual, np.float64).astype(np.longdouble)
    return (np.abs(actual - exact.value) / (allowed + lost)).astype(np.float64)


def assert_exact(actual, exact: Derivative, g, dtype):
    """The contract, element by element; says where it is broken most."""
    actual = np.asarray(actual)
    assert actual.dtype == np.dtype(dtype)
    found = excess(actual, exact, g, dtype)
    worst = np.unravel_index(np.argmax(np.where(np.isnan(found), np.inf, found)), found.shape)
    assert found[worst] <= 1, (
        f"{found[worst]:.3g} times what is allowed at {tuple(map(int, worst))}: "
        f"{actual[worst]!r} for {exact.value[worst]!r}"
    )
