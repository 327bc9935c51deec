"""What people hand over for an array, a data frame too, becomes a NumPy array or is refused."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np

from jax_softmax._checks import shown
from jax_softmax.errors import InputError

_NO_ARRAYS = (str, bytes, Mapping, Set, type(None))


def as_array(name: str, value: Any, dtype: Any = None) -> np.ndarray:
    """The value as an array of NumPy in this machine's byte order.

    Args:
      name: what the value is, for messages.
      value: an array, or nested lists of one length.
      dtype: what to make of it; None leaves that to NumPy.

    Raises:
      InputError: if it is no array, or one whose mask or missing zeros NumPy would drop.
    """
    if isinstance(value, _NO_ARRAYS) or callable(value):
        raise InputError(f"{name}: expected an array, got {shown(value)}.")
    if hasattr(value, "check_unchanged"):  # a stream, which NumPy would read row by row
        raise InputError(
            f"{name}: expected an array, got a stream; pass stream[first:last][0], as many rows as "
            f"memory holds."
        )
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(
            f"{name}: expected an array without a mask, which would be dropped; drop the masked "
            f"rows, or fill them with .filled(number)."
        )
    if hasattr(value, "toarray"):
        raise InputError(
            f"{name}: expected a dense array, got a sparse {type(value).__name__}; pass .toarray()."
        )
    try:
        array = np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(
            f"{name}: expected an array, or rows of one length, got {type(value).__name__} "
            f"({str(error).partition(chr(10))[0]})."
        ) from error
    if array.dtype == object and array.ndim == 0:
        raise InputError(f"{name}: expected an array, got {type(value).__name__}.")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def table_of_numbers(features: Any) -> np.ndarray:
    """Features as an array of integers or floats, booleans as 0 and 1.

    Args:
      features: an array, or a data frame, whose columns may have dtypes of their own.

    Raises:
      InputError: if something is no number; the message names the row, and a frame's column.
    """
    columns = _columns(features)
    if columns is None:
        return _numbers("", as_array("features", features))
    arrays = [
        _numbers(f" in column {name!r}", as_array(f"features, column {name!r}", column))
        for name, column in columns
    ]
    rows = len(features)
    return np.stack(arrays, axis=1) if arrays else np.empty((rows, 0))


def column_name(features: Any, column: int) -> str:
    """How to speak of a column: by its name in a data frame, else by its number."""
    names = getattr(features, "columns", None)
    return f"column {column}" if names is None else f"column {list(names)[column]!r}"


def _columns(features: Any) -> Iterable[tuple[Any, Any]] | None:
    """Names and columns of a data frame of pandas or polars, None of anything else."""
    if not hasattr(features, "columns"):
        return None
    if hasattr(features, "iter_columns"):
        return zip(features.columns, features.iter_columns(), strict=True)
    return features.items() if hasattr(features, "items") else None


def _numbers(where: str, array: np.ndarray) -> np.ndarray:
    if array.dtype == object:
        return _objects_as_numbers(where, array)
    if array.dtype == bool:
        return array.view(np.uint8)
    if array.dtype.kind not in "iuf":
        got = f", got {shown(array[0].item())} in row 0" if where and len(array) else ""
        raise InputError(
            f"features: expected {'' if where else 'real '}numbers{where}{got}, got dtype "
            f"{array.dtype}."
        )
    return array


def _objects_as_numbers(where: str, array: np.ndarray) -> np.ndarray:
    for place, value in np.ndenumerate(array):
        if not isinstance(value, (numbers.Real, np.bool_)):
            row, *column = place
            there = f" in row {row}" + (f", column {column[0]}" if len(column) == 1 else "")
            raise InputError(
                f"features: expected {'' if where else 'real '}numbers{where}, got "
                f"{shown(value)}{there}; encode, drop or fill it."
            )
    try:
        return array.astype(np.float64)
    except OverflowError as error:
        raise InputError(f"features: expected numbers{where} that a float holds.") from error
