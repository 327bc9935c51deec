"""True processes: `python -m jax_softmax`, with no network to reach and nothing placed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jax_softmax

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def process(cwd):
    """Runs `python -m jax_softmax ARGUMENTS` in the empty folder."""
    environment = os.environ | {
        "PYTHONPATH": str(_ROOT),
        "PYTHONWARNINGS": "default",  # shown on standard error, which must stay empty
        # A port that nothing answers on: what would reach the network fails at once.
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "",
    }

    def run(*arguments, **variables):
        command = [sys.executable, "-m", "jax_softmax", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=cwd, env=environment | variables
        )

    return run


def test_train_iris_then_predict_in_an_empty_folder(process, cwd, iris_rows):
    trained = process("train", "iris")
    assert (trained.returncode, trained.stderr) == (0, "")
    (run,) = (cwd / "runs").iterdir()
    assert json.loads((run / "metrics.json").read_text())["test_accuracy"] >= 0.93
    assert [path.name for path in cwd.iterdir()] == ["runs"]
    np.savetxt(cwd / "table.csv", iris_rows, delimiter=",")
    predicted = process("predict", run, "table.csv")
    assert (predicted.returncode, predicted.stderr) == (0, "")
    assert predicted.stdout.count("Iris-") == 3


def test_a_mistake_in_a_process(process, cwd):
    failed = process("train", "mnist", "--epochs", "2")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.startswith("jax-softmax: mnist is not on this machine")
    assert "Traceback" not in failed.stderr
    assert list(cwd.iterdir()) == []


def test_version_is_told(process):
    told = process("--version")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == f"jax-softmax {jax_softmax.__version__}, jax {jax.__version__}\n"


def test_help_names_the_commands(process):
    helped = process("--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    for command in ("train", "evaluate", "predict"):
        assert command in helped.stdout


def test_a_platform_that_is_not_there_is_one_message(process):
    failed = process("verify", "--quick", JAX_PLATFORMS="nowhere")
    assert failed.returncode == 2
    assert failed.stderr.startswith("jax-softmax: JAX finds no device (JAX_PLATFORMS='nowhere'")
    assert "Traceback" not in failed.stderr


def test_a_terminal_that_lacks_a_letter_gets_its_number(process):
    words = ("verify", "--quick", "--op", "softmax", "--dtype", "bfloat16")
    told = process(*words, PYTHONIOENCODING="ascii")
    assert (told.returncode, told.stderr) == (0, "")
    assert r"\u2013" in told.stdout  # the dash of a peer that was not asked
