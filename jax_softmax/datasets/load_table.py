"""`load_table`: a file of one's own becomes a dataset, and what was learnt of its columns."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jax_softmax._checks import is_finite, is_integer, require, shown
from jax_softmax._columns import (
    Columns,
    Encoded,
    NumberColumn,
    as_numbers,
    as_words,
    did_you_mean,
    folded_booleans,
    has_no_words,
    listed,
    missing_said,
    with_gaps,
)
from jax_softmax._extras import needs_train_extra
from jax_softmax.datasets.assemble import TEST_SHARE
from jax_softmax.datasets.fit_columns import IMPUTE, fit_columns, kinds_of, names_given
from jax_softmax.datasets.tables import LABELS, Table, read_table
from jax_softmax.datasets.types import Dataset, Split
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    import polars as pl

_LISTED = 8


@dataclass(frozen=True, eq=False, repr=False)
class TableDataset(Dataset):
    """A dataset of a table.

    Attributes:
      notes: What to know of its columns, each a short name and a sentence.
      test_rows: `[N]`, which of the table's rows the test examples are, from 0; None where they are
        of another table.
    """

    notes: tuple[tuple[str, str], ...] = ()
    test_rows: np.ndarray | None = None

    @property
    def columns(self) -> Columns:
        """What was made of the table's columns: `columns.encode(table)` gives features."""
        assert self.train.columns is not None
        return self.train.columns

    def called(self, name: str, source: str) -> TableDataset:
        """The same under another name."""
        return replace(self, name=name, source=source)


@needs_train_extra()
def load_table(
    path: str | os.PathLike[str],
    label: str | None = None,
    *,
    test: str | os.PathLike[str] | None = None,
    test_size: float | int = TEST_SHARE,
    seed: int = 0,
    stratify: bool = False,
    impute: str | None = None,
    drop: Collection[str] = (),
    categorical: Collection[str] = (),
) -> TableDataset:
    r"""Reads a table and makes features of its columns.

    Columns of numbers are standardised, those of words and booleans become a feature a category;
    means, deviations and categories are those of the training rows. Constant columns, numbers of
    rows, and words that hardly come twice are left out; `notes` says so.

    Args:
      path: a file as `jax-softmax train` takes it: CSV, TSV, Parquet, Arrow, npz, or npy.
      label: the column of the classes, by its name, or its number from 1 where the file has no
        header. None is for arrays, which have `labels`.
      test: a file with the same columns to test on; None splits off rows.
      test_size: the share of rows to test on, or how many; as scikit-learn's `train_test_split`
        takes it.
      seed: its `random_state`.
      stratify: whether each class is divided in that proportion.
      impute: what missing cells of numbers are filled with: "mean", "median" or "most-frequent" of
        the training rows; words with the most frequent. None refuses missing cells.
      drop: columns to leave out.
      categorical: columns to take as words, numbers though they may be.

    Raises:
      InputError: if the file cannot be read, or the label is not there, or columns are such that no
        features can be made of them; the message names columns and rows and says what to do.

    >>> import tempfile
    >>> rows = "".join(f"{i % 3},{'ab'[i % 2]},{'no' if i % 3 else 'yes'}\n" for i in range(20))
    >>> file = Path(tempfile.mkdtemp(), "table.csv")
    >>> _ = file.write_text("size,kind,answer\n" + rows)
    >>> dataset = load_table(file, "answer")
    >>> dataset.columns.features, dataset.class_names, dataset.train.features.shape
    (('size', 'kind=a', 'kind=b'), ('no', 'yes'), (16, 3))
    """
    _check_choices(test_size, seed, stratify, impute, test)
    table = read_table(_path(path))
    label = label_column(table, label)
    names_given(table, "--drop", list(drop))
    names_given(table, "--categorical", list(categorical))
    if label in drop:
        raise InputError(f"--drop: expected columns besides the label, got {label!r}.")
    held = None if test is None else read_table(_path(test))
    made = dataset_of(
        table,
        label,
        test=held,
        test_size=test_size,
        seed=seed,
        stratify=stratify,
        impute=impute,
        drop=drop,
        categorical=categorical,
    )
    where = str(table.path.absolute())
    source = f"{where} ({table.frame.height:,} rows, {table.frame.width} columns)"
    if held is not None:
        source += f"; test examples of {held.path.absolute()}"
    return made.called(str(_path(path).absolute()), source)


def dataset_of(
    table: Table,
    label: str,
    *,
    test: Table | None = None,
    test_size: float | int = TEST_SHARE,
    seed: int = 0,
    stratify: bool = False,
    impute: str | None = None,
    drop: Collection[str] = (),
    categorical: Collection[str] = (),
) -> TableDataset:
    """The dataset of a table that is read; arguments and errors as those of `load_table`."""
    labels, class_names = _classes(table, label, label in categorical)
    left = {label, *drop}
    names = [name for name in table.frame.columns if name not in left]
    kinds = kinds_of(table, names, categorical, fills=impute is not None)
    rows, held = np.arange(len(labels)), None
    if test is None:
        rows, held = _divided(table, labels, class_names, test_size, seed, stratify)
    columns, left_out = fit_columns(table, rows, kinds, label, impute)
    encoded = columns.encode(table.frame, table.path, table.place)
    train = Split(encoded.features[rows], labels[rows], class_names, columns=columns)
    if test is None:
        tested = Split(encoded.features[held], labels[held], class_names, columns=columns)
        notes = _notes(table, columns, left_out, encoded)
    else:
        tested, of_test = _tested(test, columns, class_names)
        notes = _notes(table, columns, left_out, of_test)
    return TableDataset("table", train, tested, str(table.path), notes, held)


def labels_of(table: Table, label: str) -> np.ndarray:
    """The classes of a table's rows, as words; raises InputError where there is none."""
    cells = table.frame[label]
    if cells.dtype.is_temporal() or has_no_words(cells):
        raise InputError(
            f"{table.path}, column {label!r}: expected classes, got type {cells.dtype}."
        )
    gaps = with_gaps(cells)
    if gaps.null_count():
        raise InputError(
            f"{table.path}, column {label!r} of the classes: {missing_said(gaps, table.place)}; "
            f"fill them in, or remove such rows."
        )
    words = as_words(_without_points(cells))
    if folded_booleans(words.unique().to_list()) <= {"true", "false"}:
        words = words.str.to_lowercase()
    return np.array(words.to_list(), dtype=np.dtypes.StringDType())


def _without_points(cells: pl.Series) -> pl.Series:
    """Text as numbers where all of it is whole numbers: "1.0" is the class 1, but "01" is not."""
    import polars as pl

    if cells.dtype != pl.String or cells.str.contains(r"^[+-]?0\d|\d{16}").any():
        return cells
    numbers = as_numbers(cells)
    whole = not numbers.null_count() and (numbers == numbers.round(0)).all()
    return numbers if whole else cells


def label_column(table: Table, label: str | None) -> str:
    """The column of the labels by its name; raises InputError if it is not there."""
    names = table.frame.columns
    if label is None:
        if not table.header and table.path.suffix.lower() in (".npz", ".npy"):
            if LABELS in names:
                return LABELS
            raise InputError(
                f"{table.path}: expected labels beside the features: an array 'labels' in an "
                f".npz, or labels.npy beside features.npy; found none."
            )
        raise InputError(
            f"{table.path}: expected --label NAME (label= from Python), the column to predict; the "
            f"table has {listed(names)}.{_headerless(table)}"
        )
    if label in names:
        return label
    if not table.header and label.isdecimal() and f"column {label}" in names:
        return f"column {label}"
    raise InputError(
        f"--label {label}: {table.path} has no such column{did_you_mean(label, names)}; it has "
        f"{listed(names)}.{_headerless(table)}"
    )


def _headerless(table: Table) -> str:
    if table.header or table.lines is None:
        return ""
    return (
        " Its first line is mostly numbers, so it was taken for data; if it is a header, put its "
        "numbers into words."
    )


def _classes(table: Table, label: str, as_they_are: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """The classes as `[N]` int32 numbers into their names, in order."""
    import polars as pl

    cells = table.frame[label]
    words = labels_of(table, label)
    names, codes = np.unique(words, return_inverse=True)
    numbers = as_numbers(cells)
    if not (numbers.null_count() or as_they_are or cells.dtype == pl.Boolean):
        fractions = (numbers != numbers.round(0)).to_numpy()
        if fractions.any():
            row = int(fractions.argmax())
            raise InputError(
                f"{table.path}, column {label!r}: expected classes, but {table.place(row)} has "
                f"{cells[row]}, a quantity; put ranges of it into words, or take each number for a "
                f"class with --categorical {label!r}."
            )
        order = np.argsort([float(name) for name in names])
        rank = np.argsort(order)
        names, codes = names[order], rank[codes]
    if len(names) == 1:
        raise InputError(
            f"{table.path}, column {label!r}: expected at least two classes, got {names[0]!r} in "
            f"all {len(words):,} rows; nothing can be learnt of one."
        )
    if 2 * len(names) > len(words) and len(words) > 4:
        raise InputError(
            f"{table.path}, column {label!r}: expected classes with several examples each, got "
            f"{len(names):,} different values in {len(words):,} rows; is it the right column?"
        )
    return codes.astype(np.int32), tuple(map(str, names))


def _divided(
    table: Table,
    labels: np.ndarray,
    class_names: Sequence[str],
    test_size: float | int,
    seed: int,
    stratify: bool,
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    try:
        rows, held = train_test_split(
            np.arange(len(labels)),
            test_size=test_size,
            random_state=seed,
            stratify=labels if stratify else None,
        )
    except ValueError as error:
        counts = np.bincount(labels)
        rarest = class_names[int(counts.argmin())]
        raise InputError(
            f"{table.path}: its {len(labels):,} rows cannot be divided so ({error}); the class "
            f"with the fewest is {rarest!r} with {counts.min()}. Change --test-size, or leave "
            f"--stratify out."
        ) from error
    counts = np.bincount(labels[rows], minlength=len(class_names))
    unseen = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if unseen:
        raise InputError(
            f"{table.path}: no training row is of class {listed(unseen)}, all of whose rows are "
            f"test rows; give --stratify, another --seed, or more rows of it."
        )
    return rows, held


def _tested(table: Table, columns: Columns, class_names: tuple[str, ...]) -> tuple[Split, Encoded]:
    """The examples of another table, and what was made of its cells."""
    encoded = columns.encode(table.frame, table.path, table.place)
    words = labels_of(table, label_column(table, columns.label))
    number = {name: i for i, name in enumerate(class_names)}
    for row, word in enumerate(words):
        if word not in number:
            raise InputError(
                f"{table.path}, {table.place(row)}: expected one of the training classes "
                f"{listed(class_names, _LISTED)}, got {word!r}."
            )
    labels = np.array([number[word] for word in words], np.int32)
    return Split(encoded.features, labels, class_names, columns=columns), encoded


def _notes(
    table: Table, columns: Columns, left_out: dict[str, str], encoded: Encoded
) -> tuple[tuple[str, str], ...]:
    numbers = [c.name for c in columns.used if isinstance(c, NumberColumn)]
    words = [
        f"{c.name!r} ({len(c.categories)})" for c in columns.used if not isinstance(c, NumberColumn)
    ]
    notes = []
    if not table.header and table.lines is not None:
        notes.append(("header", "none: the first line is mostly numbers, so it is data"))
    if numbers:
        notes.append(("numbers", f"standardised: {listed(numbers, _LISTED)}"))
    if words:
        more = f" and {len(words) - _LISTED} more" if len(words) > _LISTED else ""
        notes.append(("words", f"a feature a category: {', '.join(words[:_LISTED])}{more}"))
    alike: dict[str, list[str]] = {}
    for name, why in left_out.items():
        alike.setdefault(why, []).append(name)
    notes += [("left out", f"{listed(names, _LISTED)}: {why}") for why, names in alike.items()]
    return (*notes, *cell_notes(columns, encoded))


def cell_notes(columns: Columns, encoded: Encoded) -> tuple[tuple[str, str], ...]:
    """What to say of cells that were filled in, and of words that training did not see."""
    notes = []
    filled = [column for column in columns.used if column.name in encoded.filled]
    for column in filled[:_LISTED]:
        gaps = encoded.filled[column.name]
        fill = f"{column.fill:g}" if isinstance(column.fill, float) else repr(column.fill)
        cells = "1 missing cell" if gaps == 1 else f"{gaps:,} missing cells"
        notes.append(("filled in", f"{column.name!r}: {cells}, with {fill}"))
    if len(filled) > _LISTED:
        others = len(filled) - _LISTED
        notes.append(("filled in", f"{others:,} more columns: the missing cells, so too"))
    for name, words in encoded.unknown.items():
        shown_words = [f"{word!r} ({count:,})" for word, count in list(words.items())[:_LISTED]]
        more = f" and {len(words) - _LISTED:,} more" if len(words) > _LISTED else ""
        notes.append(
            (
                "new words",
                f"{name!r}: {', '.join(shown_words)}{more}, not among the training rows: counted "
                f"as none of its categories",
            )
        )
    return tuple(notes)


def _path(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path).expanduser()
    except (TypeError, RuntimeError) as error:
        raise InputError(f"path: expected the path of a table, got {shown(path)}.") from error


def _check_choices(
    test_size: float | int, seed: int, stratify: bool, impute: str | None, test: object
) -> None:
    whole = is_integer(test_size) and test_size >= 1
    share = is_finite(test_size) and not is_integer(test_size) and 0 < test_size < 1
    require(
        whole or share,
        "test size: expected a share between 0 and 1, or a whole number of rows",
        test_size,
    )
    require(is_integer(seed) and 0 <= seed < 2**32, "seed: expected an integer in [0, 2**32)", seed)
    require(isinstance(stratify, bool), "stratify: expected True or False", stratify)
    require(
        impute is None or impute in IMPUTE, f"impute: expected one of {', '.join(IMPUTE)}", impute
    )
    if test is not None and (stratify or test_size != TEST_SHARE):
        raise InputError(
            "--test: expected no --test-size or --stratify beside it, for no rows are split off; "
            "leave them out."
        )
