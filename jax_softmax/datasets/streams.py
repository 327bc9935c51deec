"""Examples that stay in files: their rows are read when they are asked for, and let go again."""

from __future__ import annotations

import abc
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_softmax._checks import (
    check_class_names,
    check_feature_scale,
    classes_shown,
    is_integer,
    shown,
)
from jax_softmax.errors import InputError

# What a digest reads of the rows: so many stretches of so many, spread over all.
_STRETCHES, _STRETCH = 16, 64


class RowFiles(abc.ABC):
    """Rows of files, all of one shape and dtype.

    Attributes:
      files: where they are.
      length: N, how many there are.
      feature_shape: the shape of one row's features.
      dtype: of the features, in this machine's byte order.
      labels: `[N]` or `[N, V]` as stored, in memory; None where a row's label comes with its row.
      first_rows: the first row of each group of rows that can only be read together, in order;
        None where each row can be read by itself.
      together: with groups, how many rows are shuffled together, at least.
    """

    files: tuple[Path, ...]
    length: int
    feature_shape: tuple[int, ...]
    dtype: np.dtype
    labels: np.ndarray | None = None
    first_rows: np.ndarray | None = None
    together: int = 0

    @abc.abstractmethod
    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The features `[n, ...]` of rows in ascending order, and labels where `labels` is None."""

    @abc.abstractmethod
    def place(self, row: int) -> str:
        """Where a row is, for messages: its file, and which row of it."""

    def column(self, column: int) -> str:
        """What a number of a row is called."""
        return f"column {column}"

    def remember(self) -> None:
        """Notes sizes and times of the files, by which `check_unchanged` knows them."""
        self._seen = [_stamp(path) for path in self.files]

    def check_unchanged(self) -> None:
        """Raises InputError if a file is another than when the stream was opened."""
        for path, before in zip(self.files, self._seen, strict=True):
            now = _stamp(path)
            if now != before:
                raise InputError(
                    f"{path}: changed while it was read: {before[0]:,} bytes at the start, "
                    f"{now[0]:,} now; leave the files alone, and open the stream again."
                )


class Stream:
    """Examples in files, for `fit` and `evaluate` in place of a `Split`: of any size.

    `stream_npy`, `stream_parquet` and `stream_tfds` open one. Indexing reads rows:
    `features, labels = stream[10:20]`.

    Attributes:
      class_names: the name of each class, in the order of the labels; may be empty.
      feature_scale: what to multiply the stored features by.

    See Also:
      `stream_npy`, `stream_parquet`, `stream_tfds`; `Split` for data in memory.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "features.npy"
    >>> np.save(path, np.arange(12.0).reshape(4, 3))
    >>> from jax_softmax import stream_npy
    >>> stream_npy(path, [0, 1, 0, 1])[1:3][1].tolist()
    [1, 0]
    """

    def __init__(
        self,
        files: RowFiles,
        class_names: Sequence[str] = (),
        feature_scale: float = 1.0,
        rows: np.ndarray | None = None,
    ) -> None:
        self._files = files
        self._rows = rows
        self.class_names = check_class_names(class_names)
        self.feature_scale = check_feature_scale(feature_scale)
        if len(self) == 0:
            raise InputError(f"{files.files[0]}: expected at least one example, got none.")

    def __len__(self) -> int:
        return self._files.length if self._rows is None else len(self._rows)

    def __repr__(self) -> str:
        """A line: shape and dtype, and classes; nothing is read for it."""
        shape = f"{len(self):,} examples of {list(self.feature_shape)} {self.dtype}"
        return f"<Stream: {shape}, {classes_shown(self.class_names)}>"

    def __getitem__(self, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """The features `[n, ...]` and labels of rows by number, slice or `[n]` integers.

        Raises:
          InputError: if they cannot be read, or there is no such row.
        """
        if is_integer(rows):
            features, labels = self[np.array([rows])]
            return features[0], labels[0]
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        features, read = self.read(np.asarray(rows))
        return features, self.labels[rows] if read is None else read

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self._files.feature_shape

    @property
    def dtype(self) -> np.dtype:
        """Of the features as stored."""
        return self._files.dtype

    @property
    def files(self) -> tuple[Path, ...]:
        """Where the examples are."""
        return self._files.files

    @functools.cached_property
    def labels(self) -> Any:
        """All labels, `[N]` or `[N, V]` in memory; None where they are read with the rows."""
        labels = self._files.labels
        return labels if labels is None or self._rows is None else labels[self._rows]

    def subset(self, rows: np.ndarray) -> Stream:
        """A stream of the rows of these numbers, in their order."""
        own = rows if self._rows is None else self._rows[rows]
        return Stream(self._files, self.class_names, self.feature_scale, own)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Features `[n, ...]` of rows in any order, and their labels where `labels` is None.

        Raises:
          InputError: if they cannot be read, or there is no such row.
        """
        if rows.ndim != 1 or (rows.dtype.kind not in "iu" and rows.size):
            raise InputError(f"rows: expected integers, a slice of them or one, got {shown(rows)}.")
        rows = rows.astype(np.int64, copy=False)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise InputError(f"rows: expected numbers in [0, {len(self)}), got {shown(rows)}.")
        if not rows.size:
            none = np.empty((0, *self.feature_shape), self.dtype)
            return none, np.empty(0, np.int64) if self.labels is None else None
        own = rows if self._rows is None else self._rows[rows]
        # Ascending, as disks like it, and put back in order.
        ascending = np.argsort(own, kind="stable")
        back = np.empty_like(ascending)
        back[ascending] = np.arange(len(own))
        features, labels = self._files.read(own[ascending])
        return features[back], None if labels is None else labels[back]

    def place(self, row: int) -> str:
        """Where a row is, for messages."""
        return self._files.place(row if self._rows is None else int(self._rows[row]))

    def column(self, column: int) -> str:
        """What a number of a row is called, for messages."""
        return self._files.column(column)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """An order to go through the rows in, `[N]`, each once.

        Where each row can be read by itself, it is the permutation that training in memory draws.
        Where groups of rows must be read together, the groups are drawn in random order, and the
        rows of several of them, one after another, are shuffled together.
        """
        first_rows = self._files.first_rows
        if first_rows is None:
            return rng.permutation(len(self))
        own = np.arange(len(self)) if self._rows is None else self._rows
        group = np.searchsorted(first_rows, own, side="right") - 1
        by_group = np.argsort(group, kind="stable")
        ends = np.searchsorted(group[by_group], np.arange(len(first_rows)), side="right")
        parts = np.split(by_group, ends[:-1])
        order, waiting = [], []
        for number in rng.permutation(len(parts)):
            waiting.append(parts[number])
            if sum(map(len, waiting)) >= self._files.together:
                order.append(rng.permutation(np.concatenate(waiting)))
                waiting = []
        if waiting:
            order.append(rng.permutation(np.concatenate(waiting)))
        return np.concatenate(order)

    def sample(self) -> np.ndarray:
        """`[n]` numbers of rows spread over all: stretches, for some rows are read in groups."""
        starts = np.linspace(0, max(0, len(self) - _STRETCH), _STRETCHES).astype(np.int64)
        rows = (starts[:, None] + np.arange(_STRETCH)).ravel()
        return np.unique(rows[rows < len(self)])

    @functools.cached_property
    def sha256(self) -> str:
        """A digest by which the same examples are known again, wherever their files are.

        Of the sizes of the files, which rows are taken, all labels that are in memory, and the
        sample of the rows: not of all of them, which may be terabytes.
        """
        about = {
            "length": self._files.length,
            "shape": self.feature_shape,
            "dtype": self.dtype.str,
            "bytes": [path.stat().st_size for path in self.files],
            "class_names": self.class_names,
            "feature_scale": self.feature_scale,
        }
        digest = hashlib.sha256(json.dumps(about).encode())
        features, labels = self.read(self.sample())
        for array in (self._rows, self.labels, features, labels):
            if array is not None:
                array = np.ascontiguousarray(array)
                digest.update(f"{array.dtype} {array.shape} ".encode())
                digest.update(array.tobytes())
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raises InputError if a file is another than when the stream was opened."""
        self._files.check_unchanged()


def check_numbers(where: str, dtype: np.dtype) -> np.dtype:
    """The dtype that features are read in, in this machine's byte order; booleans are 0 and 1.

    Raises:
      InputError: if they are no real numbers.
    """
    if dtype.kind not in "biuf":
        raise InputError(f"{where}: expected real numbers, got dtype {dtype}.")
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")


def path_of(name: str, value: Any, *, folder: bool = False) -> Path:
    """A path that leads to a file, or to a folder where one may be given.

    Raises:
      InputError: if it does not; the message says what is there.
    """
    try:
        path = Path(value)
        if path.is_file() or (folder and path.is_dir()):
            return path
        found = "a folder" if path.is_dir() else "no file" if path.exists() else "nothing"
    except (TypeError, ValueError, OSError):  # ValueError: a null character
        raise InputError(f"{name}: expected a file's path, got {shown(value)}.") from None
    what = "a file or a folder" if folder else "a file"
    raise InputError(f"{name} {path}: expected {what}, found {found} there.")


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error
    return found.st_size, found.st_mtime_ns
