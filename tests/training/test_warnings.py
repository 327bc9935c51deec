"""What will hardly train well is pointed out: features far from unit scale, a loss that rises."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from jax_softmax import Split, TrainConfig, fit
from jax_softmax.errors import TrainingWarning

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 3
UNIT = RNG.normal(size=(60, 3)) + np.eye(3)[LABELS]
INCOMES = UNIT * [1, 40_000, 1]
CONFIG = TrainConfig(learning_rate=0.1, batch_size=16, epochs=20)


def warned(split, config=CONFIG, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(split, config, **options)
    assert all(issubclass(warning.category, TrainingWarning) for warning in caught)
    assert all(warning.filename == __file__ for warning in caught)  # the caller's line
    return [str(warning.message) for warning in caught]


def test_a_training_warning_is_a_user_warning():
    assert issubclass(TrainingWarning, UserWarning)


def test_features_of_unit_scale_are_not_spoken_of():
    assert warned(Split(UNIT, LABELS)) == []
    assert warned(Split((UNIT * 10).astype(np.int16), LABELS, feature_scale=0.1)) == []
    assert warned(Split(np.abs(UNIT * 50).astype(np.uint8), LABELS, feature_scale=1 / 255)) == []


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_features_of_tens_of_thousands(dtype):
    first, *_ = warned(Split(INCOMES.astype(dtype), LABELS), TrainConfig(epochs=1))
    assert "features: numbers up to " in first and "column 1" in first
    assert "standardise" in first and "feature_scale" in first


def test_pixels_without_their_scale():
    pixels = RNG.integers(0, 256, (60, 4), dtype=np.uint8)
    (said,) = warned(Split(pixels, LABELS), TrainConfig(epochs=1))
    assert "numbers up to 255 in column" in said
    assert warned(Split(pixels, LABELS, feature_scale=1 / 255), TrainConfig(epochs=1)) == []


def test_features_all_near_zero():
    (said,) = warned(Split(UNIT * 1e-5, LABELS), TrainConfig(epochs=1))
    assert "features: no number beyond" in said


def test_features_of_zeros_are_not_far_from_anything():
    assert warned(Split(UNIT * 0, LABELS), TrainConfig(epochs=1)) == []


def test_a_loss_that_rises():
    said = warned(Split(INCOMES, LABELS), TrainConfig(learning_rate=0.1, epochs=30, seed=1))
    assert any("the training loss went up, from " in words for words in said), said
    (said,) = warned(Split(UNIT, LABELS), TrainConfig(learning_rate=1e4, batch_size=None))
    assert "the training loss went up, from 1.099 to " in said
    assert "smaller learning rate" in said


def test_a_loss_that_rises_with_ones_own_optimizer():
    import optax

    config = TrainConfig(batch_size=None)
    (said,) = warned(Split(UNIT, LABELS), config, optimizer=optax.sgd(1e4))
    assert "the training loss went up" in said and "learning rate" not in said


def test_a_loss_at_its_bottom_may_tremble():
    split = Split(UNIT, RNG.permutation(LABELS))
    start = fit(split, TrainConfig(learning_rate=0.5, batch_size=None, epochs=500)).params
    assert warned(split, TrainConfig(learning_rate=0.02, batch_size=16), params=start) == []
