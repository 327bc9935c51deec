"""The NumPy tutorial's two examples give the same numbers here, and the one that crashed runs."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from plain_loops import assert_params_close, assert_params_equal, tutorial_step, tutorial_train
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

from jax_softmax import Split, TrainConfig, evaluate, fit

IRIS_CONFIG = TrainConfig(learning_rate=0.1, batch_size=None, epochs=1000)
# Over 1000 steps float64 loses a few eps a step, float32 likewise (1e-4 is 840 of its eps).
TOLERANCE = {np.float64: 1e-9, np.float32: 1e-4}


@pytest.fixture(scope="module")
def iris():
    """The tutorial's split: training features and labels, test features and labels."""
    features, labels = load_iris(return_X_y=True)
    split = train_test_split(features, labels, test_size=0.2, random_state=42)
    train_features, test_features, train_labels, test_labels = split
    return Split(train_features, train_labels), Split(test_features, test_labels)


@pytest.fixture(scope="module")
def iris_start():
    return {"kernel": 0.01 * np.random.default_rng(42).normal(size=(4, 3)), "bias": np.zeros(3)}


@pytest.fixture(scope="module")
def tutorial_iris(iris, iris_start):
    train, _ = iris
    return tutorial_train(
        train.features, train.labels, **iris_start, learning_rate=0.1, epochs=1000
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)
def test_iris_gives_the_tutorials_parameters(dtype, iris, iris_start, tutorial_iris):
    train, _ = iris
    with jax.enable_x64(dtype is np.float64):
        params = {name: value.astype(dtype) for name, value in iris_start.items()}
        result = fit(train, IRIS_CONFIG, params=params)
        assert result.params["kernel"].dtype == result.params["bias"].dtype == dtype
    tolerance = TOLERANCE[dtype]
    assert_params_close(result.params, tutorial_iris, rtol=tolerance, atol=tolerance)


def test_iris_gives_the_tutorials_accuracy(iris, iris_start):
    train, test = iris
    assert evaluate(fit(train, IRIS_CONFIG, params=iris_start), test).accuracy == 1.0


@pytest.fixture(scope="module")
def digits():
    """28×28 pixels of 8 bits, ten classes with a bright patch each, and their one-hot labels."""
    rng = np.random.default_rng(4)
    labels = rng.permutation(np.arange(200) % 10)
    pixels = rng.integers(0, 60, size=(200, 28, 28), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[2 * label : 2 * label + 6, 8:20] += 150
    return pixels, labels, np.eye(10)[labels]


def test_the_tutorials_mnist_example_crashes_on_one_hot_labels(digits):
    pixels, _, one_hot = digits
    flat = pixels.reshape(len(pixels), -1) / 255.0
    with pytest.raises(IndexError):
        tutorial_step(flat, one_hot, np.zeros((784, 10)), np.zeros(10), 0.1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, bool])
def test_one_hot_labels_of_any_dtype_give_the_bits_of_integers(digits, dtype):
    pixels, labels, one_hot = digits
    config = TrainConfig(learning_rate=0.1, batch_size=None, epochs=20)
    from_integers = fit(Split(pixels, labels, feature_scale=1 / 255), config)
    from_one_hot = fit(Split(pixels, one_hot.astype(dtype), feature_scale=1 / 255), config)
    assert_params_equal(from_one_hot.params, from_integers.params)
    assert from_one_hot.history == from_integers.history
    assert from_one_hot.class_names == from_integers.class_names == tuple("0123456789")


def test_the_tutorials_mnist_example_repaired_gives_the_same_parameters(digits, x64):
    pixels, labels, one_hot = digits
    start = {"kernel": 0.01 * np.random.default_rng(5).normal(size=(784, 10)), "bias": np.zeros(10)}
    split = Split(pixels, one_hot, feature_scale=1 / 255)
    result = fit(split, TrainConfig(learning_rate=0.1, batch_size=None, epochs=30), params=start)
    flat = pixels.reshape(len(pixels), -1) / 255.0
    expected = tutorial_train(flat, labels, **start, learning_rate=0.1, epochs=30)
    assert_params_close(result.params, expected, rtol=1e-9, atol=1e-9)
    assert evaluate(result, split).accuracy == 1.0
