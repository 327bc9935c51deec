"""The tutorial: its blocks run in order and print what it says, in both languages and notebooks."""

import ast
import io
import json
import re
import runpy
from contextlib import redirect_stdout

import numpy as np
import pytest

from tests.docs.test_pages import ROOT, blocks, text

PAGES = ("docs/tutorial.md", "docs/tutorial.zh.md")
MAKER = runpy.run_path(str(ROOT / "docs" / "make_notebooks.py"))
NOTEBOOKS = sorted(MAKER["PAGES"].items())


def said(program):
    return [line.removeprefix("# ") for line in program.splitlines() if line.startswith("#")]


def comparable(program, lines):
    """The lines; of a block that takes times only the words, for another machine has others."""
    if "perf_counter" not in program:
        return list(lines)
    return [re.sub(r"\s+[\d.]+", " 0", line) for line in lines]


@pytest.mark.parametrize("page", PAGES)
def test_blocks_run_in_order_and_print_what_the_page_says(page):
    namespace = {"__name__": "page"}
    programs = blocks(page, "python")
    assert len(programs) > 10
    with np.errstate():  # the page turns NumPy's warnings off
        for number, program in enumerate(programs, 1):
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile(program, f"{page}, block {number}", "exec"), namespace)
            printed = comparable(program, printed.getvalue().splitlines())
            assert printed == comparable(program, said(program)), f"block {number}"


def test_both_languages_have_the_same_code_and_name_each_other_first():
    english, chinese = ("".join(blocks(page, "python")) for page in PAGES)
    assert ast.dump(ast.parse(english)) == ast.dump(ast.parse(chinese))
    assert said(english) == said(chinese)
    for page, other in (PAGES, PAGES[::-1]):
        assert f"]({other.removeprefix('docs/')})" in text(page).splitlines()[2]


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_have_the_same_mathematics_and_commands(page):
    displayed = re.findall(r"^\$\$\n(.*?)^\$\$$", text(page), re.M | re.S)
    assert displayed == re.findall(r"^\$\$\n(.*?)^\$\$$", text(PAGES[0]), re.M | re.S)
    assert len(displayed) == 2
    assert blocks(page, "console") == blocks(PAGES[0], "console")


@pytest.mark.parametrize(("page", "notebook"), NOTEBOOKS)
def test_notebook_is_made_of_the_page(page, notebook):
    made = MAKER["notebook"](text(f"docs/{page}"))
    assert text(f"docs/{notebook}") == made, "run python docs/make_notebooks.py"
    cells = json.loads(made)["cells"]
    code = ["".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code"]
    assert code[1:] == blocks(f"docs/{page}", "python")
    assert not any(cell.get("outputs") for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "notebook"), NOTEBOOKS)
def test_notebook_runs_from_top_to_bottom(page, notebook, monkeypatch):
    nbformat, nbclient = (pytest.importorskip(name) for name in ("nbformat", "nbclient"))
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ran = nbformat.reads(text(f"docs/{notebook}"), as_version=4)
    nbformat.validate(ran)
    nbclient.NotebookClient(ran, timeout=300, kernel_name="python3").execute()
    for cell in ran.cells:
        if cell.cell_type == "code":
            printed = "".join(output.get("text", str(output)) for output in cell.outputs)
            printed = comparable(cell.source, printed.splitlines())
            assert printed == comparable(cell.source, said(cell.source))
