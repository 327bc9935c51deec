"""`--mesh`: the commands over several devices, and what is said of meshes that cannot be."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jax_softmax import load_run
from jax_softmax.training import memory_run, unfinished

SETTINGS = ("--epochs", 6, "--batch-size", 50, "--momentum", 0.5, "--checkpoint-every", 2)
START = ("train", "digits", *SETTINGS, "--run-dir", "run")
RESUME = ("train", "digits", "--resume", "run")
MESH = ("--mesh", "data=4,model=2")
KEPT = ".run.training"
# 180 steps, a few eps of float32 each.
CLOSE = {"rtol": 0, "atol": 180 * 4 * 2**-23}

pytestmark = pytest.mark.usefixtures("no_pictures")


class Killed(BaseException):
    """Stands for SIGKILL between two steps."""


@pytest.fixture(scope="module")
def one(train_once):
    return train_once("digits", *SETTINGS)


@pytest.fixture(scope="module")
def spread(train_once):
    return train_once("digits", *SETTINGS, *MESH)


def assert_close(run, other):
    for name, right in load_run(other).params.items():
        np.testing.assert_allclose(load_run(run).params[name], right, **CLOSE)


@pytest.fixture
def kill(command, monkeypatch):
    """Runs a command that ends, as if killed, before the third epoch or where it is told."""

    def run(*words, target=memory_run, name="run_epochs", after=3):
        original, calls = getattr(target, name), []

        def dies(*arguments, **options):
            calls.append(1)
            if len(calls) > after:
                raise Killed
            return original(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(target, name, dies)
            with pytest.raises(Killed):
                command(*words)

    return run


def test_train_over_a_mesh(spread, one):
    assert (spread.code, spread.err) == (0, "")
    assert re.search(r"^device +8 x cpu, data=4,model=2$", spread.out, re.M)
    assert spread.metrics["device"] == "8 x cpu" and one.metrics["device"] == "cpu"
    assert json.loads((spread.run / "config.json").read_text())["mesh"] == {"data": 4, "model": 2}
    assert spread.metrics["test_accuracy"] == one.metrics["test_accuracy"]
    assert_close(spread.run, one.run)


@pytest.mark.parametrize("mesh", [(), ("--mesh", "model=8"), ("--mesh", "data=3")], ids=str)
def test_evaluate_over_another(mesh, spread, command):
    done = command("evaluate", spread.run, *mesh, "--json", "out.json")
    assert done.code == 0
    (record,) = json.loads(Path("out.json").read_text())
    assert record["compared_with_training"] in ("rounding", "same")
    again = command("evaluate", spread.run, *MESH)
    assert re.search(r"^result +the same as training measured$", again.out, re.M)


def test_predict_over_a_mesh(one, command, cwd):
    np.save("some.npy", np.random.default_rng(0).integers(0, 17, (5, 8, 8)))
    expected = command("predict", one.run, "some.npy")
    assert command("predict", one.run, "some.npy", *MESH) == expected
    assert expected.code == 0 and len(expected.out.splitlines()) == 6


WRONG = {
    "data=3,model=4": "the 8 devices that JAX finds here, got data=3,model=4, which takes 12",
    "data=0": "mesh: expected an integer of at least 1 for the axis data, got 0; leave it",
    "rows=2": "mesh: expected the axes data and model, such as {'data': 4, 'model': 2}, got",
    "8": "--mesh: expected sizes of the axes data and model, each once, such as data=4,",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_mesh_that_cannot_be_is_said_before_any_work(words, one, command, cwd, tree):
    np.save("some.npy", np.zeros((1, 8, 8)))
    before = tree(cwd)
    for arguments in (START, ("evaluate", one.run), ("predict", one.run, "some.npy")):
        done = command(*arguments, "--mesh", words)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("jax-softmax: ") and WRONG[words] in done.err
        assert len(done.err.splitlines()) == 1
    assert tree(cwd) == before


def test_resumed_on_the_same_mesh_to_the_same_bits(spread, kill, command, cwd):
    kill(*START, *MESH)
    assert command(*RESUME).code == 0
    for name in ("model.safetensors", "config.json", "history.jsonl"):
        assert (cwd / "run" / name).read_bytes() == (spread.run / name).read_bytes()


def test_resumed_on_another_to_rounding(spread, kill, command, cwd):
    kill(*START, *MESH)
    assert command(*RESUME, "--mesh", "data=3").code == 0
    assert load_run("run").config.mesh.data == 3
    assert_close("run", spread.run)
    done = command(*RESUME, "--mesh", "model=2")
    assert (done.code, done.out) == (0, "run is finished: epoch 6 was its last.\n")


def test_killed_once_the_run_of_another_mesh_is_in_place(kill, command, cwd):
    kill(*START, *MESH)
    kill(*RESUME, "--mesh", "data=3", target=unfinished.Unfinished, name="remove", after=0)
    assert (cwd / KEPT).exists()
    assert command(*RESUME).out == "run is finished: epoch 6 was its last.\n"
    assert not (cwd / KEPT).exists()


@pytest.mark.parametrize("after", [0, 3])  # before the first checkpoint, and after one
def test_a_mesh_of_more_devices_than_are_left(after, kill, command, cwd, monkeypatch):
    kill(*START, *MESH, after=after)
    devices = jax.devices()[:2]
    with monkeypatch.context() as patched:
        patched.setattr(jax, "devices", lambda *_: devices)
        done = command(*RESUME)
        assert (done.code, done.out) == (2, "")
        assert "expected at most the 2 devices that JAX finds here, got data=4,model=2" in done.err
        assert "was started with that; give --mesh with the devices that it is to go on" in done.err
        assert (cwd / KEPT).exists()
        assert command(*RESUME, "--mesh", "model=2").code == 0
    shutil.rmtree("run")
