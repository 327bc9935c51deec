"""`jax-softmax report`: a page about a run, of the examples that `evaluate` takes."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from jax_softmax.training import load_run
from jax_softmax.training.pictures import plain


def test_a_page_is_written_beside_the_run(digits, command, tmp_path):
    before = {path.name for path in digits.run.iterdir()}
    expected = digits.run.with_name(f"{digits.run.name}-report.html")
    try:
        outcome = command("report", digits.run)
        page = expected.read_text(encoding="utf-8")
    finally:
        expected.unlink(missing_ok=True)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"report      {expected}\n"
    assert f"{digits.metrics['test_accuracy']:.2%}" in page.replace("</b>", "")
    assert "360 test examples right" in page and "scikit-learn&#39;s bundled copy" in page
    assert {path.name for path in digits.run.iterdir()} == before
    load_run(digits.run)


def test_it_is_said_by_a_path_such_as_the_run_s(iris, command, monkeypatch):
    shutil.copytree(iris.run, "runs/iris")
    assert command("report", "runs/iris").out == "report      runs/iris-report.html\n"
    monkeypatch.chdir("runs/iris")
    assert command("export", ".", "--format", "safetensors").out.startswith(
        "model       ../iris.safetensors (safetensors, "
    )


def test_a_page_goes_where_it_is_asked_to_and_over_nothing(iris, command):
    assert command("report", iris.run, "--output", "page.html").code == 0
    page = Path("page.html").read_bytes()
    outcome = command("report", iris.run, "--output", "page.html")
    assert outcome.code == 2
    assert "page.html: is there already; give another path, or --overwrite" in outcome.err
    Path("page.html").write_text("mine")
    assert command("report", iris.run, "--output", "page.html", "--overwrite").code == 0
    assert Path("page.html").read_bytes() == page
    assert os.listdir() == ["page.html"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--output nowhere/page.html", "nowhere/page.html: expected a file's path in a folder"),
        ("--output .", ": expected a file's path in a folder that is there"),
        ("--output x.html --raw-dir nowhere", "nowhere"),
        ("mnist --output x.html", "mnist"),
    ],
)
def test_a_mistake_is_said_and_leaves_nothing(words, error, iris, command):
    outcome = command("report", iris.run, *words.split())
    assert outcome.code == 2 and outcome.out == ""
    assert error in outcome.err and "Traceback" not in outcome.err
    assert os.listdir() == []


def test_a_link_is_written_through(iris, command):
    Path("there").mkdir()
    Path("page.html").symlink_to("there/page.html")
    assert command("report", iris.run, "--output", "page.html").code == 0
    assert Path("page.html").is_symlink()
    assert Path("there/page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_records_are_those_of_the_classes(digits, command):
    assert command("report", digits.run, "--output", "a.html", "--json", "a.json").code == 0
    records = json.loads(Path("a.json").read_text())
    assert [record["class_name"] for record in records] == list("0123456789")
    assert sum(record["support"] for record in records) == 360
    for record in records:
        assert (record["taken_for"] is None) == (record["taken_for_examples"] == 0)
        assert record["taken_for"] != record["class_name"]
    assert command("report", digits.run, "--output", "b.html", "--json", "a.json").code == 0


def test_a_report_of_a_table_names_its_columns(table_run, command, monkeypatch):
    from jax_softmax.report import figures

    named = []
    monkeypatch.setattr(
        figures, "plain", lambda name, longest: named.append(name) or plain(name, longest)
    )
    assert command("report", table_run, "--output", "own.html").code == 0
    assert {"age", "plan=M", "plan=S"} <= set(named)
    own = Path("own.html").read_text(encoding="utf-8")
    assert "<h1>customers.csv</h1>" in own and "18 test examples" in own
    assert "&lt;b&gt;no&lt;/b&gt;" in own and "<b>no</b>" not in own
    Path("other.csv").write_text(Path("customers.csv").read_text())
    assert command("report", table_run, "other.csv", "--output", "other.html").code == 0
    other = Path("other.html").read_text(encoding="utf-8")
    assert "<h1>other.csv</h1>" in other and "of 90 " in other


def test_mistakes_are_named_by_rows_of_the_table(table_run, command):
    command("predict", table_run, "customers.csv", "--output", "said.csv")
    said, true = pl.read_csv("said.csv")["class"], pl.read_csv("customers.csv")["churned"]
    assert command("report", table_run, "--output", "own.html").code == 0
    command("report", table_run, "customers.csv", "--overwrite", "--output", "same.html")
    Path("other.csv").write_text(Path("customers.csv").read_text())
    command("report", table_run, "other.csv", "--output", "other.html")
    for page in ("own.html", "same.html", "other.html"):
        text = html.unescape(Path(page).read_text(encoding="utf-8"))
        mistakes = text.partition("as <code>predict</code> numbers them.")[2].partition("</table>")
        found = re.findall(r"<td>(\d+)</td><td class=\"left\">(\S*?)</td><td>", mistakes[0])
        assert found and "<th>row</th>" in mistakes[0]
        for row, prediction in found:
            assert said[int(row)] == prediction != true[int(row)]
