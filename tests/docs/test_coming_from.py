"""The pages for those who come from another library: their programs, with that library beside."""

import ast
import io
from contextlib import redirect_stdout

import numpy as np
import pytest

from tests.docs.test_pages import ROOT, blocks, text

FOLDER = ROOT / "docs" / "coming-from"
# What a page needs, and from which version on; Liger needs a GPU, and its lines are not run.
NEEDS = {
    "optax": ("optax", None),
    "pytorch": ("torch", None),
    "liger": ("jax", None),
    "scikit-learn": ("sklearn", "1.8"),  # the first where l1_ratio alone says the penalty
    "keras": ("keras", "3.0"),
}


@pytest.mark.parametrize("page", NEEDS)
def test_page_prints_what_it_says(page, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    module, version = NEEDS[page]
    pytest.importorskip(module, minversion=version)
    programs = blocks(f"docs/coming-from/{page}.md", "python")
    namespace = {"__name__": "page"}
    with np.printoptions():  # the pages print fewer digits
        for number, program in enumerate(programs, 1):
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile(program, f"{page}.md, block {number}", "exec"), namespace)
            said = [line.removeprefix("# ") for line in program.splitlines() if line[:1] == "#"]
            assert said, f"block {number} shows nothing"
            assert printed.getvalue().splitlines() == said, f"block {number}"


def test_every_page_is_run_and_listed():
    assert {path.stem for path in FOLDER.glob("*.md")} == {"README", *NEEDS}
    assert all(f"]({page}.md)" in text("docs/coming-from/README.md") for page in NEEDS)


def test_ligers_lines_are_shown_and_not_run():
    (shown,) = blocks("docs/coming-from/liger.md", "py")
    assert "liger_kernel" in ast.unparse(ast.parse(shown))
    assert not any("liger_kernel" in run for run in blocks("docs/coming-from/liger.md", "python"))
