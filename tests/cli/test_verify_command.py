"""`jax-softmax verify`: its report, its files and its exit codes."""

import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jax_softmax.verification as verification
from jax_softmax.cli import main
from jax_softmax.cli.options import OutputOptions
from jax_softmax.verification import CheckResult, pictures

ROOT = Path(__file__).resolve().parents[2]


def check(error, **changes):
    fields = {
        "op": "softmax_cross_entropy_with_integer_labels",
        "rule": "vjp",
        "option": "z_loss",
        "dtype": "float32",
        "regime": "N(0,30)",
        "classes": 1000,
        "quantity": "gradient",
        "against": "oracle",
        "error_eps": error,
        "bound_eps": 5.0,
        "row": 7,
        "class_index": 12,
        "actual": 0.25,
        "expected": 0.5,
        "label_logit": 1.5,
        "largest_logit": 2.5,
        "class_logit": -3.5,
        "textbook_eps": 8388608.0,
        "jax_nn_eps": 12.0,
    }
    return CheckResult(**(fields | changes))


@pytest.fixture
def results_are(monkeypatch):
    """Lets the command find given results without running anything."""

    def use(results):
        def verify(selection, on_progress):
            on_progress(1, 1)
            return results

        monkeypatch.setattr(verification, "verify", verify)

    return use


def test_a_true_run_passes(command, cwd):
    done = command("verify", "--quick", "--op", "softmax", "--dtype", "float32", "--json", "v.json")
    assert (done.code, done.err) == (0, "")
    assert re.search(r"^device +cpu", done.out, re.MULTILINE)
    table = r"^softmax, rule vjp\n  float32 +value +\d.*\n(   .*\n)*  float32 +gradient +\d"
    assert re.search(table, done.out, re.MULTILINE)
    records = json.loads((cwd / "v.json").read_text())
    OutputOptions(json=cwd / "v.json").check_json()  # may be replaced
    assert done.out.splitlines()[-1].startswith(f"all {len(records)} checks passed in ")
    assert all(record["passed"] and record["platform"] == "cpu" for record in records)


def test_a_failure_is_shown_in_full_and_exits_with_1(command, results_are, cwd):
    wrong = check(math.inf, actual=math.nan, option="together")
    results_are([check(2.0), check(7.5), wrong])
    done = command("verify", "--json", "v.json")
    assert (done.code, done.err) == (1, "")
    lines = done.out.splitlines()
    assert lines[-1].startswith("2 of 3 checks FAILED, in ")
    assert "failures (2)" in lines
    at = lines.index("failures (2)")
    said = " ".join(" ".join(lines[at + 1 : at + 6]).split())
    assert "rule vjp, option z_loss, float32, 1,000 classes, N(0,30)" in said
    assert "gradient against oracle: 7.5 eps, bound 5" in said
    assert "at row 7 class 12: got 0.25, expected 0.5" in said
    assert "the class's -3.5, the label's 1.5, the largest 2.5" in said
    row = lines[lines.index("softmax_cross_entropy_with_integer_labels, rule vjp") + 1]
    assert "inf" in row and "together" in row and "8.4e6" in row and "–" in row
    assert [record["error_eps"] for record in json.loads((cwd / "v.json").read_text())] == [
        2.0,
        7.5,
        "inf",
    ]


def test_the_verdict_comes_before_the_table_and_ends_the_report(command, results_are):
    for results, verdict in (
        ([check(2.0)], "all 1 checks passed in "),
        ([check(2.0), check(7.5)], "1 of 2 checks FAILED, in "),
    ):
        results_are(results)
        lines = command("verify").out.splitlines()
        places = [i for i, line in enumerate(lines) if line.startswith(verdict)]
        (table,) = (i for i, line in enumerate(lines) if line.startswith("against exact values"))
        failures = [i for i, line in enumerate(lines) if line.startswith("failures")]
        assert [places[0], *failures, table, len(lines) - 1] == sorted([*places, *failures, table])


@pytest.mark.parametrize("columns", [80, 100])
def test_the_report_fits_its_width_and_breaks_no_word(columns, command, results_are, monkeypatch):
    long = {"option": "weighted_mean", "regime": "confident by 60", "classes": 262144}
    results_are([check(7.5, **long, textbook_eps=math.inf), check(1.0)])
    wide, narrow = [], []
    for width, lines in ((1000, wide), (columns, narrow)):
        monkeypatch.setenv("COLUMNS", str(width))
        lines += [re.sub(r"in [\d.]+ s", "", line) for line in command("verify").out.splitlines()]
    assert max(map(len, narrow)) <= columns
    assert sorted(" ".join(narrow).split()) == sorted(" ".join(wide).split())


def test_no_escapes_where_a_terminal_is_forced(command, results_are, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    results_are([check(7.5)])
    assert "\x1b" not in command("verify").out


def test_on_a_terminal_progress_knows_its_total_from_the_start(monkeypatch, results_are):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    results_are([check(1.0)])
    assert main(["verify", "--quick", "--op", "softmax", "--dtype", "float32"]) == 0
    shown = terminal.getvalue()
    assert "verifying: 0 of 4 programs" in shown
    assert "?" not in shown


def test_a_layers_failures_are_placed_by_feature_and_class(command, results_are):
    layer = {"op": "linear_softmax_cross_entropy", "class_index": None, "class_logit": None}
    of_features = {"quantity": "features gradient", "feature_index": 4}
    nowhere = {"row": None, "label_logit": None, "largest_logit": None, "regime": "all rows"}
    of_bias = nowhere | {"quantity": "bias gradient", "class_index": 3}
    results_are([check(7.5, **(layer | of_features)), check(8.5, **(layer | of_bias))])
    done = command("verify")
    assert done.code == 1
    assert "features gradient against oracle: 7.5 eps" in done.out
    assert "at row 7 feature 4: got" in done.out
    assert "at class 3: got" in done.out and "logits: of every row" in done.out
    assert re.search(
        r"^linear_softmax_cross_entropy, rule vjp\n  float32 +gradient", done.out, re.MULTILINE
    )


def test_the_table_has_a_row_to_a_rule_dtype_and_kind(command, results_are):
    changes = [
        {},
        {"rule": "jvp"},
        {"dtype": "bfloat16"},
        {"quantity": "loss"},
        {"option": "where"},
    ]
    results_are([check(1.0, **change) for change in changes] + [check(0.5, against="reference")])
    done = command("verify")
    assert done.code == 0
    assert len(re.findall(r"^  b?float\d+ ", done.out, re.MULTILINE)) == 4
    assert len(re.findall(r", rule (vjp|jvp)$", done.out, re.MULTILINE)) == 2
    assert "against reference: 1 checks, 0.1 of the bound at most" in done.out
    assert done.out.splitlines()[-1].startswith("all 6 checks passed in ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--op sofmax", "unknown op 'sofmax': .*; did you mean 'softmax'?"),
        ("--dtype bfloat", "unknown dtype 'bfloat': .*; did you mean 'bfloat16'?"),
        ("--quick --full", "--quick and --full: expected one of them at most, got both"),
        ("--json nowhere/v.json", "--json nowhere/v.json: expected a file's path"),
        ("--figure nowhere/v.png", "--figure nowhere/v.png: expected a file's path"),
        ("--figure v.txt", "--figure v.txt: expected a name in .png, .svg or .pdf"),
    ],
)
def test_a_mistake_is_one_message(words, message, command, cwd, tree):
    done = command("verify", *words.split())
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(f"jax-softmax: {message}.*\n", done.err)
    assert tree(cwd) == {}


def test_a_figure_is_drawn(command, results_are, cwd, monkeypatch):
    results_are([check(1.0)])
    leads = [0.0, 30.0]
    draw = pictures.lead_figure
    monkeypatch.setattr(pictures, "lead_figure", lambda: draw(leads))
    assert command("verify", "--figure", "v.png").code == 0
    assert (cwd / "v.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_that_cannot_be_written_is_refused_before_any_check(command, cwd, monkeypatch):
    # As for a user who is not root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != cwd)
    refused = command("verify", "--figure", "v.png")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == f"jax-softmax: --figure v.png: {cwd} may not be written to.\n"


def test_help_imports_nothing_heavy():
    script = (
        "import sys\nfrom jax_softmax.cli import main\n"
        "try:\n    main(['verify', '--help'])\n"
        "except SystemExit as left:\n    assert left.code == 0\n"
        "print({'jax', 'numpy', 'polars', 'tqdm'} & sys.modules.keys(), file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr == "set()\n"
    for flag in ("--quick", "--full", "--op", "--dtype", "--figure", "--json"):
        assert flag in done.stdout
