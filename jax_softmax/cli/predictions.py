"""What `predict` says of each example: records, and the table of `--output`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_softmax.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_SUFFIXES = (".csv", ".parquet")
_FIRST = ["class", "probability"]


def likeliest(probabilities: np.ndarray, top: int) -> np.ndarray:
    """The numbers of the `top` likeliest classes of each row, likeliest first, `[N, top]`.

    Of classes that are equally likely the first comes first, as `predict` has it.

    >>> import numpy as np
    >>> likeliest(np.array([[0.2, 0.4, 0.4]]), 2).tolist()
    [[1, 2]]
    """
    import numpy as np

    return np.argsort(-probabilities, axis=1, kind="stable")[:, :top]


def records_of(
    probabilities: np.ndarray, order: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """A flat record an example: the likeliest class, and the next ones as `class_name_2`."""
    records = []
    for row, classes in enumerate(order):
        record: dict[str, Any] = {"row": row, "class_index": int(classes[0])}
        for rank, index in enumerate(classes, 1):
            record[_ranked("class_name", rank)] = class_names[index]
            record[_ranked("probability", rank)] = float(probabilities[row, index])
        records.append(record)
    return records


def _ranked(name: str, rank: int) -> str:
    return name if rank == 1 else f"{name}_{rank}"


def table_of(
    probabilities: np.ndarray, order: np.ndarray, class_names: Sequence[str], *, each: bool
) -> pl.DataFrame:
    """Columns `class` and `probability`, then `class_2` and so on; then `p_CLASS` of `each`."""
    import numpy as np
    import polars as pl

    names, rows = np.array(class_names, object), np.arange(len(order))
    columns: list[pl.Series] = []
    for rank, classes in enumerate(order.T, 1):
        columns.append(pl.Series(_ranked("class", rank), names[classes].tolist(), pl.String))
        columns.append(pl.Series(_ranked("probability", rank), probabilities[rows, classes]))
    if each:
        columns += [
            pl.Series(f"p_{name}", np.ascontiguousarray(probabilities[:, i]))
            for i, name in enumerate(class_names)
        ]
    return pl.DataFrame(columns)


def as_bytes(table: pl.DataFrame, path: Path) -> bytes:
    """The table as a file whose name ends as `path` does."""
    if path.suffix.lower() == ".csv":
        return table.write_csv().encode()
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def check_suffix(path: Path) -> None:
    """Raises InputError if no such table is written."""
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(
            f"--output {path}: expected a file ending in {' or '.join(_SUFFIXES)}, got "
            f"{path.suffix or 'no ending'!r}."
        )


def is_ours(path: Path) -> bool:
    """Whether a file holds such a table, or nothing."""
    import polars as pl

    content = path.read_bytes()
    if not content:
        return True
    try:
        if path.suffix.lower() == ".csv":  # classes may be words after a thousand numbers
            read = pl.read_csv(io.BytesIO(content), infer_schema_length=0)
        else:
            read = pl.read_parquet(io.BytesIO(content))
        return read.columns[:2] == _FIRST
    except (pl.exceptions.PolarsError, OSError):
        return False
