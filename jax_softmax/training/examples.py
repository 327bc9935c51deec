"""Checks and shapes the features that `fit`, `evaluate` and `predict` are given."""

from __future__ import annotations

import math
from typing import Any, Protocol

import jax
import numpy as np

from jax_softmax.errors import InputError
from jax_softmax.training.arrays import column_name, table_of_numbers


class Examples(Protocol):
    """What training reads: `jax_softmax.datasets.Split` is one, and so is anything like it."""

    @property
    def features(self) -> np.ndarray:
        """`[N, ...]` numbers, or a data frame."""

    @property
    def labels(self) -> np.ndarray:
        """`[N]` integers or names of classes, or `[N, V]` one-hot."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """`V` names, or none."""

    @property
    def feature_scale(self) -> float:
        """What a stored feature is multiplied by."""


def check_examples(name: str, value: object, attributes: tuple[str, ...]) -> None:
    """Raises InputError if `value` has not all of the attributes of examples that are read."""
    if isinstance(value, type) or not all(hasattr(value, attribute) for attribute in attributes):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise InputError(
            f"{name}: expected examples such as Split(features, labels) or a dataset's .train, got "
            f"{got}."
        )


def check_features(features: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The features as a `[N, D]` array of their own dtype (float16 and wider, or integers).

    Args:
      features: `[N, ...]` numbers or booleans (0 and 1), or a data frame of such columns.
      shape: the shape of one example that the model expects; None takes what comes.

    Raises:
      InputError: if they are not numeric, empty, not finite (the message names the row) or of
        another width than `shape`.
    """
    array = table_of_numbers(features)
    if array.ndim < 2:
        raise InputError(
            f"features: expected shape [examples, width], got {array.shape}; "
            f"a single example is features[None]."
        )
    if len(array) == 0:
        raise InputError("features: expected at least one example, got an empty split.")
    width = math.prod(array.shape[1:])
    if shape is not None and width != math.prod(shape):
        raise InputError(
            f"features: expected {math.prod(shape)} numbers an example (shape {list(shape)}), "
            f"got {width} (shape {list(array.shape[1:])}); this model was trained on others."
        )
    if width == 0:
        raise InputError(f"features: expected at least one number an example, got {array.shape}.")
    array = array.reshape(len(array), width)
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        row, column = _first_not_finite(array)
        raise InputError(
            f"features: expected finite numbers, got {array[row, column]} in row {row}, "
            f"{column_name(features, column)}; drop or fill such rows first."
        )
    return array


def fit_dtype(features: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Features that the device would not hold as they are, in the dtype that is computed in.

    Args:
      features: `[N, D]`, as `check_features` returns them.
      dtype: of the parameters.

    Returns:
      The same numbers: floats wider than `dtype`, and integers that JAX would wrap, as `dtype`.

    Raises:
      InputError: if one is too large for `dtype`; the message names the row.
    """
    if np.issubdtype(features.dtype, np.integer):
        held = np.iinfo(jax.dtypes.canonicalize_dtype(features.dtype))
        if held.bits == np.iinfo(features.dtype).bits:
            return features
        wraps = features.max() > held.max or features.min() < held.min
        return features.astype(dtype) if wraps else features
    if features.dtype.itemsize <= dtype.itemsize:
        return features
    with np.errstate(over="ignore"):
        cast = features.astype(dtype)
    if not np.isfinite(cast).all():
        row, column = _first_not_finite(cast)
        raise InputError(
            f"features: expected numbers that {dtype.name} holds, got {features[row, column]} in "
            f"row {row}, column {column}; scale the features."
        )
    return cast


def _first_not_finite(array: np.ndarray) -> tuple[int, int]:
    row = int(np.argmin(np.isfinite(array).all(axis=1)))
    return row, int(np.argmin(np.isfinite(array[row])))
