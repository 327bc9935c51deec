"""Rows of Parquet files, a row group at a time."""

from __future__ import annotations

import collections
import contextlib
import difflib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_softmax._checks import check_class_names, require, shown
from jax_softmax._extras import needs_train_extra
from jax_softmax.datasets.streams import RowFiles, Stream, check_numbers, path_of
from jax_softmax.errors import InputError

# Bytes of rows that are shuffled together, at least; twice as many are kept.
_TOGETHER = 2**27
# A row group is held whole: larger ones are no streaming.
_LARGEST = 2**31
_COLUMNS_IN_A_MESSAGE = 8


@needs_train_extra()
def stream_parquet(
    path: str | os.PathLike[str],
    label: str,
    *,
    class_names: Sequence[str] = (),
    feature_scale: float = 1.0,
) -> Stream:
    """Examples of Parquet files that need not fit in memory, their labels in memory.

    Rows can only be read by row groups. Where all fit in 128 MB they are shuffled as in memory;
    elsewhere row groups are drawn in random order and so many of them shuffled together as make up
    128 MB. So row groups should be much smaller than that; 2 GB are refused. Two such lots are held
    at most.

    Args:
      path: a Parquet file, or a folder of them, which are taken in the order of their names.
      label: the column of the labels: integers, booleans or strings. The others are the features:
        columns of numbers, or one column of lists (or arrays) of one length.
      class_names: the name of each class, in the order of the labels. None given: strings in sorted
        order; integers must leave out no class.
      feature_scale: what to multiply the stored features by: 1/255 for 8-bit pixels.

    Returns:
      The stream.

    Raises:
      InputError: if a file is missing, damaged, without such columns or unlike the first, or a
        value is missing; the message names the row. Or the extra `[stream]` is not installed.

    See Also:
      `stream_npy`, `stream_tfds`; `Split` for data in memory.

    >>> import pathlib, tempfile
    >>> import polars as pl
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "flowers.parquet"
    >>> table = pl.DataFrame({"long": [1.0, 2.0], "wide": [0.5, 0.7], "kind": ["rose", "lily"]})
    >>> table.write_parquet(path)
    >>> stream = stream_parquet(path, label="kind")
    >>> stream.class_names, [part.tolist() for part in stream[:]]
    (('lily', 'rose'), [[[1.0, 0.5], [2.0, 0.7]], [1, 0]])
    """
    require(isinstance(label, str), "label: expected the name of a column", label)
    found = path_of("path", path, folder=True)
    files = [found]
    if found.is_dir():
        files = sorted(file for file in found.iterdir() if file.suffix == ".parquet")
        if not files:
            raise InputError(f"path {found}: expected files ending in .parquet in it, found none.")
    rows = _ParquetRows(tuple(files), label)
    names = check_class_names(class_names)
    codes, own_names = _labels(rows)
    rows.labels = codes
    if own_names and names:
        number = {name: i for i, name in enumerate(names)}
        unknown = [name for name in own_names if name not in number]
        if unknown:
            row = int(np.argmax(codes == own_names.index(unknown[0])))
            raise InputError(
                f"{rows.place(row)}: expected a label that class_names has, got "
                f"{shown(unknown[0])}."
            )
        rows.labels = np.array([number[name] for name in own_names], np.int32)[codes]
    return Stream(rows, names or own_names, feature_scale)


class _ParquetRows(RowFiles):
    def __init__(self, files: tuple[Path, ...], label: str) -> None:
        self.files, self.label = files, label
        with _opened(files[0]) as file:
            first = file.schema_arrow
            self.columns = _columns(first, label, files[0])
            self.dtype, self.feature_shape = _numbers_of(file, self.columns, files[0])
        row_bytes = self.dtype.itemsize * int(np.prod(self.feature_shape))
        self._about: list[Any] = []
        self._groups: list[tuple[int, int]] = []
        counts, self._starts = [], [0]
        for i, path in enumerate(files):
            with _opened(path) as file:  # one at a time: there may be more than a process may open
                about, schema = file.metadata, file.schema_arrow
            if schema.remove_metadata() != first.remove_metadata():
                raise InputError(
                    f"{path}: expected the columns of {files[0]} ({_described(first)}), got "
                    f"{_described(schema)}; give a folder of files alike."
                )
            for group in range(about.num_row_groups):
                if count := about.row_group(group).num_rows:
                    self._check_size(path, group, count * row_bytes, _LARGEST // row_bytes)
                    self._groups.append((i, group))
                    counts.append(count)
            self._about.append(about)
            self._starts.append(self._starts[-1] + about.num_rows)
            self._check_count(path, sum(counts), self._starts[-1])
        ends = np.cumsum(counts, dtype=np.int64)
        self.length = int(ends[-1]) if counts else 0
        self._first = ends - np.array(counts, np.int64)
        self.together = max(1, _TOGETHER // row_bytes)
        self.first_rows = self._first if self.length > self.together else None
        # Two lots that are shuffled together: a piece may have rows of both.
        self._most = 2 * (self.together + max(counts, default=0))
        self._kept: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.remember()

    def _check_size(self, path: Path, group: int, size: int, most_rows: int) -> None:
        if size > _LARGEST:
            raise InputError(
                f"{path}: expected row groups of at most {_LARGEST:,} bytes once decoded, got "
                f"{size:,} in row group {group}; write it again with row groups of {most_rows:,} "
                f"rows at most, better far fewer."
            )

    def _check_count(self, path: Path, found: int, expected: int) -> None:
        if found != expected:
            raise InputError(
                f"{path}: expected an intact Parquet file (its footer says {expected:,} rows where "
                f"{found:,} are); replace it with one."
            )

    def place(self, row: int) -> str:
        file = int(np.searchsorted(self._starts, row, side="right")) - 1
        return f"{self.files[file]}, row {row - self._starts[file]}"

    def column(self, column: int) -> str:
        return f"column {self.columns[column] if len(self.columns) > 1 else column!r}"

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, None]:
        out = np.empty((len(rows), *self.feature_shape), self.dtype)
        group = np.searchsorted(self._first, rows, side="right") - 1
        begins = np.flatnonzero(np.diff(group, prepend=-1))
        for begin, end in zip(begins, np.append(begins[1:], len(rows)), strict=True):
            number = int(group[begin])
            out[begin:end] = self._group(number)[rows[begin:end] - self._first[number]]
        return out, None

    def first_row(self, file: int) -> int:
        """The number of a file's first row."""
        return self._starts[file]

    def label_column(self, file: int) -> Any:
        """The labels of a file, as pyarrow has them."""
        path = self.files[file]
        with _said(path), _opened(path, self._about[file]) as opened:
            column = opened.read(columns=[self.label]).column(0)
        self._check_count(path, len(column), self._starts[file + 1] - self._starts[file])
        return column

    def _group(self, number: int) -> np.ndarray:
        """A row group's features; the latest are kept."""
        with self._lock:
            if number not in self._kept:
                decoded = self._decoded(number)
                self._kept[number] = decoded
            self._kept.move_to_end(number)
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._most:
                self._kept.popitem(last=False)
            return self._kept[number]

    def _decoded(self, number: int) -> np.ndarray:
        file, group = self._groups[number]
        path = self.files[file]
        with _said(path), _opened(path, self._about[file]) as opened:
            table = opened.read_row_group(group, columns=self.columns)
        self._check_count(path, len(table), self._about[file].row_group(group).num_rows)
        out = np.empty((len(table), *self.feature_shape), self.dtype)
        for i, name in enumerate(self.columns):
            column = table.column(name).combine_chunks()
            self._check(number, column.is_null(), f"a number in column {name!r}, got no value")
            if _is_list(column.type):
                self._check_lists(number, name, column)
                out[:] = _as_numpy(column.flatten()).reshape(out.shape)
            else:
                out[:, i] = _as_numpy(column)
        return out

    def _check_lists(self, number: int, name: str, column: Any) -> None:
        import pyarrow.compute as pc

        (width,) = self.feature_shape
        lengths = pc.list_value_length(column)
        expected = f"{width} numbers in column {name!r}, as in its first row, got others"
        self._check(number, pc.not_equal(lengths, width), expected)
        missing = _as_numpy(column.flatten().is_null()).reshape(-1, width).any(axis=1)
        self._check(number, missing, f"{width} numbers in column {name!r}, got no value for one")

    def _check(self, number: int, wrong: Any, expected: str) -> None:
        """Raises InputError that names the first row of a group which is wrong."""
        wrong = wrong if isinstance(wrong, np.ndarray) else _as_numpy(wrong)
        if wrong.any():
            row = int(self._first[number]) + int(np.argmax(wrong))
            raise InputError(
                f"{self.place(row)}: expected {expected}; drop or fill such rows first."
            )


def _labels(rows: _ParquetRows) -> tuple[np.ndarray, tuple[str, ...]]:
    """`[N]` integers, and the names that they stand for where the labels are names."""
    import pyarrow as pa

    parts: list[tuple[np.ndarray, list[str] | None]] = []
    names: set[str] = set()
    for i in range(len(rows.files)):
        column = rows.label_column(i)
        if column.null_count:
            row = rows.first_row(i) + int(np.argmax(_as_numpy(column.is_null())))
            raise InputError(
                f"{rows.place(row)}: expected a label in column {rows.label!r}, got no value; drop "
                f"or fill such rows first."
            )
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            parts.append((_as_numpy(column), None))
            continue
        if not (pa.types.is_dictionary(kind) or _is_string(kind)):
            raise InputError(
                f"{rows.files[i]}: expected integers, booleans or strings in column "
                f"{rows.label!r}, got {kind}."
            )
        column = column if pa.types.is_dictionary(kind) else column.dictionary_encode()
        column = column.unify_dictionaries().combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        own = [str(name) for name in column.dictionary.to_pylist()]
        codes = _as_numpy(column.indices)
        present = np.unique(codes)
        names |= {own[code] for code in present}
        parts.append((codes, own))
    if not names:
        return np.concatenate([codes for codes, _ in parts]), ()
    ordered = sorted(names)
    number = {name: i for i, name in enumerate(ordered)}
    found = [
        np.array([number.get(name, -1) for name in own or ()], np.int32)[part]
        for part, own in parts
        if len(part)
    ]
    return np.concatenate(found), tuple(ordered)


def _opened(path: Path, about: Any = None) -> Any:
    """The file; what it says of itself, which grows with its row groups, need not be read again."""
    import pyarrow.parquet as pq

    with _said(path):
        file = pq.ParquetFile(path, metadata=about)
        if about is None:
            _ = file.schema_arrow.names  # raises where they are no text
        return file


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """Says of which file it is what pyarrow raises."""
    import pyarrow as pa

    try:
        yield
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        why = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: expected an intact Parquet file ({why}); replace it with one."
        ) from error


def _columns(schema: Any, label: str, path: Path) -> list[str]:
    """The names of the features' columns."""
    names = schema.names
    if label not in names:
        near = difflib.get_close_matches(label, names, n=1)
        instead = f"did you mean {near[0]!r}?" if near else f"there are {_described(schema)}."
        raise InputError(f"{path}: expected a column {label!r} of labels, found none; {instead}")
    others = [name for name in names if name != label]
    if len(set(names)) < len(names) or not others:
        raise InputError(
            f"{path}: expected columns of features beside the labels, each of a name of its own, "
            f"got {_described(schema)}."
        )
    return others


def _numbers_of(file: Any, columns: list[str], path: Path) -> tuple[np.dtype, tuple[int, ...]]:
    """The dtype that all features are read in, and the shape of an example."""
    kinds = [file.schema_arrow.field(name).type for name in columns]
    lists = [_is_list(kind) for kind in kinds]
    if any(lists) and len(columns) > 1:
        raise InputError(
            f"{path}: expected columns of numbers, or a single column of lists beside the labels, "
            f"got both ({_described(file.schema_arrow)})."
        )
    dtypes = []
    for name, kind in zip(columns, kinds, strict=True):
        where = f"{path}, column {name!r}"
        try:
            stored = np.dtype((kind.value_type if _is_list(kind) else kind).to_pandas_dtype())
        except (NotImplementedError, TypeError):
            stored = np.dtype(object)
        if stored.kind not in "biuf":
            raise InputError(f"{where}: expected real numbers, got {kind}; encode or drop it.")
        dtypes.append(check_numbers(where, stored))
    if not any(lists):
        return np.result_type(*dtypes), (len(columns),)
    return dtypes[0], (_list_width(file, kinds[0], columns[0], path),)


def _list_width(file: Any, kind: Any, name: str, path: Path) -> int:
    width = getattr(kind, "list_size", None)
    if width is None:
        with _said(path):
            first = next(file.iter_batches(1, columns=[name]), None)
        width = (
            0 if first is None or first.column(0)[0].as_py() is None else len(first.column(0)[0])
        )
    if width == 0:
        raise InputError(f"{path}: expected numbers in the first row of column {name!r}, got none.")
    return width


def _described(schema: Any) -> str:
    names = [f"{field.name} {field.type}" for field in schema]
    return ", ".join(names[:_COLUMNS_IN_A_MESSAGE]) + (
        ", ..." if len(names) > _COLUMNS_IN_A_MESSAGE else ""
    )


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _is_string(kind: Any) -> bool:
    import pyarrow as pa

    names = ("is_string", "is_large_string", "is_string_view")
    return any(getattr(pa.types, name, lambda _kind: False)(kind) for name in names)


def _as_numpy(column: Any) -> np.ndarray:
    """A column without missing values, or a mask."""
    if hasattr(column, "chunks"):
        return column.to_numpy()
    return column.to_numpy(zero_copy_only=False)
