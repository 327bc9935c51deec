"""How far a contender's numbers may be from the reference's, and how that is measured."""

from __future__ import annotations

from typing import Any

import numpy as np

# Largest relative error of any element. What is computed in half precision throughout is quantised
# there (-log p lies between 8 and 16 for many classes, where bfloat16 has steps of 1/16, and so
# does p): the bounds let that pass, and stop a wrong formula.
LOSS_BOUNDS = {"float32": 2e-5, "bfloat16": 0.2, "float16": 0.01}
# The same of a linear layer's loss, and of its gradients over the largest number of a row or
# column: no more digits than logits of half precision leave.
LINEAR_BOUNDS = {"float32": 2e-5, "bfloat16": 0.02, "float16": 0.003}
# Parameters after a run in float32, over the largest of them.
PARAMS_BOUND = 1e-3


def relative_error(actual: Any, desired: Any, smallest: float | np.ndarray = 0.0) -> float:
    """The largest `|actual - desired| / max(|desired|, smallest)` of any element; NaN if one is.

    Args:
      actual: an array.
      desired: an array of the same shape.
      smallest: what a smaller `desired` is divided by instead, e.g. the dtype's least normal
        number, under which it has fewer digits; broadcasts.

    >>> relative_error([1.0, 2.2], [1.0, 2.0])
    0.10000000000000009
    """
    actual, desired = np.asarray(actual, np.float64), np.asarray(desired, np.float64)
    if actual.shape != desired.shape:
        return float("inf")
    return float(np.max(np.abs(actual - desired) / np.maximum(np.abs(desired), smallest)))


def params_error(actual: Any, desired: Any) -> float:
    """The largest error of any parameter of `(kernel, bias)`, over its array's largest number."""
    return max(
        relative_error(mine, right, smallest=float(np.max(np.abs(right))))
        for mine, right in zip(actual, desired, strict=True)
    )
