"""The mathematics: pure functions of arrays with hand-written derivatives."""

from jax_softmax.ops._reduction import SoftmaxStats
from jax_softmax.ops.cross_entropy import (
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from jax_softmax.ops.linear_cross_entropy import linear_softmax_cross_entropy
from jax_softmax.ops.sharded_linear_cross_entropy import sharded_linear_softmax_cross_entropy
from jax_softmax.ops.softmax import log_softmax, logsumexp, softmax

__all__ = [
    "SoftmaxStats",
    "linear_softmax_cross_entropy",
    "log_softmax",
    "logsumexp",
    "sharded_linear_softmax_cross_entropy",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
]
