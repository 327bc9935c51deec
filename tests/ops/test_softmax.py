"""`softmax` and `log_softmax`: values, axes, `where`, dtypes and rows that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from jax_softmax.ops import reference
from jax_softmax.testing import oracle
from tests.ops.compiled import value_and_gradient
from tests.tolerances import VALUE, assert_close

INF = np.inf
both_regimes = pytest.mark.parametrize("classes", [6, 384])


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3, (0, 2), (2, 0), (-1, 1), (1,), None])
def test_axes(axis, rng):
    """Eagerly."""
    x, g = (rng.standard_normal((3, 4, 4)).astype(np.float32) for _ in range(2))
    axes = (0, 1, 2) if axis is None else axis
    p = oracle.softmax(x, axes)

    value, vjp = jax.vjp(lambda x: ops.softmax(x, axis), x)
    assert_close(value, p, np.float32)
    assert_close(vjp(g)[0], p * (g - (g * p).sum(axes, keepdims=True)), np.float32)

    value, vjp = jax.vjp(lambda x: ops.log_softmax(x, axis), x)
    assert_close(value, np.log(p), np.float32)
    assert_close(vjp(g)[0], g - p * g.sum(axes, keepdims=True, dtype=np.float64), np.float32)


@pytest.mark.parametrize("shape", [(5,), (3, 1), (2, 3, 7), (4, 384), (2, 0, 384)])
def test_shapes(shape, dtype, rng):
    x = (10 * rng.standard_normal(shape)).astype(dtype)
    p, log_p = ops.softmax(x), ops.log_softmax(x)
    assert p.shape == log_p.shape == shape
    assert p.dtype == log_p.dtype == dtype
    if x.size:
        assert_close(p, oracle.softmax(x), dtype)
        assert_close(log_p, np.log(oracle.softmax(x)), dtype)


def test_values_match_reference(dtype, rng):
    x = (10 * rng.standard_normal((5, 7))).astype(dtype)
    keep = rng.random(x.shape) < 0.7
    assert_close(ops.softmax(x, -1, keep), reference.softmax(x, -1, keep), dtype)
    assert_close(ops.log_softmax(x, -1, keep), reference.log_softmax(x, -1, keep), dtype)


def test_float32_stays_float32_with_x64_on(x64, rng):
    x = rng.standard_normal((4, 384)).astype(np.float32)
    for f in (ops.softmax, ops.log_softmax):
        assert all(y.dtype == np.float32 for y in value_and_gradient(f, x, g=x))


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@both_regimes
def test_half_precision_is_computed_in_float32_and_rounded_once(half, classes, rng):
    x = jnp.asarray(10 * rng.standard_normal((4, classes)), half)
    p = oracle.softmax(x)
    assert ops.softmax(x).dtype == x.dtype
    assert_close(ops.softmax(x), p, x.dtype)
    log_p, gradient = value_and_gradient(ops.log_softmax, x, g=jnp.ones_like(x))
    assert log_p.dtype == gradient.dtype == x.dtype
    assert_close(log_p, np.log(p), x.dtype)
    assert_close(gradient, 1 - classes * p, x.dtype, scale=classes)


def test_neither_overflows_nor_loses_confident_rows():
    x = np.array([[1000, 0], [-1000, 0], [20, 0]], np.float32)
    np.testing.assert_array_equal(ops.softmax(x)[:2], [[1, 0], [0, 1]])
    log_p = np.asarray(ops.log_softmax(x), np.float64)
    np.testing.assert_array_equal(log_p[0], [0, -1000])
    np.testing.assert_allclose(log_p[2, 0], -np.log1p(np.exp(-20.0)), rtol=VALUE["float32"].rtol)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@both_regimes
def test_where_over_classes(name, classes, rng):
    x, g = (rng.standard_normal((5, classes)).astype(np.float32) for _ in range(2))
    keep = rng.random(x.shape) < 0.6
    keep[:, 0] = True
    if name == "log_softmax":
        g = np.where(keep, g, 0)  # its value elsewhere is -inf
    hidden = np.where(keep, x, np.nan)  # what is left out must not matter
    actual = value_and_gradient(getattr(ops, name), hidden, g=g, where=keep)
    expected = value_and_gradient(getattr(reference, name), x, g=g, where=keep)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, np.float32)
    assert np.all(np.asarray(actual[1])[~keep] == 0)


def test_where_over_rows_empties_them():
    x = np.full((5, 6), np.nan, np.float32)
    x[0] = np.arange(6)
    keep = np.array([True, False, False, False, False])
    p, gradient = value_and_gradient(ops.softmax, x, g=np.ones_like(x), where=keep)
    assert_close(p[0], oracle.softmax(x[0]), np.float32)
    np.testing.assert_array_equal(p[1:], 0)
    np.testing.assert_array_equal(gradient[1:], 0)
    np.testing.assert_array_equal(ops.log_softmax(x, where=keep)[1:], -INF)


def test_where_moves_with_the_axis(rng):
    x = rng.standard_normal((4, 3)).astype(np.float32)
    keep = np.array([[True], [True], [False], [True]])  # broadcasts over axis 1
    turned = ops.softmax(x.T, -1, np.broadcast_to(keep.T, (3, 4)))
    assert_close(ops.softmax(x, 0, keep), turned.T, np.float32)


@pytest.mark.parametrize(("name", "empty"), [("softmax", 0.0), ("log_softmax", -INF)])
@both_regimes
def test_rows_that_are_not_finite(name, empty, classes):
    """A NaN or +inf spoils its own row; -inf is a class that cannot happen."""
    x = np.zeros((5, classes), np.float32)
    x[0, 1], x[1, 1], x[2, 1], x[3] = np.nan, INF, -INF, -INF
    x[0, 2] = x[1, 2] = -INF
    g = np.arange(x.size, dtype=np.float32).reshape(x.shape)
    value, gradient = map(np.asarray, value_and_gradient(getattr(ops, name), x, g=g))
    assert np.all(np.isnan(value[:2]))
    assert np.all(np.isnan(gradient[:2]))
    assert value[2, 1] == empty
    assert gradient[2, 1] == 0
    np.testing.assert_array_equal(value[3], empty)
    np.testing.assert_array_equal(gradient[3], 0)
    assert np.all(np.isfinite(gradient[2:]))
    p = np.exp(value.astype(np.float64)) if name == "log_softmax" else value
    assert_close(np.delete(p[2], 1), np.full(classes - 1, 1 / (classes - 1)), np.float32)
    assert_close(p[4], np.full(classes, 1 / classes), np.float32)


def test_functions_are_the_same_eagerly_and_under_jit(rng):
    x = rng.standard_normal((4, 384)).astype(np.float32)
    for f in (ops.softmax, ops.log_softmax):
        np.testing.assert_array_equal(f(x), jax.jit(f)(x))
