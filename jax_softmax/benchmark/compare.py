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

    `smallest` broadcasts; it is e.g. the dtype's least normal number, under which there are fewer
    digits.

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


def to_numpy(array: Any) -> np.ndarray:
    """An array of JAX, or of PyTorch, as float64."""
    if hasattr(array, "cpu"):
        array = array.cpu().double()  # NumPy has no bfloat16 of PyTorch's
    return np.asarray(array, np.float64)


def evenly_spread(size: int, count: int) -> np.ndarray:
    """At most `count` of the numbers below `size`, the first and the last among them.

    >>> evenly_spread(9, 3), evenly_spread(2, 3)
    (array([0, 4, 8]), array([0, 1]))
    """
    return np.unique(np.linspace(0, size - 1, min(size, count)).astype(int))
