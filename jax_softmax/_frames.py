"""Data frames that a model of columns is asked of: of polars, or of pandas."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from jax_softmax._columns import Columns, listed
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

# Where a warning of `predict` points.
_CALLER_OF_PREDICT = 4


def encoded_frame(columns: Columns, features: Any) -> np.ndarray:
    """The features of a data frame of polars or pandas.

    Raises:
      InputError: as `Columns.encode` does, or if it is no data frame.

    Warns:
      UserWarning: if there are words that training did not see, or columns.
    """
    encoded = columns.encode(_as_polars(columns, features), "features", lambda row: f"row {row}")
    for name, words in encoded.unknown.items():
        warnings.warn(
            f"features, column {name!r}: {sum(words.values()):,} cells hold words that training "
            f"did not see ({listed(words)}); they count as none of its categories.",
            stacklevel=_CALLER_OF_PREDICT,
        )
    return encoded.features


def _as_polars(columns: Columns, features: Any) -> pl.DataFrame:
    import polars as pl

    if isinstance(features, pl.DataFrame):
        return features
    if hasattr(features, "columns") and hasattr(features, "items") and hasattr(features, "isna"):
        names = [str(name) for name in features.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"features: expected each column's name once, got {listed(twice)} more than once."
            )
        # Cell by cell, for which no pyarrow is needed.
        return pl.DataFrame(
            [
                pl.Series(
                    str(name),
                    [None if gap else x for x, gap in zip(cells, cells.isna(), strict=True)],
                    strict=False,
                )
                for name, cells in features.items()
            ]
        )
    raise InputError(
        f"features: expected a data frame with the columns that the model was trained on "
        f"({listed(column.name for column in columns.used)}), got {type(features).__name__}; of "
        f"features that these columns made already, pass the whole Split to evaluate, or "
        f"dataclasses.replace(model, columns=None)."
    )
