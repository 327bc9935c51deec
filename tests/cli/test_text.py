"""Tables and paragraphs fit the width there is, and break no word; a log gets a line a minute."""

from __future__ import annotations

import pytest

from jax_softmax.cli.options import Lines
from jax_softmax.cli.text import Column, named_lines, table_lines

COLUMNS = (Column("class", left=True, wraps=True), Column("examples"))


@pytest.fixture
def width(monkeypatch):
    return lambda columns: monkeypatch.setenv("COLUMNS", str(columns))


def test_a_table(width):
    width(80)
    rows = [("a setosa", "7"), "a heading over what follows, however wide", ("b", "1,234")]
    assert table_lines(COLUMNS, rows, indent=2) == [
        "  class     examples",
        "  a setosa         7",
        "a heading over what follows, however wide",
        "  b            1,234",
    ]


def test_a_cell_wraps_between_words_where_the_table_is_too_wide(width):
    width(24)
    assert table_lines(COLUMNS, [("ankle boots of leather", "7"), ("coat", "8")]) == [
        "class           examples",
        "ankle boots of         7",
        "leather",
        "coat                   8",
    ]


def test_a_word_is_never_broken(width):
    width(20)
    lines = table_lines(COLUMNS, [("Pneumonoultramicroscopic-silicosis", "7")])
    assert lines[1] == "Pneumonoultramicroscopic-silicosis         7"
    assert named_lines("source", "raw files in /a/path/too-long/to-break") == [
        "source      raw",
        "            files in",
        "            /a/path/too-long/to-break",
    ]


@pytest.mark.parametrize("name", ["[red]", "[/]", ":cat:", "\\[b]"])
def test_a_cell_is_shown_as_it_is(name, width):
    width(80)
    assert table_lines(COLUMNS, [(name, "7")])[1].split() == [name, "7"]


def test_wide_characters_keep_the_columns_straight(width):
    width(80)
    _, cat, dog = table_lines(COLUMNS, [("猫", "7"), ("犬科", "8")])
    assert (cat, dog) == ("猫            7", "犬科          8")


def test_where_there_is_no_terminal_lines_are_100_wide_at_most(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("os.get_terminal_size", _no_terminal)
    lines = named_lines("source", "word " * 60)
    assert 90 < max(map(len, lines)) <= 100


def _no_terminal(*_arguments):
    raise OSError("not a terminal")


def test_a_log_gets_a_line_a_minute(monkeypatch, capsys):
    """Where standard error is no terminal; and none before, so that short runs say nothing."""
    clock = iter([0.0, 59.0, 60.0, 61.0, 121.0])
    monkeypatch.setattr("jax_softmax.cli.options.time.monotonic", lambda: next(clock))
    say = Lines()
    for words in ("one", "two", "three", "four"):
        say(words)
    assert capsys.readouterr().err == "jax-softmax: two\njax-softmax: four\n"
