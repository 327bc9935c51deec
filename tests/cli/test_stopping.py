"""SIGINT, SIGTERM and SIGHUP stop a command where nothing is lost; what is written is whole."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jax_softmax import load_run
from jax_softmax.cli import main
from jax_softmax.cli.stopping import StoppedError, signals

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(autouse=True)
def handlers():
    """Python's own, whatever started the tests; and they must be there again afterwards."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    found = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert found == dict.fromkeys(SIGNALS, signal.SIG_DFL) | {
        signal.SIGINT: signal.default_int_handler
    }
    assert [t.name for t in threading.enumerate() if t.name == "signals"] == []


@pytest.fixture
def on_call(monkeypatch):
    """Sends this process a signal when a function has been called so often."""

    def arrange(path, number, times=1):
        module, name = path.rsplit(".", 1)
        original = getattr(sys.modules[module], name)
        calls = []

        def called(*arguments, **options):
            calls.append(1)
            result = original(*arguments, **options)
            if len(calls) == times:
                os.kill(os.getpid(), number)
            return result

        monkeypatch.setattr(path, called)

    return arrange


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_training_stops_it_between_two_calls(number, on_call, command, cwd, tree):
    on_call("jax_softmax.training.memory_run.run_epochs", number, times=3)
    done = command("train", "iris", "--run-dir", "runs/mine", "--json", "out.json")
    assert (done.code, done.out) == (SIGNALS[number], "")
    # The first call only compiles; the others are of 20 epochs.
    words = f"stopped by {number.name} after epoch 40 of 1,000; nothing was saved."
    assert done.err == f"jax-softmax: {words}\n"
    assert tree(cwd) == {}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_run_is_written_leaves_it_whole(number, on_call, command, cwd):
    import jax_softmax.training.pictures  # noqa: F401 - is patched

    on_call("jax_softmax.training.pictures.learning_curve", number)
    done = command("train", "iris", "--epochs", 2, "--run-dir", "run", "--json", "out.json")
    assert (done.code, done.out) == (SIGNALS[number], "")
    assert done.err == (
        f"jax-softmax: stopped by {number.name} when the run had been saved; it is in run.\n"
    )
    assert load_run("run").config.epochs == 2
    assert {path.name for path in cwd.iterdir()} == {"run", "out.json"}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_the_run_is_written_leaves_the_old_one(number, on_call, command, cwd, tree):
    assert command("train", "iris", "--epochs", 2, "--run-dir", "run").code == 0
    before = tree(cwd)
    on_call("jax_softmax.training.evaluate", number)
    done = command("train", "iris", "--epochs", 3, "--run-dir", "run", "--overwrite")
    assert done.code == SIGNALS[number]
    assert "after epoch 3 of 3; nothing was saved" in done.err
    assert tree(cwd) == before


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("words", ["train iris", "evaluate {run}"])
def test_a_signal_while_data_are_loaded_stops_at_once(
    words, number, on_call, iris, command, cwd, tree
):
    on_call("jax_softmax.datasets.load_dataset", number)
    done = command(*words.format(run=iris.run).split())
    said = "interrupted." if number == signal.SIGINT else f"stopped by {number.name}."
    assert (done.code, done.out, done.err) == (SIGNALS[number], "", f"jax-softmax: {said}\n")
    assert tree(cwd) == {}


def test_an_exception_that_is_swallowed_stops_all_the_same(monkeypatch, command, iris):
    """As by JAX's callback from Python's garbage collector, where exceptions are dropped."""
    import jax_softmax.training

    original = jax_softmax.training.evaluate

    def evaluate(*arguments, **options):
        def callback(phase, _info):
            gc.callbacks.remove(callback)
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(100):  # where Python's handler runs
                pass

        gc.callbacks.append(callback)
        gc.collect()
        return original(*arguments, **options)

    monkeypatch.setattr(jax_softmax.training, "evaluate", evaluate)
    done = command("evaluate", iris.run)
    assert done.code == 130
    assert done.err == "jax-softmax: stopped by SIGINT.\n"


def test_ignored_signals_stay_ignored(on_call, command):
    """As under nohup."""
    on_call("jax_softmax.training.memory_run.run_epochs", signal.SIGHUP, times=2)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert command("train", "iris", "--epochs", 2, "--run-dir", "run").code == 0
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_outside_the_main_thread_signals_are_left_alone(cwd):
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(main(["train", "iris", "--epochs", "2", "--run-dir", "run"]))
    )
    thread.start()
    thread.join()
    assert codes == [0]


def test_what_is_deferred_is_raised_where_it_is_checked():
    with signals.handled():
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(StoppedError, match=r"stopped by SIGTERM at noon\."):
                signals.check("at noon")
        with pytest.raises(StoppedError), signals.deferred():
            pytest.fail("began although it was told to stop")


@contextlib.contextmanager
def _started(cwd, script):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# Trains until it is stopped, and says when it does.
TRAINS = """
import sys
from jax_softmax import cli
from jax_softmax.training import memory_run
original = memory_run.run_epochs
def run_epochs(*arguments, **options):
    print("runs", flush=True)
    return original(*arguments, **options)
memory_run.run_epochs = run_epochs
sys.argv[1:] = ["train", "iris", "--epochs", "1000000", "--run-dir", "runs/mine"]
cli.entry()
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_that_trains_is_stopped(number, cwd, tree):
    with _started(cwd, TRAINS) as process:
        for _ in range(3):
            assert process.stdout.readline() == "runs\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == SIGNALS[number]
    said = rf"jax-softmax: stopped by {number.name} after epoch [\d,]+ of 1,000,000; nothing was sa"
    assert re.match(said, err)
    assert tree(cwd) == {}


def test_a_second_interrupt_ends_a_process_at_once(cwd, tree):
    """Also inside a call in which Python handles no signal, as one of compiled code."""
    hangs = """
import hashlib
from jax_softmax.cli import main
from jax_softmax.training import memory_run
def run_epochs(*arguments, **options):
    print("hangs", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # for many minutes, without the GIL
memory_run.run_epochs = run_epochs
main(["train", "iris"])
"""
    with _started(cwd, hangs) as process:
        assert process.stdout.readline() == "hangs\n"
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert tree(cwd) == {}
