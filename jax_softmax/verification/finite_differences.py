"""Central differences of the op itself in float64, one class of one row at a time.

Whole rows are not shifted: a softmax does not see a shift of all classes, so an error along it
would go unnoticed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from jax_softmax.testing.bounds import STEP, difference_bound
from jax_softmax.testing.cases import Case
from jax_softmax.testing.exact import Exact, eps
from jax_softmax.testing.regimes import REGIMES
from jax_softmax.verification.compare import check_result
from jax_softmax.verification.results import CheckResult
from jax_softmax.verification.under_test import Arrays, measure


def finite_difference_results(
    quantities: Callable[..., Arrays],
    case: Case,
    gradient: np.ndarray,
    exact: dict[str, Exact],
) -> list[CheckResult]:
    """One result per regime, of two rows: the label, the largest other class and any class.

    Args:
      quantities: the case's compiled program, called with rows of the case's own number.
      case: in float64, without a reduction.
      gradient: `[N, V]`, the gradient to check.
      exact: the oracle's, for the sizes of the terms.
    """
    rows, classes = _places(case)
    upper, lower = (_perturbed(case, rows, classes, step) for step in (STEP, -STEP))
    picked = np.arange(len(rows))
    width = upper[picked, classes] - lower[picked, classes]
    values = [_values(quantities, case, rows, logits) for logits in (upper, lower)]
    # A row that is left out may hold NaN, but its differences are 0.
    slopes = (values[0] - values[1]) / np.where(np.isnan(width), 1, width)
    reach = exact["gradient"].reach
    assert reach is not None
    # In a row that does not count, differences and reach are 0, but dividing needs a size.
    size = np.maximum(reach[rows, classes].astype(np.float64), 1e-100)
    bounds = difference_bound(size, _function_terms(case, exact)[rows])
    actual = gradient[rows, classes]
    errors = np.abs(slopes - actual) / size / eps(np.dtype(np.float64))
    errors = np.where(np.isnan(errors), np.inf, errors)
    return list(_results(case, rows, classes, errors, bounds, actual, slopes))


def _results(
    case: Case,
    rows: np.ndarray,
    classes: np.ndarray,
    errors: np.ndarray,
    bounds: np.ndarray,
    actual: np.ndarray,
    slopes: np.ndarray,
) -> Iterator[CheckResult]:
    per_regime = len(rows) // len(REGIMES)
    for i, regime in enumerate(REGIMES):
        part = slice(i * per_regime, (i + 1) * per_regime)
        at = i * per_regime + int(np.argmax(errors[part] / bounds[part]))
        yield check_result(
            case,
            regime,
            "gradient",
            "finite differences",
            error=float(errors[at]),
            bound=float(bounds[at]),
            row=int(rows[at]),
            class_index=int(classes[at]),
            actual=float(actual[at]),
            expected=float(slopes[at]),
        )


def _places(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Rows and classes, `[6 * 7]` each."""
    rows, classes = [], []
    for i in range(len(REGIMES)):
        for row in (i * case.rows, i * case.rows + 1):
            label = int(case.label_index[row])
            others = case.logits[row].copy()
            others[label] = -np.inf
            any_class = (7 * label + 3) % case.group.classes
            rows += [row] * 3
            classes += [label, int(others.argmax()), any_class]
    return np.array(rows), np.array(classes)


def _perturbed(case: Case, rows: np.ndarray, classes: np.ndarray, step: float) -> np.ndarray:
    logits = case.logits[rows]
    logits[np.arange(len(rows)), classes] += step
    return logits


def _values(
    quantities: Callable[..., Arrays], case: Case, rows: np.ndarray, logits: np.ndarray
) -> np.ndarray:
    """The op's outputs at `rows`, with `logits` there, times their cotangents: `[len(rows)]`."""
    count = len(case.logits)
    batches = [np.resize(np.arange(i, min(i + count, len(rows))), count)
               for i in range(0, len(rows), count)]  # fmt: skip
    values = np.zeros(len(rows))
    for batch in batches:
        part = dataclasses.replace(case.take(rows[batch]), logits=logits[batch])
        found = measure(quantities, part)
        total = np.zeros(count)
        for name, g in part.cotangents.items():
            with np.errstate(invalid="ignore"):
                terms = np.where(g == 0, 0, g * found[name])
            total += terms if terms.ndim == 1 else terms.sum(-1)
        values[batch] = total
    return values


def _function_terms(case: Case, exact: dict[str, Exact]) -> np.ndarray:
    """What the differentiated function rounds relative to, `[N]`."""
    total = np.zeros(len(case.logits))
    for name, g in case.cotangents.items():
        with np.errstate(invalid="ignore"):
            terms = np.where(g == 0, 0, np.abs(g) * exact[name].terms.astype(np.float64))
        total += terms if terms.ndim == 1 else terms.sum(-1)
    return total
