"""Checks the quantities of one group."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jax_softmax.testing.bounds import (
    Bounds,
    oracle_bound,
    platform_bounds,
    reference_bound,
    rounded_once,
)
from jax_softmax.testing.cases import Case, Group, make_case
from jax_softmax.testing.exact import Exact, errors_in_eps, has_oracle
from jax_softmax.testing.exact_layer import with_product_error
from jax_softmax.testing.layer import FEATURES_GRADIENT
from jax_softmax.testing.options import CAUSAL, CONTRASTIVE, LAYERS, LOSSES
from jax_softmax.testing.quantities import exact, exact_tangent
from jax_softmax.verification.compare import check_results, worst_errors
from jax_softmax.verification.finite_differences import finite_difference_results
from jax_softmax.verification.peers import PEERS, TEXTBOOK
from jax_softmax.verification.results import CheckResult
from jax_softmax.verification.under_test import OpsUnderTest, extremes, measure, program

Quantities = dict[str, np.ndarray]
PeerErrors = dict[str, dict[str, dict[str, float]]]  # by quantity, then peer: worst by regime


def verify_rules(
    groups: Sequence[Group], ops: OpsUnderTest, with_peers: bool, compiled_reference: bool
) -> list[CheckResult]:
    """The results of groups that differ only in their rule.

    Args:
      groups: the groups; what they are checked against is computed once for all.
      ops: the functions under test.
      with_peers: whether the peers are measured too.
      compiled_reference: whether the reference runs under `jit`, or one primitive at a time.
    """
    bounds = platform_bounds(jax.default_backend())
    plain = make_case(dataclasses.replace(groups[0], rule="vjp"))
    expected = exact(plain)
    reference = _reference(plain, compiled_reference) if _has_reference(plain) else {}
    results: list[CheckResult] = []
    with jax.enable_x64(plain.group.dtype == "float64"):
        if FEATURES_GRADIENT in expected and plain.group.order == 1:
            expected = with_product_error(plain, expected)
        peers = _peer_errors(plain, expected) if with_peers and reference else {}
        for group in groups:
            case = dataclasses.replace(plain, group=group)
            of_rule = exact(case) if group.op not in LOSSES else expected
            results += _results_of_rule(case, ops, bounds, of_rule, reference, peers)
    return results


def _has_reference(case: Case) -> bool:
    """Whether the textbook's form gives numbers; in rows without a possible class it does not."""
    softmax_of_nothing = case.option.where_rows and case.group.op not in LOSSES
    return not (case.option.impossible or softmax_of_nothing)


def _results_of_rule(
    case: Case,
    ops: OpsUnderTest,
    bounds: Bounds,
    expected: dict[str, Exact],
    reference: Quantities,
    peers: PeerErrors,
) -> list[CheckResult]:
    """Checks against the oracle, the reference and, in float64, finite differences."""
    group = case.group
    quantities = jax.jit(program(ops, case))

    def held(found: Quantities) -> list[CheckResult]:
        results: list[CheckResult] = []
        if has_oracle(group.dtype) and group.order == 1:
            of_rule = expected
            if "gradient" in expected:
                of_rule = of_rule | exact_tangent(case, expected["gradient"])
            results += _oracle_results(case, bounds, found, of_rule, peers)
        return results + _reference_results(case, bounds, found, expected, reference)

    if case.option.row_blocks:
        repeated = measure(quantities, case.repeated())
        pairs = zip(*map(held, extremes(repeated, len(case.logits))), strict=True)
        return [max(pair, key=lambda result: result.error_eps) for pair in pairs]
    found = measure(quantities, case)
    results = held(found)
    differences = group.dtype == "float64" and group.order == 1 and bool(reference)
    # These losses see rows together or in their order, and differences take any of them alone.
    alone = "gradient" in found and group.op not in (CAUSAL, CONTRASTIVE)
    if differences and alone and case.option.reduction == "none":
        results += finite_difference_results(quantities, case, found["gradient"], expected)
    return results


def _oracle_results(
    case: Case, bounds: Bounds, found: Quantities, expected: dict[str, Exact], peers: PeerErrors
) -> list[CheckResult]:
    results = []
    for quantity, right in expected.items():
        results += check_results(
            case,
            quantity,
            "oracle",
            errors_in_eps(found[quantity], rounded_once(bounds, right)),
            _oracle_bound(case, bounds, quantity, right),
            found[quantity],
            right.value,
            peers.get(quantity),
        )
    return results


def _oracle_bound(case: Case, bounds: Bounds, quantity: str, right: Exact) -> float:
    cap = case.option.logits_eps
    return oracle_bound(bounds, quantity, right.dtype, cap, right.summed, right.roundings)


def _peer_errors(case: Case, expected: dict[str, Exact]) -> PeerErrors:
    errors: PeerErrors = {}
    # A peer is not blamed for a cotangent that its float16 loss cannot hold.
    unfair = np.zeros(len(case.logits), bool)
    if case.group.dtype == "float16" and "loss" in case.cotangents:
        unfair = unfair | (np.abs(case.cotangents["loss"]) > np.finfo(np.float16).max)
        if case.group.op in LAYERS and unfair.any():
            return {}  # in a layer's gradients such a cotangent reaches every row, as 0 * inf
    for name, peer in PEERS.items():
        if not peer.has(case.group.op, case.option):
            continue
        found = measure(jax.jit(program(peer.ops, case)), case)
        for quantity, value in found.items():
            of_value = errors_in_eps(value, expected[quantity])
            if unfair.any():
                of_value[unfair] = 0
            errors.setdefault(quantity, {})[name] = worst_errors(case, quantity, of_value)
    return errors


def _reference(case: Case, compiled: bool) -> Quantities:
    """Every quantity by autodiff of the textbook form, in float64 on the CPU."""
    wide = _in_float64(case)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        quantities = program(TEXTBOOK.ops, wide)
        return measure(jax.jit(quantities) if compiled else quantities, wide)


def _reference_results(
    case: Case,
    bounds: Bounds,
    found: Quantities,
    expected: dict[str, Exact],
    reference: Quantities,
) -> list[CheckResult]:
    results = []
    for quantity, value in reference.items():
        right = expected[quantity]
        bound = _oracle_bound(case, bounds, quantity, right)
        bound += reference_bound(right.dtype, case.group.classes)
        held = dataclasses.replace(right, value=value, scale=right.terms)
        errors = errors_in_eps(found[quantity], held)
        results += check_results(case, quantity, "reference", errors, bound, found[quantity], value)
    return results


def _in_float64(case: Case) -> Case:
    """The case in float64, with the same, already rounded numbers."""

    def widened(x: np.ndarray) -> Any:
        return x.astype(np.float64) if jax.numpy.issubdtype(x.dtype, np.floating) else x

    arrays: dict[str, Any] = {
        name: widened(x) for name, x in case.arrays().items() if x is not None
    }
    return dataclasses.replace(
        case,
        group=dataclasses.replace(case.group, dtype="float64"),
        cotangents={name: widened(g) for name, g in case.cotangents.items()},
        tangents=widened(case.tangents),
        **arrays,
    )
