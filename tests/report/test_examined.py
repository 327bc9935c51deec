"""What examples tell of a model, beside sums that are written out."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from jax_softmax import SoftmaxModel, Split, evaluate, predict_proba, stream_npy, stream_parquet
from jax_softmax.report import examine, examined, figures, worst_confusions

NAMES = ("cat", "dog", "eel")


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(4, 3)).astype(np.float32), "bias": np.zeros(3, np.float32)}
    return SoftmaxModel(params, (4,), 0.5, NAMES)


@pytest.fixture(scope="module")
def split(model):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(203, 4)) * [1.0, 2.0, 0.5, 0.0] + [0.0, 1.0, 1000.0, 3.0]
    return Split(features, rng.integers(0, 3, 203), NAMES, 0.5)


def seen_of(model, examples):
    return examine(model, examples, evaluate(model, examples))


def test_confidences_bins_and_calibration_are_those_written_out(model, split):
    seen = seen_of(model, split)
    probabilities = predict_proba(model, split.features)
    np.testing.assert_allclose(seen.confidences, probabilities.max(axis=1), rtol=1e-6)
    right = probabilities.argmax(axis=1) == split.labels
    error = 0.0
    for place, (count, share, mean) in enumerate(seen.bins):
        inside = (seen.confidences * 15).astype(int).clip(max=14) == place
        assert count == inside.sum()
        if count:
            assert share == pytest.approx(right[inside].mean())
            assert mean == pytest.approx(seen.confidences[inside].mean())
            error += inside.mean() * abs(share - mean)
    assert seen.calibration_error == pytest.approx(error)
    assert 0 < error < 1


def test_spreads_are_standard_deviations_of_scaled_features(model, split):
    expected = split.features.std(axis=0) * 0.5
    np.testing.assert_allclose(seen_of(model, split).spreads, expected, rtol=1e-9, atol=1e-12)


def test_the_most_confident_mistakes_come_first(model, split, monkeypatch):
    monkeypatch.setattr(examined, "_MOST_MISTAKES", 7)
    seen = seen_of(model, split)
    probabilities = predict_proba(model, split.features)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != split.labels)
    order = wrong[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")][:7]
    assert [mistake.row for mistake in seen.mistakes] == list(order)
    for mistake in seen.mistakes:
        row = mistake.row
        assert (mistake.label, mistake.prediction) == (
            split.labels[row],
            probabilities[row].argmax(),
        )
        assert mistake.confidence == pytest.approx(probabilities[row].max(), rel=1e-6)
        own = probabilities[row, split.labels[row]]
        assert mistake.label_probability == pytest.approx(own, rel=1e-5)
        np.testing.assert_array_equal(mistake.features, split.features[row])


@pytest.mark.parametrize("kind", ["blocks", "npy", "parquet", "frame"])
def test_blocks_streams_and_frames_tell_the_same(kind, model, split, tmp_path, monkeypatch):
    expected = seen_of(model, split)
    columns = {f"f{i}": split.features[:, i] for i in range(4)}
    monkeypatch.setattr(examined, "_NUMBERS", 4 * 17)
    if kind == "npy":
        np.save(tmp_path / "features.npy", split.features)
        stream = stream_npy(tmp_path / "features.npy", split.labels, feature_scale=0.5)
    elif kind == "parquet":
        labels = [NAMES[i] for i in split.labels]
        pl.DataFrame({**columns, "kind": labels}).write_parquet(
            tmp_path / "table.parquet", row_group_size=50
        )
        stream = stream_parquet(tmp_path / "table.parquet", "kind", feature_scale=0.5)
    elif kind == "frame":
        stream = Split(pl.DataFrame(columns), split.labels, NAMES, 0.5)
    else:
        stream = split
    seen = seen_of(model, stream)
    np.testing.assert_allclose(seen.bins, expected.bins, rtol=1e-6)
    np.testing.assert_allclose(seen.spreads, expected.spreads, rtol=1e-6, atol=1e-12)
    assert [m.row for m in seen.mistakes] == [m.row for m in expected.mistakes]


def test_the_worst_confusion_is_never_the_class_itself():
    counts = np.array([[5, 2, 1], [0, 9, 0], [3, 3, 0]])
    assert worst_confusions(counts) == [(1, 2), None, (0, 3)]


def test_shares_of_few_examples_are_pale(model, split):
    bins = np.zeros((15, 3))
    bins[4], bins[9], bins[14] = (9, 1.0, 0.3), (10, 0.5, 0.6), (81, 0.9, 0.95)
    seen = dataclasses.replace(seen_of(model, split), bins=bins)
    axes = figures.reliability(seen).axes[0]
    drawn = {
        round(15 * bar.get_x()): (bar.get_height(), bar.get_alpha())
        for bar in axes.patches
        if bar.get_height()
    }
    assert drawn == {4: (1.0, 0.25), 9: (0.5, 0.7), 14: (0.9, 0.7)}
    assert axes.get_title() == "Expected calibration error 0.1135"
