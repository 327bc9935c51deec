"""Divergences and both their derivatives, in eps of their terms, from near rows to far ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from jax_softmax.testing.divergence import PAIR_REGIMES, exact_divergence, pair_rows
from jax_softmax.testing.exact import LONGDOUBLE_IS_WIDER
from tests.tolerances import CONTRACT, assert_close

DIRECTIONS = ("forward", "reverse", "js")
DIVERGENCE_EPS = CONTRACT.divergence
LEAST = 1e-32  # of a probability: what is below it may underflow, or its products
wide_only = pytest.mark.skipif(not LONGDOUBLE_IS_WIDER, reason="nothing is wider than float64")


@functools.partial(jax.jit, static_argnames=("options",))
def pulled_back(z, t, g, options):
    """The divergence, and its gradients by both logits."""
    value, pull = jax.vjp(lambda z, t: ops.softmax_kl_divergence(z, t, **dict(options)), z, t)
    return value, pull(g)


def run(z, t, g, **options):
    return pulled_back(z, t, g, tuple(sorted(options.items())))


def made(classes, rows, dtype):
    rng = np.random.default_rng(classes)
    z, t = (np.asarray(jnp.asarray(x, dtype)) for x in pair_rows(classes, rows, rng))
    wide = jnp.promote_types(dtype, np.float32)
    return z, t, rng.standard_normal(len(z)).astype(wide)


def by_regime(error):
    parts = zip(PAIR_REGIMES, np.split(error, len(PAIR_REGIMES)), strict=True)
    return {name: float(part.max()) for name, part in parts}


def errors(found, right, size, seen, dtype):
    off = np.abs(np.asarray(found).astype(np.float64).astype(np.longdouble) - right)
    return np.where(seen, off / np.where(seen, size, 1), 0) / float(jnp.finfo(dtype).eps)


def assert_within(error, bound):
    worst = by_regime(error)
    assert all(x <= bound for x in worst.values()), worst


def sides(exact, g, gradients):
    """Each gradient with what it should be, its size, and where nothing underflows."""
    g = g.astype(np.longdouble)[:, None]
    seen = np.minimum(exact.student, exact.teacher) > LEAST
    for found, by in zip(gradients, (exact.by_student, exact.by_teacher), strict=True):
        right, size = g * by.value, np.abs(g) * by.size
        yield found, right, size, seen & (size > LEAST)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("dtype", "classes"),
    [
        ("float32", 2),
        ("float32", 10),
        ("float32", 300),
        # Of two classes too, where the logarithm of 1 + x matters most (see `_log1p`).
        pytest.param("float64", 2, marks=wide_only),
        pytest.param("float64", 10, marks=wide_only),
    ],
)
def test_the_contract(dtype, classes, direction):
    with jax.enable_x64(dtype == "float64"):
        z, t, g = made(classes, 8 if classes == 300 else 60, dtype)
        value, gradients = run(z, t, g, direction=direction)
    exact = exact_divergence(z, t, direction)
    assert value.dtype == dtype
    seen = exact.value > LEAST
    assert_within(errors(value, exact.value, exact.value, seen, dtype), DIVERGENCE_EPS)
    for found, right, size, seen in sides(exact, g, gradients):
        assert found.dtype == dtype
        assert_within(errors(found, right, size, seen, dtype), DIVERGENCE_EPS)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype, direction):
    """The value is float32's; a gradient may be off by one rounding, and what float32 is off by."""
    z, t, g = made(10, 20, dtype)
    value, gradients = run(z, t, g, direction=direction)
    exact = exact_divergence(z, t, direction)
    assert value.dtype == np.float32
    seen = exact.value > LEAST
    assert_within(errors(value, exact.value, exact.value, seen, "float32"), DIVERGENCE_EPS)
    for found, right, size, seen in sides(exact, g, gradients):
        assert found.dtype == dtype
        least = float(jnp.finfo(dtype).tiny)
        seen &= np.abs(right) > least
        slack = DIVERGENCE_EPS * float(jnp.finfo(np.float32).eps) * size
        off = np.abs(np.asarray(found).astype(np.longdouble) - right) - slack
        error = np.where(seen, off / np.where(seen, np.abs(right), 1), 0)
        assert_within(error / float(jnp.finfo(dtype).eps), 0.5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_equal_rows_are_0_and_near_ones_are_not(direction, rng):
    t = (5 * rng.standard_normal((6, 40))).astype(np.float32)
    value, gradients = run(t, t, np.ones(6, np.float32), direction=direction)
    for x in (value, *gradients):
        np.testing.assert_array_equal(x, 0)
    near = np.nextafter(t, np.float32(np.inf))
    value, _ = run(near, t, np.ones(6, np.float32), direction=direction)
    assert (value > 0).all()


def test_the_textbook_is_not_within_the_contract():
    """So the regimes tell the two apart."""
    z, t, _ = made(10, 20, np.float32)
    log_q, log_p = jax.nn.log_softmax(z), jax.nn.log_softmax(t)
    textbook = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
    exact = exact_divergence(z, t, "forward").value
    worst = by_regime(errors(textbook, exact, exact, exact > LEAST, np.float32))
    assert worst["near by 1e-6"] > 1e4 and worst["near by 1e-3"] > 100


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_shift_of_all_classes_changes_no_bit(direction, rng):
    """Of numbers that stay exact when they are shifted."""
    z, t = rng.integers(-80, 80, (2, 9, 30)).astype(np.float32) / 16
    g = rng.standard_normal(9).astype(np.float32)
    plain, shifted = (run(z + a, t + b, g, direction=direction) for a, b in ((0, 0), (512, -64)))
    jax.tree.map(np.testing.assert_array_equal, plain, shifted)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_options_are_those_of_the_definition(direction, x64, rng):
    z, t = 3 * rng.standard_normal((2, 7, 12))
    where = rng.random(z.shape) < 0.7
    where[:, 0] = True
    options = {"soft_cap": 2.5, "temperature": 0.7}
    g = rng.standard_normal(7)

    @jax.jit
    def pulled(z, t):
        value, pull = jax.vjp(
            lambda z, t: ops.softmax_kl_divergence(z, t, -1, where, direction=direction, **options),
            z,
            t,
        )
        return value, *pull(g)

    exact = exact_divergence(z, t, direction, where=where, **options)
    slopes = (by.value * g[:, None] for by in (exact.by_student, exact.by_teacher))
    for found, right in zip(pulled(z, t), (exact.value, *slopes), strict=True):
        assert_close(found, right.astype(np.float64), np.float64)


def definition(z, t, direction):
    log_q, log_p = jax.nn.log_softmax(z), jax.nn.log_softmax(t)
    q, p = jnp.exp(log_q), jnp.exp(log_p)
    if direction == "forward":
        return jnp.sum(p * (log_p - log_q))
    if direction == "reverse":
        return jnp.sum(q * (log_q - log_p))
    log_m = jnp.log((p + q) / 2)
    return jnp.sum(p * (log_p - log_m) + q * (log_q - log_m)) / 2


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_second_derivatives(rule, direction, x64, rng):
    """By each of the logits, and by both, as `jax.hessian` has them."""
    z, t = rng.standard_normal((2, 6))
    t[2] += 4

    def ours(z, t):
        return ops.softmax_kl_divergence(z, t, direction=direction, rule=rule)

    found = jax.jit(jax.hessian(ours, (0, 1)))(z, t)
    right = jax.hessian(functools.partial(definition, direction=direction), (0, 1))(z, t)
    jax.tree.map(lambda a, b: assert_close(a, b, np.float64), found, right)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_forward_mode_is_the_transpose(direction, x64, rng):
    z, t, v, w = rng.standard_normal((4, 3, 9))
    g = rng.standard_normal(3)

    def f(z, t):
        return ops.softmax_kl_divergence(z, t, direction=direction, rule="jvp")

    _, along = jax.jit(lambda *x: jax.jvp(f, x[:2], x[2:]))(z, t, v, w)
    _, (by_z, by_t) = run(z, t, g, direction=direction)
    np.testing.assert_allclose(np.sum(g * along), np.sum(v * by_z + w * by_t), rtol=1e-12)
