"""The page on one's own data: its commands print what it says, and so does its Python."""

import shlex

import pytest

from jax_softmax.cli import main
from tests.docs.test_pages import blocks, digits

PAGE = "docs/own-data.md"


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    exec(compile(blocks(PAGE, "python")[0], PAGE, "exec"), {"__name__": "page"})


def _commands():
    """Each command of the page with the lines that it prints, those for `...` left out."""
    for block in blocks(PAGE, "console"):
        for part in block.removeprefix("$ ").split("\n$ "):
            command, *lines = part.splitlines()
            yield shlex.split(command)[1:], [line for line in lines if line != "..."]


def test_commands_print_what_the_page_says(in_folder, capsys):
    shown = 0
    for words, lines in _commands():
        main(words)
        said = capsys.readouterr()
        printed = {digits(line) for line in (said.out + said.err).splitlines()}
        assert {digits(line) for line in lines} <= printed
        shown += len(lines)
    assert shown > 20


def test_python_prints_what_the_page_says(in_folder, capsys):
    program = blocks(PAGE, "python")[1]
    exec(compile(program, PAGE, "exec"), {"__name__": "page"})
    said = [line.removeprefix("# ") for line in program.splitlines() if line.startswith("#")]
    assert capsys.readouterr().out.splitlines() == said
