"""`rule="jvp"` of softmax and log_softmax: forward mode, and reverse mode as exact as ever."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import log_softmax, softmax
from tests.grids import each_once
from tests.ops.softmax_exact import FORWARD, REVERSE, assert_exact
from tests.ops.test_memory import residuals, split

FUNCTIONS = {
    "softmax": functools.partial(softmax, rule="jvp"),
    "log_softmax": functools.partial(log_softmax, rule="jvp"),
}
DEFAULTS = {"softmax": softmax, "log_softmax": log_softmax}
every_function = pytest.mark.parametrize("name", FUNCTIONS)

wider_than_float64 = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps


@pytest.fixture(params=["float32", "float64", "bfloat16", "float16"])
def logits_dtype(request):
    if request.param == "float64" and not wider_than_float64:
        pytest.skip("needs a longdouble wider than float64")
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


def rows(classes, rng, offset=0.0):
    """Logits in all regimes, and tangents or cotangents with `offset` in common."""
    x = [
        rng.standard_normal(classes),
        30 * rng.standard_normal(classes),
        rng.standard_normal(classes) + 1e4,
        np.zeros(classes),
    ]
    for lead in (1.5, 5.0, 10.0, 17.0, 30.0, 60.0):
        row = rng.standard_normal(classes)
        row[rng.integers(classes)] = row.max() + lead
        x.append(row)
    return np.stack(x), rng.standard_normal((len(x), classes)) + offset


@functools.partial(jax.jit, static_argnums=0)
def derivatives(name, x, v, where=None):
    """The tangent by `jax.jvp` and by `jax.linearize`, and the cotangent by `jax.vjp`."""
    f = functools.partial(FUNCTIONS[name], where=where)
    return jax.jvp(f, (x,), (v,))[1], jax.linearize(f, x)[1](v), jax.vjp(f, x)[1](v)[0]


@every_function
@each_once(offset=[0.0, 500.0, 0.0, 500.0], classes=[1, 3, 40, 40])
def test_tangents_and_cotangents_hold_the_contract(name, classes, offset, logits_dtype, rng):
    x, v = (a.astype(logits_dtype) for a in rows(classes, rng, offset))
    tangent, linear, cotangent = derivatives(name, x, v)
    assert_exact(tangent, FORWARD[name](x, v), v, logits_dtype)
    assert_exact(linear, FORWARD[name](x, v), v, logits_dtype)
    assert_exact(cotangent, REVERSE[name](x, v), v, logits_dtype)


@every_function
def test_without_jit_too(name):
    x, v = np.float32([[10, 0, 0.3]]), np.float32([[1, 0.2, -0.5]])
    tangent = jax.jvp(FUNCTIONS[name], (x,), (v,))[1]
    assert_exact(tangent, FORWARD[name](x, v), v, np.float32)
    linear = jax.linearize(FUNCTIONS[name], x)[1](v)
    assert_exact(linear, FORWARD[name](x, v), v, np.float32)


@every_function
@pytest.mark.parametrize("lead", [0.0, 10.0, 30.0])
def test_jacobians_forward_and_reverse(name, lead, rng):
    """Row by row: forward the columns of the Jacobian, in reverse its rows."""
    x = rng.standard_normal(7).astype(np.float32)
    x[2] += lead
    one = np.eye(7, dtype=np.float32)
    f = FUNCTIONS[name]
    many = np.repeat(x[None], 7, 0)
    assert_exact(jax.jit(jax.jacfwd(f))(x).T, FORWARD[name](many, one), one, np.float32)
    assert_exact(jax.jit(jax.jacrev(f))(x), REVERSE[name](many, one), one, np.float32)


@every_function
@pytest.mark.parametrize("axis", [0, (0, 2), None])
def test_values_are_those_of_the_default_rule(name, axis, logits_dtype, rng):
    x = (5 * rng.standard_normal((3, 4, 5))).astype(logits_dtype)
    mask = rng.random((3, 4, 5)) < 0.8
    for where in (None, mask):
        found = FUNCTIONS[name](x, axis, where)
        np.testing.assert_array_equal(found, DEFAULTS[name](x, axis, where))
        assert found.dtype == logits_dtype


@every_function
def test_forward_mode_under_a_mask_and_at_impossible_classes(name, rng):
    x, v = (a.astype(np.float32) for a in rows(20, rng, 10))
    mask = rng.random(x.shape) < 0.7
    mask[np.arange(len(x)), x.argmax(-1)] = True
    x[0, 3] = x[5, 3] = -np.inf
    mask[1] = False
    x[2] = -np.inf
    tangent, linear, _ = derivatives(name, x, v, mask)
    possible = mask & ~np.isneginf(x)
    exact = FORWARD[name](x, v, mask)
    for found in map(np.array, (tangent, linear)):
        assert np.isfinite(found).all()
        if name == "softmax":
            np.testing.assert_array_equal(found[~possible], 0)
        found[~possible] = 0
        held = exact._replace(value=np.where(possible, exact.value, 0))
        assert_exact(found, held, v, np.float32)


@every_function
def test_a_nan_row_has_nan_tangents_and_no_other(name, rng):
    x, v = (a.astype(np.float32) for a in rows(20, rng))
    expected = np.array(derivatives(name, x, v)[0])
    x[3, 4] = np.nan
    found = np.array(derivatives(name, x, v)[0])
    assert np.isnan(found[3]).all()
    rest = np.arange(len(x)) != 3
    np.testing.assert_array_equal(found[rest], expected[rest])


def textbook(name, x):
    e = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
    p = e / e.sum(-1, keepdims=True)
    return p if name == "softmax" else jnp.log(p)


def squared(f, g, x):
    return jnp.sum(g * f(x)) + jnp.sum(jnp.sin(f(x)))


@functools.partial(jax.jit, static_argnums=0)
def textbooks_hessian(name, g, x):
    return jax.hessian(functools.partial(squared, functools.partial(textbook, name), g))(x)


WAYS = {
    "forward over reverse": jax.hessian,
    "reverse over reverse": lambda f: jax.jacrev(jax.jacrev(f)),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f)),
}


@every_function
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_second_derivatives_are_the_textbooks(name, way, x64, rng):
    x = rng.standard_normal((3, 5))
    x[1, 2] += 5
    x[2, :2] = x[2].max() + 2
    g = rng.standard_normal((3, 5)) + 3

    found = jax.jit(way(functools.partial(squared, FUNCTIONS[name], g)))(x)
    np.testing.assert_allclose(found, textbooks_hessian(name, g, x), rtol=1e-10, atol=1e-12)


@every_function
def test_under_vmap_scan_and_checkpoint(name, rng):
    x, v = (a.astype(np.float32) for a in rows(6, rng, 5))
    f = FUNCTIONS[name]

    def tangent(f, x, v):
        return jax.jvp(f, (x,), (v,))[1]

    def scanned(x, v):
        return jax.lax.scan(lambda _, a: (None, tangent(f, *a)), None, (x, v))[1]

    for found in (
        jax.jit(jax.vmap(functools.partial(tangent, f)))(x, v),
        jax.jit(scanned)(x, v),
        jax.jit(functools.partial(tangent, jax.checkpoint(f)))(x, v),
    ):
        assert_exact(found, FORWARD[name](x, v), v, np.float32)


@every_function
def test_reverse_mode_keeps_the_logits_and_a_few_numbers_a_row(name):
    logits = jnp.zeros((16, 1000), jnp.float32)
    large, bytes_a_row = split(residuals(FUNCTIONS[name], logits), logits.shape)
    assert large == [(logits.shape, np.dtype(np.float32))]
    assert bytes_a_row <= 48


@every_function
@pytest.mark.parametrize("rule", ["jacobian", None, "VJP"])
def test_rule_must_be_known(name, rule):
    with pytest.raises(ValueError, match="rule: expected 'vjp' or 'jvp', got "):
        DEFAULTS[name](np.zeros((2, 3), np.float32), rule=rule)
