"""Reads a table: CSV, TSV, Parquet, Arrow, and pairs of NumPy arrays."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jax_softmax._columns import listed, stacked
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    import polars as pl

_TEXT = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_PARQUET = (".parquet", ".pq")
_ARROW = (".arrow", ".feather", ".ipc")
_ARRAYS = (".npz", ".npy")
SUFFIXES = (*_TEXT, *_PARQUET, *_ARROW, *_ARRAYS)
# What a cell of a text file may be that says nothing.
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "?")
# The column of the labels where arrays have no names; what others call the two arrays.
LABELS = "labels"
_FEATURE_KEYS, _LABEL_KEYS = ("features", "X", "x", "data"), ("labels", "y", "target")


@dataclass(frozen=True, eq=False)
class Table:
    """A table as it was read.

    Attributes:
      frame: its columns. Those of a text file are strings without the blanks around them, null
        where the cell is missing.
      path: where it was read.
      header: whether the names are the file's own; else they are `column 1` and so on.
      lines: of a text file, the line of each row, from 1, where it is known.
    """

    frame: pl.DataFrame
    path: Path
    header: bool = True
    lines: Sequence[int] | None = None

    def place(self, row: int) -> str:
        """What to call a row, given its number from 0."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"


def is_table(name: str) -> bool:
    """Whether what `train` is given is the path of a table, be it there or not."""
    path = Path(name).expanduser()
    if path.suffix.lower() in SUFFIXES or (path / "features.npy").is_file():
        return True
    return bool(path.suffix) and path.is_file()  # of another kind, which `read_table` says


def read_table(path: Path) -> Table:
    """Reads a file by the end of its name.

    Args:
      path: `.csv`, `.tsv`, `.tab` (UTF-8; the first line is a header unless most of its cells are
        numbers), `.parquet`, `.pq`, `.arrow`, `.feather`, `.ipc`, `.npz` (arrays `features` and
        `labels`), or `features.npy` with `labels.npy` beside it, or their folder.

    Raises:
      InputError: if there is no such file, or it cannot be read, or has no rows, or a name twice.
    """
    suffix = path.suffix.lower()
    if path.is_dir() and (path / "features.npy").is_file():
        path, suffix = path / "features.npy", ".npy"
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path}: expected a table, a file ending in {', '.join(SUFFIXES)}; save or unpack it "
            f"as one."
        )
    if not path.is_file():
        raise InputError(f"{path}: expected a file, found {_what_is_there(path)}")
    try:
        if suffix in _TEXT:
            table = _read_text(path, _TEXT[suffix])
        elif suffix in _ARRAYS:
            table = Table(_read_arrays(path), path, header=False)
        else:
            table = Table(_read_typed(path, suffix), path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error
    patterns = [name for name in table.frame.columns if name[:1] == "^" and name[-1:] == "$"]
    if patterns:
        raise InputError(
            f"{path}: expected names of columns, got {listed(patterns)}, which polars takes for "
            f"patterns of names; rename what begins with ^ and ends with $."
        )
    if not table.frame.height:
        said = ", only a header" if table.header and table.frame.width else ""
        raise InputError(f"{path}: expected rows, found none{said}.")
    return table


def _what_is_there(path: Path) -> str:
    if path.is_dir():
        return "a folder."
    # By their stems: two names are not near for one ending.
    beside = {other.stem: other.name for other in path.parent.glob("*") if is_table(str(other))}
    near = difflib.get_close_matches(path.stem, beside, n=1)
    return f"nothing there; did you mean {beside[near[0]]!r}?" if near else "nothing there."


def _read_text(path: Path, separator: str) -> Table:
    import polars as pl

    try:
        text = path.read_text(encoding="utf-8-sig")  # which takes \r\n and \r for \n too
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected a text table in UTF-8 ({error}); save it so (Excel: CSV UTF-8)."
        ) from error
    text = text.rstrip(" \n")
    if not text:
        raise InputError(f"{path}: expected a table, found an empty file.")
    first_line = text.lstrip().partition("\n")[0]
    if separator == "," and first_line.count(";") > first_line.count(","):
        separator = ";"  # as Excel writes where the comma is in the numbers
    lines, cells, first = _cells(path, text, separator)
    header = not _mostly_numbers(cells.row(0))
    if header:
        lines, cells = lines[1:], cells.slice(1)
        cells.columns = _names(path, first)
    if separator == ";":
        cells = cells.with_columns(pl.all().str.replace(r"^([+-]?\d+),(\d+)$", "$1.$2"))
    return Table(cells, path, header, lines)


def _cells(
    path: Path, text: str, separator: str
) -> tuple[list[int], pl.DataFrame, Sequence[str | None]]:
    """The lines that are not blank, and their cells as stripped text, null where missing.

    And the first line once more as it is: a column may be called NA.
    """
    import polars as pl

    help_with_quotes = "look for a quotation mark too many or too few"
    try:
        records = list(_records(text, separator))
        lines = _checked_widths(path, records, separator)
        # Names of our own; and nothing is inferred: every cell is text.
        names = separator.join(_numbered(max(width for _, width in records)))
        cells = pl.read_csv(f"{names}\n{text}".encode(), infer_schema_length=0, separator=separator)
    except (csv.Error, pl.exceptions.PolarsError) as error:
        why = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: cannot be read as a table; {help_with_quotes} ({why})."
        ) from error
    if len(records) != cells.height:
        raise InputError(
            f"{path}: cannot be read as a table; {help_with_quotes} ({len(records):,} rows or "
            f"{cells.height:,})."
        )
    cells = cells.filter(pl.Series([width > 0 for _, width in records]))
    stripped = pl.all().str.strip_chars()
    first = cells.head(1).select(stripped).row(0)
    present = pl.when(stripped.is_in(list(MISSING))).then(None).otherwise(stripped).name.keep()
    kept = []
    for columns, together in stacked(cells.get_columns()):
        found = together.to_frame().select(present).to_series()
        kept += [
            found.slice(i * cells.height, cells.height).alias(column.name)
            for i, column in enumerate(columns)
        ]
    return lines, pl.DataFrame(kept), first


def _records(text: str, separator: str) -> Iterator[tuple[int, int]]:
    """Where each row starts, lines from 1, and how many cells it has, 0 where it is blank."""
    if '"' not in text:  # a fifth of the time
        for number, line in enumerate(text.split("\n"), 1):
            yield number, line.count(separator) + 1 if line.strip(" ") else 0
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    start = 1
    for row in reader:
        yield start, len(row) if any(map(str.strip, row)) or len(row) > 1 else 0
        start = reader.line_num + 1


def _checked_widths(path: Path, records: Sequence[tuple[int, int]], separator: str) -> list[int]:
    """The lines that are not blank; raises InputError where one has more or fewer cells.

    polars would fill up the fewer.
    """
    rows = [(line, width) for line, width in records if width]
    first, expected = rows[0]
    for line, width in rows:
        if width != expected:
            mark = "tab" if separator == "\t" else separator
            raise InputError(
                f"{path}, line {line}: expected {expected} cells, as line {first} has, got "
                f"{width}; mend it (a cell with a {mark} in it goes in quotation marks)."
            )
    return [line for line, _ in rows]


def _mostly_numbers(cells: Sequence[str | None]) -> bool:
    numbers = sum(_is_number(cell) for cell in cells)
    return 2 * numbers > sum(cell is not None for cell in cells)


def _is_number(cell: str | None) -> bool:
    try:
        return cell is not None and float(cell.replace(",", ".")) is not None
    except ValueError:
        return False


def _names(path: Path, cells: Sequence[str | None]) -> list[str]:
    names = [cell or f"column {i}" for i, cell in enumerate(cells, 1)]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(
            f"{path}: expected each column's name once, got {listed(twice)} more than once in the "
            f"first line; rename or remove one."
        )
    return names


def _numbered(width: int) -> list[str]:
    return [f"column {i}" for i in range(1, width + 1)]


def _read_typed(path: Path, suffix: str) -> pl.DataFrame:
    import polars as pl

    kind = "a Parquet" if suffix in _PARQUET else "an Arrow (Feather)"
    read = pl.read_parquet if suffix in _PARQUET else pl.read_ipc
    content = path.read_bytes()
    try:
        return read(content)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        why = str(error).partition("\n")[0]
        raise InputError(f"{path}: expected {kind} file that is whole ({why}).") from error


def _read_arrays(path: Path) -> pl.DataFrame:
    """Features as columns `column 1` and so on, and the labels, if there are any, as `labels`."""
    import polars as pl

    if path.suffix.lower() == ".npz":
        features, labels = _of_archive(path)
    else:
        beside = path.with_name(path.name.replace("features", "labels"))
        features = _loaded(path)
        labels = _loaded(beside) if beside != path and beside.is_file() else None
    if features.ndim < 2 or features.dtype.kind not in "biuf":
        raise InputError(
            f"{path}: expected features [rows, columns] of numbers, got shape {features.shape} of "
            f"{features.dtype}."
        )
    features = features.reshape(len(features), math.prod(features.shape[1:]))
    frame = pl.DataFrame(np.ascontiguousarray(features), schema=_numbered(features.shape[1]))
    if labels is None:
        return frame
    if labels.shape != features.shape[:1] or labels.dtype.kind not in "biufUT":
        raise InputError(
            f"{path}: expected {len(features):,} labels, one a row of the features, got shape "
            f"{labels.shape} of {labels.dtype}."
        )
    return frame.with_columns(pl.Series(LABELS, labels.tolist()))


def _of_archive(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    archive = _opened(path)
    if isinstance(archive, np.ndarray):
        raise InputError(f"{path}: expected an archive of arrays, found a single array.")
    with archive:
        names = archive.files
        found = [
            next((k for k in keys if k in names), None) for keys in (_FEATURE_KEYS, _LABEL_KEYS)
        ]
        if found[0] is None:
            raise InputError(
                f"{path}: expected arrays 'features' and 'labels' (or 'X' and 'y'), found "
                f"{listed(names)}."
            )
        features, labels = (None if key is None else _member(path, archive, key) for key in found)
    assert features is not None
    return features, labels


def _member(path: Path, archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        return archive[key]
    except Exception as error:  # a damaged member may raise a dozen unrelated types
        raise InputError(f"{path}: its array {key!r} cannot be read ({error}).") from error


def _loaded(path: Path) -> np.ndarray:
    array = _opened(path)
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"{path}: expected a NumPy array file, found an archive of several.")
    return array


def _opened(path: Path) -> np.ndarray | np.lib.npyio.NpzFile:
    try:
        return np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a header may have np.load raise a dozen unrelated types
        # NumPy takes what it does not know for pickled objects, and says how to run them.
        why = "of numbers" if "pickle" in str(error) else str(error)
        raise InputError(f"{path}: expected a NumPy array file ({why}).") from error
