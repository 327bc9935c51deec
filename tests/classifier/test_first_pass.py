"""Where the coefficients are 0 no product tells the value and the gradient: sums of rows do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone

from jax_softmax import SoftmaxClassifier
from jax_softmax.classifier import first_pass, inputs, objective, solve
from jax_softmax.classifier.objective import Problem, Spread
from jax_softmax.training.mesh import MODEL, mesh_of, place

ROWS, WIDTH, CLASSES = 103, 5, 7
RNG = np.random.default_rng(0)
FEATURES, LABELS = RNG.normal(size=(ROWS, WIDTH)), RNG.integers(CLASSES, size=ROWS)


def problem_of(features, mesh=None, intercept=1, dtype=np.float64):
    weights = RNG.uniform(size=ROWS) * (RNG.uniform(size=ROWS) > 0.2)
    return Problem(
        rows=inputs.rows_of(features, 10, mesh),
        labels=inputs.on_devices(LABELS.astype(np.int32), mesh),
        weights=inputs.on_devices((weights / weights.sum()).astype(dtype), mesh),
        l2=dtype(0.1),
        l1=dtype(0),
        intercept=dtype(intercept),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("intercept", [0, 1])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_it_is_what_an_evaluation_says(form, intercept, smoothing):
    with jax.enable_x64(True):
        problem = problem_of(form(FEATURES), intercept=intercept)
        _, sums, _ = first_pass._pass(problem, classes=CLASSES, block=10, spread=None)
        found = first_pass._at_0(sums, CLASSES, smoothing)
        expected = objective.value_and_gradient(
            problem, jnp.zeros((CLASSES, WIDTH + 1)), block=10, label_smoothing=smoothing
        )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-14)


@pytest.mark.parametrize("classes", [2, 50])
def test_long_sums_of_float32_do_not_drift(classes):
    """A million equal numbers of uneven weights, which added one by one are wrong by 1e-3."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(2**20) < 0.9, 0, rng.integers(classes, size=2**20))
    features = rng.integers(2, size=(2**20, 3))
    counts = np.bincount(labels, minlength=classes)
    weights = (1 / counts[labels]) / classes
    problem = Problem(
        rows=inputs.rows_of(features.astype(np.float32), block := 2**16),
        labels=labels.astype(np.int32),
        weights=weights.astype(np.float32),
        l2=0.0,
        l1=0.0,
        intercept=1.0,
    )
    gram, sums, _ = first_pass._pass(problem, classes=classes, block=block, spread=None)
    augmented = np.concatenate([features, np.ones((2**20, 1))], 1)
    expected = np.stack([np.bincount(labels, weights * x, classes) for x in augmented.T], 1)
    np.testing.assert_allclose(sums, expected, rtol=2e-5)
    np.testing.assert_allclose(gram, augmented.T @ (augmented * weights[:, None]), rtol=2e-5)


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 2, "model": 4}, {"model": 2}])
def test_devices_have_their_rows_and_classes(mesh):
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 devices")
    mesh = mesh_of(mesh)
    spread = Spread(mesh, CLASSES)
    with jax.set_mesh(mesh):
        problem = problem_of(FEATURES.astype(np.float32), mesh, dtype=np.float32)
        w = place(mesh, MODEL, np.zeros((CLASSES, WIDTH + 1), np.float32))
        expected = objective.value_and_gradient(problem, w, block=5, spread=spread)
        state = solve.lbfgs.start(w, 3)
        arguments = problem, state, np.float32(1e-9)
        options = {"at_0": True, "block": 5, "label_smoothing": 0.0, "spread": spread}
        program = solve._begun.fresh().lower(*arguments, **options).compile()
        _, found = program(*arguments)
    np.testing.assert_allclose(found.value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(found.gradient, expected[1], atol=1e-7)
    assert "all-gather" not in program.as_text()
    assert found.steps.sharding.shard_shape(found.steps.shape)[1] == len(w) // mesh.shape["model"]


def test_the_sums_as_an_accelerator_makes_them(monkeypatch):
    totals = first_pass._added(
        jnp.ones((3, 2)), jnp.array([2, 0, 2, -1, 3]), jnp.arange(10.0).reshape(5, 2)
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    others = first_pass._added(
        jnp.ones((3, 2)), jnp.array([2, 0, 2, -1, 3]), jnp.arange(10.0).reshape(5, 2)
    )
    assert totals.tolist() == others.tolist() == [[3, 4], [1, 1], [5, 7]]


@pytest.mark.parametrize("warm", [False, True])
def test_a_fit_from_0_evaluates_once_less(warm, monkeypatch):
    evaluated = []
    run = solve.run
    monkeypatch.setattr(solve, "run", lambda *x, **y: evaluated.append(out := run(*x, **y)) or out)
    model = SoftmaxClassifier(warm_start=warm).fit(FEATURES, LABELS)
    model.fit(FEATURES, LABELS)
    last = evaluated[-1][0]
    assert int(last.evaluations) - int(last.iterations) == (1 if warm else 0)
    assert len(model.loss_curve_) == model.n_iter_[0]


def test_the_first_step_is_near_the_optimum_where_rows_end_sure(monkeypatch):
    """At 0 a row is as unsure as can be, and a step by that Hessian goes several times too far."""
    rng, labels = np.random.default_rng(0), np.arange(1000) % 20
    features = rng.normal(size=(20, 100))[labels] + rng.normal(size=(1000, 100))
    classifier = SoftmaxClassifier(tol=1e-6, max_iter=1000)
    model = clone(classifier).fit(features, labels)
    least = model.loss_curve_[-1]
    assert least < model.loss_curve_[0] < 1.3 * least
    monkeypatch.setattr(first_pass, "_SURER", np.ones(1))
    monkeypatch.setattr(first_pass, "_STEPS", np.ones(1))
    monkeypatch.setattr(solve, "_begun", solve._begun.fresh())
    other = clone(classifier).fit(features, labels)
    assert other.loss_curve_[0] > 2 * least
    assert other.n_iter_ > model.n_iter_
    np.testing.assert_allclose(other.coef_, model.coef_, atol=1e-3)


@pytest.mark.parametrize(("rows", "block"), [(103, 10), (103, 103), (39, 39), (4000, 1), (9, 2)])
def test_the_sample_is_of_rows_from_everywhere(rows, block, monkeypatch):
    """However large the blocks are, rows that are sorted among them, with their own weights."""
    monkeypatch.setattr(first_pass, "_SAMPLE", 20)
    weights = np.arange(1, rows + 1, dtype=np.float32)
    problem = Problem(
        rows=inputs.rows_of(np.arange(rows, dtype=np.float32)[:, None], block),
        labels=np.arange(rows, dtype=np.int32),
        weights=weights / weights.sum(),
        l2=0.0,
        l1=0.0,
        intercept=1.0,
    )
    *_, sample = first_pass._pass(problem, classes=rows, block=block, spread=None)
    numbers = np.asarray(sample.rows.features[:, 0])
    assert (numbers == sample.labels).all()
    assert min(rows, 20) <= len(set(numbers)) <= 40
    counted = np.asarray(sample.weights) > 0
    there = np.unique(numbers[counted])
    assert np.diff(there).max() <= max(2, rows / 4)
    assert there[0] <= rows / 4 and there[-1] >= rows * 3 / 4
    shares = np.asarray(sample.weights)[counted] / (numbers[counted] + 1)
    np.testing.assert_allclose(shares, shares[0], rtol=1e-5)
    np.testing.assert_allclose(np.sum(sample.weights), 1, rtol=1e-6)
