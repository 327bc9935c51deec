"""Ours pass; grids, filters, records and bounds."""

import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jax_softmax import InputError
from jax_softmax.testing.bounds import BOUNDS, oracle_bound, platform_bounds, rounded_once
from jax_softmax.testing.cases import make_case
from jax_softmax.testing.exact import as_exact
from jax_softmax.testing.options import (
    CONTRASTIVE,
    INTEGER_LABELS,
    LARGEST,
    LAYERS,
    LINEAR,
    LINEAR_KL,
    LINEAR_TOP_K,
    OPTIONS,
    SECOND_DERIVATIVES,
    option_of,
)
from jax_softmax.verification import CheckResult, Group, Selection, verify
from jax_softmax.verification.pictures import errors_by_lead, lead_figure
from jax_softmax.verification.selection import CLASSES, DTYPES, OPS, RULES

OURS_PASS = [
    Group("softmax", "vjp", "none", "float32", 3),
    Group("softmax", "jvp", "where_rows", "float32", 3),
    Group("log_softmax", "vjp", "where", "float16", 3),
    Group("log_softmax", "jvp", "impossible", "float32", 3),
    Group("softmax_cross_entropy", "vjp", "soft_labels", "float32", 3),
    Group("softmax_cross_entropy", "jvp", "soft_labels", "float32", 3),
    Group(INTEGER_LABELS, "vjp", "none", "float64", 3),
    Group(INTEGER_LABELS, "vjp", "mean", "bfloat16", 3),
    Group(LINEAR, "vjp", "class_blocks_together", "float32", 10),
    Group(LINEAR, "jvp", "kernel_layout", "float32", 3),
    Group(LINEAR, "vjp", "none", "float64", 3),
    Group(LINEAR, "vjp", "weighted_mean", "bfloat16", 10),
    Group(LINEAR, "vjp", "none", "float16", 3),
    Group(INTEGER_LABELS, "vjp", "where_rows", "float64", 3),
    Group(INTEGER_LABELS, "jvp", "impossible_together", "float32", 3),
    Group(INTEGER_LABELS, "vjp", "row_blocks", "float32", 1024),
    Group(INTEGER_LABELS, "vjp", "together", "float32", 3, order=2),
    Group(INTEGER_LABELS, "vjp", "soft_cap", "float64", 3, order=2),
    Group(LINEAR, "vjp", "weighted_sum", "float32", 3, order=2),
]


@pytest.fixture(scope="module")
def results():
    x64 = jax.config.jax_enable_x64
    found = verify(OURS_PASS)
    assert jax.config.jax_enable_x64 == x64
    return found


def test_ours_pass(results):
    assert [result for result in results if not result.passed] == []


def test_our_layer_passes_with_class_probabilities_and_a_mask_of_rows():
    options = ("soft_labels", "soft_labels_sum", "where_rows")
    found = verify([Group(LINEAR, "vjp", option, "float32", 10) for option in options])
    assert {result.option for result in found} == set(options)
    assert [result for result in found if not result.passed] == []


def test_every_group_is_held_to_what_it_can_be(results):
    for group in (group for group in OURS_PASS if group.order == 1):
        of_group = [
            result
            for result in results
            if (result.op, result.rule, result.option, result.dtype)
            == (group.op, group.rule, group.option, group.dtype)
        ]
        of_group = [result for result in of_group if "over reverse" not in result.quantity]
        against = {result.against for result in of_group}
        expected = {"oracle"}
        if not ("impossible" in group.option or group == OURS_PASS[1]):
            expected |= {"reference"}  # the textbook has no number where no class can happen
        if group.dtype == "float64":
            expected |= {"finite differences"}
        assert against == expected
        quantities = {result.quantity for result in of_group}
        assert "gradient" in quantities
        assert ("tangent" in quantities) == (group.rule == "jvp")
        assert ("labels gradient" in quantities) == (group.op == "softmax_cross_entropy")
        of_layer = {"features gradient", "bias gradient"}
        assert quantities & of_layer == (of_layer if group.op == LINEAR else set())


def test_second_derivatives_are_held_to_the_reference_in_both_ways(results):
    for group in (group for group in OURS_PASS if group.order == 2):
        found = {
            (result.quantity, result.against)
            for result in results
            if (result.op, result.option, result.dtype) == (group.op, group.option, group.dtype)
            and "over reverse" in result.quantity
        }
        assert found == {(name, "reference") for name in SECOND_DERIVATIVES}


def test_the_quick_grid_has_blocks_second_derivatives_impossible_classes_and_row_masks():
    groups = Selection("quick").groups()
    assert {group.op for group in groups if group.option == "row_blocks"} == {
        "softmax",
        INTEGER_LABELS,
    }
    assert {group.order for group in groups} == {1, 2}
    assert {"impossible", "where_rows"} <= {group.option for group in groups}


def test_rows_are_repeated_until_a_cpu_takes_them_in_blocks():
    case = make_case(Group(INTEGER_LABELS, "vjp", "row_blocks", "float32", 1024))
    many = case.repeated()
    assert many.logits.nbytes >= 2**24 * min(os.cpu_count(), 16)
    for x, of_many in ((case.logits, many.logits), (case.labels, many.labels)):
        np.testing.assert_array_equal(of_many.reshape(-1, *x.shape), np.broadcast_to(
            x, (len(many.logits) // len(case.logits), *x.shape)))  # fmt: skip


def test_on_one_device_the_rows_are_in_blocks_and_pass():
    """In a process of its own: this one simulates eight devices, which keep their rows."""
    script = """
import jax
from jax_softmax.testing.cases import Group, make_case
from jax_softmax.testing.cases import make_case
from jax_softmax.testing.options import INTEGER_LABELS
from jax_softmax.verification import OURS, verify
from jax_softmax.verification.under_test import program, program_inputs
assert jax.device_count() == 1
group = Group(INTEGER_LABELS, "vjp", "row_blocks", "float32", 1024)
case = make_case(group)
loops = [jax.jit(program(OURS, c)).lower(*program_inputs(c)).as_text().count("stablehlo.while")
         for c in (case, case.repeated())]
results = verify([group])
print(loops[1] > loops[0], len(results), [result for result in results if not result.passed])
"""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "True 28 []\n"


def test_on_one_device_a_total_of_many_rows_passes_and_fails_with_plain_exponentials():
    script = """
import jax
from jax_softmax.ops._backends import compensated
from jax_softmax.testing.cases import Group
from jax_softmax.testing.options import INTEGER_LABELS
from jax_softmax.verification import verify
groups = [Group(INTEGER_LABELS, "vjp", "row_blocks_sum", "float32", 1024)]
print([result for result in verify(groups) if not result.passed])
jax.clear_caches()
compensated.exponentials = lambda z, shift, n=0: jax.numpy.exp(z - shift[..., None]) * 2.0**n
print(any(result.quantity == "gradient" for result in verify(groups) if not result.passed))
"""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "[]\nTrue\n"


def test_a_layers_places_are_named(results):
    of_layer = [r for r in results if r.op == LINEAR and "over reverse" not in r.quantity]
    for result in of_layer:
        of_all = result.quantity == "bias gradient"
        assert (result.row is None) == of_all == (result.regime == "all rows")
        assert (result.label_logit is None) == of_all
        assert (result.feature_index is None) == (result.quantity != "features gradient")
    features = next(r for r in of_layer if r.quantity == "features gradient")
    assert features.class_index is None and features.class_logit is None


def test_peers_stand_beside_a_selections_results():
    found = verify(Selection("quick", ["log_softmax"], ["float32"]))
    (confident,) = (
        result
        for result in found
        if (result.rule, result.regime, result.quantity, result.against)
        == ("vjp", "confident by 60", "value", "oracle")
    )
    assert confident.passed
    assert confident.textbook_eps == confident.jax_nn_eps == pytest.approx(2**23)
    assert confident.optax_eps is None


def test_progress_counts_the_groups():
    calls = []
    verify(OURS_PASS[:1], on_progress=lambda *counts: calls.append(counts))
    assert calls == [(1, 1)]


def test_records_are_flat_and_strict_json(results):
    records = [result.record() for result in results]
    again = json.loads(json.dumps(records, allow_nan=False))
    assert again == records
    assert {"op", "error_eps", "bound_eps", "passed", "class_index"} <= records[0].keys()
    assert all(not isinstance(value, (list, dict)) for value in records[0].values())


@pytest.mark.parametrize("grid", ["quick", "default", "full"])
def test_a_grid_has_every_op_dtype_and_option(grid):
    groups = Selection(grid).groups()
    assert len(set(groups)) == len(groups)
    assert {group.op for group in groups} == set(OPS)
    assert {group.dtype for group in groups} == set(DTYPES)
    # Those of layers take long to compile.
    in_brief = {*LAYERS, LINEAR_KL, LINEAR_TOP_K} if grid == "quick" else set()
    assert {(group.op, group.rule) for group in groups} >= {
        (op, rule) for op in set(OPS) - in_brief - {*LARGEST} for rule in RULES
    }
    for op in {INTEGER_LABELS, LINEAR} - in_brief:
        options = {group.option for group in groups if group.op == op}
        assert options == {option.name for option in OPTIONS[op]}


def test_full_is_every_combination():
    def many(op):
        # The likeliest classes have no derivative; pairs are as many as they are.
        rules, classes = (
            1 if op in LARGEST else len(RULES),
            1 if op == CONTRASTIVE else len(CLASSES),
        )
        return len(OPTIONS[op]) * rules * classes * len(DTYPES)

    first = [group for group in Selection("full").groups() if group.order == 1]
    assert len(first) == sum(map(many, OPS))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_filter_leaves_something_of_the_quick_grid(op, dtype):
    groups = Selection("quick", [op], [dtype]).groups()
    assert {(group.op, group.dtype) for group in groups} == {(op, dtype)}


def test_a_filter_by_both_leaves_every_pair_of_the_quick_grid():
    ops, dtypes = ["softmax", INTEGER_LABELS], ["float16", "float32"]
    groups = Selection("quick", ops, dtypes).groups()
    assert {(group.op, group.dtype) for group in groups} == {(o, d) for o in ops for d in dtypes}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ops": ["softmx"]}, "unknown op 'softmx': expected one of .*; did you mean 'softmax'?"),
        ({"dtypes": ["float8"]}, "unknown dtype 'float8': .*; did you mean 'float"),
        ({"dtypes": ["zzz"]}, "unknown dtype 'zzz': expected one of float32, .*float64\\.$"),
    ],
)
def test_an_unknown_name_suggests_the_near_one(arguments, words):
    with pytest.raises(InputError, match=words):
        Selection(**arguments)


def test_an_unknown_option_lists_the_known():
    with pytest.raises(InputError, match="option 'zloss' of softmax: expected one of none, where"):
        option_of("softmax", "zloss")


def test_the_cpu_is_held_to_the_contract():
    cpu = platform_bounds("cpu")
    assert oracle_bound(cpu, "loss", np.dtype("float32"), None) == 3
    assert oracle_bound(cpu, "gradient", np.dtype("float64"), None) == 5
    assert oracle_bound(cpu, "gradient", np.dtype("float16"), None) == 0.51
    assert oracle_bound(cpu, "gradient", np.dtype("float32"), 30.0) == 34
    assert oracle_bound(cpu, SECOND_DERIVATIVES[0], np.dtype("float32"), None) == 32
    assert platform_bounds("cuda") == BOUNDS["gpu"]
    assert platform_bounds("abacus") == BOUNDS["tpu"]


def test_a_half_result_may_be_off_by_a_rounding_of_itself_and_float32_of_its_terms():
    value, terms = np.array([1.0]), np.array([100.0])
    dtype = np.dtype(jax.numpy.bfloat16)
    right = rounded_once(platform_bounds("cpu"), as_exact(value, terms, dtype, terms=terms))
    bound = oracle_bound(platform_bounds("cpu"), "gradient", dtype, None)
    allowed = right.scale[0] * bound * 2.0**-7
    assert allowed == pytest.approx(0.51 * 2.0**-7 + 100 * 5 * 2.0**-23)
    wide = as_exact(value, terms, np.dtype(np.float32), terms=terms)
    assert rounded_once(platform_bounds("cpu"), wide) is wide


def test_a_sum_of_products_may_be_off_by_more():
    cpu = platform_bounds("cpu")
    assert oracle_bound(cpu, "gradient", np.dtype("float32"), None, summed=100) == 5 + 10
    half = oracle_bound(cpu, "gradient", np.dtype("bfloat16"), None, summed=100, roundings=2)
    assert half == 2 * 0.51 + 10 * 2**-16


def test_a_result_fails_beyond_its_bound_and_on_nan():
    def result(error):
        names = ("softmax", "vjp", "none", "float32", "N(0,1)", 3, "value", "oracle")
        return CheckResult(*names, error, 5.0, 0, 0, 0.5, 0.5, 1.0, 1.0, 1.0)

    assert result(5.0).passed
    assert not result(5.1).passed
    assert not result(math.nan).passed


def test_the_picture_shows_what_is_lost_and_kept():
    errors = errors_by_lead([0.0, 30.0])
    for quantity in ("loss", "gradient"):
        assert errors["ours"][quantity].max() <= 5
        for peer in ("jax_nn", "optax"):
            assert errors[peer][quantity][1] == pytest.approx(2**23)
    figure = lead_figure([0.0, 30.0])
    assert [axes.get_title() for axes in figure.axes] == ["Loss", "Gradient at the label"]
