"""Labels become class numbers and class names."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_softmax._checks import check_class_names, shown
from jax_softmax.errors import InputError
from jax_softmax.training.arrays import as_array

_BOOLEANS = ("False", "True")
_NAMES_IN_A_MESSAGE = 8
# What Python's objects may be, and the dtype that they get.
_KINDS: tuple[tuple[Any, Any], ...] = (
    (str, np.dtypes.StringDType()),
    ((bool, np.bool_), bool),
    (numbers.Integral, np.int64),
    (numbers.Real, np.float64),
)


class _Named(NamedTuple):
    """Labels that are names.

    Attributes:
      names: the names that there are, in their order.
      codes: `[N]` integers, which of the names each label is; -1 is none.
      values: `[N]`, the labels as they came, for messages.
    """

    names: tuple[str, ...]
    codes: np.ndarray
    values: Any


def check_labels(
    labels: Any, examples: int, class_names: tuple[str, ...] = ()
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels as `[N]` int32 numbers of classes, and the classes' names.

    Args:
      labels: `[N]` integers in `[0, V)`; or `[N, V]` one-hot rows of any numeric dtype; or `[N]`
        names: strings, booleans, or categories of pandas or polars.
      examples: N, the number of feature rows they must match.
      class_names: V names, in which names are looked up. None given: those of the labels, strings
        in sorted order and categories in their own; integers must leave out no class.

    Raises:
      InputError: if the lengths differ, or a label is no class, or a row is not one-hot; the
        message names the row.
    """
    array, named = _read(labels)
    _check_shape(array, examples)
    if named is not None and not (array.dtype == bool and not _are_names(class_names)):
        return _look_up(named, class_names)
    if array.ndim == 2:
        class_names = class_names or _numbered(array.shape[1])
        array = _from_one_hot(array, len(class_names))
    array = _as_integers(array)
    class_names = class_names or _names_of_integers(array)
    outside = (array < 0) | (array >= len(class_names))
    if outside.any():
        _refuse(array, outside, len(class_names))
    return array.astype(np.int32), class_names


def labels_in(
    labels: Any, examples: int, own_names: tuple[str, ...], class_names: tuple[str, ...]
) -> np.ndarray:
    """`[N]` int32 numbers into `class_names`, of labels that may be numbers into `own_names`.

    Args:
      labels: as for `check_labels`.
      examples: N.
      own_names: of the labels; none given: those of `class_names`.
      class_names: V names of a model's classes.

    Raises:
      InputError: as `check_labels` does, or if a label's class is none of the model's.
    """
    if own_names in ((), class_names):
        return check_labels(labels, examples, class_names)[0]
    codes, own_names = check_labels(labels, examples, own_names)
    return _look_up(_Named(own_names, codes, labels), class_names)[0]


def check_several_classes(labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Raises InputError unless at least two classes occur, without which nothing can be learnt."""
    if (labels == labels[0]).all():
        raise InputError(
            f"labels: expected examples of at least two classes, got only class "
            f"{class_names[labels[0]]}; a classifier cannot be trained on one."
        )


def _are_names(class_names: tuple[str, ...]) -> bool:
    """Whether booleans are names of these classes, rather than the numbers 0 and 1."""
    return not class_names or set(_BOOLEANS) <= set(class_names)


def _read(labels: Any) -> tuple[np.ndarray, _Named | None]:
    """The labels as an array, and what they name where they are names."""
    categories = _categories(labels)
    if categories is not None:
        return categories.codes, categories
    # NumPy makes strings of whatever stands beside one in a list, a missing value too.
    listed = isinstance(labels, (list, tuple)) and any(isinstance(label, str) for label in labels)
    array = as_array("labels", labels, object if listed else None)
    if array.dtype == object and array.ndim == 1:
        array = _from_objects(array)
    if array.ndim != 1 or array.dtype.kind not in "bUT":
        return array, None
    if array.dtype == bool:
        return array, _Named(_BOOLEANS, array.astype(np.int64), array)
    names, codes = np.unique(array, return_inverse=True)
    return array, _Named(tuple(names.tolist()), codes, array)


def _categories(labels: Any) -> _Named | None:
    """What categories of pandas, or an Enum of polars, name."""
    values = getattr(labels, "array", labels)  # a Series of pandas holds its Categorical there
    if hasattr(values, "codes") and hasattr(values, "categories"):
        names = check_class_names([str(name) for name in values.categories])
        return _Named(names, np.asarray(values.codes), labels)
    dtype: Any = getattr(labels, "dtype", None)
    if type(dtype).__name__ == "Enum" and hasattr(labels, "to_physical"):
        codes = np.asarray(labels.to_physical().fill_null(len(dtype.categories)))
        codes = np.where(codes == len(dtype.categories), -1, codes.astype(np.int64))
        return _Named(tuple(dtype.categories), codes, labels)
    return None


def _from_objects(array: np.ndarray) -> np.ndarray:
    """Python's objects as strings, booleans, integers or floats, all of them of one kind."""
    # Where one is a string, what is none is wrong.
    first = next((label for label in array if isinstance(label, str)), next(iter(array), ""))
    kind, dtype = next((pair for pair in _KINDS if isinstance(first, pair[0])), _KINDS[0])
    for row, label in enumerate(array):
        if not isinstance(label, kind):
            raise InputError(
                f"labels: expected integers, or strings only, got {shown(label)} in row {row}; "
                f"drop or fill such rows first."
            )
    try:
        return array.astype(dtype)
    except OverflowError as error:
        raise InputError("labels: expected integers of 64 bits, or strings.") from error


def _look_up(named: _Named, class_names: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    missing = named.codes < 0
    if missing.any():
        row = int(np.argmax(missing))
        raise InputError(
            f"labels: expected one of the categories, got no category in row {row}; drop or fill "
            f"such rows first."
        )
    if not class_names:
        return named.codes.astype(np.int32), named.names
    number = {name: i for i, name in enumerate(class_names)}
    numbers = np.array([number.get(name, -1) for name in named.names], np.int32)[named.codes]
    if (numbers < 0).any():
        row = int(np.argmax(numbers < 0))
        listed = ", ".join(map(repr, class_names[:_NAMES_IN_A_MESSAGE]))
        more = ", ..." if len(class_names) > _NAMES_IN_A_MESSAGE else ""
        raise InputError(
            f"labels: expected one of {listed}{more}, got {shown(named.names[named.codes[row]])} "
            f"in row {row}."
        )
    return numbers, class_names


def _check_shape(array: np.ndarray, examples: int) -> None:
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


def _as_integers(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "iu":
        return array
    if array.dtype == bool:
        return array.astype(np.int32)
    if array.dtype.kind != "f":
        remedy = "; pass labels.astype(str)" if array.dtype.kind == "S" else ""
        raise InputError(f"labels: expected integers or strings, got dtype {array.dtype}{remedy}.")
    whole = (np.abs(array) < 2**53) & (array == np.round(array))
    if not whole.all():
        row = int(np.argmin(whole))
        raise InputError(f"labels: expected integers, got {array[row]} in row {row}.")
    return array.astype(np.int64)


def _names_of_integers(array: np.ndarray) -> tuple[str, ...]:
    """The numbers of the classes, of which none may lack an example."""
    least, most = int(array.min()), int(array.max())
    if least < 0:
        _refuse(array, array < 0, most + 1)
    if most < len(array):  # else there are more classes than examples
        absent = np.bincount(array.astype(np.int64), minlength=most + 1) == 0
        if not absent.any():
            return _numbered(most + 1)
    present = np.unique(array)
    gap = int(np.argmax(present != np.arange(len(present), dtype=np.uint64)))
    raise InputError(
        f"labels: expected an example of each of {most + 1:,} classes (0 to the largest label), "
        f"got none of class {gap}; name all classes with class_names=, or pass labels as strings "
        f"(labels.astype(str)), which name themselves."
    )


def _numbered(classes: int) -> tuple[str, ...]:
    return tuple(map(str, range(classes)))


def _refuse(array: np.ndarray, outside: np.ndarray, classes: int) -> None:
    row = int(np.argmax(outside))
    from_one = array.min() == 1 and array.max() == classes
    remedy = "; pass labels - 1, for classes count from 0" if from_one else ""
    raise InputError(
        f"labels: expected integers in [0, {classes}), got {array[row]} in row {row}{remedy}."
    )


def _from_one_hot(array: np.ndarray, classes: int) -> np.ndarray:
    if array.shape[1] != classes:
        raise InputError(
            f"labels: expected one-hot rows of {classes} classes, got {array.shape[1]} columns."
        )
    if array.dtype.kind not in "biuf":
        raise InputError(f"labels: expected one-hot rows of numbers, got dtype {array.dtype}.")
    one_hot = ((array == 0) | (array == 1)).all(axis=1) & (array.sum(axis=1) == 1)
    if not one_hot.all():
        row = int(np.argmin(one_hot))
        raise InputError(
            f"labels: expected one-hot rows (a single 1, else 0), got {array[row].tolist()} in "
            f"row {row}."
        )
    return array.argmax(axis=1)
