"""Tables of one's own in the commands: the flags that read them, and runs that know them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_softmax.cli.options import note
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from jax_softmax.cli.train import Train
    from jax_softmax.datasets import Split, Stream, TableDataset
    from jax_softmax.datasets.tables import Table
    from jax_softmax.training import FitResult

# The flags of `train` that say how a table is read: only for tables, but for the first two.
FLAGS = ("label", "test", "test_size", "stratify", "impute", "drop", "categorical")


def is_table(command: Train) -> bool:
    """Whether the command's dataset is a table to hold in memory."""
    from jax_softmax.datasets.tables import is_table as is_path_of_table

    return not command.stream and is_path_of_table(command.dataset)


def check_flags(command: Train) -> None:
    """Raises InputError where flags do not fit what is trained on."""
    if is_table(command):
        for flag, folder in (("--raw-dir", command.raw_dir), ("--data-dir", command.data_dir)):
            if folder is not None:
                raise InputError(
                    f"{flag}: expected no such folder beside a file of your own; leave it out."
                )
        return
    for name in FLAGS[0 if not command.stream else 2 :]:
        if getattr(command, name) not in (None, False):
            table = "a table to go with it, such as customers.csv"
            expected = f"{table}, or --stream" if name in FLAGS[:2] else table
            what = f"--stream {command.dataset}" if command.stream else repr(command.dataset)
            raise InputError(
                f"--{name.replace('_', '-')}: expected {expected}, got {what}; leave it out, or "
                f"give the path of a file."
            )


def table_flags(command: Train) -> dict[str, Any]:
    """The flags by which a table is read again; none where there is none."""
    if not is_table(command):
        return {}
    given = {name: getattr(command, name) for name in FLAGS}
    if command.test is not None:
        given["test"] = str(command.test.expanduser().absolute())
    return {"table": True, **{k: v for k, v in given.items() if v not in (None, False)}}


def with_flags(command: Train, data: Mapping[str, Any]) -> Train:
    """The command with the flags by which the table was read, where it has none of its own."""
    kept: dict[str, Any] = {
        name: Path(data[name]) if name == "test" else data[name]
        for name in FLAGS
        if name in data and getattr(command, name) in (None, False)
    }
    return dataclasses.replace(command, **kept)


def load(path: str, flags: Mapping[str, Any], seed: int) -> TableDataset:
    """The table at a path, read by flags that may be None."""
    from jax_softmax.datasets import load_table

    given = {name: flags[name] for name in FLAGS if flags.get(name) is not None}
    if "test_size" in given:
        given["test_size"] = _size(given["test_size"])
    table = None
    for name in ("drop", "categorical"):
        if name in given:
            table = _read(path) if table is None else table
            given[name] = _names(given[name], table.frame.columns)
    with note(f"loading {path}"):
        return load_table(path, seed=seed, **given)


def _size(word: str) -> float | int:
    """A share, or how many."""
    try:
        return int(word)
    except ValueError:
        return float(word)


def _names(words: str, columns: Sequence[str]) -> list[str]:
    """Names with commas between them; a name of a column may have one itself."""
    return [words] if words in columns else [name.strip() for name in words.split(",")]


def _read(path: str | Path) -> Table:
    from jax_softmax.datasets.tables import read_table

    return read_table(Path(path).expanduser())


@dataclasses.dataclass(frozen=True)
class Examined:
    """Examples to measure a model on.

    Attributes:
      examples: the features and labels.
      name: of the dataset, or the table's path.
      source: where they came from.
      notes: what to know of them, each a short name and a sentence.
      rows: of a table, which of its rows they are, from 0, where it is known.
    """

    examples: Split | Stream
    name: str
    source: str
    notes: tuple[tuple[str, str], ...] = ()
    rows: np.ndarray | None = None


def to_evaluate(
    model: FitResult, trained: Mapping[str, Any], path: str, label: str | None
) -> Examined:
    """The rows of a table that a run has not seen; or all, where it was trained on another.

    Args:
      model: the run's model.
      trained: what its `metrics.json` says.
      path: of the table.
      label: the column of the classes; None is that of the training.

    Raises:
      InputError: if the table is not there, or has not the columns of the training.
    """
    name = str(Path(path).expanduser().absolute())
    same = trained.get("dataset") == name and bool(trained.get("table"))
    changed: tuple[tuple[str, str], ...] = ()
    if same and not Path(name).exists():
        raise InputError(
            f"{name}: the table that the run was trained on is not there any more; name it, or "
            f"another one, after the run."
        )
    if same and label in (None, trained.get("label")):
        dataset = _unchanged(model, trained, name)
        if dataset is not None:
            return Examined(dataset.test, name, dataset.source, rows=dataset.test_rows)
        words = "since training: all of its rows are measured, and some may have been trained on"
        changed = (("changed", words),)
    return _whole(model, _read(path), label, changed)


def _unchanged(model: FitResult, trained: Mapping[str, Any], path: str) -> TableDataset | None:
    """The dataset of the training, if the table is still as it was."""
    from jax_softmax.cli.measured import split_digest

    try:
        dataset = load(path, trained, trained.get("split_seed", 0))
    except InputError:
        return None
    as_it_was = split_digest(dataset.test) == trained.get("test_sha256")
    return dataset if as_it_was and dataset.columns == model.columns else None


def _whole(
    model: FitResult, table: Table, label: str | None, notes: tuple[tuple[str, str], ...]
) -> Examined:
    import numpy as np

    from jax_softmax.datasets import Split
    from jax_softmax.datasets.load_table import label_column, labels_of

    columns = model.columns
    if columns is not None and label is None:
        label = columns.label
    label = label_column(table, label)
    words = labels_of(table, label)
    number = {name: i for i, name in enumerate(model.class_names)}
    strange = [row for row, word in enumerate(words) if word not in number]
    if strange:
        raise InputError(
            f"{table.path}, column {label!r}: expected classes of the model "
            f"({', '.join(map(repr, model.class_names[:8]))}), but {table.place(strange[0])} has "
            f"{str(words[strange[0]])!r}."
        )
    if columns is None:
        features = _numbers(table, label)
    else:
        features, more = features_of(model, table, label)
        notes = (*notes, *more)
    name = str(table.path.absolute())
    numbers = np.array([number[word] for word in words], np.int32)
    split = Split(features, numbers, model.class_names, columns=columns)
    rows = np.arange(len(words))
    return Examined(split, name, f"{name} (all {len(words):,} rows)", notes, rows)


def _numbers(table: Table, label: str = "") -> np.ndarray:
    """The columns but for the labels, all of numbers, in their order."""
    import numpy as np

    from jax_softmax._columns import finite_numbers, missing_said

    columns = []
    for name in table.frame.columns:
        if name != label:
            try:
                numbers = finite_numbers(table.frame[name], table.place)
                if numbers.null_count():
                    raise InputError(f"{missing_said(numbers, table.place)}; fill them in.")
            except InputError as error:
                raise InputError(f"{table.path}, column {name!r}: {error}") from error
            columns.append(numbers.to_numpy())
    return np.stack(columns, axis=1) if columns else np.empty((table.frame.height, 0))


def is_for(path: Path, model: FitResult) -> bool:
    """Whether a file is read as a table: any for a model of columns.

    For others only those that are always tables: a `.csv` of theirs may be without a header.
    """
    if model.columns is not None:
        return True
    from jax_softmax.datasets.tables import SUFFIXES

    return path.suffix.lower() in SUFFIXES and path.suffix.lower() not in (".csv", ".npy", ".npz")


def features_of(
    model: FitResult, table: Table, label: str | None = None
) -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
    """A table's features for a model of columns, and what to know of them."""
    from jax_softmax._columns import listed
    from jax_softmax.datasets.load_table import cell_notes

    assert model.columns is not None
    encoded = model.columns.encode(table.frame, table.path, table.place)
    notes = cell_notes(model.columns, encoded)
    extra = [name for name in encoded.extra if name != label]
    if extra:
        notes += (("ignored", f"{listed(extra)}: training had no such column"),)
    return encoded.features, notes


def read_features(path: Path, model: FitResult) -> np.ndarray:
    """The features of a table for `predict`; what to know of them is said on standard error."""
    if model.columns is None:
        return _numbers(_read(path))
    features, notes = features_of(model, _read(path))
    for name, words in notes:
        print(f"jax-softmax: {path}, {name}: {words}.", file=sys.stderr)
    return features
