"""Trainings killed at any moment and gone on with end with the bits of one that never was."""

from __future__ import annotations

import collections
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAIN = [sys.executable, "-m", "jax_softmax", "train", "digits"]
START = [*TRAIN, "--run-dir", "run", "--momentum", "0.9", "--epochs", "60"]
START += ["--checkpoint-every", "2"]
RESUME = [*TRAIN, "--resume", "run"]
KEPT = ".run.training"

pytestmark = pytest.mark.slow  # starts other programs


def _start(words, folder):
    return subprocess.Popen(
        words,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _files(run):
    """All that a run says, pictures too; of metrics.json all but times, and the digest of them."""
    files = {path.name: path.read_bytes() for path in run.iterdir()}
    said = json.loads(files.pop("metrics.json"))
    for name in ("compile_seconds", "train_seconds", "sha256"):
        del said[name]
    return files | {"metrics.json": said}


def _newest(folder):
    paths = (folder / KEPT / "checkpoints").glob("epoch-*")
    return max((int(path.name.removeprefix("epoch-")) for path in paths), default=0)


def _known(folder):
    """Whether the disk knows of the training: before that there is nothing to go on with."""
    return (folder / KEPT).exists() or (folder / "run").exists()


def test_a_training_killed_at_any_moment_ends_with_the_same_bits(tmp_path, times, tell):
    rng = np.random.default_rng()
    (tmp_path / "never").mkdir()
    _start(START, tmp_path / "never").communicate()  # compiles, for the cache
    never = _files((tmp_path / "never" / "run").rename(tmp_path / "once"))
    began = time.monotonic()
    _start(START, tmp_path / "never").communicate()
    usual = time.monotonic() - began
    assert _files(tmp_path / "never" / "run") == never
    ends, found, said = times(2, 200), collections.Counter(), []
    while found["ends"] < ends:
        folder = tmp_path / f"training-{found['ends']}"
        folder.mkdir()
        # Some of them twice, that kills fall on resumed ones too.
        for _ in range(int(rng.choice([1, 1, 1, 2]))):
            known, before = _known(folder), _newest(folder)
            process = _start(RESUME if known else START, folder)
            time.sleep(rng.uniform(0.2, 1.1) * usual)
            process.kill()
            process.communicate()
            found["kills"] += process.returncode == -9
            place = "unknown to the disk" if not _known(folder) else "with a checkpoint"
            place = "with the run in place" if (folder / "run").exists() else place
            if place == "with a checkpoint" and not _newest(folder):
                place = "without a checkpoint"
            found[f"killed {place}"] += process.returncode == -9
            gone = not (folder / KEPT).exists()
            found["checkpoints lost"] += _newest(folder) < before and not gone
            found["trainings lost"] += known and not _known(folder)
        last = _start(RESUME if _known(folder) else START, folder)
        out, err = last.communicate()
        found["ends"] += 1
        same = last.returncode == 0 and _files(folder / "run") == never
        found["bit-identical"] += same
        found["tracebacks"] += "Traceback" in err
        left = sorted(path.name for path in folder.iterdir())
        found["strays"] += left != ["run"]
        if not same or left != ["run"]:
            said.append((left, out, err))
        if len(said) == 0:
            shutil.rmtree(folder)
    tell(f"SIGKILL of checkpointed trainings ({usual:.1f} s each): {dict(found)}")
    assert found["ends"] == found["bit-identical"], said
    lost = ("checkpoints lost", "trainings lost", "tracebacks", "strays")
    assert {name: found[name] for name in lost} == dict.fromkeys(lost, 0), said
