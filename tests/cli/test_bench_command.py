"""`jax-softmax bench`: its report, its files and its exit codes."""

import json
import re
from dataclasses import replace

import pytest

import jax_softmax.benchmark as benchmark
from jax_softmax.benchmark import Record, Report, run_case, suites
from jax_softmax.benchmark.cases import Step
from jax_softmax.benchmark.jit_ops import gradient_case
from tests.benchmark.shared import MACHINE

TIMED = Record(
    suite="loss",
    case="value and gradient, 4×10 float32",
    contender="jax_softmax",
    rows=4,
    classes=10,
    dtype="float32",
    seconds_median=2e-3,
    seconds_q1=1e-3,
    seconds_q3=3e-3,
    repeats=5,
    compile_seconds=0.25,
    ratio=1.25,
    ratio_to="copy (z * c)",
    max_error=1e-7,
    error_bound=2e-5,
    compared_with="NumPy in float64",
    bandwidth_fraction=0.8,
)
WRONG = replace(TIMED, contender="optax", max_error=0.5, seconds_median=None, ratio=None, repeats=0)
SKIPPED = Record(
    suite="loss", case=TIMED.case, contender="PyTorch", skipped="PyTorch is not installed\nmore"
)


@pytest.fixture
def records_are(monkeypatch):
    """Lets the command find given records without running anything."""

    def use(*records):
        def run_suites(names, quick, raw_dir, on_progress):
            on_progress(0, 1, "a step")
            return Report(MACHINE, records, 12.34)

        monkeypatch.setattr(benchmark, "run_suites", run_suites, raising=False)

    return use


def test_the_report(command, records_are, cwd):
    records_are(TIMED, WRONG, SKIPPED)
    done = command("bench", "--suite", "loss", "--json", "b.json", "--output", "pictures")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert "device      cpu; processor a CPU, 2 threads" in lines
    assert "peers       optax 0.2.8, scikit-learn 1.9" in lines
    assert any("copy 10 GB/s" in line and "100 GFLOP/s" in line for line in lines)
    (ours,) = (line for line in lines if line.startswith("  jax_softmax"))
    for text in ("2 ms", "1 ms – 3 ms", "5", "1.25", "80%", "250 ms", "1.0e-07"):
        assert text in ours
    assert any("optax" in line and "DIFFERS by 0.5: not timed" in line for line in lines)
    assert any(line.endswith("skipped: PyTorch is not installed") for line in lines)
    assert lines[-1] == "1 timed, 1 DIFFER and were not timed, 1 skipped, in 12.3 s"
    found = json.loads((cwd / "b.json").read_text())
    assert [record["contender"] for record in found] == ["jax_softmax", "optax", "PyTorch"]
    assert all(record["jax_version"] == "0.10.2" for record in found)
    assert not any(isinstance(value, dict | list) for r in found for value in r.values())
    assert (cwd / "pictures" / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("ours", "code"), [(True, 1), (False, 0)])
def test_a_wrong_result_of_ours_exits_with_1(command, records_are, ours, code):
    records_are(replace(WRONG, ours=ours))
    assert command("bench", "--suite", "loss").code == code


def test_a_true_run(command, monkeypatch):
    """Of one small case, for a suite takes its time."""
    small = Step("gradient", lambda: run_case(gradient_case(6, 3), 0.0))
    suite = replace(suites.SUITES["jit"], steps=lambda context: [small])
    monkeypatch.setitem(suites.SUITES, "jit", suite)
    done = command("bench", "--suite", "jit", "--quick")
    assert (done.code, done.err) == (0, "")
    assert re.search(r"^  JAX without jit .*ms", done.out, re.MULTILINE)
    assert re.fullmatch(r"3 timed, 0 skipped, in \d+\.\d s", done.out.splitlines()[-1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--suite los", "unknown suite 'los': .*; did you mean 'loss'?"),
        ("--json nowhere/b.json", "--json nowhere/b.json: expected a file's path"),
        ("--output file", "--output file: expected a folder, or a path where one can be made"),
    ],
)
def test_a_mistake_is_one_message(words, message, command, cwd):
    (cwd / "file").touch()
    done = command("bench", *words.split())
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(f"jax-softmax: {message}.*\n", done.err)
