"""SoftmaxClassifier over several devices: rows over `data`, classes over `model`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone

from jax_softmax import SoftmaxClassifier
from jax_softmax.classifier import inputs, solve
from jax_softmax.classifier.objective import Problem, Spread
from jax_softmax.errors import InputError
from jax_softmax.training.mesh import MODEL, mesh_of, place

pytestmark = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")

RNG = np.random.default_rng(0)
FEATURES, LABELS = RNG.normal(size=(103, 5)), np.arange(103) % 7
WEIGHTS = RNG.uniform(size=103)


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 4, "model": 2}, {"model": 4}])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
@pytest.mark.parametrize("given", [np.asarray, lambda x: jnp.asarray(x, jnp.float32)])
def test_it_is_the_optimum_of_one_device(mesh, l1_ratio, given):
    """7 classes and 103 rows divide by none of them."""
    features = given(FEATURES)
    model = SoftmaxClassifier(l1_ratio=l1_ratio, C=0.5, tol=1e-6, max_iter=1000)
    one = clone(model).fit(features, LABELS, WEIGHTS)
    many = clone(model).set_params(mesh=mesh).fit(features, LABELS, WEIGHTS)
    assert many.coef_.dtype == features.dtype
    np.testing.assert_allclose(
        many.coef_, one.coef_, atol=1e-4 if many.coef_.itemsize == 4 else 1e-6
    )
    np.testing.assert_allclose(many.intercept_, one.intercept_, atol=1e-4)


def test_two_classes_and_smoothing(monkeypatch):
    monkeypatch.setattr(inputs, "_IN_CACHE", 20)  # several blocks of rows on each device
    model = SoftmaxClassifier(label_smoothing=0.1, tol=1e-8)
    one = clone(model).fit(FEATURES, LABELS > 3)
    many = clone(model).set_params(mesh={"data": 2, "model": 2}).fit(FEATURES, LABELS > 3)
    np.testing.assert_allclose(many.coef_, one.coef_, atol=1e-7)


@pytest.mark.parametrize("factor", [None, np.eye(51, dtype=np.float32)])
def test_neither_rows_nor_classes_are_gathered(factor):
    mesh = mesh_of({"data": 4, "model": 2})
    problem = Problem(
        rows=inputs.rows_of(np.zeros((4000, 50), np.float32), 100, mesh),
        labels=inputs.on_devices(np.zeros(4000, np.int32), mesh),
        weights=inputs.on_devices(np.full(4000, 1 / 4000, np.float32), mesh),
        l2=np.float32(1),
        l1=np.float32(0),
        intercept=np.float32(1),
    )
    w = place(mesh, MODEL, np.zeros((100, 51), np.float32))
    with jax.set_mesh(mesh):
        state = solve.lbfgs.start(w, 10)
        losses = np.zeros(5, np.float32)
        options = {"block": 100, "label_smoothing": 0.0, "spread": Spread(mesh, 100)}
        run = solve.run.fresh()
        compiled = run.lower(
            problem, state, factor, np.float32(0), np.int32(4), losses, **options
        ).compile()
    assert "all-gather" not in compiled.as_text()
    # A device's quarter of the rows, and not more than half of what is kept of the classes.
    kept = 4000 * 50 * 4 / 4 + 25 * 100 * 51 * 4 / 2 + (0 if factor is None else factor.nbytes)
    assert compiled.memory_analysis().argument_size_in_bytes < 1.2 * kept


def test_what_does_not_fit_the_devices_is_an_error():
    with pytest.raises(InputError, match="expected at most the 8 devices"):
        SoftmaxClassifier(mesh={"data": 100}).fit(FEATURES, LABELS)
    with pytest.raises(ValueError, match="expected dense features to spread, got sparse ones"):
        SoftmaxClassifier(mesh={"data": 2}).fit(sparse.csr_array(FEATURES), LABELS)
    with pytest.raises(ValueError, match="mesh: expected None with solver='sgd'"):
        SoftmaxClassifier(mesh={"data": 2}, solver="sgd").fit(FEATURES, LABELS)
