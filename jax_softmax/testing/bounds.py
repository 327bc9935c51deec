"""All bounds of the verifier, by platform.

They are in machine epsilons of the dtype that a quantity is due in.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from jax_softmax.testing.exact import Exact, eps
from jax_softmax.testing.options import SECOND_DERIVATIVES


@dataclass(frozen=True)
class Bounds:
    """The bounds that a platform is held to.

    Attributes:
      loss: losses and statistics, in float32 or float64.
      gradient: float32 and float64 derivatives, and the values of softmax and log_softmax.
      half: results rounded once to half precision: half an epsilon, and float32's share.
      second: second derivatives, relative to the terms that `reference` adds up.
      soft_cap: replaces `loss` and `gradient`, with the cap added to it, since a capped logit is
        rounded to `cap` eps.
      divergence: divergences and their derivatives.
    """

    loss: float
    gradient: float
    half: float
    soft_cap: float
    second: float
    divergence: float


# cpu: the numerical contract, measured on XLA:CPU.
#
# gpu, tpu: based on the documented accuracy of their functions. `verify --quick` has passed on an
# H100; on a TPU nothing has been measured, for want of one.
#   gpu: CUDA documents expf, logf and log1pf within 2 ulp (its float64 ones within 1) where XLA:CPU
#     is within about 1. A gradient has two exponentials in it and a quotient, a loss one logarithm
#     of a sum of exponentials: 2 more for each exponential, 1 for the logarithm. A divergence has
#     two rows of them.
#   tpu: documents nothing. Its exponentials and logarithms are polynomials in float32 and its
#     divisions Newton's, each within some ulp; 16 eps for each of four of them, and float64 is
#     emulated. What is lost by cancellation is 1e3 to 8e6 eps: 64 still tells it apart.
BOUNDS = {
    "cpu": Bounds(loss=3.0, gradient=5.0, half=0.51, soft_cap=4.0, second=32.0, divergence=6.0),
    "gpu": Bounds(loss=6.0, gradient=9.0, half=0.51, soft_cap=8.0, second=64.0, divergence=12.0),
    "tpu": Bounds(
        loss=64.0, gradient=64.0, half=0.55, soft_cap=64.0, second=256.0, divergence=64.0
    ),
}

_VALUES = ("loss", "logsumexp", "label_log_prob", "entropy")


def platform_bounds(platform: str) -> Bounds:
    """The bounds for a JAX backend's name; an unknown one gets those of a TPU."""
    known = {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)
    return BOUNDS.get(known, BOUNDS["tpu"])


def oracle_bound(
    bounds: Bounds,
    quantity: str,
    dtype: np.dtype,
    soft_cap: float | None,
    summed: int = 0,
    roundings: int = 1,
) -> float:
    """The bound on a quantity of `dtype` against the oracle.

    Args:
      bounds: the platform's.
      quantity: its name.
      dtype: the dtype it is due in.
      soft_cap: the option.
      summed: how many numbers are added up one after another, as in a matrix product. n roundings
        of up to half an eps of the terms' sum each come to n / 2 eps at worst. As their signs are
        nearly random, sqrt(n) is more than is ever seen (Higham and Mary 2019), and still small
        enough to notice a missing product.
      roundings: to half precision. The gradient of a layer's logits is rounded before it enters
        the products, as matrix units need, and these are rounded once, after the cotangent.
    """
    if dtype.itemsize == 2:
        wide = eps(np.dtype(np.float32)) / eps(dtype)
        return bounds.half * roundings + math.sqrt(summed) * wide
    if soft_cap is not None:
        bound = bounds.soft_cap + soft_cap
    else:
        bound = bounds.loss if quantity in _VALUES else bounds.gradient
    if quantity in SECOND_DERIVATIVES:
        bound += bounds.second - bounds.gradient
    return bound + math.sqrt(summed)


def rounded_once(bounds: Bounds, exact: Exact) -> Exact:
    """`exact` with the scale that lets half precision be off by one rounding of the value.

    Where the terms are larger than the value, it may also be off by what float32 may be.
    """
    if exact.dtype.itemsize > 2 or exact.roundings > 1:
        return exact
    share = bounds.gradient * eps(np.float32) / (bounds.half * eps(exact.dtype))
    return dataclasses.replace(exact, scale=np.abs(exact.value) + share * exact.scale)


def reference_bound(dtype: np.dtype, classes: int) -> float:
    """How much error autodiff of the textbook form in float64 may add, in eps of `dtype`.

    Relative to the terms. In float64 eps, a probability exp(log p) is off by |log p|, at most 745
    where it does not underflow; a plain sum over the classes by their number; the rest by a few.
    """
    return (1000 + classes) * eps(np.dtype(np.float64)) / eps(dtype)


# Central differences in float64, (f(z + h) - f(z - h)) / 2h, are off by h^2 / 6 of the third
# derivative and by a few eps of f over h.
STEP = 2.0**-13
_TRUNCATION = 8.0  # a bound on third derivatives, over 6 times `reach`, which bounds the first
_ROUNDING = 8.0  # eps of f


def difference_bound(reach: np.ndarray, function_terms: np.ndarray) -> np.ndarray:
    """The bound on a central difference against the derivative, in float64 eps of `reach`."""
    rounding = _ROUNDING * function_terms / STEP
    return _TRUNCATION * STEP**2 / eps(np.dtype(np.float64)) + rounding / reach
