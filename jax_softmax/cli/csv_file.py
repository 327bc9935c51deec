"""Reads a CSV file of numbers, an example a row."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jax_softmax.errors import InputError

if TYPE_CHECKING:
    import polars as pl

_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", " ": "spaces"}
_MOST_EXTRA_COLUMNS = 1000


def read_csv(path: Path, width: int) -> np.ndarray:
    """The rows of a CSV file, `[N, width]` finite numbers.

    The first line is a header if any of its cells is not a number, unless most of them are: that is
    a row with something wrong. Blank lines do not count.

    Args:
      path: a text file in UTF-8 with commas between its cells.
      width: how many numbers a row must have.

    Raises:
      InputError: if the file is no such table. The message names the line and, where one cell is
        wrong, the column, both counted from 1.
    """
    import polars as pl

    lines = _lines_with_text(path)
    places = [f"{path}, line {line}" for line in lines]
    cells = _cells(path, list(lines.values()), width)
    numbers = cells.select(pl.all().str.strip_chars().cast(pl.Float64, strict=False))
    header = _header(places, cells, numbers, width)
    first = 1 if header else 0
    rows = numbers.slice(first).to_numpy()
    # Wrong is what is no finite number where one must be, and anything at all where nothing must.
    beyond = cells.slice(first).select(pl.all().is_not_null()).to_numpy()[:, width:]
    wrong = ~np.isfinite(rows[:, :width]).all(axis=1) | beyond.any(axis=1)
    if wrong.any():
        row = first + int(wrong.argmax())
        raise InputError(places[row] + _problem(cells.row(row), numbers.row(row), width))
    if not len(rows):
        raise InputError(
            f"{path}: expected at least one row of numbers, got none. {header}".rstrip()
        )
    if header and any(number is not None for number in numbers.row(0)):
        print(f"jax-softmax: {header}", file=sys.stderr)  # it may be a row with a slip of the pen
    return rows[:, :width]


def _lines_with_text(path: Path) -> dict[int, str]:
    """The lines that are not blank, by their numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # which takes \r\n and \r for \n too
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected a text table in UTF-8 ({error}).") from error
    lines = enumerate(text.split("\n"), start=1)
    return {number: line for number, line in lines if line.strip()}


def _cells(path: Path, lines: Sequence[str], width: int) -> pl.DataFrame:
    """The cells as text, null where empty or missing, with columns for the longest row to spare."""
    import polars as pl

    columns = max([width, *(line.count(",") + 1 for line in lines)]) + 1
    if columns > width + _MOST_EXTRA_COLUMNS:  # no table: polars would be long in reading it
        raise InputError(
            f"{path}: expected {width} numbers in a row, as the model was trained on, found a line "
            f"with {columns - 2:,} commas."
        )
    # Names of our own: polars would take the number of columns from the first line.
    names = ",".join(f"column {column}" for column in range(1, columns + 1))
    try:
        # Nothing is inferred: every cell is text.
        return pl.read_csv("\n".join([names, *lines]).encode(), infer_schema_length=0)
    except pl.exceptions.PolarsError as error:
        why = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: cannot be read as a table; look for a quotation mark too many or too few "
            f"({why})."
        ) from error


def _header(places: Sequence[str], cells: pl.DataFrame, numbers: pl.DataFrame, width: int) -> str:
    """Why the first line is taken as a header, "" if it is not."""
    if cells.is_empty():
        return ""
    first = _used(cells.row(0))
    words = [i for i, number in enumerate(numbers.row(0)[: len(first)]) if number is None]
    if 2 * len(words) < len(first) or not words:
        return ""
    _check_separator(places[0], first, width)
    column = words[0]
    return f"{places[0]}: taken as a header (column {column + 1} {_shown(first[column])})."


def _check_separator(place: str, cells: Sequence[str | None], width: int) -> None:
    (only, *others) = cells
    if width == 1 or others or only is None:
        return
    for separator, name in _OTHER_SEPARATORS.items():
        if separator in only.strip():
            raise InputError(f"{place}: expected commas between the cells, found {name}.")


def _problem(cells: Sequence[str | None], numbers: Sequence[float | None], width: int) -> str:
    """What is wrong with a row, to follow the name of its place."""
    given = len(_used(cells))
    if given != width:
        hint = _column_too_many(cells, numbers[:given]) if given == width + 1 else ""
        return f": expected {width} numbers, as the model was trained on (got {given}).{hint}"
    column = next(i for i in range(width) if not _is_finite(numbers[i]))
    return f", column {column + 1}: expected a finite number, but it {_shown(cells[column])}."


def _column_too_many(cells: Sequence[str | None], numbers: Sequence[float | None]) -> str:
    """What to do where there is one cell more than there should be."""
    word = next((i for i, number in enumerate(numbers) if number is None), len(numbers) - 1)
    if word == len(numbers) - 1 or not cells[word]:
        return " Leave out the column of labels."
    return f" Leave out column {word + 1}, which {_shown(cells[word])}, or encode it."


def _used(cells: Sequence[str | None]) -> Sequence[str | None]:
    """The cells up to the last one that holds something."""
    return cells[: max((i for i, cell in enumerate(cells, start=1) if cell is not None), default=0)]


def _is_finite(number: float | None) -> bool:
    return number is not None and math.isfinite(number)


def _shown(cell: str | None) -> str:
    return f"is {cell!r}" if cell else "is empty"
