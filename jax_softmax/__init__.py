"""The softmax classifier for JAX: exact losses, a trainer, and commands.

Names load on first use (PEP 562), so that `import jax_softmax` costs no more than what is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax_softmax.classifier import SoftmaxClassifier as SoftmaxClassifier
    from jax_softmax.classifier import SoftmaxClassifierCV as SoftmaxClassifierCV
    from jax_softmax.datasets import (
        Dataset,
        Split,
        Stream,
        load_dataset,
        stream_npy,
        stream_parquet,
        stream_tfds,
    )
    from jax_softmax.errors import InputError
    from jax_softmax.export import export_model
    from jax_softmax.ops import (
        SoftmaxStats,
        causal_cross_entropy,
        contrastive_cross_entropy,
        label_log_probs,
        linear_kl_divergence,
        linear_label_log_probs,
        linear_softmax_cross_entropy,
        linear_top_k_cross_entropy,
        linear_top_k_log_probs,
        log_softmax,
        logsumexp,
        sharded_linear_softmax_cross_entropy,
        softmax,
        softmax_cross_entropy,
        softmax_cross_entropy_with_integer_labels,
        softmax_kl_divergence,
        summarize,
        top_k_log_probs,
    )
    from jax_softmax.training import (
        Evaluation,
        FitResult,
        SoftmaxModel,
        TrainConfig,
        evaluate,
        fit,
        load_run,
        predict,
        predict_proba,
        save_run,
    )

__version__ = "0.2.0"

_HOMES = {
    "classifier": ("SoftmaxClassifier", "SoftmaxClassifierCV"),
    "datasets": (
        "Dataset",
        "Split",
        "Stream",
        "load_dataset",
        "stream_npy",
        "stream_parquet",
        "stream_tfds",
    ),
    "errors": ("InputError",),
    "export": ("export_model",),
    "ops": (
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
    ),
    "training": (
        "Evaluation",
        "FitResult",
        "SoftmaxModel",
        "TrainConfig",
        "evaluate",
        "fit",
        "load_run",
        "predict",
        "predict_proba",
        "save_run",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

# The classifiers are not among them: `import *` works without scikit-learn, which they need.
__all__ = [
    "Dataset",
    "Evaluation",
    "FitResult",
    "InputError",
    "SoftmaxModel",
    "SoftmaxStats",
    "Split",
    "Stream",
    "TrainConfig",
    "causal_cross_entropy",
    "contrastive_cross_entropy",
    "evaluate",
    "export_model",
    "fit",
    "label_log_probs",
    "linear_kl_divergence",
    "linear_label_log_probs",
    "linear_softmax_cross_entropy",
    "linear_top_k_cross_entropy",
    "linear_top_k_log_probs",
    "load_dataset",
    "load_run",
    "log_softmax",
    "logsumexp",
    "predict",
    "predict_proba",
    "save_run",
    "sharded_linear_softmax_cross_entropy",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_kl_divergence",
    "stream_npy",
    "stream_parquet",
    "stream_tfds",
    "summarize",
    "top_k_log_probs",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
