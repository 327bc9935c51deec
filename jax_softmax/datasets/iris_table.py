"""UCI's iris table: four lengths in centimetres and a species to a line."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from jax_softmax.datasets.types import Tables
from jax_softmax.errors import InputError

IRIS_CLASSES = ("Iris-setosa", "Iris-versicolor", "Iris-virginica")
_COLUMNS = 4


def parse_iris(files: Mapping[str, bytes]) -> Tables:
    """Read `iris.zip` or the older `iris.data`.

    The archive is read in memory: TFDS would reuse a stale `extracted/` folder unchecked.

    Args:
      files: `{"iris.zip": content}` or `{"iris.data": content}`.

    Returns:
      `"train"`: features `[N, 4]` float32 and labels `[N]` int64, in file order.

    Raises:
      InputError: The archive holds no `iris.data`, or a line is not a row of the table.
    """
    if "iris.zip" in files:
        return {"train": _parse_rows(_unzip(files["iris.zip"]))}
    return {"train": _parse_rows(files["iris.data"])}


def _unzip(data: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read("iris.data")
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"iris.zip: expected a zip archive that holds iris.data, got {error}; "
            "replace it with an intact copy."
        ) from error


def _parse_rows(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    lines = enumerate(data.decode("latin-1").splitlines(), start=1)
    # UCI's file ends in an empty line.
    rows = [_parse_row(line, number) for number, line in lines if line]
    features = np.array([lengths for lengths, _ in rows], np.float32).reshape(-1, _COLUMNS)
    return features, np.array([label for _, label in rows], np.int64)


def _parse_row(line: str, number: int) -> tuple[list[float], int]:
    *cells, species = line.split(",")
    try:
        lengths = [float(cell) for cell in cells]
        if len(lengths) == _COLUMNS and all(map(math.isfinite, lengths)):
            return lengths, IRIS_CLASSES.index(species)
    except ValueError:
        pass
    raise InputError(
        f"iris.data, line {number}: expected {_COLUMNS} finite numbers and one of "
        f"{', '.join(IRIS_CLASSES)}, separated by commas, got {line!r}; "
        "replace the file with an intact copy."
    )
