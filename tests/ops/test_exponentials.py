"""Exponentials of differences against float64, and their derivatives where jax drops a rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax.ops._backends.compensated import exponentials
from tests.tolerances import EXPONENTIAL_EPS, SECOND_DERIVATIVE, assert_close


@pytest.mark.parametrize("shift", [0.0, 1.3, -60.7, 1e4])
def test_error_at_any_distance(shift, rng):
    z = np.float32(np.float32(shift) - np.linspace(0, 87, 20011))
    exact = np.exp(z.astype(np.float64) - np.float64(np.float32(shift)))
    actual = np.asarray(jax.jit(exponentials)(z[None], jnp.float32([shift])))[0]
    normal = exact > np.finfo(np.float32).tiny
    errors = np.abs(actual - exact)[normal] / exact[normal] / np.finfo(np.float32).eps
    assert errors.max() <= EXPONENTIAL_EPS


def test_what_is_out_of_range_is_0():
    z = jnp.float32([-jnp.inf, jnp.finfo(jnp.float32).min, -1e30, -1e4, -200, -104, -88.1])
    for shift in (0.0, 1.0, 1e9, 3e38):
        assert not np.any(exponentials(z[None], jnp.float32([shift])))
    # The next number below a large shift is far below it, and the same number is not.
    large = np.float32(1e30)
    near = jnp.stack([jnp.nextafter(large, 0.0), large])
    np.testing.assert_array_equal(exponentials(near[None], large[None]), [[0, 1]])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivatives_are_the_exponential(order):
    def f(z):
        return exponentials(z, jnp.float32(0))

    g = f
    for _ in range(order):
        g = jax.grad(lambda z, g=g: jnp.sum(g(z)))
    z = jnp.linspace(-40, 0, 101)
    np.testing.assert_array_equal(g(z), f(z))


def test_hessian_of_a_scan():
    """jax 0.10 drops a `custom_jvp` here: what is differentiated then is near."""

    def add(total, z):
        return total + exponentials(z[None], jnp.float32(0)), None

    def f(z):
        return jax.lax.scan(add, jnp.zeros(1), z)[0][0]

    z = jnp.linspace(-5, 0, 11)
    assert_close(jnp.diagonal(jax.hessian(f)(z)), np.exp(z), np.float32, SECOND_DERIVATIVE)
