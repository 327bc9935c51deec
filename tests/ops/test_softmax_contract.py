"""The derivatives of softmax and log_softmax: 5 eps of their terms, whichever class leads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_softmax import log_softmax, softmax
from tests.ops.softmax_exact import REVERSE, assert_exact

FUNCTIONS = {"softmax": softmax, "log_softmax": log_softmax}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
DTYPES = ["float32", "float64", "bfloat16", "float16"]
LEADS = [0.0, 0.7, 2.0, 5.0, 10.0, 17.0, 30.0, 60.0]

wider_than_float64 = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps


@pytest.fixture(params=DTYPES)
def logits_dtype(request):
    if request.param == "float64" and not wider_than_float64:
        pytest.skip("needs a longdouble wider than float64")
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


@functools.partial(jax.jit, static_argnums=0)
def gradient(name, x, g, where=None):
    return jax.vjp(lambda x: FUNCTIONS[name](x, where=where), x)[1](g)[0]


def check(name, x, g, dtype, where=True):
    x, g = np.asarray(x).astype(dtype), np.asarray(g).astype(dtype)
    given = None if where is True else where
    assert_exact(gradient(name, x, g, given), REVERSE[name](x, g, where), g, dtype)


@every_function
@pytest.mark.parametrize("lead", LEADS)
def test_derivative_where_a_class_leads(name, lead, logits_dtype):
    """The textbook's `p * (g - sum(g * p))` is off by 2,470 eps at a lead of 10."""
    check(name, [[lead, 0, 0.3], [0, lead, 0.3]], [[1, 0.2, -0.5]] * 2, logits_dtype)


def test_derivative_at_the_leader_by_hand():
    """`p_0 sum_i p_i (g_0 - g_i)` of `[10, 0, .3]`, to the digit."""
    x, g = np.float32([10, 0, 0.3]), np.float32([1, 0.2, -0.5])
    e = np.exp(np.float64([0, -10, np.float32(0.3) - np.float64(10)]))
    p = e / e.sum()
    slope = p[0] * (p[1] * (g[0] - np.float64(g[1])) + p[2] * (g[0] - np.float64(g[2])))
    found = jax.vjp(softmax, x)[1](g)[0]
    np.testing.assert_allclose(found[0], slope, rtol=5 * np.finfo(np.float32).eps)


@every_function
@pytest.mark.parametrize("lead", LEADS)
def test_equal_cotangents_have_derivative_0(name, lead, logits_dtype):
    """Exactly, in softmax: all terms are 0."""
    x = np.float32([[lead, 0, 0.3, -1], [lead, lead, lead, 0]])
    check(name, x, np.full((2, 4), 9984), logits_dtype)


@every_function
@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_what_all_cotangents_share_does_not_drown_the_rest(name, lead, offset, logits_dtype):
    """It cancels in softmax; in log_softmax it is a term, and errors are held against it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 40))
    x[np.arange(6), rng.integers(0, 40, 6)] += lead
    g = rng.standard_normal((6, 40)) + offset
    if logits_dtype == np.float16:
        g /= 16  # log_softmax's sum of them is to be a float16
    check(name, x, g, logits_dtype)


@every_function
@pytest.mark.parametrize("others", [1.5, 31.5, 255.5])
def test_the_leader_of_a_row_whose_others_sum_to_nearly_a_power_of_2(name, others, logits_dtype):
    """Its term, as `total - others`, is off by 30 eps and more: the total is where digits end."""
    rng = np.random.default_rng(0)
    x = 1e-3 * rng.standard_normal((2, 600)) + np.log(others / 599)
    x[:, 5] = 0
    check(name, x, rng.standard_normal(x.shape) + 16, logits_dtype)


@every_function
@pytest.mark.parametrize("classes", [1, 2, 130])
def test_derivative_in_every_regime(name, classes, logits_dtype, rng):
    rows = [
        rng.standard_normal(classes),
        30 * rng.standard_normal(classes),
        1000 * rng.standard_normal(classes),
        rng.standard_normal(classes) + 1e4,
        rng.standard_normal(classes) - 1e4,
        np.zeros(classes),
        np.where(rng.random(classes) < 0.5, 20.0, 0.0),  # many leaders
    ]
    for lead in (1.5, 14.0, 60.0):
        row = rng.standard_normal(classes)
        row[rng.integers(classes)] = row.max() + lead
        rows.append(row)
    x = np.stack(rows)
    g = rng.standard_normal(x.shape)
    g[::3] = np.eye(classes)[x[::3].argmax(-1)]  # of the leader alone
    g[1::3] *= rng.random((len(g[1::3]), classes)) < 0.1
    check(name, x, g, logits_dtype)


@every_function
def test_a_cotangent_at_the_leader_alone(name, logits_dtype, rng):
    """All of log_softmax's derivative there is `1 - p`, which must not be 0."""
    x = rng.standard_normal((8, 20))
    x[:, 3] += 25
    g = np.zeros((8, 20))
    g[:, 3] = 1
    check(name, x, g, logits_dtype)
    found = np.asarray(gradient(name, x.astype(np.float32), g.astype(np.float32)))
    assert np.all(found[:, 3] > 0)


@every_function
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=60)
@given(data=st.data())
def test_derivative_of_any_row(name, dtype, data):
    if dtype == "float64" and not wider_than_float64:
        pytest.skip("needs a longdouble wider than float64")
    classes = data.draw(st.one_of(st.integers(2, 8), st.integers(2, 300)))
    scale = data.draw(st.sampled_from([1.0, 5.0, 30.0, 1000.0]))
    shift = data.draw(st.sampled_from([0.0, 1e4, -1e4]))
    lead = data.draw(st.floats(0, 90))
    of_g = data.draw(st.sampled_from([1.0, 1e-3, 65536.0]))
    offset = data.draw(st.sampled_from([0.0, 1.0, 1e4]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    # One shape a case compiles: the classes beyond are left out.
    x = np.full((4, 300), -np.inf)
    x[:, :classes] = scale * rng.standard_normal((4, classes)) + shift
    leaders = rng.integers(0, classes, 3)
    x[np.arange(3), leaders] = x[:3].max(-1) + lead
    g = np.zeros((4, 300))
    g[:, :classes] = of_g * (rng.standard_normal((4, classes)) + offset)
    g[rng.random(g.shape) < data.draw(st.sampled_from([0.0, 0.5]))] = 0
    with jax.enable_x64(dtype == "float64"):
        check(name, x, g, dtype)


@every_function
def test_derivative_under_a_mask_of_classes(name, logits_dtype, rng):
    x = 5 * rng.standard_normal((9, 33))
    x[:, 7] += 30  # leads where it counts
    mask = rng.random((9, 33)) < 0.6
    mask[2] = False
    mask[3] = np.arange(33) == 5
    g = np.where(mask, rng.standard_normal((9, 33)) + 100, 0)
    check(name, x, g, logits_dtype, mask)


@every_function
def test_impossible_classes_have_derivative_0(name, logits_dtype, rng):
    x = 5 * rng.standard_normal((5, 20))
    x[:, 4] += 20
    x[0, 3] = x[1, 4] = -np.inf
    x[2] = -np.inf
    x[3, np.arange(20) != 6] = -np.inf
    g = np.where(np.isneginf(x), 0, rng.standard_normal((5, 20)) + 10)
    check(name, x, g, logits_dtype)
    found = np.asarray(gradient(name, x.astype(logits_dtype), g.astype(logits_dtype)))
    np.testing.assert_array_equal(found[np.isneginf(x)], 0)


def test_a_cotangent_at_an_impossible_class_does_not_matter_to_softmax(logits_dtype, rng):
    x = rng.standard_normal((3, 20))
    x[:, 4] += 20
    x[:, 3] = -np.inf
    g = rng.standard_normal((3, 20))
    g[:, 3] = 3e4
    check("softmax", x, g, logits_dtype)


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_a_cotangent_at_an_impossible_class_reaches_the_others_in_log_softmax(rule):
    """By the formula `(1 - p_k) g_k - p_k sum_{i != k} g_i`; as in `jax.nn`."""
    x, g = np.float32([40, 0, -np.inf]), np.float32([1, 2, 3])
    found = jax.vjp(functools.partial(log_softmax, rule=rule), x)[1](g)[0]
    np.testing.assert_array_equal(found, [-5, 2, 0])


@every_function
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_without_a_softmax_is_nan_and_no_other(name, bad, logits_dtype, rng):
    x = rng.standard_normal((4, 20))
    x[1, 5] += 20
    g = rng.standard_normal((4, 20)) + 100
    expected = np.array(gradient(name, x.astype(logits_dtype), g.astype(logits_dtype)))
    x[2, 6] = bad
    found = np.array(gradient(name, x.astype(logits_dtype), g.astype(logits_dtype)))
    assert np.isnan(found[2].astype(np.float32)).all()
    rest = np.arange(4) != 2
    np.testing.assert_array_equal(found[rest], expected[rest])


@every_function
@pytest.mark.parametrize("axis", [0, 1, (0, 2), (2, 0), None])
def test_derivative_along_any_axis(name, axis, rng):
    x = rng.standard_normal((3, 4, 5)).astype(np.float32)
    x[1, 2, 3] += 20
    g = rng.standard_normal((3, 4, 5)).astype(np.float32) + 50
    found = jax.vjp(lambda x: FUNCTIONS[name](x, axis), x)[1](g)[0]
    axes = (0, 1, 2) if axis is None else axis if isinstance(axis, tuple) else (axis,)

    def rows(a):
        last = np.moveaxis(np.asarray(a), axes, range(3 - len(axes), 3))
        return last.reshape(-1, np.prod([3, 4, 5], where=np.isin(range(3), axes), dtype=int))

    assert_exact(rows(found), REVERSE[name](rows(x), rows(g)), rows(g), np.float32)


# Second derivatives


def textbook(name, x):
    e = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
    p = e / e.sum(-1, keepdims=True)
    return p if name == "softmax" else jnp.log(p)


@every_function
@pytest.mark.parametrize("lead", [0.0, 5.0])
def test_second_derivatives_are_the_textbooks(name, lead, x64, rng):
    x = rng.standard_normal((3, 6))
    x[1, 2] += lead
    x[2, :2] = x[2].max() + lead  # two leaders
    g = rng.standard_normal((3, 6)) + 3

    def squared(f, x):
        return jnp.sum(g * f(x)) + jnp.sum(jnp.sin(f(x)))

    ours = functools.partial(squared, FUNCTIONS[name])
    by_textbook = functools.partial(squared, functools.partial(textbook, name))
    expected = jax.jit(jax.hessian(by_textbook))(x)
    for found in (jax.jit(jax.hessian(ours))(x), jax.jit(jax.jacrev(jax.grad(ours)))(x)):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@every_function
def test_second_derivatives_in_float32(name, rng):
    x = rng.standard_normal((3, 6)).astype(np.float32)
    x[1, 2] += 5
    g = rng.standard_normal((3, 6)).astype(np.float32)
    with jax.enable_x64(True):
        wide = x.astype(np.float64)
        expected = jax.jit(jax.hessian(lambda x: jnp.sum(g * textbook(name, x))))(wide)
    found = jax.jit(jax.hessian(lambda x: jnp.sum(g * FUNCTIONS[name](x))))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)


@every_function
def test_second_derivatives_beside_impossible_classes_are_finite(name, rng):
    x = rng.standard_normal((3, 6)).astype(np.float32)
    x[0, 2], x[1], x[2, 1:] = -np.inf, -np.inf, -np.inf
    g = np.where(np.isneginf(x), 0, rng.standard_normal((3, 6))).astype(np.float32)

    def total(x):
        return jnp.sum(jnp.where(g == 0, 0, g * FUNCTIONS[name](x)))

    found = np.asarray(jax.jit(jax.hessian(total))(x))
    assert np.isfinite(found).all()
    assert np.any(found != 0)
    np.testing.assert_array_equal(found[np.isneginf(x)], 0)
