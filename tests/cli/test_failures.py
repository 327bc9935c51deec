"""Disks that are full, names that are too long, letters that are not there: one message, and 2."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jax_softmax import load_run
from jax_softmax.cli import main
from jax_softmax.training import runs

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def no_training(monkeypatch):
    def train(*_arguments, **_options):
        pytest.fail("trained although nothing can be written")

    monkeypatch.setattr("jax_softmax.training.fit", train)


def _message(outcome):
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("jax-softmax: ") == 1
    assert "Traceback" not in outcome.err
    return outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train iris --run-dir {long}", "run folder .*cannot be made .*too long"),
        ("train iris --run-dir a/{long}", "run folder .*cannot be made .*too long"),
        ("train iris --json {long}", "--json .*cannot be written .*too long"),
        ("evaluate {long}", "run folder .*cannot be read .*too long"),
        ("evaluate {run} --json {long}", "--json .*cannot be written .*too long"),
        ("predict {long} x.csv", "run folder .*cannot be read .*too long"),
        ("verify --json {long}", "--json .*cannot be written .*too long"),
    ],
)
def test_a_name_that_is_too_long(words, message, no_training, command, iris, cwd, tree):
    outcome = command(*words.format(long="x" * 300, run=iris.run).split())
    assert re.search(message, _message(outcome))
    assert tree(cwd) == {}


def test_the_longest_name_of_a_file_of_results(command, cwd):
    name = "x" * 250 + ".json"
    assert command("train", "iris", "--epochs", 2, "--run-dir", "run", "--json", name).code == 0
    assert len(json.loads((cwd / name).read_text())) == 1


@pytest.fixture
def read_only(tmp_path):
    """A disk that can only be read: of folders without permissions root takes no notice."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "none", disk], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root mounts a disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("flag", ["--run-dir", "--json"])
def test_a_disk_that_can_only_be_read(flag, read_only, no_training, command, cwd, tree):
    said = _message(command("train", "iris", flag, read_only / "x"))
    assert re.search(rf"{flag.strip('-').replace('-dir', ' folder')} .*cannot be", said)
    assert tree(cwd) == {}


def test_results_that_cannot_be_written_do_not_hide_that_the_run_is_saved(
    command, cwd, monkeypatch
):
    replace = os.replace

    def full(source, target):
        if Path(target).name == "out.json":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("jax_softmax.cli.options.os.replace", full)
    words = ("train", "iris", "--epochs", 2, "--run-dir", "run", "--json", "out.json")
    said = _message(command(*words))
    assert "--json out.json: cannot be written ([Errno 28] No space" in said
    assert said.endswith("The run is saved, in run.\n")
    assert load_run("run").config.epochs == 2
    assert [path.name for path in cwd.iterdir()] == ["run"]


def test_a_run_that_another_made_meanwhile_is_not_replaced(command, cwd, iris, monkeypatch):
    original = runs.write_run

    def write(place, *arguments, **options):
        place.path.mkdir()
        return original(place, *arguments, **options)

    monkeypatch.setattr(runs, "write_run", write)
    said = _message(command("train", "iris", "--epochs", 2, "--run-dir", "run"))
    assert "run folder run: another has made it meanwhile" in said
    assert list((cwd / "run").iterdir()) == []


def test_without_a_name_asked_for_another_is_taken(command, cwd, monkeypatch):
    original = runs.write_run
    monkeypatch.setattr("time.strftime", lambda _format: "20300101-000000")

    def write(place, *arguments, **options):
        if not place.path.parent.exists():  # the first time
            place.path.mkdir(parents=True)
        return original(place, *arguments, **options)

    monkeypatch.setattr(runs, "write_run", write)
    assert command("train", "iris", "--epochs", 2).code == 0
    assert load_run("runs/iris-20300101-000000-2").config.epochs == 2


def test_letters_that_standard_output_lacks(cwd):
    """In a program that calls `main` too."""
    words = ["train", "iris", "--epochs", "2", "--run-dir", "ü猫"]
    script = "import sys; from jax_softmax.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    run = {"cwd": cwd, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", script, *words], **run)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("run folder  \\xfc\\u732b\n")
    assert load_run("ü猫").config.epochs == 2
    again = subprocess.run([sys.executable, "-c", script, *words], **run)
    assert again.returncode == 2
    assert again.stderr.startswith("jax-softmax: run folder \\xfc\\u732b: a run is there already")


def test_standard_output_that_is_closed(monkeypatch, tmp_path):
    """`>&-`: the training is done and saved, and nobody reads of it."""
    monkeypatch.setattr("sys.stdout", None)
    run = tmp_path / "run"
    assert main(["train", "digits", "--epochs", "1", "--run-dir", str(run)]) == 0
    assert (run / "model.safetensors").is_file()
