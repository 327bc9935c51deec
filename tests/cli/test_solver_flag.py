"""`train --solver lbfgs`, the optimum, saved as any run; `--class-weight`, `--label-smoothing`."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jax_softmax import load_dataset, load_run, predict_proba
from jax_softmax.classifier import solve
from jax_softmax.datasets import load_table
from jax_softmax.training.config import LbfgsConfig

# Of scikit-learn before 1.8, whose call SciPy 1.16 and newer disapprove of.
pytestmark = pytest.mark.filterwarnings("ignore:scipy.optimize. The `disp`:DeprecationWarning")
undrawn = pytest.mark.usefixtures("no_pictures")
LBFGS = ("--solver", "lbfgs")


@pytest.fixture(scope="module")
def iris_optimum(train_once):
    return train_once("iris", *LBFGS, "--C", 0.5, "--tol", 1e-5)


def assert_optimum(run, split, scale=1.0, tolerance=2e-3, **settings):
    """The run's probabilities are those of scikit-learn's optimum."""
    theirs = LogisticRegression(tol=1e-8, max_iter=5000, **settings)
    features = np.asarray(split.train.features, np.float64) * scale
    theirs.fit(features.reshape(len(features), -1), split.train.labels)
    test = np.asarray(split.test.features, np.float64).reshape(len(split.test.labels), -1) * scale
    model = dataclasses.replace(load_run(run), columns=None)  # the split has what they made
    ours = predict_proba(model, split.test.features)
    np.testing.assert_allclose(ours, theirs.predict_proba(test), atol=tolerance)


def test_iris_is_trained_to_scikit_learns_optimum(iris_optimum):
    assert (iris_optimum.code, iris_optimum.err) == (0, "")
    assert_optimum(iris_optimum.run, load_dataset("iris"), C=0.5)
    found = load_run(iris_optimum.run)
    assert found.config == LbfgsConfig(C=0.5, tol=1e-5)
    losses = [record["train_loss"] for record in found.history]
    assert len(losses) > 3 and losses[-1] == min(losses) < losses[0]
    assert "to the optimum by lbfgs, C 0.5, tol 1e-05" in iris_optimum.out
    assert f"s for {len(losses)} iterations, compiling included" in iris_optimum.out
    assert json.loads((iris_optimum.run / "config.json").read_text())["solver"] == "lbfgs"
    card = (iris_optimum.run / "MODEL_CARD.md").read_text()
    assert "| solver | lbfgs |" in card and f"parameters are of iteration | {len(losses)} |" in card
    assert {"learning_curve.png", "confusion_matrix.png"} <= set(os.listdir(iris_optimum.run))


def test_the_other_commands_take_the_run(iris_optimum, command, iris_rows):
    evaluated = command("evaluate", iris_optimum.run)
    assert evaluated.code == 0 and "the same as training measured" in evaluated.out
    np.save("rows.npy", iris_rows)
    predicted = command("predict", iris_optimum.run, "rows.npy")
    assert predicted.code == 0 and "Iris-setosa" in predicted.out
    assert command("report", iris_optimum.run, "--output", "page.html").code == 0
    with open("page.html", encoding="utf-8") as page:
        assert "Loss over the iterations of training" in page.read()
    assert command("export", iris_optimum.run, "--format", "stablehlo").code == 0
    finished = command("train", "iris", "--resume", iris_optimum.run)
    assert finished.code == 0 and "is finished: iteration" in finished.out
    other = command("train", "iris", "--resume", iris_optimum.run, "--epochs", 7)
    assert other.code == 2 and "--epochs: expected none, with which" in other.err


@undrawn
def test_pictures_are_scaled_as_their_model_says(command):
    done = command("train", "digits", *LBFGS, "--run-dir", "run", "--class-weight", "balanced")
    assert (done.code, done.err) == (0, "")
    digits = load_dataset("digits")
    scale = digits.train.feature_scale
    assert_optimum("run", digits, scale, 0.02, class_weight="balanced")


@undrawn
def test_a_table_of_ones_own(table_run, command):
    words = ("train", "customers.csv", "--label", "churned", *LBFGS, "--run-dir", "optimum")
    assert command(*words).code == 0
    assert load_run("optimum").columns == load_run(table_run).columns
    evaluated = command("evaluate", "optimum")
    assert evaluated.code == 0 and "the same as training measured" in evaluated.out
    assert_optimum("optimum", load_table("customers.csv", "churned"))


@undrawn
@pytest.mark.parametrize("mesh", ["data=1", "data=2,model=2"])
def test_any_mesh_finds_the_same_optimum(mesh, command):
    done = command("train", "iris", *LBFGS, "--tol", 1e-5, "--mesh", mesh, "--run-dir", "run")
    assert (done.code, done.err) == (0, "")
    assert_optimum("run", load_dataset("iris"))
    assert load_run("run").device == ("cpu" if mesh == "data=1" else "4 x cpu")


@undrawn
def test_what_is_not_converged_is_saved_and_said(command):
    done = command("train", "iris", *LBFGS, "--max-iter", 2, "--run-dir", "run")
    assert done.code == 0
    assert "failed to converge after 2 iteration(s) (--max-iter=2): " in done.err
    assert "above --tol=0.0001. Increase --max-iter, or scale the features" in done.err
    assert len(load_run("run").history) == 2


def test_a_signal_stops_it_and_nothing_is_saved(command, monkeypatch, cwd, tree):
    original = solve.run

    def called(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(solve, "run", called)
    done = command("train", "iris", *LBFGS, "--run-dir", "run")
    assert done.code == 143 and tree(cwd) == {}
    assert "stopped by SIGTERM after iteration " in done.err
    assert " of 1,000; nothing was saved." in done.err


STEPS = "expected no such flag beside --solver lbfgs, which takes no steps by mini-batches"
CHECKPOINTS = "expected no such flag beside --solver lbfgs, which writes no checkpoints"
ONE = "expected no such flag beside --solver lbfgs, which runs in one process"
MEMORY = "expected no such flag beside --solver lbfgs, which holds all examples in memory"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--epochs", 5), STEPS),
        (("--batch-size", "none"), STEPS),
        (("--learning-rate", 0.1), STEPS),
        (("--momentum", 0), STEPS),
        (("--nesterov",), STEPS),
        (("--schedule", "cosine"), STEPS),
        (("--weight-decay", 0), f"{STEPS}; --C is the inverse of its penalty"),
        (("--patience", 5), "expected no such flag beside --solver lbfgs, which does not stop"),
        (("--checkpoint-every", 5), CHECKPOINTS),
        (("--resume", "run"), CHECKPOINTS),
        (("--stream",), MEMORY),
        (("--feature-scale", 2), MEMORY),
        (("--distributed",), ONE),
        (("--processes", 2), ONE),
    ],
)
def test_flags_that_the_optimum_has_not(flags, words, command):
    done = command("train", "iris", *LBFGS, *flags)
    assert done.code == 2
    assert done.err.startswith(f"jax-softmax: {flags[0]}: {words}")
    assert done.err.rstrip().endswith("leave it out, or train with --solver sgd.")


@pytest.mark.parametrize("flags", [("--C", 2), ("--tol", 1e-3), ("--max-iter", 9)])
@pytest.mark.parametrize("solver", [(), ("--solver", "sgd")])
def test_flags_that_only_the_optimum_has(flags, solver, command):
    done = command("train", "iris", *solver, *flags)
    assert done.code == 2
    assert done.err.startswith(f"jax-softmax: {flags[0]}: expected --solver lbfgs to go with it;")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--C", 0), "C: expected a number above 0, inf for no penalty, got 0.0"),
        (("--C", "nan"), "C: expected a number above 0, inf for no penalty, got nan"),
        (("--tol", -1), "tol: expected a number of at least 0, got -1.0"),
        (("--max-iter", 0), "max iter: expected an integer of at least 1, got 0"),
        (("--label-smoothing", 1), r"label smoothing: expected a number in [0, 1), got 1.0"),
        (("--seed", -1), r"seed: expected an integer in [0, 2**32), got -1"),
        (("--mesh", "data=99"), "mesh: expected at most the"),
    ],
)
def test_settings_that_cannot_be(flags, words, command):
    done = command("train", "iris", *LBFGS, *flags)
    assert done.code == 2
    assert done.err.startswith(f"jax-softmax: {words}")


def test_settings_are_kept_as_json_has_them():
    config = LbfgsConfig(C=np.float32(2), max_iter=np.int64(7), tol=1, seed=np.uint8(3))
    said = json.loads(json.dumps(dataclasses.asdict(config)))
    assert LbfgsConfig(**said) == config and said["max_iter"] == 7
    unpenalised = LbfgsConfig(C=np.inf)
    assert LbfgsConfig(**json.loads(json.dumps(dataclasses.asdict(unpenalised)))) == unpenalised


@undrawn
def test_steps_take_weights_of_classes_and_smoothing_too(command):
    flags = ("--class-weight", "balanced", "--label-smoothing", 0.1, "--epochs", 2)
    done = command("train", "iris", *flags, "--run-dir", "run")
    assert (done.code, done.err) == (0, "")
    config = load_run("run").config
    assert (config.class_weight, config.label_smoothing) == ("balanced", 0.1)
    assert "label smoothing 0.1, balanced classes" in " ".join(done.out.split())
    wrong = command("train", "iris", "--label-smoothing", 2)
    assert wrong.code == 2 and "label smoothing: expected a number in [0, 1], got 2.0" in wrong.err
