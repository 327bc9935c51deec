"""Make the tutorial's notebooks from its pages: a cell for each block of Python, text between them.

python docs/make_notebooks.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PAGES = {"tutorial.md": "tutorial.ipynb", "tutorial.zh.md": "tutorial.zh.ipynb"}
# Colab and Kaggle have jax, but not this package.
INSTALL = """\
import importlib.util

if importlib.util.find_spec("jax_softmax") is None:
    %pip install --quiet "jax-softmax[train]"
"""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def cell(kind: str, text: str, number: int) -> dict:
    """A cell of nbformat 4.5, without outputs."""
    lines = text.strip("\n").splitlines(keepends=True)
    made = {"cell_type": kind, "id": f"cell-{number:02}", "metadata": {}, "source": lines}
    return {**made, "execution_count": None, "outputs": []} if kind == "code" else made


def notebook(page: str) -> str:
    """The notebook of a page's text, as the text of its file."""
    parts = re.split(r"^```python\n(.*?)^```$", page, flags=re.M | re.S)
    kinds = [("markdown", "code")[n % 2] for n in range(len(parts))]
    told = [(kind, text) for kind, text in zip(kinds, parts, strict=True) if text.strip()]
    cells = [cell(kind, text, n) for n, (kind, text) in enumerate([("code", INSTALL), *told])]
    made = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for source, target in PAGES.items():
        made = notebook((DOCS / source).read_text(encoding="utf-8"))
        (DOCS / target).write_text(made, encoding="utf-8")
