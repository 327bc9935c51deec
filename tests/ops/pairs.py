"""The four functions beside their textbook definitions, all called as `f(logits, labels)`."""

from typing import Any, NamedTuple

import numpy as np

from jax_softmax import ops
from jax_softmax.ops import reference


class Pair(NamedTuple):
    """`op` and `reference` take logits `[..., V]` and the labels that `labels` draws."""

    op: Any
    reference: Any
    kind: str  # of label: "none", "integer" or "soft"
    returns_rows: bool  # [...] losses, else [..., V]

    def labels(self, shape, dtype, rng):
        if self.kind == "integer":
            return rng.integers(0, shape[-1], shape[:-1]).astype(np.int32)
        # Not a distribution: nothing in the rules may rely on a sum of 1.
        return (2 * rng.random(shape)).astype(dtype)

    def cotangent(self, shape, dtype, rng):
        return rng.standard_normal(shape[:-1] if self.returns_rows else shape).astype(dtype)

    def weight(self, labels, cotangent):
        """`[..., 1]`, what a row's probabilities are multiplied by in its derivative."""
        size = np.abs(cotangent)
        if not self.returns_rows:
            return size.sum(-1, keepdims=True)
        return size[..., None] * (labels.sum(-1, keepdims=True) if self.kind == "soft" else 1)


PAIRS = {
    "softmax": Pair(lambda z, _: ops.softmax(z), lambda z, _: reference.softmax(z), "none", False),
    "log_softmax": Pair(
        lambda z, _: ops.log_softmax(z), lambda z, _: reference.log_softmax(z), "none", False
    ),
    "softmax_cross_entropy": Pair(
        ops.softmax_cross_entropy, reference.softmax_cross_entropy, "soft", True
    ),
    "integer_labels": Pair(
        ops.softmax_cross_entropy_with_integer_labels,
        reference.softmax_cross_entropy_with_integer_labels,
        "integer",
        True,
    ),
}
