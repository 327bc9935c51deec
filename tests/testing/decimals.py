"""Softmax, losses and derivatives in decimal arithmetic of 300 digits, a class at a time.

Shares nothing with the oracle, which it is there to check, and is as the textbook has it: with so
many digits nothing that cancels is lost: the regimes' probabilities go down to 1e-100.
"""

from decimal import Context, Decimal, localcontext

import numpy as np

LEAST = Decimal("1e-300")
DIGITS = Context(prec=300, Emin=-(10**9), Emax=10**9)


def exactly(x):
    """Numbers of any NumPy dtype as the decimals they are, in nested lists."""
    if np.ndim(x):
        return [exactly(item) for item in x]
    return Decimal(float(x))


def probabilities(z):
    """Of the decimals `z`."""
    e = [value.exp() for value in z]
    total = sum(e)
    return [value / total for value in e]


def weighted_loss(z, targets, z_loss=Decimal(0)):
    """`-sum_j t_j log p_j + c lse^2` and its gradient."""
    p, lse = probabilities(z), sum(value.exp() for value in z).ln()
    total = sum(targets)
    loss = sum(t * (lse - value) for t, value in zip(targets, z, strict=True))
    gradient = [total * pk - t + 2 * z_loss * lse * pk for pk, t in zip(p, targets, strict=True)]
    return loss + z_loss * lse * lse, gradient


def softmax_gradient(z, g):
    """`p_k sum_i p_i (g_k - g_i)` and its size."""
    p = probabilities(z)
    found = []
    for pk, gk in zip(p, g, strict=True):
        differences = [pi * (gk - gi) for pi, gi in zip(p, g, strict=True)]
        found.append((pk * sum(differences), pk * sum(map(abs, differences))))
    return found


def log_softmax_gradient(z, g):
    """`(1 - p_k) g_k - p_k sum_{i != k} g_i` and its size."""
    p = probabilities(z)
    found = []
    for k, (pk, gk) in enumerate(zip(p, g, strict=True)):
        others = [gi for i, gi in enumerate(g) if i != k]
        size = (1 - pk) * abs(gk) + pk * sum(abs(gi) for gi in others)
        found.append(((1 - pk) * gk - pk * sum(others), size))
    return found


def relative_error(found, expected):
    """The largest of `|found - expected| / |expected|`, of numbers of any NumPy type.

    What is below 1e-300 may have underflowed.
    """
    worst = Decimal(0)
    for a, b in zip(np.ravel(found), expected, strict=True):
        # A longdouble is the sum of two float64s.
        high = float(a)
        actual = Decimal(high) + Decimal(float(a - a.dtype.type(high)))
        if abs(actual - b) > LEAST:
            worst = max(worst, abs(actual - b) / abs(b))
    return float(worst)


def in_digits(test):
    """Runs a test in that arithmetic."""

    def wrapped(*args, **kwargs):
        with localcontext(DIGITS):
            return test(*args, **kwargs)

    wrapped.__name__, wrapped.__doc__ = test.__name__, test.__doc__
    wrapped.__wrapped__ = test
    return wrapped
