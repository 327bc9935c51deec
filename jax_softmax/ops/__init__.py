"""The mathematics: pure functions of arrays with hand-written derivatives."""

from jax_softmax.ops._reduction import SoftmaxStats
from jax_softmax.ops.causal_cross_entropy import causal_cross_entropy
from jax_softmax.ops.contrastive import contrastive_cross_entropy
from jax_softmax.ops.cross_entropy import (
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from jax_softmax.ops.distillation import (
    linear_kl_divergence,
    linear_top_k_cross_entropy,
    softmax_kl_divergence,
)
from jax_softmax.ops.linear_cross_entropy import linear_softmax_cross_entropy
from jax_softmax.ops.log_probs import label_log_probs, linear_label_log_probs
from jax_softmax.ops.sharded_linear_cross_entropy import sharded_linear_softmax_cross_entropy
from jax_softmax.ops.softmax import log_softmax, logsumexp, softmax
from jax_softmax.ops.summary import summarize
from jax_softmax.ops.top_k_log_probs import linear_top_k_log_probs, top_k_log_probs

__all__ = [
    "SoftmaxStats",
    "causal_cross_entropy",
    "contrastive_cross_entropy",
    "label_log_probs",
    "linear_kl_divergence",
    "linear_label_log_probs",
    "linear_softmax_cross_entropy",
    "linear_top_k_cross_entropy",
    "linear_top_k_log_probs",
    "log_softmax",
    "logsumexp",
    "sharded_linear_softmax_cross_entropy",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_kl_divergence",
    "summarize",
    "top_k_log_probs",
]
