"""Rows and classes that count more or less, and labels that are smoothed."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
from sklearn.utils.class_weight import compute_class_weight

from jax_softmax import (
    InputError,
    Split,
    TrainConfig,
    evaluate,
    fit,
    load_run,
    save_run,
)
from jax_softmax.errors import CheckpointError
from jax_softmax.training.layout import ACCELERATOR
from tests.training.plain_loops import assert_params_close, assert_params_equal, optax_train

RNG = np.random.default_rng(0)
EXAMPLES, CLASSES, WIDTH = 53, 5, 4
LABELS = RNG.permutation(np.minimum(np.arange(EXAMPLES) % 11, 4))  # most are of one class
FEATURES = RNG.normal(size=(EXAMPLES, WIDTH)).astype(np.float32)
SPLIT = Split(FEATURES, LABELS)
WEIGHTS = RNG.integers(0, 4, EXAMPLES)
FULL = TrainConfig(batch_size=None, epochs=20, learning_rate=0.5)
BATCHES = TrainConfig(batch_size=10, epochs=3, learning_rate=0.5)
BY_NAME = {"0": 3.0, "2": 0.0, "4": 0.5}
BY_CLASS = (3.0, 1.0, 0.0, 1.0, 0.5)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def close(one, other):
    assert_params_close(one.params, other.params, **CLOSE)
    losses = ([record["train_loss"] for record in result.history] for result in (one, other))
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_row_of_weight_2_is_a_row_given_twice_and_of_weight_0_none():
    rows = np.repeat(np.arange(EXAMPLES), WEIGHTS)
    close(
        fit(SPLIT, FULL, sample_weight=WEIGHTS),
        fit(Split(FEATURES[rows], LABELS[rows]), FULL),
    )


@pytest.mark.parametrize(
    ("weights", "smoothing", "layout"),
    [
        (None, 0.2, {"piece": 16}),
        (WEIGHTS, 0.0, {"gathered": 80}),
        (WEIGHTS, 0.2, {}),
        (WEIGHTS, 0.2, {"piece": 16}),
        (WEIGHTS, 1.0, {"layout": ACCELERATOR._replace(unroll=2, epochs=2, piece=42)}),
    ],
)
def test_steps_are_those_of_a_plain_loop(weights, smoothing, layout, lay_out):
    lay_out(**layout)
    config = dataclasses.replace(
        BATCHES, label_smoothing=smoothing, momentum=0.9, weight_decay=0.01
    )
    start = {
        "kernel": RNG.normal(size=(WIDTH, CLASSES)).astype(np.float32),
        "bias": np.zeros(CLASSES, np.float32),
    }
    result = fit(SPLIT, config, params=start, sample_weight=weights)
    expected = optax_train(FEATURES, LABELS, start, optax.sgd(0.5, momentum=0.9), config, weights)
    assert_params_close(result.params, expected, rtol=1e-4, atol=2e-6)


def test_the_loss_of_the_history_is_the_weighted_mean_of_all_rows():
    still = dataclasses.replace(BATCHES, learning_rate=1e-30, epochs=1)
    start = {"kernel": RNG.normal(size=(WIDTH, CLASSES)), "bias": np.zeros(CLASSES)}
    logits = FEATURES @ start["kernel"]
    losses = np.asarray(-jax.nn.log_softmax(logits))[np.arange(EXAMPLES), LABELS]
    result = fit(SPLIT, still, params=start, sample_weight=WEIGHTS)
    expected = np.average(losses, weights=WEIGHTS)
    assert result.history[0]["train_loss"] == pytest.approx(expected, rel=1e-5)
    # What is measured counts all rows alike.
    assert evaluate(result, SPLIT).loss == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("factor", [0.25, 2.0**1000, 2.0**-1060])
def test_weights_of_another_scale_give_the_same_bits(factor):
    results = [fit(SPLIT, BATCHES, sample_weight=w) for w in (WEIGHTS, WEIGHTS * factor)]
    assert_params_equal(results[1].params, results[0].params)


def test_a_batch_that_weighs_nothing_moves_nothing():
    weights = np.zeros(EXAMPLES)
    weights[7] = 1
    result = fit(SPLIT, BATCHES, sample_weight=weights)
    assert np.isfinite(result.params["kernel"]).all()
    one = fit(Split(FEATURES[7:9], [0, 1]), FULL, sample_weight=[1, 0])
    alike = fit(Split(FEATURES[7:9], [0, 1]), FULL)
    assert one.history[-1]["train_loss"] < 0.5 * alike.history[-1]["train_loss"]


@pytest.mark.parametrize("given", [BY_NAME, BY_CLASS, np.array(BY_CLASS), {0: 3, 2: 0, 4: 0.5}])
def test_a_class_weight_is_that_of_each_of_its_rows(given):
    config = dataclasses.replace(BATCHES, class_weight=given)
    by_row = np.array(BY_CLASS)[LABELS]
    close(fit(SPLIT, config), fit(SPLIT, BATCHES, sample_weight=by_row))
    close(
        fit(SPLIT, config, sample_weight=WEIGHTS),
        fit(SPLIT, BATCHES, sample_weight=by_row * WEIGHTS),
    )


@pytest.mark.parametrize("weights", [None, WEIGHTS + 1.0])
def test_balanced_weights_are_scikit_learns(weights):
    given = {} if weights is None else {"sample_weight": weights}
    of_rows = np.ones(len(LABELS)) if weights is None else weights
    by_class = of_rows.sum() / (CLASSES * np.bincount(LABELS, of_rows, CLASSES))
    if weights is None:  # scikit-learn before 1.9 takes none
        theirs = compute_class_weight("balanced", classes=np.arange(CLASSES), y=LABELS)
        np.testing.assert_allclose(by_class, theirs)
    balanced = dataclasses.replace(BATCHES, class_weight="balanced")
    expected = dataclasses.replace(BATCHES, class_weight=by_class)
    close(fit(SPLIT, balanced, **given), fit(SPLIT, expected, **given))
    # And with a class of which there is no row.
    absent = Split(FEATURES, LABELS, class_names=tuple("01234?"))
    assert np.isfinite(fit(absent, balanced).params["kernel"]).all()


def test_string_labels_are_weighed_by_name():
    names = np.array(["no", "yes"])[LABELS % 2]
    config = dataclasses.replace(FULL, class_weight={"yes": 4})
    by_row = np.where(names == "yes", 4, 1)
    close(
        fit(Split(FEATURES, names), config), fit(Split(FEATURES, names), FULL, sample_weight=by_row)
    )


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 4, "model": 2}, {"data": 3}], ids=str)
@pytest.mark.parametrize("batch_size", [10, None])
def test_a_mesh_gives_what_one_device_gives(batch_size, mesh):
    config = dataclasses.replace(
        BATCHES, batch_size=batch_size, label_smoothing=0.1, class_weight="balanced"
    )
    one = fit(SPLIT, config, sample_weight=WEIGHTS)
    close(fit(SPLIT, dataclasses.replace(config, mesh=mesh), sample_weight=WEIGHTS), one)


def test_standardised_training_is_weighed_too():
    split = Split(FEATURES * 1000, LABELS, standardize=True)
    close(
        fit(split, dataclasses.replace(FULL, class_weight=BY_CLASS)),
        fit(split, FULL, sample_weight=np.array(BY_CLASS)[LABELS]),
    )


@pytest.mark.parametrize("split", [SPLIT, Split(FEATURES, LABELS, standardize=True)])
def test_fit_takes_settings_in_place_of_its_configs(split):
    config = dataclasses.replace(BATCHES, class_weight=BY_CLASS, label_smoothing=0.2)
    found = fit(split, BATCHES, class_weight=BY_CLASS, label_smoothing=0.2)
    assert found.config == config
    assert_params_equal(found.params, fit(split, config).params)
    assert fit(split, config, label_smoothing=0.0).config.label_smoothing == 0
    assert fit(split, class_weight="balanced").config == TrainConfig(class_weight="balanced")


def test_other_weights_compile_nothing(programs):
    fit(SPLIT, BATCHES, sample_weight=WEIGHTS)
    programs.clear()
    fit(SPLIT, dataclasses.replace(BATCHES, class_weight="balanced"))
    assert programs == []


def test_a_training_goes_on_with_its_own_weights_only(tmp_path):
    config = dataclasses.replace(
        BATCHES, epochs=4, checkpoint_every=2, label_smoothing=0.1, class_weight=BY_NAME
    )

    def stop(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(SPLIT, config, sample_weight=WEIGHTS, checkpoints=tmp_path, on_epoch=stop)
    others = {
        "weights of rows: .*…": (config, WEIGHTS + 1),
        "weights of rows: .*… there, None here": (config, None),
        "label smoothing: 0.1 there, 0.0 here": (
            dataclasses.replace(config, label_smoothing=0.0),
            WEIGHTS,
        ),
        "class weight: {.*} there, balanced here": (
            dataclasses.replace(config, class_weight="balanced"),
            WEIGHTS,
        ),
    }
    for words, (other, weights) in others.items():
        if weights is None:
            other = dataclasses.replace(other, class_weight=None)
        with pytest.raises(CheckpointError, match=words):
            fit(SPLIT, other, sample_weight=weights, checkpoints=tmp_path)
    resumed = fit(SPLIT, config, sample_weight=WEIGHTS, checkpoints=tmp_path)
    whole = dataclasses.replace(config, checkpoint_every=None)
    assert_params_equal(resumed.params, fit(SPLIT, whole, sample_weight=WEIGHTS).params)


@pytest.mark.parametrize("given", [BY_NAME, BY_CLASS, "balanced", None])
def test_a_run_keeps_the_settings(given, tmp_path):
    config = TrainConfig(epochs=1, class_weight=given, label_smoothing=0.1)
    save_run(fit(SPLIT, config), tmp_path / "run")
    assert load_run(tmp_path / "run").config == config
    said = json.loads((tmp_path / "run/config.json").read_text())
    assert said["class_weight"] == (list(given) if isinstance(given, tuple) else given)
    assert hash(config) == hash(load_run(tmp_path / "run").config)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1, 2], r"expected one for each of 53 rows, shape \(53,\), got shape \(2,\)"),
        (WEIGHTS[:, None], r"expected one for each of 53 rows, .* got shape \(53, 1\)"),
        (2.0, r"expected one for each of 53 rows, .* got shape \(\)"),
        ("balanced", "expected an array, got 'balanced'"),
        (np.zeros(EXAMPLES), "expected a weight above 0 for some row, got only 0"),
        (np.arange(EXAMPLES) - 3, "expected finite numbers of at least 0, got -3 in row 0"),
        (
            np.where(np.arange(EXAMPLES) == 5, np.nan, 1),
            "expected finite numbers of at least 0, got nan in row 5",
        ),
        (
            np.where(np.arange(EXAMPLES) == 6, np.inf, 1),
            "expected finite numbers of at least 0, got inf in row 6",
        ),
        (["1"] * EXAMPLES, "expected numbers, got dtype <U1"),
    ],
)
def test_weights_of_rows_that_cannot_be(given, words):
    with pytest.raises(InputError, match=f"^sample_weight: {words}"):
        fit(SPLIT, FULL, sample_weight=given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("even", "expected 'balanced', weights by class name .*, got 'even'"),
        (2.0, "expected 'balanced', weights by class name .*, got 2.0"),
        ({"yes": -1}, "finite numbers of at least 0, but class yes has another, got -1"),
        ({1: "2"}, "finite numbers of at least 0, but class 1 has another, got '2'"),
        ([1, np.nan], "finite numbers of at least 0, but class number 1 has another, got nan"),
        ([0, 0], r"expected a weight above 0, got \[0, 0\]"),
        ({1: 2, "1": 3}, "expected each class once, got '1' twice"),
    ],
)
def test_weights_of_classes_that_cannot_be(given, words):
    with pytest.raises(InputError, match=f"^class_weight: .*{words}"):
        TrainConfig(class_weight=given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"yes": 2}, "expected names of classes ('0', '1', '2', '3', '4'), got 'yes'."),
        ([1, 2], "expected one for each of 5 classes, got 2."),
        ({str(i): 0 for i in range(4)} | {"4": 1}, "expected a weight above 0 for a class of some"),
    ],
)
def test_weights_of_classes_that_the_examples_have_not(given, words):
    labels = np.where(LABELS == 4, 0, LABELS)
    split = Split(FEATURES, labels, class_names=tuple("01234"))
    with pytest.raises(InputError) as raised:
        fit(split, TrainConfig(class_weight=given))
    assert str(raised.value).startswith(f"class_weight: {words}")


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, "0.1", True])
def test_smoothing_that_cannot_be(value):
    with pytest.raises(InputError, match=r"^label smoothing: expected a number in \[0, 1\], got "):
        TrainConfig(label_smoothing=value)
