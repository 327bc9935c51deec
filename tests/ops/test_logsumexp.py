"""`logsumexp`: a number a row to 3 eps, and its derivatives, the softmax, to 5."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import logsumexp
from jax_softmax.testing.exact import LONGDOUBLE_IS_WIDER, tiny
from jax_softmax.testing.regimes import regime_rows
from tests.grids import pairwise
from tests.ops.softmax_exact import probabilities
from tests.tolerances import GRADIENT_EPS, LOSS_EPS, gradient_eps

RULES = ["vjp", "jvp"]


def exact(x):
    """The value, and the sizes of its two terms, `[N]` each."""
    wide = np.asarray(x, np.float64).astype(np.longdouble)
    top = wide.max(-1)
    e = np.exp(wide - top[:, None])
    np.put_along_axis(e, wide.argmax(-1)[:, None], 0, -1)
    log_total = np.log1p(e.sum(-1))
    return top + log_total, np.abs(top) + log_total


@pairwise(classes=[1, 10, 384], rule=RULES, dtype=["float32", "bfloat16", "float16", "float64"])
def test_values_and_derivatives_keep_the_contract(classes, rule, dtype):
    if dtype == "float64" and not LONGDOUBLE_IS_WIDER:
        pytest.skip("this platform's longdouble is no wider than float64")
    with jax.enable_x64(dtype == "float64"):
        logits, _, g = regime_rows(classes, 6, np.random.default_rng(0))
        x = logits.astype(jnp.dtype(dtype))
        wide = np.float64 if dtype == "float64" else np.float32
        g = g.astype(wide)

        @jax.jit
        def both(x, g):
            value, vjp = jax.vjp(functools.partial(logsumexp, rule=rule), x)
            return value, vjp(g)[0]

        value, gradient = both(x, g)
    assert value.dtype == wide and gradient.dtype == x.dtype
    expected, size = exact(x)
    error = np.abs(np.asarray(value, np.float64) - expected)
    assert np.max(error / np.maximum(size, tiny(wide))) <= LOSS_EPS * np.finfo(wide).eps
    p, _ = probabilities(x)
    by_x = p * g[:, None].astype(np.longdouble)
    held = jnp.finfo(dtype)
    seen = (p >= tiny(wide)) & (np.abs(by_x) >= tiny(dtype)) & (np.abs(by_x) <= float(held.max))
    error = np.abs(np.asarray(gradient, np.float64) - by_x)[seen] / np.abs(by_x)[seen]
    assert np.max(error, initial=0) <= gradient_eps(jnp.dtype(dtype)) * held.eps


def test_forward_mode(rng):
    x, v = (rng.standard_normal((4, 40)).astype(np.float32) for _ in range(2))
    f = functools.partial(logsumexp, rule="jvp")
    value, tangent = jax.jvp(f, (x,), (v,))
    p, _ = probabilities(x)
    np.testing.assert_array_equal(value, logsumexp(x))
    error = np.abs(np.asarray(tangent) - (p * v).sum(-1)) / (p * np.abs(v)).sum(-1)
    assert error.max() <= GRADIENT_EPS * np.finfo(np.float32).eps
    with pytest.raises(TypeError, match='rule="jvp"'):
        jax.jvp(logsumexp, (x,), (v,))


@pytest.mark.parametrize("rule", RULES)
def test_second_derivatives(rule, x64, rng):
    x = rng.standard_normal(7)
    x[2] += 5
    found = jax.jit(jax.hessian(functools.partial(logsumexp, rule=rule)))(x)
    p = np.exp(x - x.max())
    p /= p.sum()
    np.testing.assert_allclose(found, np.diag(p) - np.outer(p, p), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), None])
def test_axes_and_masks(axis, rng):
    x = rng.standard_normal((3, 4, 5)).astype(np.float32)
    mask = rng.random((3, 4, 5)) < 0.7
    found = logsumexp(x, axis, mask)
    expected = jax.nn.logsumexp(x, axis, where=mask)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rule", RULES)
def test_impossible_classes_and_rows_that_are_no_numbers(rule):
    x = np.float32([[1, -np.inf, 2], [-np.inf] * 3, [0, np.nan, 1], [0, np.inf, 1]])
    value, vjp = jax.vjp(functools.partial(logsumexp, rule=rule), x)
    np.testing.assert_array_equal(np.isnan(value), [False, False, True, True])
    assert value[1] == -np.inf
    gradient = np.asarray(vjp(jnp.ones(4))[0])
    np.testing.assert_array_equal(gradient[0, 1], 0)
    np.testing.assert_array_equal(gradient[1], 0)
    assert np.isnan(gradient[2:]).all()
    assert logsumexp(np.zeros((0, 3), np.float32)).shape == (0,)
