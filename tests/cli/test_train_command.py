"""`jax-softmax train`: one command from a name to a run folder."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from jax_softmax import load_run
from jax_softmax.cli import main
from jax_softmax.cli.options import OutputOptions

FILES = {
    "config.json",
    "metrics.json",
    "history.jsonl",
    "model.safetensors",
    "MODEL_CARD.md",
    "learning_curve.png",
    "confusion_matrix.png",
}
METRICS = {
    "dataset",
    "source",
    "split_seed",
    "train_examples",
    "test_examples",
    "test_sha256",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "compile_seconds",
    "train_seconds",
    "device",
    "versions",
    "sha256",
    "model_sha256",
}
OF_THE_FOLDER = {"versions", "sha256", "model_sha256"}
QUICK = ("--epochs", 2)

pytestmark = pytest.mark.usefixtures("no_pictures")  # not in the shared runs, which come before


def test_iris_needs_no_network_and_no_files(iris):
    assert iris.code == 0
    assert iris.err == ""
    assert {path.name for path in iris.run.iterdir()} == FILES
    assert iris.metrics["test_accuracy"] >= 0.93
    assert iris.metrics["test_examples"] == 30
    assert iris.metrics["dataset"] == "iris"
    assert "bundled" in iris.metrics["source"]


def test_iris_is_trained_as_in_the_tutorial(iris):
    config = load_run(iris.run).config
    assert (config.learning_rate, config.batch_size, config.epochs) == (0.1, None, 1000)
    assert len((iris.run / "history.jsonl").read_text().splitlines()) == 1000


def test_digits_are_images(digits):
    assert digits.code == 0
    assert digits.err == ""
    assert {path.name for path in digits.run.iterdir()} == FILES | {"class_weights.png"}
    assert digits.metrics["test_accuracy"] >= 0.93
    assert digits.metrics["source"] == "scikit-learn's bundled copy"


def test_mnist_is_read_from_raw_files(mnist, real_data):
    assert mnist.code == 0
    assert mnist.err == ""
    assert {path.name for path in mnist.run.iterdir()} == FILES | {"class_weights.png"}
    assert mnist.metrics["test_accuracy"] >= 0.90
    assert (mnist.metrics["train_examples"], mnist.metrics["test_examples"]) == (60_000, 10_000)
    assert mnist.metrics["source"].startswith(f"raw files in {real_data}")


def test_mnist_as_it_comes_reaches_its_accuracy(train_once, real_data):
    assert train_once("mnist", "--raw-dir", real_data).metrics["test_accuracy"] >= 0.922


def test_metrics_have_what_is_promised(iris):
    assert iris.metrics.keys() == METRICS


def test_the_report_says_data_device_scores_and_folder(iris):
    assert "120 training and 30 test examples, 4 features, 3 classes" in iris.out
    (scores,) = (line for line in iris.out.splitlines() if line.startswith("test "))
    expected = [iris.metrics["test_loss"], iris.metrics["test_accuracy"]]
    assert scores.split() == ["test", *(f"{score:.4f}" for score in expected)]
    for name in ("Iris-setosa", "Iris-versicolor", "Iris-virginica"):
        assert name in iris.out
    assert iris.out.endswith(f"run folder  {iris.run}\n")


def test_json_is_a_list_of_flat_records(iris):
    (record,) = json.loads((iris.run.parent / "train.json").read_text())
    assert all(isinstance(value, str | int | float) for value in record.values())
    assert record.keys() == METRICS - OF_THE_FOLDER | {"run_dir"}
    assert record["test_accuracy"] == iris.metrics["test_accuracy"]


def test_flags_become_the_settings(command):
    flags = {
        "--epochs": 3,
        "--batch-size": 16,
        "--learning-rate": 0.25,
        "--momentum": 0.5,
        "--weight-decay": 0.01,
        "--schedule": "warmup-cosine",
        "--seed": 7,
        "--checkpoint-every": 2,
        "--label-smoothing": 0.1,
        "--class-weight": "balanced",
    }
    arguments = [word for flag in flags.items() for word in flag]
    assert command("train", "iris", "--run-dir", "run", "--nesterov", *arguments).code == 0
    config = json.loads(Path("run/config.json").read_text())
    expected = {name[2:].replace("-", "_"): value for name, value in flags.items()}
    assert config == expected | {"nesterov": True, "patience": None, "mesh": None}


def test_batch_size_none_is_the_full_batch(command):
    assert command("train", "digits", "--batch-size", "none", *QUICK, "--run-dir", "run").code == 0
    assert load_run("run").config.batch_size is None


def test_the_seed_decides_the_result(command):
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert command("train", "digits", *QUICK, "--seed", seed, "--run-dir", run).code == 0
    a, b, c = (load_run(run).params["kernel"].tobytes() for run in "abc")
    assert a == b
    assert a != c


def test_the_default_run_folder_has_the_datasets_name(command, cwd):
    outcome = command("train", "IRIS", *QUICK)
    (run,) = (cwd / "runs").iterdir()
    assert re.fullmatch(r"iris-\d{8}-\d{6}", run.name)
    assert outcome.out.endswith(f"run folder  runs/{run.name}\n")
    assert [path.name for path in cwd.iterdir()] == ["runs"]


def test_two_runs_in_the_same_second_have_folders_of_their_own(command, cwd, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda _format: "20300101-000000")
    for _ in range(3):
        assert command("train", "iris", *QUICK).code == 0
    names = {path.name for path in (cwd / "runs").iterdir()}
    assert names == {f"iris-20300101-000000{end}" for end in ("", "-2", "-3")}


def test_a_run_is_replaced_only_when_asked(command, cwd, tree):
    assert command("train", "iris", *QUICK, "--run-dir", "run").code == 0
    before = tree(cwd)
    refused = command("train", "iris", *QUICK, "--run-dir", "run")
    assert refused.code == 2
    assert "a run is there already" in refused.err
    assert tree(cwd) == before
    assert command("train", "digits", *QUICK, "--run-dir", "run", "--overwrite").code == 0
    assert load_run("run").feature_shape == (8, 8)
    assert {path.name for path in cwd.iterdir()} == {"run"}


def test_json_through_a_link_goes_to_what_it_leads_to(command, cwd):
    (cwd / "link.json").symlink_to("real.json")
    assert command("train", "iris", *QUICK, "--run-dir", "run", "--json", "link.json").code == 0
    assert (cwd / "link.json").is_symlink()
    assert json.loads((cwd / "real.json").read_text())[0]["dataset"] == "iris"


def test_json_with_a_null_character_is_refused(command, cwd):
    refused = command("train", "iris", *QUICK, "--json", "a\0b")
    assert refused.code == 2
    assert "cannot be written (embedded null byte)" in refused.err
    assert not list(cwd.iterdir())


def test_json_replaces_an_older_file(command, cwd, iris):
    assert command("evaluate", iris.run, "--json", "out.json").code == 0
    older = json.loads((cwd / "out.json").read_text())
    (cwd / "out.json").write_text(json.dumps(10_000 * older))
    assert command("train", "iris", *QUICK, "--run-dir", "run", "--json", "out.json").code == 0
    assert len(json.loads((cwd / "out.json").read_text())) == 1
    assert {path.name for path in cwd.iterdir()} == {"run", "out.json"}


OTHERS = {
    "words": "years",
    "numbers": "[1, 2, 3]",
    "lists": "[[1], [2]]",
    "records": '[{"name": "Ada", "born": 1815}]',
    "an object": '{"dataset": "mine", "source": "", "run_dir": "", "test_loss": 0}',
    "cut": '[{"dataset": "iris", "source": "", "run_dir": "", "test_loss": 0}',
    "nested": "[" * 200_000,
}


@pytest.mark.parametrize("name", OTHERS)
def test_json_does_not_replace_what_is_no_result(name, command, cwd):
    (cwd / "notes.md").write_text(OTHERS[name])
    done = command("train", "iris", *QUICK, "--json", "notes.md")
    assert done.code == 2 and "--json notes.md: holds something else" in done.err
    assert (cwd / "notes.md").read_text() == OTHERS[name]


@pytest.mark.parametrize("words", ["evaluate {run}", "predict {run} row.csv"])
def test_json_of_other_commands_may_be_replaced(words, command, cwd, iris):
    (cwd / "row.csv").write_text("1,2,3,4\n")
    words += " --json out.json"
    assert command(*words.format(run=iris.run).split()).code == 0
    assert len(json.loads((cwd / "out.json").read_text())) > 0
    OutputOptions(json=Path("out.json")).check_json()


def test_a_loss_that_went_up_is_pointed_out(command, cwd):
    done = command("train", "iris", "--epochs", "50", "--learning-rate", "1e6")
    assert done.code == 0
    assert done.err.count("the training loss went up, from 1.099 to ") == 1
    assert done.err.startswith("jax-softmax: the training loss") and done.err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--raw-dir", "--data-dir", "--run-dir", "--json"])
def test_mistakes_with_folders_cost_no_training(flag, command, monkeypatch, cwd):
    def train(*_arguments, **_options):
        pytest.fail("trained although the folder cannot be used")

    monkeypatch.setattr("jax_softmax.training.fit", train)
    (cwd / "file").touch()
    assert command("train", "iris", flag, "file/nowhere").code == 2


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_progress_is_shown_and_wiped(monkeypatch, cwd):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["train", "iris", "--epochs", "30"]) == 0
    shown = terminal.getvalue()
    assert "loading iris ..." in shown
    assert "training: 0 of 30 epochs" in shown
    assert "training: 30 of 30 epochs" in shown
    assert "?" not in shown
    # Each line is overwritten from its start: nothing stays on the terminal.
    assert "\n" not in shown
    assert shown.split("\r")[-1].strip() == ""


def test_an_interrupt_leaves_nothing(command, cwd, tree, monkeypatch):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("jax_softmax.training.memory_run.run_epochs", interrupt)
    outcome = command("train", "iris", "--run-dir", "runs/mine", "--json", "out.json")
    assert outcome.code == 130
    assert outcome.out == ""
    assert outcome.err == "jax-softmax: interrupted.\n"
    assert tree(cwd) == {}


def test_an_interrupt_while_writing_leaves_nothing(command, cwd, tree, monkeypatch):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("jax_softmax.training.pictures.confusion_matrix", interrupt)
    assert command("train", "iris", *QUICK).code == 130
    assert tree(cwd) == {}


def test_a_full_disk_is_one_message(command, cwd, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jax_softmax.training.pictures.learning_curve", full)
    outcome = command("train", "iris", *QUICK, "--run-dir", "run")
    assert outcome.code == 2
    assert outcome.err.startswith("jax-softmax: run folder run: cannot be written ([Errno 28]")
    assert list(cwd.iterdir()) == []
