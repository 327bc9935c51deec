"""One of two processes is killed, stopped, stuck or told to stop: the other ends, and says why."""

import signal
import time

import numpy as np
import pytest

from jax_softmax import load_run
from jax_softmax.cli import main
from tests.processes.start import ended, kill, started

pytestmark = pytest.mark.slow  # starts other programs

WITHIN = 60
STARTING = 120  # on a machine that others use too


def training(run, *more):
    words = ["-m", "jax_softmax", "train", "iris", "--batch-size", "16", "--checkpoint-every", "50"]
    words += ["--step-timeout", "12", *more]

    def arguments(port, i):
        here = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process-id", str(i)]
        return [*words, *here]

    ranks = started(arguments, 2)
    folder = run.with_name(f".{run.name}.training") / "checkpoints"
    deadline = time.monotonic() + STARTING
    while len([*folder.glob("epoch-*")]) < 2 and time.monotonic() < deadline:
        assert all(rank.poll() is None for rank in ranks), ended(ranks, 10)
        time.sleep(0.05)
    return ranks


@pytest.fixture
def endless(tmp_path):
    ranks = training(tmp_path / "run", "--run-dir", str(tmp_path / "run"), "--epochs", "10000000")
    yield ranks
    kill(ranks)


def test_one_is_killed(endless):
    started_at = time.monotonic()
    endless[1].kill()
    ((code, output, errors),) = ended(endless[:1], WITHIN)
    assert time.monotonic() - started_at < WITHIN
    assert code == 1 and output == ""
    assert "another of the 2 processes has died or is stuck, and this one, number 0," in errors
    assert "go on from the last checkpoint" in errors and "Traceback" not in errors


def test_the_first_is_killed(endless):
    """JAX's own words may come before ours, and its exit code, for the first is its server."""
    endless[0].kill()
    ((code, _, errors),) = ended(endless[1:], WITHIN)
    assert code in (1, -signal.SIGABRT)
    assert "another of the 2 processes has died" in errors or "another task died" in errors


def test_one_is_stopped(endless):
    endless[1].send_signal(signal.SIGSTOP)
    ((code, _, errors),) = ended(endless[:1], WITHIN)
    assert code == 1, errors
    assert "s for the other processes in epoch " in errors or "s for the checkpoint " in errors
    assert "Traceback" not in errors


def test_one_is_told_to_stop(endless, tmp_path):
    """All stop after the same epoch, and the first keeps it."""
    endless[1].send_signal(signal.SIGTERM)
    found = ended(endless, WITHIN)
    assert [code for code, *_ in found] == [128 + signal.SIGTERM] * 2, "".join(x[2] for x in found)
    said = {errors.splitlines()[-1] for _, _, errors in found}
    assert len(said) == 1
    assert "stopped by SIGTERM after epoch" in said.pop()


def test_one_is_stuck_though_it_lives():
    ranks = started(lambda port, i: ["-m", "tests.processes.stuck", str(port), "2", str(i)], 2)
    try:
        ((code, output, errors),) = ended(ranks[:1], STARTING + WITHIN)
    finally:
        kill(ranks[1:])
    assert code == 1
    assert "s for the other processes in epoch" in errors
    assert output.startswith("1\n")


def test_a_killed_training_goes_on_in_one_process(tmp_path, capsys):
    run, never = tmp_path / "run", tmp_path / "never"
    ranks = training(run, "--run-dir", str(run), "--epochs", "400")
    kill(ranks)
    assert not run.exists()
    assert main(["train", "iris", "--resume", str(run), "--mesh", "data=1"]) == 0
    words = ["train", "iris", "--batch-size", "16", "--epochs", "400", "--mesh", "data=1"]
    assert main([*words, "--run-dir", str(never)]) == 0
    kernels = [load_run(path).params["kernel"] for path in (run, never)]
    np.testing.assert_allclose(*kernels, rtol=1e-4, atol=1e-5)


def test_the_first_alone_prints_and_writes(tmp_path):
    run = tmp_path / "run"
    words = ["-m", "jax_softmax", "train", "iris", "--epochs", "20", "--run-dir", str(run)]

    def arguments(port, i):
        return [*words, f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process-id={i}"]

    first, second = ended(started(arguments, 2), 120)
    assert first[0] == second[0] == 0, (first, second)
    assert f"run folder  {run}" in first[1] and second[1] == ""
    assert load_run(run).device == "2 x cpu"
    first, second = ended(started(arguments, 2), 120)
    assert first[0] == second[0] == 2
    there = f"run folder {run}: a run is there already; give another folder, or --overwrite"
    assert f"jax-softmax: {there}" in first[2]
    assert f"jax-softmax: process 0: {there}" in second[2]


def test_distributed_where_nothing_says_how():
    program = "from jax_softmax.cli import entry; entry()"
    ranks = started(lambda port, i: ["-c", program, "train", "iris", "--distributed"], 1)
    ((code, _, errors),) = ended(ranks, 60)
    assert code == 2
    assert "--distributed: expected SLURM, Open MPI, TPU pods and Kubernetes, whose" in errors


def test_the_others_do_not_come():
    program = (
        "import jax_softmax.cli.distributed as d; d._JOIN = 2; from jax_softmax.cli import entry; "
        "entry()"
    )

    def arguments(port, i):
        words = ["train", "iris", "--coordinator", f"127.0.0.1:{port}", "--processes", "2"]
        return ["-c", program, *words, "--process-id", "0"]

    ((code, _, errors),) = ended(started(arguments, 1), 60)
    assert code == 1
    assert (
        "waited 2 s at 127.0.0.1:" in errors
        and "expected all processes to start and reach" in errors
    )
