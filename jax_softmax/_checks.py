"""Checks of arguments that both datasets and training are given."""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TypeGuard

from jax_softmax.errors import InputError

_NO_SEQUENCE = (str, bytes, Set, Mapping)
_LONGEST = 120


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value is an integer of Python or NumPy; a bool is none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_finite(value: object) -> TypeGuard[float]:
    """Whether a value is a real number that a float holds; a bool is none."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def require(holds: bool, expected: str, got: object) -> None:
    """Raises InputError, `expected`, got `got`, unless it holds.

    >>> require(False, "epochs: expected an integer of at least 1", 0)
    Traceback (most recent call last):
    jax_softmax.errors.InputError: epochs: expected an integer of at least 1, got 0.
    """
    if not holds:
        raise InputError(f"{expected}, got {shown(got)}.")


def shown(value: object) -> str:
    """The value as Python writes it, shortened where that is long.

    >>> shown("no"), len(shown(list(range(10**6)))) < 200
    ("'no'", True)
    """
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a very long {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else reprlib.repr(text[:_LONGEST])[1:-1] + "..."


def classes_shown(names: Sequence[str], most: int = 10) -> str:
    """How many classes there are, and the names of the first ones.

    >>> classes_shown(("cat", "dog")), classes_shown([str(i) for i in range(99)], most=2)
    ('2 classes (cat, dog)', '99 classes (0, 1, …)')
    """
    count = "1 class" if len(names) == 1 else f"{len(names):,} classes"
    if not names:
        return "classes without names"
    first = [" ".join(name.split())[:40] for name in names[:most]]
    return f"{count} ({', '.join([*first, *['…'][: len(names) - most]])})"


def check_class_names(names: object) -> tuple[str, ...]:
    """The names of classes, in their order, as strings.

    Args:
      names: strings or integers (which are turned into strings), in a tuple, list or array.

    Raises:
      InputError: if they have no order, two are the same, or one is neither.

    >>> check_class_names(["cat", 10])
    ('cat', '10')
    """
    if isinstance(names, Set):
        raise InputError(
            f"class_names: expected names in an order, such as a tuple, got a "
            f"{type(names).__name__}, whose order changes; pass tuple(sorted(names))."
        )
    if isinstance(names, _NO_SEQUENCE) or not isinstance(names, Iterable):
        raise InputError(
            f"class_names: expected a tuple of names, one a class, got {shown(names)}."
        )
    listed = list(names)
    for i, name in enumerate(listed):
        require(
            isinstance(name, str) or is_integer(name),
            f"class_names: expected strings (or integers), but name {i} is another",
            name,
        )
    texts = [str(name) for name in listed]
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise InputError(f"class_names: expected each name once, got {shown(twice)} twice.")
    return tuple(texts)


def check_feature_scale(scale: object) -> float:
    """The number that features are multiplied by.

    Raises:
      InputError: if it is no finite number above 0.

    >>> check_feature_scale(1)
    1.0
    """
    require(
        is_finite(scale) and scale > 0,
        "feature_scale: expected one finite number above 0 (multiply the features by others)",
        scale,
    )
    assert is_finite(scale)
    return float(scale)
