"""How much each training example counts: weights of rows and of classes, checked and multiplied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jax_softmax._checks import is_finite, require, shown
from jax_softmax.errors import InputError
from jax_softmax.training.arrays import as_array

# A weight by class name, or one a class in their order.
ClassWeight = Mapping[str, float] | Sequence[float] | Literal["balanced"]

_EXPECTED = (
    "class_weight: expected 'balanced', weights by class name such as {'yes': 5}, one a class, or "
    "None"
)
_SOME = "class_weight: expected a weight above 0"
_MOST_NAMES = 8


def check_class_weight(given: Any) -> dict[str, float] | tuple[float, ...] | str | None:
    """Weights of classes as settings keep them: what JSON can say and gives back.

    Raises:
      InputError: if they are none, or one is no finite number of at least 0, or all are 0.

    >>> check_class_weight({"no": 1, "yes": np.float32(5)})
    {'no': 1.0, 'yes': 5.0}
    """
    if given is None or (isinstance(given, str) and given == "balanced"):
        return given
    if isinstance(given, Mapping):
        names = [str(name) for name in given]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"class_weight: expected each class once, got {shown(twice)} twice.")
        by_name = dict(zip(names, map(_weight, names, given.values()), strict=True))
        require(any(by_name.values()) or not by_name, _SOME, given)
        return by_name or None
    if isinstance(given, (str, bytes)) or not isinstance(given, (Sequence, np.ndarray)):
        raise InputError(f"{_EXPECTED}, got {shown(given)}.")
    weights = tuple(_weight(f"number {i}", weight) for i, weight in enumerate(given))
    require(any(weights), _SOME, given)
    return weights


def _weight(name: str, weight: Any) -> float:
    require(
        is_finite(weight) and weight >= 0,
        f"class_weight: expected finite numbers of at least 0, but class {name} has another",
        weight,
    )
    return float(weight)


def row_weights(
    sample_weight: Any, class_weight: Any, labels: np.ndarray, class_names: Sequence[str]
) -> np.ndarray | None:
    """`[N]` float64, each row's own weight times its class's; None if all count alike.

    The largest is from 1/2 to 1: a mean is that of weights of any size, and no sum may overflow.

    Args:
      sample_weight: `[N]` numbers of at least 0, or None.
      class_weight: as `check_class_weight` returns it.
      labels: `[N]` numbers of classes.
      class_names: `V` names.

    Raises:
      InputError: if they are not one a row, or a class is named that there is not, or one is no
        finite number of at least 0, or nothing is left of any row.
    """
    if sample_weight is None and class_weight is None:
        return None
    weights = _scaled(_checked(sample_weight, len(labels)))
    if class_weight is not None:
        weights = weights * _by_class(class_weight, labels, class_names, weights)[labels]
    if not weights.any():
        raise InputError(
            "class_weight: expected a weight above 0 for a class of some row, got 0 for every row."
        )
    return _scaled(weights)


def _scaled(weights: np.ndarray) -> np.ndarray:
    """The weights times a power of two, which rounds none of them."""
    return np.ldexp(weights, -int(np.frexp(weights.max())[1]))


def _checked(sample_weight: Any, examples: int) -> np.ndarray:
    if sample_weight is None:
        return np.ones(examples)
    array = as_array("sample_weight", sample_weight)
    if array.shape != (examples,):
        raise InputError(
            f"sample_weight: expected one for each of {examples} rows, shape ({examples},), got "
            f"shape {array.shape}."
        )
    if array.dtype.kind not in "biuf":
        raise InputError(f"sample_weight: expected numbers, got dtype {array.dtype}.")
    weights = array.astype(np.float64)
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"sample_weight: expected finite numbers of at least 0, got {array[row]} in row {row}."
        )
    if not weights.any():
        raise InputError("sample_weight: expected a weight above 0 for some row, got only 0.")
    return weights


def _by_class(
    class_weight: Any, labels: np.ndarray, class_names: Sequence[str], weights: np.ndarray
) -> np.ndarray:
    """`[V]`, at most 1; those that a balance gives to rows of these weights."""
    classes = len(class_names)
    if isinstance(class_weight, str):  # balanced
        totals = np.bincount(labels, weights, minlength=classes)
        used = totals > 0
        return np.where(used, totals[used].min() / np.where(used, totals, 1), 0)
    if isinstance(class_weight, Mapping):
        strange = [name for name in class_weight if name not in class_names]
        if strange:
            more = ", ..." if classes > _MOST_NAMES else ""
            raise InputError(
                f"class_weight: expected names of classes "
                f"({', '.join(map(repr, class_names[:_MOST_NAMES]))}{more}), got "
                f"{shown(strange[0])}."
            )
        return _scaled(np.array([class_weight.get(name, 1.0) for name in class_names]))
    if len(class_weight) != classes:
        raise InputError(
            f"class_weight: expected one for each of {classes} classes, got {len(class_weight)}."
        )
    return _scaled(np.array(class_weight))


def refuse_weights(sample_weight: Any, class_weight: Any) -> None:
    """Raises InputError if rows are to be weighed whose labels are known once they are read."""
    for name, given in (("sample_weight", sample_weight), ("class_weight", class_weight)):
        require(
            given is None,
            f"{name}: expected None for a stream whose labels are read with its rows, which count "
            f"alike; hold the examples in memory, as a Split, to weigh them",
            given,
        )
