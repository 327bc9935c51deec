"""Rows of a `.npy` file."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_softmax.datasets.streams import RowFiles, Stream, check_numbers, path_of
from jax_softmax.errors import InputError

_HEADERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}


def stream_npy(
    features: str | os.PathLike[str],
    labels: Any,
    *,
    class_names: Sequence[str] = (),
    feature_scale: float = 1.0,
) -> Stream:
    """Examples of a `.npy` file that need not fit in memory, their labels in memory.

    Rows are read by their offsets and not mapped: a mapped file that becomes shorter ends the
    process, where reading raises.

    Args:
      features: a `.npy` file of `[N, ...]` numbers in C order, as `np.save` writes them.
      labels: `[N]` or `[N, V]` labels as a `Split` has them, or a `.npy` file of such.
      class_names: the name of each class, in the order of the labels; may be empty.
      feature_scale: what to multiply the stored features by: 1/255 for 8-bit pixels.

    Returns:
      The stream.

    Raises:
      InputError: if a file is missing, damaged, no array of numbers or not of the other's length.

    See Also:
      `stream_parquet`, `stream_tfds`; `Split` for data in memory.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "features.npy"
    >>> np.save(path, np.arange(12.0).reshape(4, 3))
    >>> stream = stream_npy(path, [0, 1, 0, 1])
    >>> stream[[3, 0]][0].tolist()
    [[9.0, 10.0, 11.0], [0.0, 1.0, 2.0]]
    """
    rows = _NpyRows(path_of("features", features))
    rows.labels = _labels(labels)
    if rows.labels.shape[:1] != (rows.length,):
        raise InputError(
            f"labels: expected one for each of {rows.length:,} rows of {rows.files[0]}, got shape "
            f"{rows.labels.shape}; give the labels of these features."
        )
    if rows.labels.dtype.hasobject:
        raise InputError("labels: expected integers, booleans or strings, got Python's objects.")
    return Stream(rows, class_names, feature_scale)


class _NpyRows(RowFiles):
    def __init__(self, path: Path) -> None:
        self.files = (path,)
        shape, self._stored, self._start = _header(path)
        if len(shape) < 2:
            raise InputError(f"{path}: expected shape [examples, width], got {shape}.")
        self.length, *rest = shape
        self.feature_shape = tuple(rest)
        self.dtype = check_numbers(str(path), self._stored)
        self._row_bytes = math.prod(rest) * self._stored.itemsize
        if self._row_bytes == 0:
            raise InputError(f"{path}: expected at least one number an example, got {shape}.")
        expected = self._start + self.length * self._row_bytes
        found = path.stat().st_size
        if found != expected:
            raise InputError(
                f"{path}: expected {expected:,} bytes for shape {shape}, got {found:,}: it is cut "
                f"off, or still being written; replace it with an intact copy."
            )
        self.remember()

    def place(self, row: int) -> str:
        return f"{self.files[0]}, row {row}"

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, None]:
        out = np.empty((len(rows), *self.feature_shape), self._stored)
        data = out.reshape(-1).view(np.uint8).data
        # Neighbours in the file are read at once.
        begins = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        ends = np.append(begins[1:], len(rows))
        width = self._row_bytes
        try:
            with open(self.files[0], "rb", buffering=0) as file:
                for begin, end, first in zip(
                    begins.tolist(), ends.tolist(), rows[begins].tolist(), strict=True
                ):
                    part = data[begin * width : end * width]
                    self._fill(file, part, self._start + first * width)
        except OSError as error:
            raise InputError(f"{self.files[0]}: cannot be read ({error}).") from error
        return out.astype(self.dtype, copy=False), None

    def _fill(self, file: io.RawIOBase, part: memoryview, offset: int) -> None:
        while part:
            count = _read_at(file, part, offset)
            if not count:
                self.check_unchanged()
                raise InputError(f"{self.files[0]}: ended before its last row.")
            part, offset = part[count:], offset + count


def _read_at(file: io.RawIOBase, part: memoryview, offset: int) -> int:
    """Reads as much of `part` as comes at once; how many bytes that was."""
    if hasattr(os, "preadv"):  # not on Windows; a call to the system less for each row
        return os.preadv(file.fileno(), [part], offset)
    file.seek(offset)
    return file.readinto(part) or 0


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and the offset of the first row."""
    try:
        with path.open("rb") as file:
            major, _ = np.lib.format.read_magic(file)
            shape, fortran, dtype = _HEADERS[major](file)
            start = file.tell()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error
    except Exception as error:  # a header may have NumPy raise a dozen unrelated types
        raise InputError(f"{path}: expected a NumPy array file ({error}).") from error
    if any(length < 0 for length in shape):
        raise InputError(f"{path}: expected a NumPy array file (its header says {shape}).")
    if fortran and len(shape) > 1:
        raise InputError(
            f"{path}: expected rows one after another, got columns (Fortran order); save "
            f"np.ascontiguousarray(features)."
        )
    return shape, dtype, start


def _labels(labels: Any) -> np.ndarray:
    if isinstance(labels, np.ma.MaskedArray):
        raise InputError(
            "labels: expected an array without a mask, which would be dropped; drop the masked "
            "rows, or fill them with .filled(number)."
        )
    if not isinstance(labels, (str, os.PathLike)):
        try:
            return np.asarray(labels)
        except ValueError as error:
            raise InputError(
                f"labels: expected an array, or rows of one length ({error})."
            ) from error
    path = path_of("labels", labels)
    _header(path)
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:  # as above
        raise InputError(f"{path}: expected a NumPy array file ({error}).") from error
