"""`jax-softmax evaluate`: a run folder reproduces the accuracy it was written with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["iris", "digits"])
def test_a_run_reproduces_its_own_scores_on_the_split_of_its_own_seed(name, command, request):
    trained = request.getfixturevalue(name)
    outcome = command("evaluate", trained.run, "--json", "seen.json")
    assert (outcome.code, outcome.err) == (0, "")
    (record,) = json.loads(Path("seen.json").read_text())
    for score in ("test_accuracy", "test_loss"):
        assert record[score] == trained.metrics[score]
    assert f"{record['test_accuracy']:.4f}" in outcome.out


def test_a_run_on_mnist_reproduces_its_own_scores(mnist, real_data, command):
    outcome = command("evaluate", mnist.run, "--raw-dir", real_data, "--json", "seen.json")
    assert (outcome.code, outcome.err) == (0, "")
    (record,) = json.loads(Path("seen.json").read_text())
    for score in ("test_accuracy", "test_loss"):
        assert record[score] == mnist.metrics[score]
    assert record["test_examples"] == 10_000


def test_a_run_is_evaluated_on_the_data_it_was_trained_with(mnist, command):
    """Without --raw-dir: the run remembers it, for another source may have another split."""
    outcome = command("evaluate", mnist.run)
    assert outcome.code == 0
    assert f"{mnist.metrics['test_accuracy']:.4f}" in outcome.out


def test_another_source_is_said_to_be_another(iris, real_data, command):
    outcome = command("evaluate", iris.run, "--raw-dir", real_data)
    assert "trained on another: scikit-learn's bundled copy" in outcome.out


def test_data_that_have_moved_are_said_to_be_where_the_run_was_trained(iris, command, with_metrics):
    shutil.copytree(iris.run, "run")
    with_metrics("run", raw_dir="/moved/away")
    outcome = command("evaluate", "run")
    assert outcome.code == 2
    assert "/moved/away" in outcome.err
    assert "The run was trained on what was there; give --raw-dir" in outcome.err


def _compared(outcome):
    (record,) = json.loads(Path("seen.json").read_text())
    return record["compared_with_training"], " ".join(outcome.out.split())


@pytest.mark.parametrize(
    ("changes", "word", "words"),
    [
        ({}, "same", "result the same as training measured"),
        ({"test_loss": 1 + 1e-7}, "rounding", "same as training measured, but for rounding"),
        ({"test_loss": 1.01}, "differs", "DIFFERS from what training measured on the same examp"),
        ({"test_accuracy": 0.5}, "differs", "accuracy 0.5000"),
        ({"test_sha256": "0" * 64}, "other data", "not the examples that training measured on"),
        ({"test_sha256": None}, "other data", "not the examples that training measured on"),
    ],
)
def test_the_result_is_compared_with_what_training_measured(
    changes, word, words, iris, command, with_metrics
):
    shutil.copytree(iris.run, "run")
    if "test_loss" in changes:
        changes = {"test_loss": changes["test_loss"] * iris.metrics["test_loss"]}
    with_metrics("run", **changes)
    outcome = command("evaluate", "run", "--json", "seen.json")
    assert (outcome.code, outcome.err) == (0, "")
    compared, said = _compared(outcome)
    assert compared == word
    assert words in said


def test_another_dataset_is_not_compared(iris, real_data, command):
    outcome = command("evaluate", iris.run, "--raw-dir", real_data, "--json", "seen.json")
    assert _compared(outcome)[0] in ("same", "other data")


def test_the_report_and_the_record(iris, command):
    outcome = command("evaluate", iris.run, "--json", "seen.json")
    assert "iris, 30 test examples" in outcome.out
    assert "Iris-virginica" in outcome.out
    (record,) = json.loads(Path("seen.json").read_text())
    assert all(isinstance(value, str | int | float) for value in record.values())
    assert record["run_dir"] == str(iris.run)


def test_the_dataset_may_be_named(iris, command):
    named = command("evaluate", iris.run, "Iris")
    assert named.code == 0
    assert named.out == command("evaluate", iris.run).out


def test_evaluation_writes_nothing_of_its_own(iris, command, tree, cwd):
    before = tree(iris.run)
    assert command("evaluate", iris.run).code == 0
    assert tree(iris.run) == before
    assert tree(cwd) == {}


def test_a_run_that_does_not_say_its_dataset_asks_for_it(iris, command, cwd, with_metrics):
    shutil.copytree(iris.run, cwd / "run")
    with_metrics("run", dataset=None)
    outcome = command("evaluate", "run")
    assert outcome.code == 2
    assert "does not say its dataset; name one after it" in outcome.err
    assert command("evaluate", "run", "iris").code == 0


def test_the_name_in_another_case_is_the_same_dataset(mnist, command):
    outcome = command("evaluate", mnist.run, "MNIST")
    assert outcome.code == 0
    assert "trained on another" not in outcome.out


def test_a_run_that_does_not_say_its_split_is_said_to(iris, command, with_metrics):
    shutil.copytree(iris.run, "copy")
    with_metrics("copy", split_seed=None)
    assert "it may have been trained on these" in command("evaluate", Path("copy")).out


def test_json_to_standard_output_stands_there_alone(iris, command, cwd):
    done = command("evaluate", iris.run, "--json", "-")
    assert done.code == 0
    (record,) = json.loads(done.out)
    assert record["test_accuracy"] == iris.metrics["test_accuracy"]
    assert "the same as training measured" in done.err
    assert list(cwd.iterdir()) == []
