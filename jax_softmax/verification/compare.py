"""Elementwise errors in eps, and the worst of each regime with its place."""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_softmax.verification.cases import REGIMES, Case, eps
from jax_softmax.verification.exact_rows import Exact
from jax_softmax.verification.results import Against, CheckResult


def errors_in_eps(actual: np.ndarray, exact: Exact) -> np.ndarray:
    """`|actual - value|` beyond the slack, over the scale, in eps of the dtype it is due in.

    Where the exact value is infinite in that dtype, the same infinity is an error of 0 and anything
    else is infinitely wrong, as NaN is everywhere.
    """
    wide = actual.astype(np.float64).astype(exact.value.dtype)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        rounded = exact.value.astype(np.float64).astype(exact.dtype).astype(np.float64)
        beyond = np.maximum(np.abs(wide - exact.value) - exact.slack, 0)
        error = np.where(beyond == 0, 0, beyond / exact.scale / eps(exact.dtype))
    infinite = np.isinf(rounded)
    error = np.where(infinite, np.where(wide == rounded, 0, np.inf), error)
    return np.where(np.isnan(error), np.inf, error).astype(np.float64)


def worst_errors(errors: np.ndarray) -> list[float]:
    """The largest of `errors [N, ...]` in each regime."""
    return [float(part.max()) for part in np.split(errors, len(REGIMES))]


def check_results(
    case: Case,
    quantity: str,
    against: Against,
    errors: np.ndarray,
    bound: float,
    actual: np.ndarray,
    expected: np.ndarray,
    peers: dict[str, list[float]] | None = None,
) -> list[CheckResult]:
    """A result for each regime from `errors`, `actual` and `expected`, `[N]` or `[N, V]`.

    `peers` are the worst errors of others by regime.
    """
    results = []
    for i, regime in enumerate(REGIMES):
        part = errors[i * case.rows : (i + 1) * case.rows]
        place = np.unravel_index(int(np.argmax(part)), part.shape)
        row = i * case.rows + int(place[0])
        at = (row, *(int(p) for p in place[1:]))
        of_peers = {f"{name}_eps": errors[i] for name, errors in (peers or {}).items()}
        results.append(
            check_result(
                case,
                regime,
                quantity,
                against,
                error=float(errors[at]),
                bound=bound,
                row=row,
                class_index=at[1] if len(at) > 1 else None,
                actual=float(actual[at]),
                expected=float(expected[at]),
                **of_peers,
            )
        )
    return results


def check_result(
    case: Case,
    regime: str,
    quantity: str,
    against: Against,
    *,
    error: float,
    bound: float,
    row: int,
    class_index: int | None,
    actual: float,
    expected: float,
    **peers: Any,
) -> CheckResult:
    """A result with the group's names and the logits of its place."""
    group, logits = case.group, case.logits[row]
    return CheckResult(
        group.op,
        group.rule,
        group.option,
        group.dtype,
        regime,
        group.classes,
        quantity,
        against,
        error,
        bound,
        row,
        class_index,
        actual,
        expected,
        label_logit=float(logits[case.label_index[row]]),
        largest_logit=float(logits.max()),
        class_logit=None if class_index is None else float(logits[class_index]),
        **peers,
    )
