"""Every tolerance the tests of `ops` use, keyed by dtype: one that is needed is added here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jax_softmax.testing.bounds import BOUNDS


class Tolerance(NamedTuple):
    """Arguments of `numpy.testing.assert_allclose`."""

    rtol: float
    atol: float


# Against a definition of another form (`reference`, NumPy), which rounds and cancels too.
VALUE = {
    "float64": Tolerance(rtol=1e-12, atol=1e-12),
    "float32": Tolerance(rtol=1e-5, atol=2e-6),
    "float16": Tolerance(rtol=1e-3, atol=1e-6),
    "bfloat16": Tolerance(rtol=8e-3, atol=1e-6),
}

# Second derivatives of confident rows against float64, divided by what multiplies the probabilities
# (`Pair.weight`): the terms p_j and p_j p_k cancel where the leader's p is 1. About 16 eps.
SECOND_DERIVATIVE = {
    "float64": Tolerance(rtol=1e-12, atol=4e-15),
    "float32": Tolerance(rtol=1e-5, atol=2e-6),
}

# Central differences in float64, divided by the size of the terms of the function: what is left is
# the difference's own error, step^2 and eps / step.
FINITE_DIFFERENCE_STEP = 1e-5
FINITE_DIFFERENCE = Tolerance(rtol=1e-8, atol=1e-9)
CHECK_GRADS = Tolerance(rtol=1e-5, atol=1e-5)

# The numerical contract, in machine epsilons of the result's dtype, relative to the exact value for
# the logits as given: the verifier's own, for a CPU.
CONTRACT = BOUNDS["cpu"]
LOSS_EPS, GRADIENT_EPS, HALF_GRADIENT_EPS = CONTRACT.loss, CONTRACT.gradient, CONTRACT.half
# Of a gradient's exponentials in float32; a correctly rounded one is 0.5, and these are 0.70.
EXPONENTIAL_EPS = 0.75


def gradient_eps(dtype) -> float:
    """The bound on a gradient's error, in eps of `dtype`."""
    return HALF_GRADIENT_EPS if np.dtype(dtype).itemsize == 2 else GRADIENT_EPS


def soft_cap_eps(cap) -> float:
    """The bound on errors under `soft_cap`, whose logits are themselves rounded at `cap` eps."""
    return CONTRACT.soft_cap + cap


def assert_close(actual, desired, dtype, table=VALUE, scale=1.0):
    """`assert_allclose` of both over `scale`, with the tolerance that `table` has for `dtype`."""
    np.testing.assert_allclose(
        np.asarray(actual, np.float64) / scale,
        np.asarray(desired, np.float64) / scale,
        **table[np.dtype(dtype).name]._asdict(),
    )
