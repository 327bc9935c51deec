"""How the columns of a table become features: what training learnt of each, and nothing else.

`jax_softmax.datasets` makes it of training rows, run folders keep it, and whatever a model is asked
of a table goes through it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jax_softmax._checks import is_finite
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    import polars as pl

# pandas writes True, polars true.
_BOOLEANS = {"true", "false"}
# Cells that are made numbers of at once: 32 MB.
_NUMBERS_AT_ONCE = 2**22
Place = Callable[[int], str]  # how to speak of a row: "line 7"


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers, one feature: `(number - mean) / scale`.

    Attributes:
      name: of the column.
      mean: of the training rows.
      scale: their standard deviation (divided by N), above 0.
      fill: what a missing cell counts as; None refuses it.
    """

    name: str
    mean: float
    scale: float
    fill: float | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """What to call its feature."""
        return (self.name,)


@dataclass(frozen=True)
class WordColumn:
    """A column of words, a feature for each category: 1 where it is that word, else 0.

    Attributes:
      name: of the column.
      categories: the words of the training rows, sorted. Another word is 0 everywhere.
      fill: what a missing cell counts as; None refuses it.
    """

    name: str
    categories: tuple[str, ...]
    fill: str | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """What to call its features."""
        return tuple(f"{self.name}={word}" for word in self.categories)


class Encoded(NamedTuple):
    """A table's features, and what of the table is not in them.

    Attributes:
      features: `[N, D]` float32.
      unknown: by column, how often each word occurs that training did not see.
      filled: by column, how many missing cells were filled in.
      extra: columns that training did not have.
    """

    features: np.ndarray
    unknown: dict[str, dict[str, int]]
    filled: dict[str, int]
    extra: tuple[str, ...]


@dataclass(frozen=True)
class Columns:
    """The columns that a model was trained on, and what it makes of them.

    Attributes:
      label: the column of the classes.
      used: the columns of the features, in the order of the features.
      unused: columns that the training's table had besides.

    >>> import polars as pl
    >>> age, city = NumberColumn("age", 40.0, 10.0), WordColumn("city", ("Paris", "Rome"))
    >>> columns = Columns("churned", (age, city))
    >>> columns.features
    ('age', 'city=Paris', 'city=Rome')
    >>> columns.encode(pl.DataFrame({"city": ["Rome"], "age": [45]})).features.tolist()
    [[0.5, 0.0, 1.0]]
    """

    label: str
    used: tuple[NumberColumn | WordColumn, ...]
    unused: tuple[str, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """The name of each feature; one that another has already gets a number behind it."""
        return _distinct([name for column in self.used for name in column.features])

    def encode(self, table: pl.DataFrame, name: object = "table", place: Place = str) -> Encoded:
        """The features of a table's rows, whatever the order of its columns.

        Args:
          table: a data frame of polars; numbers may be written out as strings.
          name: what messages call the table.
          place: what they call a row, given its number from 0.

        Raises:
          InputError: if a column is not there, or a cell is missing that is not filled, or is no
            finite number where one must be; the message names column and row.
        """
        self._check_names(table.columns, name)
        width = sum(len(column.features) for column in self.used)
        features = np.zeros((table.height, width), np.float32)
        done = self._encode_whole(table, features)
        unknown, filled, first = {}, {}, 0
        for column in self.used:
            if column.name in done:
                first += 1
                continue
            if gaps := with_gaps(table[column.name]).null_count():
                filled[column.name] = gaps
            try:
                if isinstance(column, NumberColumn):
                    features[:, first] = _standardised(column, table[column.name], place)
                else:
                    codes, others = _coded(column, table[column.name], place)
                    known = np.flatnonzero(codes >= 0)
                    features[known, first + codes[known]] = 1
                    if others:
                        unknown[column.name] = others
            except InputError as error:
                raise InputError(f"{name}, column {column.name!r}: {error}") from error
            first += len(column.features)
        known_names = {self.label, *self.unused, *(column.name for column in self.used)}
        extra = tuple(column for column in table.columns if column not in known_names)
        return Encoded(features, unknown, filled, extra)

    def _encode_whole(self, table: pl.DataFrame, features: np.ndarray) -> set[str]:
        """Fills in the columns of nothing but numbers; which those were."""
        numbers, first = {}, 0
        for column in self.used:
            if isinstance(column, NumberColumn):
                numbers[column.name] = column, first
            first += len(column.features)
        done = set()
        for name, array in whole_numbers(table, numbers):
            column, first = numbers[name]
            scaled = (array - column.mean) / column.scale
            if not _too_large(scaled).any():  # else it is said by itself
                features[:, first] = scaled
                done.add(name)
        return done

    def _check_names(self, names: Sequence[str], name: object) -> None:
        there = set(names)
        missing = [column.name for column in self.used if column.name not in there]
        if missing:
            hint = " Is its first line one of names?" if len(missing) == len(self.used) else ""
            raise InputError(
                f"{name}: expected the columns that the model was trained on, but it has no "
                f"{listed(missing)}{did_you_mean(missing[0], names)}. It has {listed(names)}.{hint}"
            )

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads, of nothing but what JSON has."""
        used = [
            {"kind": "words", **asdict(column), "categories": list(column.categories)}
            if isinstance(column, WordColumn)
            else {"kind": "numbers", **asdict(column)}
            for column in self.used
        ]
        return {"label": self.label, "used": used, "unused": list(self.unused)}

    @staticmethod
    def from_json(said: object) -> Columns:
        """What `as_json` wrote.

        Raises:
          ValueError: if it is something else, or does not fit together; the message says why.
        """
        if not (isinstance(said, Mapping) and said.keys() == {"label", "used", "unused"}):
            raise ValueError("columns: expected label, used and unused")
        unused = said["unused"]
        if not (isinstance(said["used"], list) and isinstance(unused, list)):
            raise ValueError("columns: expected lists")
        used = tuple(_column_of(column) for column in said["used"])
        names = [said["label"], *unused, *(column.name for column in used)]
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise ValueError("columns: expected names, each once")
        return Columns(said["label"], used, tuple(unused))


def _column_of(said: object) -> NumberColumn | WordColumn:
    if not isinstance(said, Mapping):
        raise ValueError("columns: expected names with values")
    fields = {name: value for name, value in said.items() if name != "kind"}
    name, fill = said.get("name"), said.get("fill")
    if said.get("kind") == "numbers" and fields.keys() == {"name", "mean", "scale", "fill"}:
        numbers = [fields["mean"], fields["scale"], *([] if fill is None else [fill])]
        if not all(map(is_finite, numbers)) or not fields["scale"] > 0:
            raise ValueError(f"column {name!r}: expected finite numbers and a scale above 0")
        return NumberColumn(**fields)
    if said.get("kind") == "words" and fields.keys() == {"name", "categories", "fill"}:
        words = fields["categories"]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"column {name!r}: expected words for categories")
        if not words or words != sorted(set(words)):
            raise ValueError(f"column {name!r}: expected categories in their order, each once")
        if fill is not None and fill not in words:
            raise ValueError(f"column {name!r}: expected one of its categories to fill with")
        return WordColumn(**{**fields, "categories": tuple(words)})
    raise ValueError(f"column {name!r}: expected one of numbers or of words")


def _standardised(column: NumberColumn, cells: pl.Series, place: Place) -> np.ndarray:
    numbers = finite_numbers(cells, place)
    _check_missing(numbers, column.fill, place)
    array = np.array(numbers.to_numpy(), np.float64)
    array[np.isnan(array)] = np.nan if column.fill is None else column.fill
    scaled = (array - column.mean) / column.scale
    too_large = _too_large(scaled)
    if too_large.any():
        row = int(too_large.argmax())
        raise InputError(
            f"expected numbers like those of training (mean {column.mean:g}), but {place(row)} has "
            f"{array[row]:g}."
        )
    return scaled


def _too_large(scaled: np.ndarray) -> np.ndarray:
    """Which numbers float32 does not hold."""
    found: np.ndarray = np.abs(scaled) > np.finfo(np.float32).max
    return found


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once: `city=Paris` may be of a column's word, and a column by itself.

    >>> _distinct(["a", "b", "a", "a (2)"])
    ('a', 'b', 'a (3)', 'a (2)')
    """
    if len(set(names)) == len(names):
        return tuple(names)
    taken, seen, found = set(names), set(), []
    for name in names:
        chosen, number = name, 2
        while chosen in seen or (chosen != name and chosen in taken):
            chosen, number = f"{name} ({number})", number + 1
        seen.add(chosen)
        found.append(chosen)
    return tuple(found)


def stacked(columns: Sequence[pl.Series]) -> Iterator[tuple[Sequence[pl.Series], pl.Series]]:
    """Columns of one type, some at a time, and the cells of those beneath one another.

    polars takes longer to call than to read a few hundred cells.
    """
    import polars as pl

    rows = len(columns[0]) if columns else 0
    together = max(1, _NUMBERS_AT_ONCE // max(1, rows))
    for first in range(0, len(columns), together):
        part = columns[first : first + together]
        yield part, pl.concat(part, rechunk=True) if len(part) > 1 else part[0]


def whole_numbers(table: pl.DataFrame, names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Those of the columns that are finite numbers in each cell, and the numbers, `[N]` float64.

    As `as_numbers` gives them, but many columns to a call of polars.
    """
    import polars as pl

    types = table.dtypes
    able = [
        i
        for i, name in enumerate(table.columns)
        if name in names and (types[i].is_numeric() or types[i] == pl.String)
    ]
    together = max(1, _NUMBERS_AT_ONCE // max(1, table.height))
    for first in range(0, len(able), together):
        # By their numbers, for polars takes some names for patterns.
        part = table[:, able[first : first + together]]
        called = part.columns
        cells = part.select(pl.all().cast(pl.Float64, strict=False))
        matrix = cells.to_numpy()
        finite = np.isfinite(matrix).all(axis=0)
        for i in np.flatnonzero(finite).tolist():
            yield called[i], np.ascontiguousarray(matrix[:, i])


def _coded(column: WordColumn, cells: pl.Series, place: Place) -> tuple[np.ndarray, dict[str, int]]:
    """Which of the categories each cell is, -1 for none, and the words that are none."""
    words = as_words(cells)
    _check_missing(words, column.fill, place)
    if column.fill is not None:
        words = words.fill_null(column.fill)
    if set(column.categories) <= _BOOLEANS:
        words = words.str.to_lowercase()
    number = {word: i for i, word in enumerate(column.categories)}
    codes = np.array([number.get(word, -1) for word in words.to_list()], np.int64)
    values, counts = np.unique(words.to_numpy()[codes < 0].astype(str), return_counts=True)
    return codes, dict(zip(values.tolist(), counts.tolist(), strict=True))


def _check_missing(cells: pl.Series, fill: object, place: Place) -> None:
    if fill is None and cells.null_count():
        raise InputError(
            f"{missing_said(cells, place)}; fill them in, or train with --impute (impute= in "
            f"Python), which does."
        )


def missing_said(cells: pl.Series, place: Place) -> str:
    """How many cells are missing, and where the first is."""
    count, row = cells.null_count(), int(cells.is_null().to_numpy().argmax())
    if count == 1:
        return f"its cell in {place(row)} is missing"
    return f"{count:,} of {len(cells):,} cells are missing, the first in {place(row)}"


def finite_numbers(cells: pl.Series, place: Place) -> pl.Series:
    """Cells as Float64, null where one is missing.

    Raises:
      InputError: if one is no finite number.
    """
    numbers = as_numbers(cells)
    wrong = (numbers.is_null() & cells.is_not_null()).to_numpy() & ~_is_nan(cells)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"expected numbers, but {place(row)} has {cells[row]!r}.")
    infinite = np.isinf(numbers.to_numpy())
    if infinite.any():
        row = int(infinite.argmax())
        raise InputError(f"expected finite numbers, but {place(row)} has {cells[row]!r}.")
    return numbers


def as_numbers(cells: pl.Series) -> pl.Series:
    """Cells as Float64, null where one is missing or no number."""
    import polars as pl

    if cells.dtype in (pl.Categorical, pl.Enum):
        cells = cells.cast(pl.String)
    if not (cells.dtype.is_numeric() or cells.dtype in (pl.String, pl.Boolean, pl.Null)):
        return pl.Series(cells.name, [None] * len(cells), pl.Float64)
    return cells.cast(pl.Float64, strict=False).fill_nan(None)


def _is_nan(cells: pl.Series) -> np.ndarray:
    if not cells.dtype.is_float():
        return np.zeros(len(cells), bool)
    return cells.is_nan().fill_null(False).to_numpy()


def has_no_words(cells: pl.Series) -> bool:
    """Whether the cells are lists, bytes, or things of Python."""
    import polars as pl

    return cells.dtype.is_nested() or cells.dtype in (pl.Binary, pl.Object)


def with_gaps(cells: pl.Series) -> pl.Series:
    """The cells with null for NaN, which is missing as well."""
    return cells.fill_nan(None) if cells.dtype.is_float() else cells


def as_words(cells: pl.Series) -> pl.Series:
    """Cells as strings, whole numbers without a point, null where one is missing.

    Raises:
      InputError: if they are no words, but lists or bytes.
    """
    import polars as pl

    if has_no_words(cells):
        raise InputError(f"expected words, got cells of type {cells.dtype}.")
    if cells.dtype.is_float():
        # Each by itself, so that a cell is the same word in every table.
        whole = ((cells == cells.round(0)) & (cells.abs() < 2**53)).to_frame("whole")
        without_points = cells.cast(pl.Int64, strict=False).cast(pl.String)
        words = with_gaps(cells).cast(pl.String)
        chosen = pl.when(pl.col("whole")).then(without_points).otherwise(words)
        return whole.select(chosen.alias(cells.name)).to_series()
    return cells.cast(pl.String)


def folded_booleans(words: Iterable[str]) -> set[str]:
    """The different words; true and false in small letters where there are no others."""
    found = set(words)
    small = {word.lower() for word in found}
    return small if small <= _BOOLEANS else found


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names in quotation marks, with commas, the first of many.

    >>> listed(["a", "b"]), listed(["a", "b", "c"], most=2)
    ("'a', 'b'", "'a', 'b' and 1 more")
    """
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """What to say of the nearest name; "" where none is near.

    >>> did_you_mean("Aeg", ["age", "city"])
    " (did you mean 'age'?)"
    """
    small = {other.strip().lower(): other for other in names}
    near = difflib.get_close_matches(name.strip().lower(), small, n=1)
    return f" (did you mean {small[near[0]]!r}?)" if near else ""
