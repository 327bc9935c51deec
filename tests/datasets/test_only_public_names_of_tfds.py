"""TFDS may change what is not public at any release, so nothing of that is used."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from jax_softmax import datasets

FILES = sorted(Path(datasets.__file__).parent.glob("*.py"))

# `structured` is where the public `tfds.structured.Iris` is.
PUBLIC_MODULES = {"tensorflow_datasets", "tensorflow_datasets.structured"}


def private_names(source: str) -> list[str]:
    """The modules and attributes in `source` that are not public."""
    modules, attributes = [], []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module or "")
        elif isinstance(node, ast.Attribute):
            attributes.append(ast.unparse(node))
    of_tfds = [name for name in modules if name.split(".")[0] == "tensorflow_datasets"]
    return [name for name in of_tfds if name not in PUBLIC_MODULES] + [
        name for name in attributes if not _is_public(name.split("."))
    ]


def _is_public(path: list[str]) -> bool:
    """Whether none of another's names has a `_`, and `tfds` and its modules list theirs."""
    if path[0] != "self" and path[-1].startswith("_") and not path[-1].endswith("__"):
        return False
    holder = tfds if path[0] == "tfds" else None
    for name in path[1:]:
        if not isinstance(holder, type(tfds)):
            break
        if name not in holder.__all__:
            return False
        holder = getattr(holder, name)
    return True


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_uses_none_that_are_private(path):
    assert private_names(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from tensorflow_datasets.core.download import resource",
        "import tensorflow_datasets.core.utils.tqdm_utils",
        "tqdm_utils._active",
        "tfds.core.download.util.DownloadError",
        "tfds.download.download_manager",
    ],
)
def test_private_names_are_seen(source):
    assert private_names(source)
