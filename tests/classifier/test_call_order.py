"""SoftmaxClassifier where calls follow one another, and where numbers are at their ends."""

import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from jax_softmax import SoftmaxClassifier
from jax_softmax.classifier.rows import sparse_rows
from jax_softmax.errors import DivergedError

FEATURES, LABELS = load_iris(return_X_y=True)
ALL = np.unique(LABELS)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def steps(**parameters):
    return SoftmaxClassifier(solver="sgd", random_state=0, max_iter=3).set_params(**parameters)


def test_partial_fit_goes_on_from_the_last_fit_by_whatever_solver():
    model = steps().fit(FEATURES, LABELS).set_params(solver="lbfgs").fit(FEATURES, LABELS)
    found = model.coef_.copy()
    model.set_params(solver="sgd", learning_rate=1e-9).partial_fit(FEATURES, LABELS)
    np.testing.assert_allclose(model.coef_, found, atol=1e-6)


def test_partial_fit_goes_on_from_the_best_coefficients():
    model = steps(early_stopping=True, learning_rate=0.5, max_iter=6).fit(FEATURES, LABELS)
    found = model.coef_.copy()
    model.set_params(learning_rate=1e-12, momentum=0.0).partial_fit(FEATURES, LABELS)
    np.testing.assert_allclose(model.coef_, found, atol=1e-6)


@pytest.mark.parametrize("types", [(np.float32, np.float64), (np.float64, np.float32)])
def test_partial_fit_takes_rows_of_another_precision(types):
    model = steps()
    for dtype in types:
        model.partial_fit(FEATURES.astype(dtype), LABELS, classes=ALL)
        assert model.coef_.dtype == dtype


@pytest.mark.parametrize("momentum", [(0.0, 0.9), (0.9, 0.0)])
def test_partial_fit_takes_another_momentum(momentum):
    model = steps(momentum=momentum[0]).partial_fit(FEATURES, LABELS, classes=ALL)
    before = model.coef_.copy()
    model.set_params(momentum=momentum[1], learning_rate=1e-12).partial_fit(FEATURES, LABELS)
    np.testing.assert_allclose(model.coef_, before, atol=1e-6)


def test_numpys_false_is_no_average():
    plain, other = (steps(average=x).fit(FEATURES, LABELS) for x in (False, np.False_))
    np.testing.assert_array_equal(plain.coef_, other.coef_)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_no_epochs_leave_the_coefficients_at_0(early_stopping):
    model = steps(max_iter=0, early_stopping=early_stopping).fit(FEATURES, LABELS)
    assert not model.coef_.any() and model.predict(FEATURES).tolist() == [0] * 150


def test_early_stopping_says_that_there_are_too_few_rows():
    with pytest.raises(ValueError, match="early_stopping: expected rows enough .* got 6 "):
        steps(early_stopping=True).fit(FEATURES[::25], LABELS[::25])


def test_early_stopping_says_that_rows_weigh_nothing():
    weights = np.zeros(150)
    weights[[0, 50]] = 1
    with pytest.raises(ValueError, match="early_stopping: expected weights above 0"):
        steps(early_stopping=True).fit(FEATURES, LABELS, weights)


def test_a_warm_start_after_a_fit_that_failed_begins_at_0():
    model = SoftmaxClassifier(warm_start=True)
    with pytest.raises(ValueError, match="Negative"):
        model.fit(FEATURES, LABELS, -np.ones(150))
    assert model.fit(FEATURES, LABELS).score(FEATURES, LABELS) > 0.9


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_a_warm_start_without_intercepts_has_none(solver):
    model = SoftmaxClassifier(warm_start=True, solver=solver, max_iter=20).fit(FEATURES, LABELS)
    assert model.intercept_.any()
    assert not model.set_params(fit_intercept=False).fit(FEATURES, LABELS).intercept_.any()


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_weights_of_classes_are_checked(weight):
    model = SoftmaxClassifier(class_weight={0: weight, 1: 1.0, 2: 1.0})
    with pytest.raises(ValueError, match="class_weight: expected weights of at least 0"):
        model.fit(FEATURES, LABELS)


def test_weights_whose_sum_overflows_are_refused():
    with pytest.raises(ValueError, match="sample_weight: expected weights .* inf in all"):
        SoftmaxClassifier().fit(FEATURES, LABELS, np.full(150, 1e308))


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
def test_a_penalty_that_overflows_is_refused(l1_ratio):
    with pytest.raises(ValueError, match="C: expected a penalty that float32 holds, got C=1e-300"):
        SoftmaxClassifier(C=1e-300, l1_ratio=l1_ratio).fit(FEATURES.astype(np.float32), LABELS)


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
def test_features_that_overflow_end_with_a_warning(l1_ratio):
    model = SoftmaxClassifier(l1_ratio=l1_ratio)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        with pytest.raises(ConvergenceWarning, match=r"(stopped|failed to converge) after"):
            model.fit((FEATURES * 1e37).astype(np.float32), LABELS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_feature_of_1e8_does_not_hide_the_others(dtype):
    features, labels = load_wine(return_X_y=True)
    features[:, 0] *= 1e8
    model = SoftmaxClassifier(max_iter=300, tol=1e-3).fit(features.astype(dtype), labels)
    assert model.loss_curve_[-1] < 0.06 and model.score(features, labels) > 0.99


@pytest.mark.parametrize("rows", [1, 3, 4, 7])
def test_sparse_rows_are_the_dense_ones(rows):
    dense = np.array([[1, 0, 2], [0, 0, 0], [3, 4, 5], [0, 0, 0], [0, 6, 0], [0, 0, 0], [7, 0, 0]])
    matrix = sparse.csr_matrix(dense.astype(np.float32))
    found = sparse_rows(matrix, rows)
    for i, first in enumerate(np.minimum(np.arange(0, 7, rows), 7 - rows)):
        np.testing.assert_array_equal(found.block(i, first, rows), dense[first : first + rows])


def test_a_fit_that_fails_leaves_no_coefficients_of_other_classes():
    model = SoftmaxClassifier(solver="sgd").fit([[0.0], [1.0]], ["a", "b"])
    model.set_params(learning_rate=1e30)
    with pytest.raises(DivergedError):
        model.fit(np.float32([[1e30], [-1e30]]), ["b", "c"])
    with pytest.raises(NotFittedError):
        model.predict([[0.0]])


def test_partial_fit_cannot_balance_classes_it_has_not_seen():
    model = SoftmaxClassifier(solver="sgd", class_weight="balanced")
    with pytest.raises(ValueError, match=r"expected weights by class in partial_fit.*'balanced'"):
        model.partial_fit([[0.0], [1.0]], [0, 1], classes=[0, 1])
