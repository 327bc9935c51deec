"""Checks and shapes the examples that `fit`, `evaluate` and `predict` are given."""

from __future__ import annotations

import math
from typing import Any, Protocol

import jax
import numpy as np

from jax_softmax.errors import InputError


class Examples(Protocol):
    """What training reads: `jax_softmax.datasets.Split` is one, and so is anything like it."""

    @property
    def features(self) -> np.ndarray:
        """`[N, ...]` numbers."""

    @property
    def labels(self) -> np.ndarray:
        """`[N]` integers, or `[N, V]` one-hot."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """`V` names, or none."""

    @property
    def feature_scale(self) -> float:
        """What a stored feature is multiplied by."""


def check_examples(name: str, value: object, attributes: tuple[str, ...]) -> None:
    """Raises InputError if `value` has not all of the attributes of examples that are read."""
    if not all(hasattr(value, attribute) for attribute in attributes):
        raise InputError(
            f"{name}: expected examples such as Split(features, labels) or a dataset's .train, got "
            f"{type(value).__name__}."
        )


def check_features(features: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The features as a `[N, D]` array of their own dtype (float16 and wider, or integers).

    Args:
      features: `[N, ...]` numbers.
      shape: the shape of one example that the model expects; None takes what comes.

    Raises:
      InputError: if they are not numeric, empty, not finite (the message names the row) or of
        another width than `shape`.
    """
    array = np.asarray(features)
    if array.dtype == bool or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise InputError(f"features: expected real numbers, got dtype {array.dtype}.")
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
            f"column {column}; drop or fill such rows first."
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


def check_labels(labels: Any, examples: int, classes: int | None = None) -> tuple[np.ndarray, int]:
    """The labels as `[N]` int32 and the number of classes.

    Args:
      labels: `[N]` integers in `[0, V)`, or `[N, V]` one-hot rows of any numeric dtype.
      examples: N, the number of feature rows they must match.
      classes: V, or None to take it from the labels (their width, or the largest one plus 1).

    Raises:
      InputError: if the lengths differ, or a label is no integer or out of range, or a row is not
        one-hot; the message names the row.
    """
    array = np.asarray(labels)
    if array.ndim not in (1, 2):
        raise InputError(f"labels: expected shape [N] or [N, classes], got {array.shape}.")
    if len(array) != examples:
        raise InputError(
            f"labels: expected one for each of {examples} feature rows, got {len(array)}."
        )
    if array.shape[1:] == (1,):
        raise InputError(
            f"labels: expected shape [N] or [N, classes], got {array.shape}; pass labels[:, 0]."
        )
    if array.ndim == 2:
        classes = array.shape[1] if classes is None else classes
        array = _from_one_hot(array, classes)
    array = _as_integers(array)
    if classes is None:
        classes = int(array.max()) + 1
    outside = (array < 0) | (array >= classes)
    if outside.any():
        row = int(np.argmax(outside))
        raise InputError(
            f"labels: expected integers in [0, {classes}), got {array[row]} in row {row}."
        )
    return array.astype(np.int32), classes


def check_several_classes(labels: np.ndarray) -> None:
    """Raises InputError unless at least two classes occur, without which nothing can be learnt."""
    if len(np.unique(labels)) < 2:
        raise InputError(
            f"labels: expected examples of at least two classes, got only class {labels[0]}; "
            f"a classifier cannot be trained on one."
        )


def _as_integers(array: np.ndarray) -> np.ndarray:
    if np.issubdtype(array.dtype, np.integer):
        return array
    if array.dtype == bool:
        return array.astype(np.int32)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"labels: expected integers, got dtype {array.dtype}.")
    whole = (np.abs(array) < 2**53) & (array == np.round(array))
    if not whole.all():
        row = int(np.argmin(whole))
        raise InputError(f"labels: expected integers, got {array[row]} in row {row}.")
    return array.astype(np.int64)


def _from_one_hot(array: np.ndarray, classes: int) -> np.ndarray:
    if array.shape[1] != classes:
        raise InputError(
            f"labels: expected one-hot rows of {classes} classes, got {array.shape[1]} columns."
        )
    if array.dtype != bool and not np.issubdtype(array.dtype, np.number):
        raise InputError(f"labels: expected one-hot rows of numbers, got dtype {array.dtype}.")
    one_hot = ((array == 0) | (array == 1)).all(axis=1) & (array.sum(axis=1) == 1)
    if not one_hot.all():
        row = int(np.argmin(one_hot))
        raise InputError(
            f"labels: expected one-hot rows (a single 1, else 0), got {array[row].tolist()} in "
            f"row {row}."
        )
    return array.argmax(axis=1)
