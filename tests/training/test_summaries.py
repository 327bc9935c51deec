"""What is shown of datasets, results and evaluations at a prompt: a few lines, and no arrays."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from jax_softmax import Dataset, SoftmaxModel, Split, TrainConfig, evaluate, fit, stream_npy
from jax_softmax._checks import classes_shown
from jax_softmax.datasets import load_table


def test_a_result_shows_shapes_settings_losses_times_and_device(table_result):
    result = dataclasses.replace(
        table_result, compile_seconds=1.25, train_seconds=0.5, device="gpu: H200"
    )
    last = result.history[-1]
    assert repr(result).splitlines() == [
        "<FitResult: features [5], 3 classes (cat, dog, eel), float32",
        "  settings  5 epochs, batches of 8, learning rate 0.1 (constant), momentum 0.5",
        f"  loss      {last['train_loss']:.4f} training, {last['validation_loss']:.4f} held-out, "
        f"accuracy {last['validation_accuracy']:.4f} (epoch 5)",
        "  time      1.25 s to compile, 0.50 s to run, on gpu: H200>",
    ]


def test_a_result_that_stopped_early_says_its_epoch(table):
    result = fit(table, TrainConfig(epochs=40, learning_rate=2.0, patience=2), validation=table)
    assert f"  best      epoch {result.best_epoch:,}, which the parameters are of" in repr(result)


def test_a_model_shows_what_it_takes(image_result):
    fields = {f.name: getattr(image_result, f.name) for f in dataclasses.fields(SoftmaxModel)}
    expected = (
        "<SoftmaxModel: features [6, 5] times 0.00392157, 3 classes (cat, dog, eel), float32>"
    )
    assert repr(SoftmaxModel(**fields)) == expected


def test_an_evaluation_shows_how_it_did(table, table_result):
    seen = evaluate(table_result, table)
    wrong = int(np.sum(seen.predictions != seen.labels))
    assert repr(seen) == (
        f"<Evaluation of 23 examples: loss {seen.loss:.4f}, accuracy {seen.accuracy:.4f} "
        f"({wrong} wrong)\n  3 classes (cat, dog, eel)>"
    )
    assert repr(dataclasses.replace(seen, of="test examples")).startswith(
        "<Evaluation of 23 test examples: "
    )


def test_a_dataset_shows_its_splits_and_its_source(images):
    assert repr(Dataset("pets", images, images, "made up")) == (
        "<Dataset pets: 3 classes (cat, dog, eel)\n"
        "  train   30 examples of [6, 5] uint8\n"
        "  test    30 examples of [6, 5] uint8\n"
        "  source  made up>"
    )


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.zeros((1200, 2)), "1,200 examples of [2] float64"),
        (pl.DataFrame({"a": [1.0, 2.0], "b": [1, 2]}), "2 examples of [2]"),
        ([[0.0], [1.0]], "features in a list"),
        (np.float32(1.0), "features in a float32"),
        (None, "features in a NoneType"),
    ],
)
def test_a_split_shows_whatever_it_holds(features, words):
    assert repr(Split(features, [0, 1])) == f"<Split: {words}, classes without names>"


def test_many_and_long_names_are_cut():
    assert classes_shown(("one\nname",)) == "1 class (one name)"
    many = classes_shown(tuple(map(str, range(1234))))
    assert many == "1,234 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …)"
    assert len(classes_shown(("x" * 10**6, "y"))) < 80


def test_a_table_is_shown_as_a_dataset(tmp_path):
    pl.DataFrame({"age": range(20), "kind": ["a", "b"] * 10}).write_csv(tmp_path / "t.csv")
    dataset = load_table(tmp_path / "t.csv", label="kind")
    assert repr(dataset).splitlines()[0].endswith("t.csv: 2 classes (a, b)")
    assert "  train   16 examples of [1] float32" in repr(dataset)


def test_a_stream_shows_what_it_reads(tmp_path):
    np.save(tmp_path / "features.npy", np.zeros((1500, 2, 3), np.uint8))
    stream = stream_npy(tmp_path / "features.npy", np.arange(1500) % 2, class_names=("a", "b"))
    assert repr(stream) == "<Stream: 1,500 examples of [2, 3] uint8, 2 classes (a, b)>"
