"""The oracle against decimal arithmetic and closed forms, and the errors it gives."""

import dataclasses
import math

import numpy as np
import pytest

from jax_softmax.testing.cases import Group, make_case
from jax_softmax.testing.exact import as_exact, errors_in_eps, has_oracle
from jax_softmax.testing.layer import kernel_of
from jax_softmax.testing.options import INTEGER_LABELS, LINEAR, OPTIONS, SOFT_LABELS
from jax_softmax.testing.oracle import options_cross_entropy
from jax_softmax.testing.quantities import exact
from jax_softmax.testing.regimes import REGIMES
from jax_softmax.testing.softmax_rows import (
    log_softmax_gradient,
    log_softmax_tangent,
    softmax_gradient,
    softmax_rows,
)
from jax_softmax.verification.selection import DTYPES
from tests.testing import decimals
from tests.testing.decimals import exactly, in_digits, relative_error

# Of the wide type, which is itself rounded a few times over.
TIGHT = {"float32": 1e-14, "float64": 1e-17}
wide_types = pytest.mark.parametrize(
    "dtype", [dtype for dtype in ("float32", "float64") if has_oracle(dtype)]
)


def checked_rows(case):
    """Two of each regime but the widest, which would take two thousand digits."""
    firsts = (n * case.rows for n, name in enumerate(REGIMES) if name != "N(0,1000)")
    return [first + more for first in firsts for more in (0, case.rows - 1)]


def test_a_confident_row_keeps_what_is_beside_the_leader():
    rows = softmax_rows(np.array([[40.0, 0.0, 0.0]]))
    assert rows.u[0, 0] == pytest.approx(2 * math.exp(-40), rel=1e-15)
    assert rows.not_p[0, 0] == pytest.approx(2 * math.exp(-40), rel=1e-15)
    assert rows.u[0, 1] == pytest.approx(40, rel=1e-15)


def test_classes_left_out_have_no_probability():
    rows = softmax_rows(np.array([[1.0, 2.0, 3.0]]), np.array([[True, True, False]]))
    np.testing.assert_allclose(rows.p[0], [1 / (1 + math.e), math.e / (1 + math.e), 0], rtol=1e-15)


def test_a_row_of_impossible_classes_has_no_probability_and_an_infinite_loss():
    logits = np.array([[-np.inf, -np.inf]])
    rows = softmax_rows(logits)
    assert rows.p.tolist() == [[0, 0]] and np.isposinf(rows.u).all()
    found = options_cross_entropy(logits, np.array([1]), z_loss=0.1)
    assert np.isposinf(found.loss.value).all() and np.isneginf(found.logsumexp.value).all()
    assert not found.loss.gradient.any()


@wide_types
@in_digits
def test_integer_labels_agree_with_decimal_arithmetic(dtype):
    case = make_case(Group(INTEGER_LABELS, "vjp", "none", dtype, 10))
    found = options_cross_entropy(case.logits, case.labels)
    for n in checked_rows(case):
        z, label = exactly(case.logits[n]), case.labels[n]
        loss, gradient = decimals.weighted_loss(z, exactly(np.eye(10)[label]))
        assert relative_error(found.loss.value[n], [loss]) < TIGHT[dtype]
        assert relative_error(found.loss.gradient[n], gradient) < 1000 * TIGHT[dtype]


@in_digits
def test_smoothing_weights_and_z_loss_agree_with_decimal_arithmetic():
    case = make_case(Group(INTEGER_LABELS, "vjp", "weighted_sum", "float32", 10))
    options = {name: getattr(case, name) for name in ("class_weights", "sample_weight")}
    found = options_cross_entropy(
        case.logits, case.label_index, label_smoothing=0.125, z_loss=0.25, **options
    )
    for n in checked_rows(case):
        z = exactly(case.logits[n])
        smoothed = 0.875 * np.eye(10)[case.label_index[n]] + 0.0125
        targets = exactly(smoothed * case.class_weights)
        loss, gradient = decimals.weighted_loss(z, targets, exactly(0.25))
        weight = exactly(case.sample_weight[n])
        assert relative_error(found.loss.value[n], [weight * loss]) < 1e-14
        of_row = zip(found.loss.gradient[n], gradient, found.loss.gradient_size[n], strict=True)
        for actual, expected, size in of_row:
            assert abs(exactly(actual) - weight * expected) <= exactly(1e-14 * size)


@wide_types
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@in_digits
def test_softmaxes_derivatives_and_their_sizes_agree_with_decimal_arithmetic(name, dtype):
    """Confident rows and wide ones, whose leader's own size is what the others are."""
    case = make_case(Group(name, "vjp", "none", dtype, 10))
    wide = np.longdouble if dtype == "float64" else np.float64
    rows = softmax_rows(case.logits.astype(wide))
    g = case.cotangents["value"].astype(wide)
    found = softmax_gradient(rows, g, 0.0) if name == "softmax" else log_softmax_gradient(rows, g)
    by_decimals = getattr(decimals, f"{name}_gradient")
    for n in checked_rows(case):
        z, of_row = exactly(case.logits[n]), exactly(g[n])
        values, sizes = zip(*by_decimals(z, of_row), strict=True)
        assert relative_error(found.scale[n], sizes) < 1000 * TIGHT[dtype]
        for value, expected, size in zip(found.value[n], values, sizes, strict=True):
            error = relative_error(value, [expected]) * float(abs(expected))
            assert error <= 1000 * TIGHT[dtype] * float(size)


def test_a_tangent_of_log_softmax_is_that_of_softmax_over_the_probability():
    case = make_case(Group("log_softmax", "jvp", "none", "float32", 10))
    rows = softmax_rows(case.logits.astype(np.float64))
    along = case.tangents.astype(np.float64)
    found, of_softmax = log_softmax_tangent(rows, along, 0.0), softmax_gradient(rows, along, 0.0)
    np.testing.assert_allclose(rows.p * found.value, of_softmax.value, rtol=1e-12)
    np.testing.assert_allclose(rows.p * found.scale, of_softmax.scale, rtol=1e-12)


@pytest.mark.parametrize(
    "option",
    # A mean's loss is not compared, so that the oracle has none; infinite ones have no slope.
    [
        option.name
        for option in OPTIONS[SOFT_LABELS]
        if option.reduction == "none" and not option.impossible
    ],
)
def test_gradients_are_those_of_the_losses(option):
    """Central differences of the oracle itself."""
    case = make_case(Group(SOFT_LABELS, "vjp", option, "float64", 3))
    rows = slice(0, case.rows)  # N(0,1)

    def total(step, column):
        moved = case.logits.copy()
        moved[:, column] += step
        found = exact(dataclasses.replace(case, logits=moved))
        return sum(case.cotangents[name] * found[name].value for name in case.option.outputs)

    gradient = exact(case)["gradient"]
    for column in range(3):
        slope = (total(1e-5, column) - total(-1e-5, column)) / 2e-5
        error = np.abs(slope - gradient.value[:, column]) / (gradient.reach[:, column] + 1e-300)
        assert error[rows].max() < 1e-8


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_case_is_the_same_at_every_call_and_has_its_regimes(dtype):
    group = Group(INTEGER_LABELS, "vjp", "together", dtype, 10)
    case, again = make_case(group), make_case(group)
    np.testing.assert_array_equal(case.logits, again.logits)
    assert case.logits.dtype.name == dtype and np.isfinite(case.logits.astype(float)).all()
    assert len(case.logits) == case.rows * len(REGIMES)
    assert case.where[np.arange(len(case.logits)), case.label_index].all()
    assert (case.sample_weight == 0).any() and (case.labels == -1).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [3, 1024])
def test_a_layers_logits_are_the_cases_to_the_bit(dtype, classes):
    case = make_case(Group(LINEAR, "vjp", "none", dtype, classes))
    kernel = kernel_of(case.logits, np)
    assert kernel.dtype == case.features.dtype == case.logits.dtype
    wide = np.float64
    np.testing.assert_array_equal(
        case.features.astype(wide) @ kernel.astype(wide), case.logits.astype(wide)
    )


def test_a_layers_gradients_are_those_of_its_logits_through_the_products():
    case = make_case(Group(LINEAR, "vjp", "weighted_mean", "float64", 10))
    found, g = exact(case), exact(case)["gradient"].value
    np.testing.assert_allclose(found["bias gradient"].value, g.sum(0), rtol=1e-12)
    kernel = 2 * case.logits[np.arange(len(g)) - 1]
    np.testing.assert_allclose(found["features gradient"].value, g @ kernel.T, rtol=1e-9)


def test_a_weighted_mean_is_over_the_weights_of_the_labels():
    case = make_case(Group(LINEAR, "vjp", "weighted_mean", "float64", 10))
    kept = case.labels != -1
    weights = case.class_weights[case.label_index]
    by_row = options_cross_entropy(case.logits, case.label_index).loss.gradient
    expected = np.where(kept, weights, 0)[:, None] * by_row / weights[kept].sum()
    expected = expected * case.cotangents["loss"]
    np.testing.assert_allclose(exact(case)["gradient"].value, expected, rtol=1e-12, atol=1e-300)


def errors(actual, value, dtype=np.float32, **sizes):
    value = np.asarray(value, np.float64)
    right = as_exact(value, sizes.get("scale", np.abs(value)), np.dtype(dtype), terms=value)
    return errors_in_eps(np.asarray(actual, dtype), right)


def test_errors_are_in_eps_of_the_exact_value_or_its_terms():
    np.testing.assert_allclose(errors([1 + 2**-23], [1.0]), 1, rtol=1e-6)
    np.testing.assert_allclose(errors([1 + 2**-23], [1.0], scale=np.array([4.0])), 0.25, rtol=1e-6)


def test_nan_is_infinitely_wrong_and_an_overflow_right():
    assert errors([np.nan], [1.0])[0] == np.inf
    assert errors([np.inf], [1.0])[0] == np.inf
    assert errors([np.inf], [1e6], np.float16)[0] == 0
    assert errors([6e4], [1e6], np.float16)[0] == np.inf


def test_what_may_overflow_is_right_either_way():
    def off(actual):
        value = np.asarray([6e4])
        right = as_exact(value, value, np.dtype(np.float16), terms=value, slack=np.array([np.inf]))
        return errors_in_eps(np.asarray([actual], np.float16), right)[0]

    assert off(np.inf) == off(5e4) == 0
    assert off(np.nan) == np.inf


def test_what_underflows_may_be_off_by_the_smallest_normal_number():
    assert errors([0.0], [1e-39])[0] == 0
    assert errors([2e-38], [1e-39])[0] > 0
    assert errors([0.0], [1.2e-38])[0] > 1e6
