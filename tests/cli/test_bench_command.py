"""`jax-softmax bench`: its report, its files and its exit codes."""

import json
import re
from dataclasses import replace

import pytest

import jax_softmax.benchmark as benchmark
from jax_softmax.benchmark import Record, Report, suites
from jax_softmax.benchmark.jit_suite import gradient_case
from jax_softmax.cli.options import OutputOptions
from tests.benchmark.shared import MACHINE

BASE = Record(
    suite="loss",
    case="value and gradient, 4×10 float32",
    contender="copy (z * c)",
    rows=4,
    classes=10,
    dtype="float32",
    seconds_median=1.5e-3,
    seconds_q1=1e-3,
    seconds_q3=1.6e-3,
    repeats=5,
    ratio=1.0,
    ratio_to="copy (z * c)",
    max_error=1e-7,
    error_bound=2e-5,
    compared_with="NumPy in float64",
)
OURS = replace(BASE, contender="jax_softmax", ours=True, seconds_median=2e-3, ratio=1.25)
OPTAX = replace(BASE, contender="optax", seconds_median=4e-3, ratio=2.5, max_error=3e-6)
WRONG = replace(OPTAX, max_error=0.5, seconds_median=None, ratio=None, repeats=0)
SKIPPED = Record(
    suite="loss", case=BASE.case, contender="PyTorch", skipped="PyTorch is not installed\nmore"
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


def test_the_answers_come_first(command, records_are):
    faster = replace(OURS, case="value and gradient, 4×99 float32", ratio=3.0)
    peer = replace(OPTAX, case=faster.case, ratio=2.0)
    records_are(BASE, OURS, OPTAX, faster, peer)
    done = command("bench", "--suite", "loss")
    assert (done.code, done.err) == (0, "")
    first, second, *_ = done.out.splitlines()
    assert first == "results        all 5 right"
    assert second == "loss, float32  jax_softmax takes 0.5 to 1.5 × the time of optax"


def test_wrong_results_come_before_all_else(command, records_are):
    records_are(BASE, OURS, WRONG)
    first = command("bench", "--suite", "loss").out.splitlines()[:2]
    assert " ".join(" ".join(first).split()).startswith(
        "results 1 of 3 WRONG and not timed: optax (value and gradient, 4×10 float32)"
    )


def test_the_report(command, records_are, cwd):
    records_are(BASE, OURS, WRONG, SKIPPED)
    done = command("bench", "--suite", "loss", "--json", "b.json")
    assert (done.code, done.err) == (0, "")
    lines = [line.rstrip() for line in done.out.splitlines()]
    assert "device    cpu; processor a CPU, 2 threads" in lines
    assert "checked against NumPy in float64: 1.0e-07, at most 2e-05" in lines
    (ours,) = (line for line in lines if line.startswith("jax_softmax "))
    assert re.fullmatch(r"jax_softmax +2 ms +1–1.6 ms +1.25", ours)
    assert "  optax: DIFFERS by 0.5: not timed" in lines
    assert "  PyTorch: skipped: PyTorch is not installed" in lines
    assert lines[-1] == "2 timed, 1 DIFFER and were not timed, 1 skipped, in 12.3 s"
    found = json.loads((cwd / "b.json").read_text())
    OutputOptions(json=cwd / "b.json").check_json()  # may be replaced
    assert [r["contender"] for r in found] == ["copy (z * c)", "jax_softmax", "optax", "PyTorch"]
    assert all(record["jax_version"] == "0.10.2" for record in found)
    assert not any(isinstance(value, dict | list) for r in found for value in r.values())


def test_rates_come_before_the_device_and_passes_have_a_column(command, records_are, monkeypatch):
    rates = {"copy_bytes_per_second": 2.84e12, "product_operations_per_second": 7.51e14}
    monkeypatch.setitem(globals(), "MACHINE", replace(MACHINE, **rates))
    records_are(BASE, replace(OURS, pass_seconds=8e-4))
    lines = command("bench", "--suite", "loss").out.splitlines()
    (place,) = (i for i, line in enumerate(lines) if line.startswith("rates "))
    assert lines[place].split(maxsplit=1)[1].startswith("copies 2.84 TB/s (read and written)")
    assert "751 TFLOP/s" in " ".join(lines[place : place + 2])
    assert any(line.startswith("device ") for line in lines[place + 1 : place + 3])
    (title,) = (line for line in lines if line.startswith("contender"))
    assert title.endswith("passes")
    (ours,) = (line for line in lines if line.startswith("jax_softmax ") and "2 ms" in line)
    assert ours.split()[-1] == "2.5"
    assert "is 1 for a loss, and 2 with its gradient." in " ".join(" ".join(lines).split())


def test_ratios_that_do_not_divide_are_explained(command, records_are):
    records_are(BASE, OURS)  # 2 ms over 1.5 ms, and 1.25
    words = " ".join(command("bench", "--suite", "loss").out.split())
    assert "“over” is the median of the ratios within alternating rounds" in words
    assert "it need not equal the quotient of the medians." in words
    records_are(replace(BASE, ratio=None))
    assert "“over”" not in command("bench", "--suite", "loss").out


@pytest.mark.parametrize("width", [80, 120])
def test_tables_wrap_between_words(command, records_are, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    names = ["three products", "jax_softmax, blocks of 128", "optax, float32 logits"]
    records = [
        replace(
            BASE,
            suite="fused",
            case="value and gradients, 2,048×512×32,768 bfloat16",
            contender=name,
            ratio_to="three products",
            seconds_median=0.1234,
            seconds_q1=0.1223,
            seconds_q3=0.1245,
            ratio=12.34,
            temporary_bytes=805_000_000,
            logits_bytes=268_000_000,
            compared_with="NumPy in float64, largest error of value and gradients over the row's",
        )
        for name in names
    ]
    records_are(*records)
    out = command("bench", "--suite", "fused").out
    assert all(len(line) <= width for line in out.splitlines())
    words = set(out.split())
    for record in records:
        assert set(record.contender.split()) <= words
    for whole in ("temporaries", "123", "122–124", "805", "300%", "12.3", "gradients"):
        assert whole in words, whole
    assert "…" not in out


def test_memory_and_growth_are_in_the_answers(command, records_are):
    memory = {"suite": "fused", "logits_bytes": 100}
    sizes = [
        replace(
            OURS, suite="scaling", case="rows doubled", contender=f"{n}", rows=n, seconds_median=n
        )
        for n in (1, 2, 4)
    ]
    records_are(
        replace(OURS, temporary_bytes=29, **memory),
        replace(OPTAX, temporary_bytes=200, **memory),
        *sizes,
    )
    out = command("bench", "--suite", "fused", "--suite", "scaling").out
    assert "it holds 29% of the logits' bytes, optax 200%" in " ".join(out.split())
    assert "time grows, rows doubled to the power of 1.00" in out


def test_pictures_are_drawn_or_the_reason_is_said(command, records_are, cwd):
    many = replace(OURS, case="value and gradient, 4×99 float32", classes=99)
    records_are(BASE, OURS, many)
    done = command("bench", "--suite", "loss", "--suite", "scaling", "--output", "pictures")
    assert (cwd / "pictures" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not (cwd / "pictures" / "scaling.png").exists()
    words = " ".join(done.out.split())
    assert "pictures/loss.png drawn" in words
    assert "pictures/scaling.png not drawn: the quartiles of neighbouring sizes overlap" in words


@pytest.mark.parametrize(("ours", "code"), [(True, 1), (False, 0)])
def test_a_wrong_result_of_ours_exits_with_1(command, records_are, ours, code):
    records_are(replace(WRONG, ours=ours))
    assert command("bench", "--suite", "loss").code == code


def test_a_true_run(command, monkeypatch):
    """Of one small case, for a suite takes its time."""
    small = {"gradient": lambda: gradient_case(6, 3)}
    suite = replace(suites.SUITES["jit"], steps=lambda context: small)
    monkeypatch.setitem(suites.SUITES, "jit", suite)
    done = command("bench", "--suite", "jit", "--quick")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("results  all 3 right\n")
    assert re.search(r"^JAX without jit .*ms", done.out, re.MULTILINE)
    assert re.fullmatch(r"3 timed, 0 skipped, in \d+\.\d s", done.out.splitlines()[-1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--suite los", "unknown suite 'los': .*; did you mean 'loss'?"),
        (
            "--suite pod",
            "unknown suite 'pod': expected one of jit, loss, fused, log-probs, train, "
            "classifier, scaling, gpu-quick, all.",
        ),
        ("--suite gpu-quick", "suite 'gpu-quick': expected a GPU .*; --quick runs it small."),
        ("--json nowhere/b.json", "--json nowhere/b.json: expected a file's path"),
        ("--output file", "--output file: expected a folder, or a path where one can be made"),
    ],
)
def test_a_mistake_is_one_message(words, message, command, cwd):
    (cwd / "file").touch()
    done = command("bench", *words.split())
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(f"jax-softmax: {message}.*\n", done.err)
