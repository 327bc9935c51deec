"""Training: settings, the compiled step, the loop, evaluation, and runs on disk."""

from jax_softmax.training.config import TrainConfig
from jax_softmax.training.loop import fit
from jax_softmax.training.metrics import Evaluation, evaluate, predict, predict_proba
from jax_softmax.training.model import FitResult, SoftmaxModel
from jax_softmax.training.processes import Watchdog
from jax_softmax.training.runs import load_run, save_run

__all__ = [
    "Evaluation",
    "FitResult",
    "SoftmaxModel",
    "TrainConfig",
    "Watchdog",
    "evaluate",
    "fit",
    "load_run",
    "predict",
    "predict_proba",
    "save_run",
]
