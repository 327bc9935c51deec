"""Raw files that a person placed by hand, checked against the SHA-256 that TFDS registers."""

from __future__ import annotations

import os
from pathlib import Path

from jax_softmax.datasets.catalog import Entry
from jax_softmax.datasets.registry import (
    RegisteredFile,
    describe_difference,
    registered_files,
)
from jax_softmax.datasets.types import Tables
from jax_softmax.errors import InputError


def has_any(entry: Entry, raw_dir: Path) -> bool:
    """Return whether `raw_dir`, or its subfolder for the dataset, holds any of the files.

    Raises:
      InputError: `raw_dir` is not a folder.
    """
    return any(
        os.path.lexists(folder / name)
        for folder in _candidates(entry, raw_dir)
        for names in entry.file_sets
        for name in names
    )


def read(entry: Entry, raw_dir: Path) -> tuple[Tables, str]:
    """Read a dataset from raw files.

    Args:
      entry: The dataset.
      raw_dir: The folder with the files, or its parent (`raw_dir/<dataset>/`).

    Returns:
      The arrays and the line that says where they came from.

    Raises:
      InputError: A file is missing, cannot be read, or is not the registered one.
    """
    folder, names = _find_complete(entry, raw_dir)
    contents = _verified_contents(entry, folder, names)
    return entry.parse(contents), f"raw files in {folder} (SHA-256 verified)"


def _candidates(entry: Entry, raw_dir: Path) -> list[Path]:
    if not os.path.isdir(raw_dir):
        what = "a file" if os.path.exists(raw_dir) else "nothing"
        raise InputError(
            f"expected a folder with the raw files of {entry.name} at {raw_dir}, found {what}; "
            "correct --raw-dir (raw_dir= from Python) or JAX_SOFTMAX_RAW_DIR."
        )
    subfolder = raw_dir / entry.name
    return [subfolder, raw_dir] if os.path.isdir(subfolder) else [raw_dir]


def _find_complete(entry: Entry, raw_dir: Path) -> tuple[Path, tuple[str, ...]]:
    candidates = _candidates(entry, raw_dir)
    missing = {
        (folder, names): [name for name in names if not os.path.lexists(folder / name)]
        for names in entry.file_sets
        for folder in candidates
    }
    for place, absent in missing.items():
        if not absent:
            return place
    # Name the folder where the fewest are missing: that is where the others belong.
    folder, _ = min(missing, key=lambda place: len(missing[place]))
    files = registered_files(entry)
    choices = "\nor:\n".join(
        "\n".join(f"  {files[name]}" for name in missing[folder, names])
        for names in entry.file_sets
    )
    raise InputError(
        f"expected the raw files of {entry.name} in {folder}; missing:\n{choices}\n"
        f"Place them in {folder}, or drop --raw-dir (JAX_SOFTMAX_RAW_DIR) to use another source."
    )


def _verified_contents(entry: Entry, folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    files = registered_files(entry)
    for name in names:
        _check_readable(folder / name)
    return {name: _verified_content(folder / name, files[name]) for name in names}


def _check_readable(path: Path) -> None:
    try:
        if path.exists() and not path.is_file():
            # Not opened: that would wait until somebody writes to a pipe.
            raise OSError("a folder" if path.is_dir() else "no file but a pipe or a device")
        with path.open("rb"):
            return
    except OSError as error:
        raise InputError(
            f"cannot read {path}: expected a readable file, found: {error.strerror or error}; "
            "correct its permissions or replace it with an intact copy."
        ) from error


def _verified_content(path: Path, file: RegisteredFile) -> bytes:
    difference = describe_difference(path, file)
    if difference:
        raise InputError(
            f"{difference}\n"
            f"Replace it with an intact copy of {file.url}, or remove it to use another source."
        )
    return path.read_bytes()
