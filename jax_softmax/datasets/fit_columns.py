"""What becomes of each column of a table: kinds by all of its cells, numbers by training rows."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from jax_softmax._columns import (
    Columns,
    NumberColumn,
    WordColumn,
    as_numbers,
    as_words,
    did_you_mean,
    folded_booleans,
    has_no_words,
    listed,
    missing_said,
    stacked,
    whole_numbers,
    with_gaps,
)
from jax_softmax.datasets.tables import Table
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    import polars as pl

IMPUTE = ("mean", "median", "most-frequent")
_DATES = r"^(\d{4}-\d{1,2}-\d{1,2}([ T].*)?|\d{1,2}[./-]\d{1,2}[./-](\d{4}|\d{2}))$"
_LEADING_ZERO = r"^[+-]?0\d"
# As people and spreadsheets write numbers: 40,524, 1 200.5, $5, 12 %. The marks differ from place
# to place (1,234 may be 1.234), so we do not guess.
_WRITTEN_NUMBER = (
    r"^[+-]?\p{Sc}?\s?[+-]?(\d{1,3}([,.'’\s]\d{3})+|\d+)([.,]\d+)?([eE][+-]?\d+)?\s?(%|\p{Sc})?$"
)
# Words: names of rows, or text, rather than categories.
_MOST_CATEGORIES = 1000
_FEW = 20
_CONSTANT = "the same in every training row"


@dataclass(eq=False)
class Kinds:
    """What a table's columns hold.

    Attributes:
      numbers: names of columns of numbers.
      words: of columns of categories.
      left_out: of others, and why.
    """

    numbers: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Problem:
    """Why no features can be made of a column."""

    kind: Literal["missing", "dates", "marked", "mixed", "other"]
    text: str


def kinds_of(
    table: Table, names: Sequence[str], categorical: Collection[str], *, fills: bool
) -> Kinds:
    """The kinds of the columns `names`.

    Args:
      table: with all of its rows.
      names: the columns to look at.
      categorical: those that are categories, whatever they look like.
      fills: whether missing cells are filled in.

    Raises:
      InputError: if there are columns of which no features can be made, or cells are missing that
        are not filled in. The message names them all, with their first row, and says what to do.
    """
    kinds, problems = Kinds(), {}
    whole = _whole(table, set(names) - set(categorical))
    for name in names:
        if name in whole:
            _put_numbers(kinds, name, whole[name])
            continue
        cells = table.frame[name]
        problem = _add(kinds, table, cells, name in categorical)
        used = name in (*kinds.numbers[-1:], *kinds.words[-1:])  # it was put last
        if problem is None and used and not fills and _missing(cells).any():
            problem = _Problem("missing", missing_said(with_gaps(cells), table.place))
        if problem is not None:
            problems[name] = problem
    if problems:
        raise InputError(_refusal(table, problems))
    return kinds


def _refusal(table: Table, problems: Mapping[str, _Problem]) -> str:
    """What is wrong with each column, then what can be done, a line each."""
    lines = [f"{table.path}: columns of which no features can be made as they are:"]
    lines += [f"  {name!r}: {problem.text}" for name, problem in problems.items()]
    of = {
        kind: [name for name, problem in problems.items() if problem.kind == kind]
        for kind in ("missing", "dates", "marked", "mixed", "other")
    }
    if of["missing"]:
        lines.append(
            "--impute mean fills missing cells in (or median, or most-frequent; words always with "
            "the most frequent one)."
        )
    if of["marked"]:
        lines.append("Write numbers as digits and a point: 40524.5, not 40,524.5, $5 or 5 %.")
    if words := of["mixed"] + of["marked"]:
        lines.append(f"--categorical {_flagged(words)} takes such cells as words.")
    useless = [name for name in problems if name not in of["missing"]]
    lines.append(f"--drop {_flagged(useless or of['missing'])} leaves columns out.")
    if of["dates"]:
        lines.append("Of dates, a column of numbers can be used: a year, or days until then.")
    return "\n".join([*lines, "From Python: impute=, categorical=, drop=."])


def _flagged(names: Sequence[str]) -> str:
    return shlex.quote(",".join(names))


def _add(kinds: Kinds, table: Table, cells: pl.Series, categorical: bool) -> _Problem | None:
    """Puts a column where it belongs, or says why it belongs nowhere."""
    import polars as pl

    name, dtype = cells.name, cells.dtype
    present = cells.filter(pl.Series(~_missing(cells)))
    if has_no_words(cells):
        return _Problem("other", f"cells of type {dtype}")
    if present.is_empty():
        kinds.left_out[name] = "no cell holds anything"
        return None
    if categorical:
        kinds.words.append(name)
        return None
    if dtype.is_temporal() or (dtype == pl.String and _are_dates(present)):
        shown = str(present[0])
        return _Problem("dates", f"dates or times, such as {shown!r} in {_first(table, cells)}")
    if dtype == pl.Boolean:
        kinds.words.append(name)
        return None
    numbers = as_numbers(present)
    count = len(numbers) - numbers.null_count()
    if count == len(numbers) and not _leading_zeros(present):
        return _add_numbers(kinds, table, cells)
    problem = _marked(table, cells, present)
    if problem is not None:
        return problem
    if 2 * count >= len(numbers) and not _leading_zeros(present):
        row = int((as_numbers(cells).is_null() & cells.is_not_null()).to_numpy().argmax())
        text = f"{count:,} of {len(numbers):,} cells are numbers, but {table.place(row)} has"
        return _Problem("mixed", f"{text} {cells[row]!r}")
    different = present.n_unique()
    if different > _FEW and (2 * different > len(present) or different > _MOST_CATEGORIES):
        kinds.left_out[name] = (
            f"{different:,} different words in {len(present):,} rows, like names or texts "
            f"(--categorical uses it)"
        )
        return None
    kinds.words.append(name)
    return None


def _add_numbers(kinds: Kinds, table: Table, cells: pl.Series) -> _Problem | None:
    numbers = as_numbers(cells)
    array = numbers.to_numpy()
    infinite = np.isinf(array)
    if infinite.any():
        row = int(infinite.argmax())
        return _Problem("other", f"{table.place(row)} has {cells[row]!r}")
    _put_numbers(kinds, cells.name, _counted(array))
    return None


def _put_numbers(kinds: Kinds, name: str, counted: str) -> None:
    if counted:
        kinds.left_out[name] = counted
    else:
        kinds.numbers.append(name)


def _counted(array: np.ndarray) -> str:
    """What to say of numbers that count the rows; "" of others."""
    if len(array) > _FEW and (np.diff(array) == 1).all():
        return f"counts the rows, from {array[0]:g} to {array[-1]:g}"
    return ""


def _whole(table: Table, names: set[str]) -> dict[str, str]:
    """Columns of nothing but numbers, which `_add` would take for such, and `_counted` of each."""
    import polars as pl

    written: set[str] = set()
    for columns, cells in stacked(table.frame.select(pl.col(pl.String)).get_columns()):
        zeros = cells.str.contains(_LEADING_ZERO).fill_null(value=False).to_numpy()
        of_columns = np.flatnonzero(zeros.reshape(len(columns), -1).any(axis=1))
        written |= {columns[i].name for i in of_columns.tolist()}
    found = whole_numbers(table.frame, names - written)
    return {name: _counted(array) for name, array in found}


def _marked(table: Table, cells: pl.Series, present: pl.Series) -> _Problem | None:
    """Whether most are numbers with marks in them: left out as words, they would be missed."""
    import polars as pl

    if present.dtype != pl.String or _leading_zeros(present):
        return None
    written = int(present.str.contains(_WRITTEN_NUMBER).sum())
    plain = as_numbers(cells).is_not_null()
    marked = cells.str.contains(_WRITTEN_NUMBER).fill_null(value=False) & ~plain
    if 2 * written < len(present) or not marked.any():
        return None
    row = int(marked.to_numpy().argmax())
    text = f"numbers with commas, blanks or signs in them, such as {cells[row]!r}"
    return _Problem("marked", f"{text} in {table.place(row)}")


def _missing(cells: pl.Series) -> np.ndarray:
    return np.asarray(with_gaps(cells).is_null().to_numpy())


def _first(table: Table, cells: pl.Series) -> str:
    return table.place(int((~_missing(cells)).argmax()))


def _are_dates(present: pl.Series) -> bool:
    """Whether nearly all are: one slip makes no categories of the others."""
    return bool(present.str.contains(_DATES).mean() > 0.9)  # type: ignore[operator]


def _leading_zeros(present: pl.Series) -> bool:
    """Whether digits are no numbers: 007, or a postcode."""
    import polars as pl

    return present.dtype == pl.String and bool(present.str.contains(_LEADING_ZERO).any())


def fit_columns(
    table: Table, rows: np.ndarray, kinds: Kinds, label: str, impute: str | None
) -> tuple[Columns, dict[str, str]]:
    """The columns as training is to see them.

    Args:
      table: the table.
      rows: the numbers of the training rows: nothing is learnt of the others.
      kinds: as `kinds_of` found them.
      label: the column of the classes.
      impute: one of `IMPUTE`; None where no cell is missing.

    Returns:
      The columns, and which are left out and why: constant ones too.

    Raises:
      InputError: if no column is left, or one has numbers of which there is no mean.
    """
    frame, left_out = table.frame[rows], dict(kinds.left_out)
    used: list[NumberColumn | WordColumn] = []
    numbers, words = set(kinds.numbers), set(kinds.words)
    whole = {
        name: _fit_numbers(table, name, array, impute)
        for name, array in whole_numbers(frame, numbers)
    }
    for name in table.frame.columns:
        column: NumberColumn | WordColumn | str
        if name in whole:
            column = whole[name]
        elif name in numbers:
            column = _fit_numbers(table, name, as_numbers(frame[name]).to_numpy(), impute)
        elif name in words:
            column = _fit_words(frame[name], impute)
        else:
            continue
        if isinstance(column, str):
            left_out[name] = column
        else:
            used.append(column)
    if not used:
        said = "; ".join(f"{name!r}: {why}" for name, why in left_out.items())
        raise InputError(
            f"{table.path}: expected a column besides {label!r} to learn from, found none"
            f"{f' ({said})' if said else ''}."
        )
    kept = {label, *(column.name for column in used)}
    unused = tuple(name for name in table.frame.columns if name not in kept)
    return Columns(label, tuple(used), unused), left_out


def _fit_numbers(
    table: Table, name: str, array: np.ndarray, impute: str | None
) -> NumberColumn | str:
    present = array[~np.isnan(array)]
    if not present.size:
        return "no training row has anything in it"
    if present.min() == present.max():
        return _CONSTANT
    fill = None if impute is None else _number_to_fill_with(present, impute)
    with np.errstate(over="ignore", invalid="ignore"):
        filled = present if fill is None else np.where(np.isnan(array), fill, array)
        mean, scale = float(filled.mean()), float(filled.std())
    if not (np.isfinite(mean) and np.isfinite(scale) and scale > 0):
        raise InputError(
            f"{table.path}, column {name!r}: expected numbers of which there are a mean and "
            f"a standard deviation, got numbers up to {np.abs(present).max():g}; scale them, or "
            f"leave the column out with --drop."
        )
    return NumberColumn(name, mean, scale, fill)


def _number_to_fill_with(present: np.ndarray, impute: str) -> float:
    if impute == "mean":
        return float(present.mean())
    if impute == "median":
        return float(np.median(present))
    values, counts = np.unique(present, return_counts=True)
    return float(values[counts.argmax()])


def _fit_words(cells: pl.Series, impute: str | None) -> WordColumn | str:
    words = as_words(cells).drop_nulls()
    different = folded_booleans(words.unique().to_list())
    if not different:
        return "no training row has anything in it"
    if len(different) == 1:
        return _CONSTANT
    categories = tuple(sorted(different))
    fill = None
    if impute is not None:
        values, counts = np.unique(words.to_numpy().astype(str), return_counts=True)
        fill = str(values[counts.argmax()])
        fill = fill if fill in different else fill.lower()
    return WordColumn(cells.name, categories, fill)


def names_given(table: Table, flag: str, names: Sequence[str]) -> None:
    """Raises InputError if a name is none of the table's columns."""
    for name in names:
        if name not in table.frame.columns:
            raise InputError(
                f"{flag}: expected columns of {table.path}, but it has no {name!r}"
                f"{did_you_mean(name, table.frame.columns)}. It has {listed(table.frame.columns)}."
            )
