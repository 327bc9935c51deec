"""The exact gradients of a linear layer, from that of its logits.

For logits Z = X K + b and G = dL/dZ:    dL/dX = G K^T    dL/dK = X^T G    dL/db = sum_n G_n

The terms of an element are the products that are added up, with the terms of G in place of G.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_softmax.testing.cases import Case
from jax_softmax.testing.exact import Exact, as_exact, eps, numpy_dtype, statistics_dtype, tiny
from jax_softmax.testing.layer import BIAS_GRADIENT, FEATURES_GRADIENT, kernel_of


def exact_layer(case: Case, z: np.ndarray, logits_gradient: Exact) -> dict[str, Exact]:
    """The gradients of the layer; the kernel's is reported as the logits' (see `layer`).

    Args:
      case: of a linear layer.
      z: its logits in the wide type.
      logits_gradient: in the dtype of the statistics.
    """
    g, slack = logits_gradient, logits_gradient.slack + _lost(case, logits_gradient.value)
    return {
        "gradient": _of_kernel(case, g, slack),
        FEATURES_GRADIENT: _of_features(case, g, slack, kernel_of(z, np)),
        BIAS_GRADIENT: _of_bias(case, g, slack),
    }


def _of_kernel(case: Case, g: Exact, slack: np.ndarray) -> Exact:
    return of_kernel(g, numpy_dtype(case.group.dtype), case.option.reduction != "none", slack)


def of_kernel(g: Exact, dtype: np.dtype, total: bool, slack: np.ndarray) -> Exact:
    """The logits' gradient as the kernel's is reported, in `dtype`.

    Args:
      g: in the dtype of the statistics.
      dtype: of the layer.
      total: whether it is of a total.
      slack: of g, and what underflow may take from a total's.
    """
    # Half of this gradient is what is computed, and that underflows first.
    slack = slack + np.where(np.abs(g.value) < 2 * tiny(dtype), tiny(dtype), 0)
    # A total's is rounded for the products and again after the cotangent; with rows, only once.
    roundings = 2 if total else 1
    slack = slack + _narrow_step(g.value, dtype)
    found = as_exact(g.value, g.scale, dtype, terms=g.terms, slack=slack, reach=g.reach)
    return dataclasses.replace(found, roundings=roundings)


def _of_features(case: Case, g: Exact, slack: np.ndarray, kernel: np.ndarray) -> Exact:
    dtype, factors = numpy_dtype(case.group.dtype), np.abs(kernel).T
    value, scale, terms = g.value @ kernel.T, g.scale @ factors, g.terms @ factors
    slack = (slack + _narrow_step(g.value, dtype)) @ factors
    # A value off by an eps of its terms may overflow float16.
    largest = float(jnp.finfo(dtype).max)
    slack = np.where(np.abs(value) + eps(dtype) * scale > largest, np.inf, slack)
    found = as_exact(value, scale, dtype, terms=terms, slack=slack)
    return dataclasses.replace(found, summed=len(factors), roundings=2)


def _of_bias(case: Case, g: Exact, slack: np.ndarray) -> Exact:
    value, scale, terms, slack = (np.sum(x, 0) for x in (g.value, g.scale, g.terms, slack))
    dtype = numpy_dtype(case.group.dtype)
    found = as_exact(value, scale, dtype, terms=terms, slack=slack)
    return dataclasses.replace(found, summed=len(g.value))


def with_product_error(case: Case, expected: dict[str, Exact]) -> dict[str, Exact]:
    """`expected`, with the error of the device's own product as slack of the features' gradient.

    The product is of the exact gradient of the logits, rounded once: no derivative can avoid its
    error. Equal terms round alike, as smoothing's do on a kernel of nearly equal numbers: on a CPU
    1000 of them err by 59 eps, where random signs would give 32.
    """
    dtype = numpy_dtype(case.group.dtype)
    if dtype.itemsize == 2:
        return expected  # its rounding costs more
    found, exact = expected[FEATURES_GRADIENT], expected["gradient"].value
    g, kernel = exact.astype(dtype), kernel_of(case.logits, np)

    @jax.jit
    def product(g: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.dot_general(g, kernel, (((1,), (1,)), ((), ())), precision="highest")

    error = np.asarray(product(g, kernel)) - g.astype(exact.dtype) @ kernel.astype(exact.dtype).T
    return expected | {
        FEATURES_GRADIENT: dataclasses.replace(found, slack=found.slack + np.abs(error))
    }


def _lost(case: Case, g: np.ndarray) -> np.ndarray:
    """How much underflow may take from a total's gradient before the cotangent multiplies it."""
    if case.option.reduction == "none":
        return np.zeros_like(g)
    return lost(g, case.cotangents["loss"], statistics_dtype(numpy_dtype(case.group.dtype)))


def lost(g: np.ndarray, cotangent: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """How much underflow may take from a gradient in `dtype` before a total's cotangent."""
    least = 2 * tiny(dtype) * max(1, float(np.abs(cotangent)))
    return np.where(np.abs(g) < least, least, 0)


def _narrow_step(g: np.ndarray, dtype: np.dtype) -> float:
    """How far off an element of G may be because float16, used for the products, underflows.

    G is scaled so that the largest number in a block of rows is at least 2^11, and the smallest
    step of float16 is 2^-24: half a step is 2^-36 of the largest.
    """
    return float(2.0**-36 * np.max(np.abs(g))) if dtype == np.float16 else 0.0
