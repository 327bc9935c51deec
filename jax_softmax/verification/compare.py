"""The worst elementwise error of each regime, in eps, and where it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_softmax.testing.cases import Case
from jax_softmax.testing.layer import BIAS_GRADIENT, FEATURES_GRADIENT, SCALE_GRADIENT
from jax_softmax.testing.teachers import TeacherCase
from jax_softmax.verification.results import Against, CheckResult

Checked = Case | TeacherCase


def worst_errors(case: Case, quantity: str, errors: np.ndarray) -> dict[str, float]:
    """The largest of `errors` in each regime."""
    return {regime: float(errors[part].max()) for regime, part in _parts(case, quantity)}


def _parts(case: Checked, quantity: str) -> list[tuple[str, slice]]:
    """Regimes and their parts of the first axis; by bias and scale, each sums over all rows."""
    if quantity in (BIAS_GRADIENT, SCALE_GRADIENT):
        return [("all rows", slice(0, None))]
    return [
        (regime, slice(i * case.rows, (i + 1) * case.rows)) for i, regime in enumerate(case.regimes)
    ]


def check_results(
    case: Checked,
    quantity: str,
    against: Against,
    errors: np.ndarray,
    bound: float,
    actual: np.ndarray,
    expected: np.ndarray,
    peers: dict[str, dict[str, float]] | None = None,
) -> list[CheckResult]:
    """A result for each regime from `errors`, `actual` and `expected`, `[N]`, `[N, V]` and so on.

    `peers` are the worst errors of other libraries, by regime.
    """
    results = []
    for regime, part in _parts(case, quantity):
        place = np.unravel_index(int(np.argmax(errors[part])), errors[part].shape)
        at = (part.start + int(place[0]), *(int(p) for p in place[1:]))
        of_peers: dict[str, Any] = {
            f"{name}_eps": worst[regime] for name, worst in (peers or {}).items()
        }
        results.append(
            check_result(
                case,
                regime,
                quantity,
                against,
                error=float(errors[at]),
                bound=bound,
                actual=float(actual[at]),
                expected=float(expected[at]),
                **_place(case, quantity, at),
                **of_peers,
            )
        )
    return results


def _place(case: Checked, quantity: str, at: tuple[int, ...]) -> dict[str, Any]:
    """An index as fields of a `CheckResult`."""
    if quantity == SCALE_GRADIENT:
        return {"row": None, "class_index": None}
    if quantity == BIAS_GRADIENT:
        return {"row": None, "class_index": at[0]}
    if quantity == FEATURES_GRADIENT:
        return {"row": at[0], "class_index": None, "feature_index": at[1]}
    if quantity == "label_log_prob" and len(at) > 1 and isinstance(case, Case):
        return {"row": at[0], "class_index": int(case.labels[at])}
    return {"row": at[0], "class_index": at[1] if len(at) > 1 else None}


def check_result(
    case: Checked,
    regime: str,
    quantity: str,
    against: Against,
    *,
    error: float,
    bound: float,
    row: int | None,
    class_index: int | None,
    actual: float,
    expected: float,
    **others: Any,
) -> CheckResult:
    """A result with the group's names and the logits at its place."""
    group, logits = case.group, None if row is None else case.logits[row]
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
        label_logit=None if logits is None else float(logits[case.label_index[row]]),
        largest_logit=None if logits is None else float(logits.max()),
        class_logit=None if logits is None or class_index is None else float(logits[class_index]),
        **others,
    )
