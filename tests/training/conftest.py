"""Small, fixed examples; and float64 where a test asks for it."""

from __future__ import annotations

import logging

import jax
import numpy as np
import pytest

from jax_softmax import Split, TrainConfig, fit
from jax_softmax.training import memory_run
from jax_softmax.training.layout import CPU

CLASS_NAMES = ("cat", "dog", "eel")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def lay_out(monkeypatch):
    """Has `fit` take a layout, with changes, whatever the device."""

    def lay_out(layout=CPU, **changes):
        monkeypatch.setattr(memory_run, "layout_for", lambda array: layout._replace(**changes))

    return lay_out


class _Compilations(logging.Handler):
    """Keeps the names of the programs that JAX says it has compiled."""

    def __init__(self):
        super().__init__()
        self.programs: list[str] = []

    def emit(self, record):
        words = record.getMessage().split()
        if words[:3] == ["Finished", "XLA", "compilation"]:
            self.programs.append(words[4])


@pytest.fixture
def programs(monkeypatch):
    handler, logger = _Compilations(), logging.getLogger("jax")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(handler)
    with jax.log_compiles():
        yield handler.programs
    logger.removeHandler(handler)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def table() -> Split:
    """23 float64 examples of 5 numbers, 3 classes: 23 divides by no batch size but 1 and itself."""
    rng = np.random.default_rng(1)
    labels = np.arange(23, dtype=np.int32) % 3
    features = rng.normal(size=(23, 5)) + labels[:, None] * np.array([1.0, -1.0, 0.5, 0.0, 0.0])
    return Split(features, labels, CLASS_NAMES)


@pytest.fixture(scope="session")
def images() -> Split:
    """30 examples of 6×5 pixels in uint8, 3 classes."""
    rng = np.random.default_rng(2)
    labels = np.arange(30, dtype=np.int32) % 3
    pixels = rng.integers(0, 200, size=(30, 6, 5)) + 25 * labels[:, None, None]
    return Split(pixels.astype(np.uint8), labels, CLASS_NAMES, 1 / 255)


@pytest.fixture(scope="session")
def start():
    """A small random start for `table`, in float64."""
    rng = np.random.default_rng(3)
    return {"kernel": 0.01 * rng.normal(size=(5, 3)), "bias": 0.01 * rng.normal(size=3)}


@pytest.fixture(scope="session")
def table_result(table):
    return fit(table, TrainConfig(batch_size=8, epochs=5, momentum=0.5), validation=table)


@pytest.fixture(scope="session")
def image_result(images):
    return fit(images, TrainConfig(batch_size=8, epochs=5, learning_rate=0.2))
