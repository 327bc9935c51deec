"""Trainings as processes: ten into one folder at once, and some that are told to stop."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jax_softmax import load_run

ROOT = Path(__file__).resolve().parents[2]
TRAIN = [sys.executable, "-m", "jax_softmax", "train", "digits"]

pytestmark = pytest.mark.slow  # starts other programs


def _start(folder, *words):
    return subprocess.Popen(
        [*TRAIN, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_ten_trainings_into_one_folder_one_wins(tmp_path, tell):
    processes = [_start(tmp_path, "--run-dir", "run", "--seed", str(seed)) for seed in range(10)]
    said = [process.communicate()[1] for process in processes]
    codes = [process.returncode for process in processes]
    tell(f"ten trainings into one folder: exit codes {sorted(codes)}")
    assert sorted(codes) == [0] + [2] * 9
    assert load_run(tmp_path / "run").config.seed == codes.index(0)
    assert all("is there already" in words or "another" in words for words in said if words)
    assert sum(map(bool, said)) == 9
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_training_told_to_stop_at_any_moment_leaves_the_old_run_or_the_new(
    number, tmp_path, times, tell
):
    rng = np.random.default_rng(0)
    words = ("--run-dir", "run", "--overwrite", "--epochs")
    _start(tmp_path, *words, "1").communicate()
    found = collections.Counter()
    for epochs in range(2, 2 + times(3, 60)):
        process = _start(tmp_path, *words, str(epochs))
        time.sleep(rng.uniform(0.5, 5))
        process.send_signal(number)
        _, said = process.communicate()
        ours = "jax-softmax: " in said and "Traceback" not in said
        known = load_run(tmp_path / "run").config.epochs
        found[f"exit {process.returncode}"] += 1
        found["strays"] += len(list(tmp_path.iterdir())) - 1
        new = process.returncode == 0 or "had been saved" in said
        assert number == signal.SIGKILL or known == epochs or not new
        found["without our message"] += process.returncode != 0 and not ours
    tell(f"{number.name} at any moment: {dict(found)}")
    assert number == signal.SIGKILL or found["strays"] == 0
    _start(tmp_path, *words, "1").communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert load_run(tmp_path / "run").config.epochs == 1
