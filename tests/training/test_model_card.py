"""`MODEL_CARD.md`: what a reader of a run folder is told."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from jax_softmax import Split, TrainConfig, evaluate, fit, load_run, save_run
from jax_softmax._columns import Columns, NumberColumn, WordColumn
from jax_softmax.training.model_card import model_card

METRICS = {
    "dataset": "pets",
    "source": "files in /data/pets",
    "train_examples": 23,
    "test_examples": 23,
    "split_seed": 7,
    "test_accuracy": 0.875,
    "raw_dir": "/data",
}


def card_of(folder):
    return (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def cells(card):
    rows = (line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| "))
    return {row[0]: row[1:] for row in rows}


@pytest.fixture
def folder(table, table_result, tmp_path):
    seen = dataclasses.replace(evaluate(table_result, table), of="test examples")
    return save_run(table_result, tmp_path / "run", metrics=METRICS, evaluation=seen)


def test_it_says_model_data_metrics_settings_versions_and_use(folder, table, table_result):
    card = card_of(folder)
    said = cells(card)
    assert card.startswith("# pets\n")
    assert said["source"] == ["files in /data/pets"] and said["seed of the split"] == ["7"]
    assert said["test accuracy"] == ["0.875"] and said["training examples"] == ["23"]
    assert said["features of an example"] == ["`[5]`, as the dataset stores them"]
    assert said["parameters"] == ["18, float32"] and said["3 classes"] == ["cat, dog, eel"]
    assert said["momentum"] == ["0.5"] and said["batch size"] == ["8"]
    assert "Of 23 test examples:" in card
    for record in evaluate(table_result, table).per_class():
        scores = [f"{record[name]:.4f}" for name in ("precision", "recall", "f1")]
        assert said[record["class_name"]] == [*scores, str(record["support"])]
    assert said["numpy"] == [np.__version__]
    assert "/data |" not in card  # a folder of this machine, which evaluate needs and nobody else


def test_how_to_use_it_works(folder, table):
    (code,) = re.findall(r"```python\n(.*?)```", card_of(folder), re.DOTALL)
    names = {"features": table.features}
    exec(code.replace('"RUN"', repr(str(folder))), names)
    assert set(names["names"]) <= {"cat", "dog", "eel"} and len(names["names"]) == 23


def test_the_same_training_gives_the_same_card_whatever_it_took(folder, table, tmp_path):
    again = load_run(folder)
    again = dataclasses.replace(again, compile_seconds=9.0, train_seconds=99.0)
    seen = dataclasses.replace(evaluate(again, table), of="test examples")
    other = save_run(again, tmp_path / "other", metrics=METRICS, evaluation=seen)
    assert card_of(other) == card_of(folder)


def test_a_run_that_says_nothing_says_so(table_result, tmp_path):
    card = card_of(save_run(table_result, tmp_path / "run"))
    assert card.startswith("# A softmax classifier\n")
    assert "The run does not say its data." in card
    assert "The run does not say what was measured." in card


def test_names_are_no_markup(tmp_path):
    names = ("a | b", "<script>\n# x", "*c* `d`", "\ud800")
    split = Split(np.eye(4), np.arange(4), names)
    result = fit(split, TrainConfig(epochs=1))
    card = card_of(save_run(result, tmp_path / "run", metrics={"dataset": 5, "a|b": "c|d"}))
    assert card.startswith("# 5\n")
    assert r"a \| b, \<script\> \# x, \*c\* \`d\`, \ud800 |" in card
    assert r"| a\|b | c\|d |" in card


def test_of_many_classes_the_first_are_named():
    names = tuple(f"class {i}" for i in range(1234))
    split = Split(np.eye(1234, 3), np.arange(1234), names)
    result = fit(split, TrainConfig(epochs=1))
    card = model_card(result, {}, evaluate(result, split))
    assert "class 99, and 1,134 more, in `model.safetensors` |" in card
    assert len(card) < 5000


def test_of_a_table_it_says_what_is_made_of_each_column(tmp_path):
    columns = Columns(
        "churned",
        (NumberColumn("age", 48.5, 2.0, 40.0), WordColumn("plan|x", ("L", "M"))),
        ("i_d", "since"),
    )
    split = Split(np.eye(3), [0, 1, 0], ("no", "yes"), columns=columns)
    result = fit(split, TrainConfig(epochs=1))
    metrics = {"dataset": "/home/me/customers.csv", "label": "churned", "table": True}
    card = card_of(save_run(result, tmp_path / "run", metrics=metrics))
    said = cells(card)
    assert card.startswith("# customers.csv\n") and "| table |" not in card
    assert said["column of the classes"] == ["churned"]
    assert said["age"] == ["(number - 48.5) / 2", "40"]
    assert r"| plan\|x | 1 for each of L, M |  |" in card
    assert "\nNot used: i\\_d, since.\n" in card
    assert "predict(model, features)  # a data frame of these columns" in card
