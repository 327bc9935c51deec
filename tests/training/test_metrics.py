"""`evaluate`, `predict` and `predict_proba`: every example, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import classification_report

from jax_softmax import Evaluation, InputError, Split, evaluate, predict, predict_proba
from jax_softmax.training import SoftmaxModel, metrics

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def model(rng):
    params = {
        "kernel": rng.normal(size=(6, 4)).astype(np.float32),
        "bias": rng.normal(size=4).astype(np.float32),
    }
    return SoftmaxModel(params, (3, 2), 0.5, NAMES)


@pytest.fixture
def split(rng):
    features = rng.normal(size=(29, 3, 2)).astype(np.float32)
    return Split(features, rng.integers(0, 4, size=29), NAMES, 0.5)


def _probabilities(model, features):
    """By the textbook, in float64."""
    flat = features.reshape(len(features), -1).astype(np.float64) * model.feature_scale
    logits = flat @ model.params["kernel"].astype(np.float64) + model.params["bias"]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_loss_and_accuracy_equal_float64_numpy(model, split):
    expected = _probabilities(model, split.features)
    seen = evaluate(model, split)
    # The logits are rounded to float32.
    loss = -np.log(expected[np.arange(29), split.labels]).mean()
    np.testing.assert_allclose(seen.loss, loss, rtol=1e-6)
    assert seen.accuracy == np.mean(expected.argmax(axis=1) == split.labels)
    np.testing.assert_array_equal(seen.labels, split.labels)
    np.testing.assert_array_equal(seen.predictions, expected.argmax(axis=1))
    assert seen.class_names == NAMES


def test_predictions_equal_float64_numpy(model, split):
    expected = _probabilities(model, split.features)
    probabilities = predict_proba(model, split.features)
    np.testing.assert_allclose(probabilities, expected, rtol=3e-6)  # float32 logits
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=5e-7)  # 4 eps of float32
    classes = predict(model, split.features)
    assert classes.dtype == np.int32
    np.testing.assert_array_equal(classes, probabilities.argmax(axis=1))


@pytest.mark.parametrize("rows_in_a_block", [1, 4, 28, 29, 30])
def test_blocks_that_do_not_divide_the_examples_drop_none(
    rows_in_a_block, model, split, monkeypatch
):
    whole = evaluate(model, split)
    probabilities = predict_proba(model, split.features)
    monkeypatch.setattr(metrics, "_NUMBERS_PER_BLOCK", 6 * rows_in_a_block)
    seen = evaluate(model, split)
    np.testing.assert_array_equal(seen.predictions, whole.predictions)
    assert seen.accuracy == whole.accuracy
    # XLA may sum a product of another height in another order: float32 eps.
    assert seen.loss == pytest.approx(whole.loss, rel=1e-6)
    assert len(predict(model, split.features)) == 29
    np.testing.assert_allclose(predict_proba(model, split.features), probabilities, rtol=1e-6)


def test_an_example_wider_than_a_block_is_a_block(model, split, monkeypatch):
    monkeypatch.setattr(metrics, "_NUMBERS_PER_BLOCK", 1)
    assert len(predict(model, split.features)) == 29


def test_features_may_come_flat_or_as_a_list(model, split):
    expected = predict(model, split.features)
    np.testing.assert_array_equal(predict(model, split.features.reshape(29, 6)), expected)
    np.testing.assert_array_equal(predict(model, split.features.reshape(29, 6).tolist()), expected)


def test_one_hot_labels_are_evaluated_alike(model, split):
    one_hot = Split(split.features, np.eye(4)[split.labels], NAMES, 0.5)
    assert evaluate(model, one_hot).loss == evaluate(model, split).loss


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.longdouble, np.int64])
def test_features_of_every_dtype_are_predicted(dtype, model, split):
    features = np.round(split.features * 8).astype(dtype)  # numbers that every dtype holds
    expected = predict_proba(model, features.astype(np.float32))
    np.testing.assert_array_equal(predict_proba(model, features), expected)


def test_features_beyond_float32_are_refused_not_predicted_as_nan(model, split):
    features = split.features.astype(np.float64)
    features[4, 1, 0] = 1e300
    words = "features: expected numbers that float32 holds, got 1e.300 in row 4, column 2; scale"
    with pytest.raises(InputError, match=words):
        predict(model, features)


def test_integers_beyond_int32_do_not_wrap(model):
    features = np.zeros((2, 6), np.int64)
    features[0] = 2**40
    np.testing.assert_array_equal(predict(model, features), predict(model, features.astype(float)))


@pytest.mark.parametrize("shape", [(29, 5), (29, 7), (29, 3, 3)])
def test_features_of_another_width_name_the_expected_one(shape, model):
    words = rf"expected 6 numbers an example \(shape \[3, 2\]\), got {np.prod(shape[1:])}"
    with pytest.raises(InputError, match=words):
        predict(model, np.zeros(shape))
    with pytest.raises(InputError, match=words):
        evaluate(model, Split(np.zeros(shape), np.zeros(29, int)))


def test_a_single_example_needs_an_axis(model):
    with pytest.raises(InputError, match=r"got \(6,\); a single example is features\[None\]"):
        predict(model, np.zeros(6))


@pytest.fixture
def by_hand():
    """Ten examples; class c has one and is never right, class d has none."""
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2], np.int32)
    predictions = np.array([0, 0, 0, 1, 1, 1, 1, 1, 0, 0], np.int32)
    return Evaluation(0.5, 0.6, labels, predictions, NAMES)


def test_confusion_counts_true_classes_in_rows(by_hand):
    expected = [[3, 2, 0, 0], [1, 3, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(by_hand.confusion(), expected)


def test_per_class_scores_are_those_of_the_definitions(by_hand):
    a, b, c, d = by_hand.per_class()
    assert a == {
        "class_name": "a",
        "precision": 3 / 5,
        "recall": 3 / 5,
        "f1": pytest.approx(3 / 5),
        "support": 5,
    }
    assert (b["precision"], b["recall"], b["support"]) == (3 / 5, 3 / 4, 4)
    assert b["f1"] == pytest.approx(2 / 3)
    for absent, support in ((c, 1), (d, 0)):
        assert [absent[k] for k in ("precision", "recall", "f1", "support")] == [0, 0, 0, support]


def test_per_class_scores_are_scikit_learns(by_hand):
    report = classification_report(
        by_hand.labels,
        by_hand.predictions,
        labels=range(4),
        target_names=NAMES,
        zero_division=0.0,
        output_dict=True,
    )
    for record in by_hand.per_class():
        theirs = report[record["class_name"]]
        assert record["precision"] == theirs["precision"]
        assert record["recall"] == theirs["recall"]
        assert record["f1"] == theirs["f1-score"]
        assert record["support"] == theirs["support"]


def test_a_split_without_some_classes_is_evaluated(model, split):
    only = Split(split.features[:5], np.full(5, 2), NAMES, 0.5)
    seen = evaluate(model, only)
    assert seen.confusion().sum() == 5
    assert [record["support"] for record in seen.per_class()] == [0, 0, 5, 0]
