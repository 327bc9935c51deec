"""A layer small enough for derivatives of any order, and the textbook's loss of it."""

import jax
import numpy as np

from jax_softmax.ops import reference
from tests.ops.linear import case
from tests.tolerances import assert_close

ROWS, WIDTH, CLASSES = 5, 3, 11
BLOCK = (2, 4)


def small(names=("bias",), rows=(ROWS,), dtype=np.float64):
    return case(names, rows, WIDTH, CLASSES, dtype)


def definition(arrays, labels):
    """The losses of rows, each weighted, by the textbook."""
    logits = arrays["features"] @ arrays["kernel"] + arrays["bias"][None]
    rows = reference.softmax_cross_entropy_with_integer_labels(logits, labels)
    return rows * arrays["sample_weight"] if "sample_weight" in arrays else rows


def assert_trees_close(actual, expected, dtype):
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, dtype)
