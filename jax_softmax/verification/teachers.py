"""Checks the losses that have a teacher against the oracle and the textbook's form in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_softmax.testing.bounds import (
    oracle_bound,
    platform_bounds,
    reference_bound,
    rounded_once,
)
from jax_softmax.testing.cases import Group
from jax_softmax.testing.exact import Exact, errors_in_eps, has_oracle
from jax_softmax.testing.layer import kernel_of, layer_keywords
from jax_softmax.testing.options import KL_DIVERGENCE, LINEAR_KL
from jax_softmax.testing.teachers import TeacherCase, exact_teacher, in_float64, make_teacher_case
from jax_softmax.verification.compare import check_results
from jax_softmax.verification.peers import TEXTBOOK
from jax_softmax.verification.results import Against, CheckResult
from jax_softmax.verification.under_test import OpsUnderTest

Arrays = dict[str, Any]


def verify_teachers(groups: Sequence[Group], ops: OpsUnderTest) -> list[CheckResult]:
    """The results of groups that differ only in their rule."""
    plain = make_teacher_case(dataclasses.replace(groups[0], rule="vjp"))
    reference = _reference(plain)
    results: list[CheckResult] = []
    with jax.enable_x64(plain.group.dtype == "float64"):
        for group in groups:
            case = dataclasses.replace(plain, group=group)
            expected = exact_teacher(case)
            found = _measure(jax.jit(_program(ops, case)), case)
            for quantity, right in expected.items():
                if has_oracle(group.dtype):
                    results += _against_oracle(case, quantity, found[quantity], right)
                if quantity in reference:
                    results += _against_reference(
                        case, quantity, found[quantity], right, reference[quantity]
                    )
    return results


def _bound(case: TeacherCase, quantity: str, right: Exact) -> float:
    bounds = platform_bounds(jax.default_backend())
    held = dataclasses.replace(bounds, loss=bounds.divergence, gradient=bounds.divergence)
    cap = case.option.logits_eps
    return oracle_bound(held, quantity, right.dtype, cap, roundings=right.roundings)


def _against_oracle(
    case: TeacherCase, quantity: str, found: np.ndarray, right: Exact
) -> list[CheckResult]:
    bounds = platform_bounds(jax.default_backend())
    held = dataclasses.replace(bounds, gradient=bounds.divergence)
    errors = errors_in_eps(found, rounded_once(held, right))
    return check_results(
        case, quantity, "oracle", errors, _bound(case, quantity, right), found, right.value
    )


def _against_reference(
    case: TeacherCase, quantity: str, found: np.ndarray, right: Exact, value: np.ndarray
) -> list[CheckResult]:
    against: Against = "reference"
    bound = _bound(case, quantity, right) + reference_bound(right.dtype, case.group.classes)
    held = dataclasses.replace(right, value=value, scale=right.terms)
    return check_results(case, quantity, against, errors_in_eps(found, held), bound, found, value)


def _reference(case: TeacherCase) -> dict[str, np.ndarray]:
    wide = in_float64(case)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        return _measure(jax.jit(_program(TEXTBOOK.ops, wide)), wide)


def _measure(quantities: Callable[..., Arrays], case: TeacherCase) -> dict[str, np.ndarray]:
    given = jax.tree.map(jnp.asarray, (case.arrays(), case.cotangent, case.tangents))
    return {name: np.asarray(x) for name, x in quantities(*given).items()}


def _program(ops: OpsUnderTest, case: TeacherCase) -> Callable[..., Arrays]:
    """A function of the case's arrays, cotangent and tangents that returns every quantity."""
    differentiated = case.differentiated()

    def quantities(arrays: Arrays, g: Any, tangents: Any) -> Arrays:
        def loss(inputs: Arrays) -> Any:
            return _loss(ops, case, arrays | inputs)

        value, pullback = jax.vjp(loss, {name: arrays[name] for name in differentiated})
        (gradients,) = pullback(g.astype(value.dtype))
        found = {differentiated[name]: gradient for name, gradient in gradients.items()}
        if case.option.reduction == "none":
            found["loss"] = value
            if case.group.rule == "jvp":
                names = [name for name in ("logits", "teacher") if name in differentiated]
                inputs = {name: arrays[name] for name in names}
                directions = dict(zip(names, tangents, strict=False))
                found["tangent"] = g * jax.jvp(loss, (inputs,), (directions,))[1]
        return found

    return quantities


def _loss(ops: OpsUnderTest, case: TeacherCase, arrays: Arrays) -> Any:
    op, option = getattr(ops, case.group.op), case.option
    keywords = option.keywords(case.group.op)
    if case.group.rule != "vjp":
        keywords["rule"] = case.group.rule
    keywords |= {n: arrays[n] for n in ("sample_weight", "where") if n in arrays}
    if case.group.op == KL_DIVERGENCE:
        return op(arrays["logits"], arrays["teacher"], **keywords)
    keywords |= layer_keywords(option, *case.logits.shape)

    def kernel(logits: Any) -> Any:
        found = kernel_of(logits)
        return found if option.kernel_layout == "dv" else found.T

    x = arrays["features"]
    if case.group.op == LINEAR_KL:
        return op(x, kernel(arrays["logits"]), x, kernel(arrays["teacher"]), **keywords)
    named = arrays["log_probs"], arrays["indices"]
    return op(x, kernel(arrays["logits"]), *named, **keywords)
