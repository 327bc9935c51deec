"""What the classifier's parameters may be, checked in `fit` as scikit-learn has it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jax_softmax._checks import is_integer

Check = Callable[[Any], bool]


def check_parameters(estimator: Any) -> None:
    """Raises ValueError unless each of the estimator's parameters is one that it can have."""
    for name, (valid, what) in _EXPECTED.items():
        value = getattr(estimator, name)
        if not valid(value):
            raise ValueError(f"{name}: expected {what}, got {value!r}.")
    if estimator.mesh is not None and estimator.solver == "sgd":
        raise ValueError(
            f"mesh: expected None with solver='sgd', which uses one device, got {estimator.mesh!r}."
        )


def _number(valid: Check) -> Check:
    kinds = int | float | np.integer | np.floating
    return lambda x: isinstance(x, kinds) and not isinstance(x, bool) and valid(x)


def _count(x: Any) -> bool:
    return is_integer(x) and x >= 1


def _flag(x: Any) -> bool:
    return isinstance(x, bool | np.bool_)


_EXPECTED: dict[str, tuple[Check, str]] = {
    "C": (_number(lambda x: x > 0), "a number above 0, np.inf for no penalty"),
    "l1_ratio": (_number(lambda x: 0 <= x <= 1), "a number from 0 to 1"),
    "solver": (lambda x: x in ("lbfgs", "sgd"), "'lbfgs' or 'sgd'"),
    "fit_intercept": (_flag, "True or False"),
    "tol": (_number(lambda x: x >= 0), "a number of at least 0"),
    "max_iter": (lambda x: is_integer(x) and x >= 0, "an integer of at least 0"),
    "learning_rate": (_number(lambda x: 0 < x < math.inf), "a number above 0"),
    "batch_size": (_count, "an integer of at least 1"),
    "momentum": (_number(lambda x: 0 <= x < 1), "a number from 0 to below 1"),
    "label_smoothing": (_number(lambda x: 0 <= x < 1), "a number from 0 to below 1"),
    "early_stopping": (_flag, "True or False"),
    "validation_fraction": (_number(lambda x: 0 < x < 1), "a number between 0 and 1"),
    "n_iter_no_change": (_count, "an integer of at least 1"),
    "average": (lambda x: _flag(x) or _count(x), "True, False or a number of rows"),
    "warm_start": (_flag, "True or False"),
}
