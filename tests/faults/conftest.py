"""Trained runs without training, and how long the faults are tried."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from jax_softmax import TrainConfig
from jax_softmax.training import FitResult

LONG = os.environ.get("JAX_SOFTMAX_LONG_FAULTS", "0") not in ("", "0")


@pytest.fixture(scope="session")
def times():
    """How often a fault is tried: the first number, or with JAX_SOFTMAX_LONG_FAULTS the second."""
    return lambda short, long: long if LONG else short


def result_of(seed: int, *, width: int = 5, epochs: int = 4) -> FitResult:
    """What `fit` might return; every seed another."""
    rng = np.random.default_rng(seed)
    names = tuple(f"class {seed}-{i}" for i in range(3))
    params = {
        "kernel": rng.normal(size=(width, 3)).astype(np.float32),
        "bias": rng.normal(size=3).astype(np.float32),
    }
    history = tuple({"epoch": i + 1, "train_loss": (seed + 1.0) / (i + 1)} for i in range(epochs))
    config = TrainConfig(learning_rate=0.1 + seed, epochs=epochs)
    return FitResult(params, (width,), 0.5, names, config, history, 0.5, 0.25, "cpu")


@pytest.fixture
def tell(capsys):
    """Prints a figure, whether the test passes or not."""

    def tell(words: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{words}\n")

    return tell


@pytest.fixture(scope="session")
def make_result():
    return result_of
