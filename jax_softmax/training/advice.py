"""Warnings of runs that will hardly train well, or did not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_softmax.errors import TrainingWarning
from jax_softmax.training.arrays import column_name

# The largest feature in size, scaled. The measurements of iris, up to 7.9, want no other scale.
_LEAST, _MOST = 1e-2, 100.0
# What a loss may rise by when it is at its bottom and trembles.
_TREMBLE = 0.01
_CALLER_OF_FIT = 3


def warn_of_scale(features: np.ndarray, scale: float, given: Any) -> None:
    """Warns where the features are far from unit scale: SGD has one rate for all of them.

    Args:
      features: `[N, D]` numbers.
      scale: what they are multiplied by.
      given: the features as they were passed, which may have names.
    """
    most = max(float(features.max()), -float(features.min()) if features.dtype.kind != "u" else 0.0)
    if most == 0 or _LEAST <= most * scale <= _MOST:
        return
    times = "" if scale == 1 else f" times feature_scale {scale:g}"
    if most * scale > _MOST:
        sizes = np.abs(features.astype(np.float64)).max(axis=0)
        said = f"numbers up to {_short(most)} in {column_name(given, int(np.argmax(sizes)))}"
    else:
        said = f"no number beyond {_short(most)}"
    warnings.warn(
        f"features: {said}{times} are far from 1, where training works best; standardise each "
        f"column, or give a feature_scale.",
        TrainingWarning,
        stacklevel=_CALLER_OF_FIT,
    )


def warn_of_rise(history: Sequence[dict[str, float]], own_optimizer: bool) -> None:
    """Warns where the loss is higher after the run than in its first epoch."""
    first, last = (history[i]["train_loss"] for i in (0, -1))
    if last <= first + _TREMBLE * max(first, _TREMBLE):
        return
    remedy = "a smaller step" if own_optimizer else "a smaller learning rate"
    warnings.warn(
        f"the training loss went up, from {first:.4g} to {last:.4g}; try {remedy}, or features "
        f"nearer to unit scale.",
        TrainingWarning,
        stacklevel=_CALLER_OF_FIT,
    )


def _short(number: float) -> str:
    return f"{number:,.0f}" if 1 <= number < 1e7 else f"{number:.3g}"
