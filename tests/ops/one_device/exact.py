"""Many rows on one device: logits in every regime, and what their loss and derivatives are.

In NumPy's float64 or `longdouble`, from the definition. The contract is checked on some rows: those
on both sides of where a block may end, the last ones, and a few of each regime.
"""

import os
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

CLASSES = 1024
TAIL = 13  # rows that no block divides
REGIMES = ("normal", "wide", "huge", "up", "down", "by 14", "by 60")


def processors():
    """How many this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def many_rows(classes=CLASSES):
    """More than nine blocks of 2 MB of float32 a processor."""
    return 9 * 2**21 * processors() // (4 * classes) + TAIL


class Rows(NamedTuple):
    """Logits `[N, V]`, labels `[N]`, cotangents `[N]`, and the rows that are checked."""

    logits: np.ndarray
    labels: np.ndarray
    g: np.ndarray
    checked: np.ndarray


def in_regimes(rng, rows, classes):
    """Logits in turn of each regime, labels, and the number of a row's regime."""
    z = rng.standard_normal((rows, classes), np.float32).astype(np.float64)
    y = rng.integers(0, classes, rows)
    regime = np.arange(rows) % len(REGIMES)
    z[regime == 1] *= 30
    z[regime == 2] *= 1000
    z[regime == 3] += 1e4
    z[regime == 4] -= 1e4
    for number, lead in ((5, 14.0), (6, 60.0)):
        where = np.flatnonzero(regime == number)
        z[where, y[where]] = z[where].max(-1) + lead
    return z, y, regime


def regime_rows(dtype, classes=CLASSES) -> Rows:
    rng = np.random.default_rng(1)
    rows = many_rows(classes)
    z, y, regime = in_regimes(rng, rows, classes)
    half = regime % 2 == 0
    y = np.where(half & (regime < 5), z.argmax(-1), y)
    # Where blocks may end: multiples of powers of two, and the tail.
    ends = np.arange(0, rows, max(1, 2**18 // classes))
    near = np.concatenate([ends - 1, ends, [rows - 1, rows - TAIL, rows - TAIL - 1]])
    checked = np.unique(np.concatenate([near, rng.integers(0, rows, 30)]) % rows)
    return Rows(z.astype(dtype), y.astype(np.int32), rng.standard_normal(rows, np.float32), checked)


def eps_of(dtype):
    return float(jnp.finfo(dtype).eps)


class Integer(NamedTuple):
    """Loss `[N]`, its gradient and the probabilities `[N, V]`, of integer labels."""

    loss: np.ndarray
    gradient: np.ndarray
    probability: np.ndarray


def integer_loss(logits, labels) -> Integer:
    z = np.asarray(logits, np.float64).astype(np.longdouble)
    rows = np.arange(len(z))
    top = z.max(-1)
    e = np.exp(z - top[:, None])
    own = e[rows, labels]
    apart = e.copy()
    apart[rows, labels] = 0
    others = apart.sum(-1)
    total = own + others
    gap = top - z[rows, labels]
    loss = np.where(gap == 0, np.log1p(others), gap + np.log(total))
    p = e / total[:, None]
    gradient = p.copy()
    gradient[rows, labels] = -others / total
    return Integer(loss, gradient, p)


def assert_within(actual, exact, allowed, lost=0.0):
    """`|actual - exact| <= allowed`, element by element; what underflows (`lost`) may be lost."""
    actual = np.asarray(actual, np.float64).astype(np.longdouble)
    error = np.abs(actual - exact) / (allowed + lost)
    assert error.size and np.max(error) <= 1, f"{np.max(error):.3g} times what is allowed"


def gradient_bound(exact, size, dtype):
    """5 eps of the terms, and in half precision float32's, rounded once."""
    if np.dtype(dtype).itemsize > 2:
        return 5 * eps_of(dtype) * size
    return 0.51 * eps_of(dtype) * np.abs(exact) + 5 * eps_of(np.float32) * size


def lost(dtype):
    """What may underflow, of probabilities times cotangents of about 1."""
    if np.dtype(dtype).itemsize == 2:
        return float(jnp.finfo(dtype).smallest_subnormal) + 4e-38
    return 8 * float(jnp.finfo(dtype).tiny)
