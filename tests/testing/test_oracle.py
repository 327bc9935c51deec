"""The shipped oracle against numbers known otherwise, and the errors it gives."""

import math

import numpy as np
import pytest
from jax_softmax.verification.cases import REGIMES, make_case
from jax_softmax.verification.exact_rows import as_exact, softmax_rows
from jax_softmax.verification.layer import kernel_of
from jax_softmax.verification.options import OPTIONS
from jax_softmax.verification.oracle import exact

from jax_softmax.testing.oracle import options_cross_entropy
from jax_softmax.verification import Group
from jax_softmax.verification.compare import errors_in_eps
from jax_softmax.verification.selection import DTYPES, INTEGER_LABELS, LINEAR, SOFT_LABELS


def test_a_confident_row_keeps_what_is_beside_the_leader():
    rows = softmax_rows(np.array([[40.0, 0.0, 0.0]]), None)
    assert rows.u[0, 0] == pytest.approx(2 * math.exp(-40), rel=1e-15)
    assert rows.not_p[0, 0] == pytest.approx(2 * math.exp(-40), rel=1e-15)
    assert rows.u[0, 1] == pytest.approx(40, rel=1e-15)


def test_classes_left_out_have_no_probability():
    rows = softmax_rows(np.array([[1.0, 2.0, 3.0]]), np.array([[True, True, False]]))
    np.testing.assert_allclose(rows.p[0], [1 / (1 + math.e), math.e / (1 + math.e), 0], rtol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
def test_integer_labels_agree_with_the_tests_own_oracle(dtype):
    case = make_case(Group(INTEGER_LABELS, "vjp", "none", dtype, 10))
    found, other = exact(case), options_cross_entropy(case.logits, case.labels)
    tight = 1e-13 if dtype != "float64" else 1e-16
    np.testing.assert_allclose(found["loss"].value, other.loss, rtol=tight, atol=1e-300)
    expected = other.gradient * case.cotangents["loss"][:, None]
    np.testing.assert_allclose(found["gradient"].value, expected, rtol=tight, atol=1e-300)


@pytest.mark.parametrize(
    "option",
    # A mean's loss is not compared, so that the oracle has none.
    [option.name for option in OPTIONS[SOFT_LABELS] if option.reduction == "none"],
)
def test_gradients_are_those_of_the_losses(option):
    """Central differences of the oracle itself."""
    case = make_case(Group(SOFT_LABELS, "vjp", option, "float64", 3))
    rows = slice(0, case.rows)  # N(0,1)

    def total(step, column):
        moved = case.logits.copy()
        moved[:, column] += step
        found = exact(type(case)(**(vars(case) | {"logits": moved})))
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
    by_row = options_cross_entropy(case.logits, case.label_index).gradient
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
