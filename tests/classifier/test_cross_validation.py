"""SoftmaxClassifierCV against scikit-learn's LogisticRegressionCV."""

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from jax_softmax import SoftmaxClassifier, SoftmaxClassifierCV

VALUES = [0.001, 0.1, 10.0]


@pytest.fixture(scope="module")
def wine():
    features, labels = load_wine(return_X_y=True)
    return StandardScaler().fit_transform(features), labels


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of what 1.10 changes in theirs
@pytest.mark.parametrize("classes", [2, 3])
def test_scores_paths_and_choice_are_scikit_learns(wine, classes):
    features, labels = (x[wine[1] < classes] for x in wine)
    words = {"tol": 1e-9, "max_iter": 2000, "scoring": "neg_log_loss"}
    theirs = LogisticRegressionCV(Cs=VALUES, l1_ratios=(0,), use_legacy_attributes=False, **words)
    theirs.fit(features, labels)
    ours = SoftmaxClassifierCV(C=VALUES, **words).fit(features, labels)
    np.testing.assert_allclose(ours.scores_, theirs.scores_.reshape(5, 3), rtol=1e-5)
    assert ours.C_ == theirs.C_
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    expected = np.reshape(theirs.coefs_paths_, ours.coefs_paths_.shape)
    np.testing.assert_allclose(ours.coefs_paths_, expected, atol=1e-4)


def test_the_best_is_fitted_on_all_rows(wine):
    model = SoftmaxClassifierCV(C=VALUES, cv=KFold(3, shuffle=True, random_state=0)).fit(*wine)
    one = SoftmaxClassifier(C=model.C_).fit(*wine)
    np.testing.assert_array_equal(model.coef_, one.coef_)
    assert model.scores_.shape == (3, 3)
    assert clone(model).get_params()["C"] == VALUES


def test_frames_name_their_features(wine):
    frame = pl.DataFrame(wine[0])
    model = SoftmaxClassifierCV(C=[1.0]).fit(frame, wine[1])
    assert list(model.feature_names_in_) == frame.columns
    assert model.score(frame, wine[1]) > 0.95


@pytest.mark.parametrize("value", [[], [1.0, 0.0], [[1.0]], "1"])
def test_values_are_checked(wine, value):
    with pytest.raises(ValueError, match="C: expected a"):
        SoftmaxClassifierCV(C=value).fit(*wine)


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore::sklearn.exceptions.DataConversionWarning",
    "ignore:invalid value encountered in cast",
    "ignore:The least populated class:UserWarning",
)
@parametrize_with_checks([SoftmaxClassifierCV(C=(0.1, 1.0), cv=2)])
def test_estimator_checks(estimator, check):
    assert check(estimator) is None  # it raises where it fails


def test_folds_without_a_class_are_refused():
    features, labels = load_wine(return_X_y=True)  # in the order of the classes
    with pytest.raises(ValueError, match="cv: expected all classes .* fold 0 has no .*0.*; use"):
        SoftmaxClassifierCV(C=[0.1], cv=KFold(3)).fit(features, labels)


def test_there_is_no_partial_fit():
    model = SoftmaxClassifierCV(solver="sgd")
    assert not hasattr(model, "partial_fit")
    with pytest.raises(AttributeError, match="has no partial_fit, which cannot choose C; use"):
        model.partial_fit([[0.0], [1.0]], [0, 1], classes=[0, 1])
