"""SoftmaxClassifier against scikit-learn's LogisticRegression, and what its arguments do."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
import sklearn
from scipy import sparse
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from jax_softmax import SoftmaxClassifier, SoftmaxClassifierCV, load_dataset
from jax_softmax.classifier import inputs, solve
from jax_softmax.errors import DivergedError

RNG = np.random.default_rng(0)
against_theirs = pytest.mark.skipif(
    not sklearn.__version__.startswith("1.9."),
    reason="compares with scikit-learn 1.9: earlier ones have other arguments and other warnings",
)


def standardised(load):
    features, labels = load(return_X_y=True)
    return StandardScaler().fit_transform(features), labels


def mnist_5000(real_data):
    train = load_dataset("mnist", raw_dir=real_data).train
    features = train.features[:5000].reshape(5000, -1).astype(np.float64)
    return StandardScaler().fit_transform(features), train.labels[:5000]


def assert_same(ours, theirs, rtol):
    for name in ("coef_", "intercept_"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=rtol * np.abs(b).max(), rtol=0)


@against_theirs
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("load", [load_iris, load_wine, load_digits])
def test_the_optimum_is_scikit_learns(load, classes):
    features, labels = standardised(load)
    some = labels < (2 if classes == 2 else 10)
    theirs = LogisticRegression(tol=1e-9, max_iter=10_000).fit(features[some], labels[some])
    ours = SoftmaxClassifier(tol=1e-9, max_iter=10_000).fit(features[some], labels[some])
    assert_same(ours, theirs, 1e-4)
    np.testing.assert_allclose(
        ours.predict_proba(features), theirs.predict_proba(features), rtol=1e-4, atol=1e-6
    )


@against_theirs
@pytest.mark.slow  # scikit-learn takes a minute
def test_the_optimum_on_mnist_is_scikit_learns(real_data):
    features, labels = mnist_5000(real_data)
    theirs = LogisticRegression(tol=1e-8, max_iter=10_000).fit(features, labels)
    assert_same(SoftmaxClassifier(tol=1e-8, max_iter=10_000).fit(features, labels), theirs, 1e-4)


@against_theirs
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_proximal_optimum_is_scikit_learns(l1_ratio, classes):
    features, labels = standardised(load_iris)
    features, labels = features[labels < classes], labels[labels < classes]
    words = {"C": 0.5, "l1_ratio": l1_ratio, "tol": 1e-9, "max_iter": 100_000}
    theirs = LogisticRegression(solver="saga", random_state=0, **words).fit(features, labels)
    ours = SoftmaxClassifier(**words).fit(features, labels)
    assert_same(ours, theirs, 1e-5)
    assert np.array_equal(ours.coef_ == 0, theirs.coef_ == 0)


@against_theirs
def test_weights_of_rows_and_classes():
    features, labels = standardised(load_iris)
    weights = RNG.uniform(size=150)
    words = {"class_weight": "balanced", "C": 2.0, "tol": 1e-9, "max_iter": 1000}
    theirs = LogisticRegression(**words).fit(features, labels, weights)
    assert_same(SoftmaxClassifier(**words).fit(features, labels, weights), theirs, 1e-5)


@against_theirs
def test_no_penalty_and_no_intercept():
    features, labels = RNG.normal(size=(200, 3)), RNG.integers(3, size=200)
    words = {"C": np.inf, "fit_intercept": False, "tol": 1e-9, "max_iter": 1000}
    theirs = LogisticRegression(**words).fit(features, labels)
    ours = SoftmaxClassifier(**words).fit(features, labels)
    assert_same(ours, theirs, 1e-5)
    assert (ours.intercept_ == 0).all()


@against_theirs
def test_features_that_depend_on_one_another():
    """Their Gram matrix has no Cholesky factor of its own."""
    features = np.repeat(RNG.normal(size=(100, 2)), 3, axis=1)
    labels = (features[:, 0] + RNG.normal(size=100) > 0).astype(int)
    words = {"C": np.inf, "tol": 1e-8, "max_iter": 1000}
    theirs = LogisticRegression(**words).fit(features, labels)
    ours = SoftmaxClassifier(**words).fit(features, labels)
    np.testing.assert_allclose(
        ours.decision_function(features), theirs.decision_function(features), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_that_of_the_features(dtype):
    features, labels = standardised(load_iris)
    model = SoftmaxClassifier().fit(features.astype(dtype), labels)
    assert model.coef_.dtype == model.predict_proba(features.astype(dtype)).dtype == dtype
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
@pytest.mark.parametrize("form", ["csr", "csc", "polars", "jax"])
def test_forms_of_features(form, solver):
    features, labels = standardised(load_iris)
    features = (features * (np.abs(features) > 0.5)).astype(np.float32)
    given = {
        "csr": sparse.csr_array,
        "csc": sparse.csc_matrix,
        "polars": lambda x: pl.DataFrame(x),
        "jax": jnp.asarray,
    }[form](features)
    words = {"solver": solver, "max_iter": 30, "random_state": 0, "tol": 0.01}
    expected = SoftmaxClassifier(**words).fit(features, labels)
    found = SoftmaxClassifier(**words).fit(given, labels)
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.predict(given), expected.predict(features))


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_blocks_of_rows_add_up(form, monkeypatch):
    """157 rows are no whole number of blocks of 20."""
    features, labels = RNG.normal(size=(157, 5)), RNG.integers(4, size=157)
    words = {"tol": 1e-10, "max_iter": 1000}
    expected = SoftmaxClassifier(**words).fit(features, labels)
    monkeypatch.setattr(inputs, "_IN_CACHE", 100)
    found = SoftmaxClassifier(**words).fit(form(features), labels)
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-8)


@pytest.mark.parametrize("l1_ratio", [0.0, 1.0])
def test_calls_that_a_signal_may_come_between_change_nothing(l1_ratio, monkeypatch):
    features, labels = standardised(load_wine)
    words = {"l1_ratio": l1_ratio, "tol": 1e-6, "max_iter": 500}
    expected = SoftmaxClassifier(**words).fit(features, labels)
    monkeypatch.setattr(solve, "_CALL", 1)
    found = SoftmaxClassifier(**words).fit(features, labels)
    np.testing.assert_array_equal(found.coef_, expected.coef_)
    assert found.loss_curve_ == expected.loss_curve_
    assert len(found.loss_curve_) == found.n_iter_[0] == expected.n_iter_[0] > 5


def test_without_a_preconditioner_it_is_the_same_optimum(monkeypatch):
    features, labels = standardised(load_wine)
    words = {"tol": 1e-9, "max_iter": 1000}
    expected = SoftmaxClassifier(**words).fit(features, labels)
    monkeypatch.setattr(solve, "_MOST_FEATURES", 0)
    assert_same(SoftmaxClassifier(**words).fit(features, labels), expected, 1e-6)


def test_what_does_not_converge_says_so():
    features, labels = standardised(load_wine)
    words = "lbfgs failed to converge after 3 iteration.*gradient's largest element is.*tol=0.0001"
    with pytest.warns(ConvergenceWarning, match=words):
        SoftmaxClassifier(max_iter=3).fit(features, labels)
    with pytest.warns(ConvergenceWarning, match="rounding leaves nothing to gain"):
        SoftmaxClassifier(tol=0.0, max_iter=10_000).fit(features.astype(np.float32), labels)
    with pytest.warns(ConvergenceWarning, match="sgd failed to converge after 2 epochs"):
        SoftmaxClassifier(solver="sgd", max_iter=2).fit(features, labels)
    with pytest.warns(ConvergenceWarning, match=r"^the proximal solver \(l1_ratio > 0\) failed to"):
        SoftmaxClassifier(l1_ratio=0.5, max_iter=3).fit(features, labels)
    aside = "sgd failed to .*: the accuracy on the rows set aside still rises by more than tol"
    with pytest.warns(ConvergenceWarning, match=aside):
        SoftmaxClassifier(solver="sgd", early_stopping=True, max_iter=3).fit(features, labels)


def test_a_warm_start_is_near_its_end():
    features, labels = standardised(load_digits)
    model = SoftmaxClassifier(warm_start=True, tol=1e-6, max_iter=1000).fit(features, labels)
    first = model.n_iter_[0]
    assert model.fit(features, labels).n_iter_[0] == 0
    model.set_params(C=0.9).fit(features, labels)
    assert 0 < model.n_iter_[0] < first


def test_steps_come_near_the_optimum():
    features, labels = standardised(load_iris)
    best = SoftmaxClassifier().fit(features, labels)
    words = {"solver": "sgd", "random_state": 0, "max_iter": 400, "n_iter_no_change": 400}
    words["learning_rate"] = 0.2
    with pytest.warns(ConvergenceWarning):
        found = SoftmaxClassifier(average=150 * 200, **words).fit(features, labels)
    np.testing.assert_allclose(found.coef_, best.coef_, atol=0.05)
    words |= {"n_iter_no_change": 5}
    sparse_model = SoftmaxClassifier(l1_ratio=1.0, C=0.5, **words).fit(features, labels)
    assert (sparse_model.coef_ == 0).any()


def test_early_stopping_keeps_the_best():
    features, labels = standardised(load_digits)
    words = {"solver": "sgd", "random_state": 0, "max_iter": 200, "learning_rate": 0.05}
    model = SoftmaxClassifier(early_stopping=True, n_iter_no_change=3, **words)
    model.fit(features, labels)
    assert model.n_iter_[0] < 200
    assert model.score(features, labels) > 0.95


def test_partial_fit_goes_on():
    features, labels = standardised(load_iris)
    names = np.array(["a", "b", "c"])[labels]
    model = SoftmaxClassifier(solver="sgd", random_state=0, learning_rate=0.05)
    for _ in range(40):
        model.partial_fit(features, names, classes=["a", "b", "c"])
    assert model.score(features, names) > 0.95
    with pytest.raises(ValueError, match=r"expected labels of the classes .*got array.*'d'"):
        model.partial_fit(features[:1], ["d"])
    with pytest.raises(ValueError, match="not the same as on last call"):
        model.partial_fit(features, names, classes=["a", "b"])
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        SoftmaxClassifier(solver="sgd").partial_fit(features, names)
    assert not hasattr(SoftmaxClassifier(), "partial_fit")


def test_too_long_steps_raise():
    features, labels = standardised(load_iris)
    with pytest.raises(DivergedError, match="learning_rate=1e[+]30; try a smaller one"):
        SoftmaxClassifier(solver="sgd", learning_rate=1e30).fit(1e30 * features, labels)


def test_progress_is_shown_where_asked(capsys):
    features, labels = standardised(load_iris)
    SoftmaxClassifier(max_iter=1000).fit(features, labels)
    assert capsys.readouterr().err == ""
    SoftmaxClassifier(max_iter=1000, verbose=True).fit(features, labels)
    assert "loss=" in capsys.readouterr().err


def test_the_bar_of_what_ends_early_is_full(capsys):
    features, labels = standardised(load_iris)
    model = SoftmaxClassifier(solver="sgd", tol=0.01, verbose=True, random_state=0).fit(
        features, labels
    )
    said = capsys.readouterr().err
    assert model.n_iter_[0] < 100 and f"{model.n_iter_[0]}/{model.n_iter_[0]} " in said
    SoftmaxClassifierCV(C=[0.1, 1.0], cv=3, verbose=True).fit(features, labels)
    said = capsys.readouterr().err
    assert "fits: 100%" in said and "score=" in said and "lbfgs" not in said


def test_steps_that_lead_uphill_are_said():
    features, labels = load_iris(return_X_y=True)
    words = r"stopped after \d+ epochs at a loss of .*, above the 1.099 of equal .* Scale the feat"
    with pytest.warns(ConvergenceWarning, match=words):
        SoftmaxClassifier(solver="sgd", random_state=0).fit(1000 * features, labels)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("C", 0, "a number above 0, np.inf for no penalty"),
        ("C", "1", "a number above 0"),
        ("l1_ratio", 2, "a number from 0 to 1"),
        ("solver", "saga", "'lbfgs' or 'sgd'"),
        ("tol", -1, "a number of at least 0"),
        ("max_iter", 1.5, "an integer of at least 0"),
        ("batch_size", 0, "an integer of at least 1"),
        ("momentum", 1, "a number from 0 to below 1"),
        ("validation_fraction", 1.0, "a number between 0 and 1"),
        ("average", -1, "True, False or a number of rows"),
        ("warm_start", 1, "True or False"),
    ],
)
def test_parameters_are_checked_in_fit(name, value, words):
    model = SoftmaxClassifier(**{name: value})
    with pytest.raises(ValueError, match=f"{name}: expected {words}.*, got {value!r}"):
        model.fit([[0.0], [1.0]], [0, 1])


def test_weights_of_rows_are_checked():
    with pytest.raises(ValueError, match="at least one non-zero"):
        SoftmaxClassifier().fit([[0.0], [1.0]], [0, 1], sample_weight=[0, 0])


def test_arrays_of_jax_are_checked():
    with pytest.raises(ValueError, match="contains NaN or infinity"):
        SoftmaxClassifier().fit(jnp.array([[jnp.nan], [1.0]]), [0, 1])
    with pytest.raises(ValueError, match="Complex data not supported: got dtype complex64"):
        SoftmaxClassifier().fit(jnp.array([[1j], [1.0]]), [0, 1])
    with pytest.raises(ValueError, match="Expected 2D array"):
        SoftmaxClassifier().fit(jnp.zeros(3), [0, 1, 0])
    model = SoftmaxClassifier().fit(jnp.array([[0.0], [1.0]]), [0, 1])
    with pytest.raises(ValueError, match="X has 2 features"):
        model.predict(jnp.zeros((1, 2)))


def test_an_array_of_jax_is_not_copied():
    features = jnp.asarray(RNG.normal(size=(50, 3)).astype(np.float32))
    assert inputs.rows_of(features, 50).features is features


def test_smoothed_labels_lower_confidence():
    features, labels = standardised(load_iris)
    plain, smooth = (
        SoftmaxClassifier(C=1e3, label_smoothing=a, max_iter=1000).fit(features, labels)
        for a in (0.0, 0.2)
    )
    assert smooth.predict_proba(features).max() < 0.97 < plain.predict_proba(features).max()


def test_log_probabilities_are_finite():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SoftmaxClassifier(C=1e6).fit([[0.0], [1.0]], [0, 1])
    found = model.predict_log_proba([[-1e6], [1e6]])
    assert np.isfinite(found).all() and found.min() < -1e6
