"""scikit-learn's checks of estimators, and its tools around ours."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from jax_softmax import SoftmaxClassifier

# scikit-learn's own ones warn where the data of a check are hard.
pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore::sklearn.exceptions.DataConversionWarning",
    "ignore:invalid value encountered in cast",
)


@parametrize_with_checks([SoftmaxClassifier(), SoftmaxClassifier(solver="sgd")])
def test_estimator_checks(estimator, check):
    assert check(estimator) is None  # it raises where it fails


@pytest.fixture(scope="module")
def iris():
    features, labels = load_iris(return_X_y=True, as_frame=True)
    return features, np.array(["setosa", "versicolor", "virginica"])[labels]


def test_pipeline_of_columns_in_a_grid_search(iris):
    features, labels = iris
    features = features.assign(colour=np.where(np.arange(150) % 2, "red", "blue"))
    columns = make_column_transformer((OneHotEncoder(), ["colour"]), remainder=StandardScaler())
    pipeline = make_pipeline(columns, SoftmaxClassifier())
    grid = {"softmaxclassifier__C": [0.01, 1.0]}
    search = GridSearchCV(pipeline, grid, n_jobs=2).fit(features, labels)
    assert search.best_score_ > 0.95
    assert search.best_params_ == {"softmaxclassifier__C": 1.0}


def test_calibrated_and_cross_validated(iris):
    calibrated = CalibratedClassifierCV(SoftmaxClassifier(), cv=3).fit(*iris)
    assert calibrated.score(*iris) > 0.9
    assert cross_val_score(SoftmaxClassifier(), *iris).mean() > 0.95


def test_clone_and_pickle(iris):
    model = SoftmaxClassifier(C=0.5).fit(*iris)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(iris[0]), model.predict_proba(iris[0]))
    assert clone(model).get_params() == model.get_params()
    assert not hasattr(clone(model), "coef_")


def test_frames_name_their_features(iris):
    scaler = StandardScaler().set_output(transform="pandas")
    model = make_pipeline(scaler, SoftmaxClassifier()).fit(*iris)[-1]
    assert list(model.feature_names_in_) == list(iris[0].columns)
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        model.predict(iris[0][iris[0].columns[::-1]])
