"""The numerical contract: losses within 3 eps, gradients within 5, half ones rounded once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from jax_softmax.ops import reference
from jax_softmax.testing.exact import LONGDOUBLE_IS_WIDER, error_in_eps, tiny
from jax_softmax.testing.oracle import options_cross_entropy
from jax_softmax.testing.regimes import REGIMES, regime_rows, worst_by_regime
from tests.tolerances import LOSS_EPS, gradient_eps

DTYPES = ["float32", "bfloat16", "float16", "float64"]
GRID = [(d, v) for d in DTYPES for v in (2, 3, 10, 1000, 50257)] + [("float32", 262144)]


@pytest.fixture
def precision(request):
    """The dtype, with x64 on for float64 and off, as users have it, for the others."""
    name = request.param
    if name == "float64" and not LONGDOUBLE_IS_WIDER:
        pytest.skip("this platform's longdouble is no wider than float64: no oracle for float64")
    with jax.enable_x64(name == "float64"):
        yield jnp.dtype(name)


def inputs(classes, dtype):
    rows = {32768: 5, 50257: 5, 262144: 2}.get(classes, 40)
    logits, labels, cotangents = regime_rows(classes, rows, np.random.default_rng(classes))
    loss_dtype = jnp.promote_types(dtype, jnp.float32)
    return logits.astype(dtype), labels.astype(np.int32), cotangents.astype(loss_dtype)


@jax.jit
def integer_loss_and_gradient(logits, labels, cotangents):
    loss, vjp = jax.vjp(lambda z: ops.softmax_cross_entropy_with_integer_labels(z, labels), logits)
    return loss, vjp(cotangents)[0]


@jax.jit
def one_hot_loss_and_gradient(logits, labels, cotangents):
    q = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    loss, vjp = jax.vjp(lambda z: ops.softmax_cross_entropy(z, q), logits)
    return loss, vjp(cotangents)[0]


def errors(loss_and_gradient, classes, dtype):
    """The worst error of the loss and of the gradient in each regime, in eps.

    Left out are losses below the smallest normal number of their dtype, and derivatives below that
    of theirs, or whose probability is below that of the statistics' dtype (it underflows before the
    cotangent scales it).
    """
    logits, labels, cotangents = inputs(classes, dtype)
    loss, gradient = loss_and_gradient(logits, labels, cotangents)
    assert loss.dtype == cotangents.dtype
    assert gradient.dtype == dtype
    exact = options_cross_entropy(logits, labels).loss
    wide_cotangents = cotangents.astype(exact.gradient.dtype)[:, None]
    exact_gradient = exact.gradient * wide_cotangents
    seen = np.abs(exact.gradient) >= tiny(loss.dtype)
    seen &= np.abs(exact_gradient) >= tiny(dtype)
    loss_error = error_in_eps(loss, exact.value, loss.dtype, exact.value >= tiny(loss.dtype))
    gradient_error = error_in_eps(gradient, exact_gradient, dtype, seen)
    return worst_by_regime(loss_error), worst_by_regime(gradient_error)


def beyond(errors, bound):
    return {regime: error for regime, error in errors.items() if not error <= bound}


@pytest.mark.parametrize(("precision", "classes"), GRID, indirect=["precision"])
def test_integer_labels_keep_the_contract(precision, classes):
    loss, gradient = errors(integer_loss_and_gradient, classes, precision)
    assert not beyond(loss, LOSS_EPS)
    assert not beyond(gradient, gradient_eps(precision))


@pytest.mark.parametrize("classes", [2, 3, 10, 1000, 1024])
def test_one_hot_labels_keep_the_contract(classes):
    loss, gradient = errors(one_hot_loss_and_gradient, classes, jnp.dtype("float32"))
    assert not beyond(loss, LOSS_EPS)
    assert not beyond(gradient, gradient_eps(jnp.float32))


@pytest.mark.parametrize("classes", [384, 1024, 32768])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"], indirect=True)
def test_contract_holds_where_sums_run_over_chunks(precision, classes):
    loss, gradient = errors(integer_loss_and_gradient, classes, precision)
    assert not beyond(loss, LOSS_EPS)
    assert not beyond(gradient, gradient_eps(precision))


def test_oracle_sees_every_regime():
    """The parts left out as underflowing are never a whole regime."""
    logits, labels, _ = inputs(1000, jnp.dtype("float32"))
    exact = options_cross_entropy(logits, labels).loss
    for gradient in np.split(np.abs(exact.gradient), len(REGIMES)):
        assert np.any(gradient >= tiny(jnp.float32), axis=-1).mean() > 0.5


def textbook(logits, labels):
    return reference.softmax_cross_entropy_with_integer_labels(logits, labels)


def jax_nn(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1)[:, 0]


@pytest.mark.parametrize("usual", [textbook, jax_nn])
def test_confident_label_is_lost_by_the_usual_way_and_kept_by_ours(usual):
    logits = np.zeros((1, 10), np.float32)
    logits[0, 3] = 20
    labels = np.array([3], np.int32)
    assert usual(logits, labels)[0] == 0
    assert jax.grad(lambda z: usual(z, labels).sum())(logits)[0, 3] == 0
    loss, gradient = integer_loss_and_gradient(logits, labels, np.ones(1, np.float32))
    exact = options_cross_entropy(logits, labels).loss
    assert loss[0] > 0
    assert gradient[0, 3] < 0
    assert error_in_eps(loss, exact.value, np.float32, True).max() <= LOSS_EPS
    at_label = error_in_eps(gradient[:, 3], exact.gradient[:, 3], np.float32, True)
    assert at_label.max() <= gradient_eps(np.float32)
