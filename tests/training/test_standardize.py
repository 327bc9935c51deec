"""`Split(standardize=True)`: training on standardised features, for a model of the raw ones."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

from jax_softmax import (
    InputError,
    Split,
    TrainConfig,
    evaluate,
    fit,
    load_run,
    predict_proba,
    save_run,
)
from jax_softmax.errors import TrainingWarning

WINE = load_wine()
CONFIG = TrainConfig(batch_size=32, epochs=20)
SCALED = StandardScaler().fit_transform(WINE.data)


@pytest.fixture(scope="module")
def by_hand():
    return fit(Split(SCALED, WINE.target), CONFIG)


@pytest.fixture(scope="module")
def result():
    return fit(Split(WINE.data, WINE.target, standardize=True), CONFIG)


def test_the_model_takes_features_as_they_came(result, by_hand):
    assert result.history == by_hand.history
    expected = predict_proba(by_hand, SCALED)
    np.testing.assert_allclose(predict_proba(result, WINE.data), expected, atol=2e-5)
    assert evaluate(result, Split(WINE.data, WINE.target)).accuracy > 0.97


def test_a_run_folder_keeps_it(result, tmp_path):
    model = load_run(save_run(result, tmp_path / "run"))
    found = predict_proba(model, WINE.data)
    np.testing.assert_array_equal(found, predict_proba(result, WINE.data))


@pytest.mark.parametrize("kind", ["frame", "float32", "integers", "pictures"])
def test_features_of_any_kind(kind, by_hand):
    tenths = np.round(WINE.data * 10)
    features, shape = {
        "frame": (pl.DataFrame(WINE.data), (13,)),
        "float32": (WINE.data.astype(np.float32), (13,)),
        "integers": (tenths.astype(np.int32), (13,)),
        "pictures": (np.minimum(tenths, 255).astype(np.uint8).reshape(-1, 13, 1), (13, 1)),
    }[kind]
    found = fit(Split(features, WINE.target, feature_scale=0.1, standardize=True), CONFIG)
    assert (found.feature_shape, found.feature_scale) == (shape, 0.1)
    scaled = StandardScaler().fit_transform(np.asarray(features, float).reshape(-1, 13))
    expected = predict_proba(fit(Split(scaled, WINE.target), CONFIG), scaled)
    np.testing.assert_allclose(predict_proba(found, features), expected, atol=5e-5)


def test_validation_is_measured_on_the_same_scale(by_hand):
    held = slice(0, None, 5)
    raw, scaled = (Split(x[held], WINE.target[held]) for x in (WINE.data, SCALED))
    found = fit(Split(WINE.data, WINE.target, standardize=True), CONFIG, validation=raw)
    expected = fit(Split(SCALED, WINE.target), CONFIG, validation=scaled)
    assert found.history == expected.history


def test_starting_parameters_are_those_of_features_as_they_came(result):
    """Those of a result: the first loss is near its last."""
    params = {name: np.asarray(value) for name, value in result.params.items()}
    split = Split(WINE.data, WINE.target, standardize=True)
    again = fit(split, CONFIG, params=params)
    assert again.history[0]["train_loss"] == pytest.approx(
        result.history[-1]["train_loss"], rel=0.1
    )


def test_a_constant_feature_counts_for_nothing(result):
    features = np.insert(WINE.data, 3, 0.1, axis=1)
    found = fit(Split(features, WINE.target, standardize=True), CONFIG)
    assert (np.asarray(found.params["kernel"])[3] == 0).all()
    expected = predict_proba(result, WINE.data)  # of sums in another order
    np.testing.assert_allclose(predict_proba(found, features), expected, atol=2e-5)


def test_means_far_from_0_are_pointed_out():
    features = np.column_stack([WINE.data, WINE.data[:, 0] + 1e6])
    with pytest.warns(TrainingWarning, match="mean in column 13 is more than 10,000 deviations"):
        fit(Split(features, WINE.target, standardize=True), CONFIG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(Split(WINE.data + 100, WINE.target, standardize=True), CONFIG)


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_numbers_without_a_deviation_are_refused(size):
    features = pl.DataFrame(WINE.data * [size, *[1] * 12])
    with pytest.raises(InputError, match="those in column 'column_0' are too large or too small"):
        fit(Split(features, WINE.target, standardize=True), CONFIG)


def test_mistakes_are_named():
    with pytest.raises(InputError, match="standardize: expected True or False, got 1"):
        Split(WINE.data, WINE.target, standardize=1)
    split = Split(WINE.data, WINE.target, standardize=True)
    with pytest.raises(InputError, match="validation: expected 13 numbers an example, .* got 12"):
        fit(split, CONFIG, validation=Split(WINE.data[:, 1:], WINE.target))
    with pytest.raises(InputError, match="kernel"):
        fit(split, CONFIG, params={"kernel": np.zeros((12, 3)), "bias": np.zeros(3)})
