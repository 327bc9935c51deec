"""float16 has 5 bits of exponent: what is kept of gradients must not run out of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.linear import loss, unfused_loss

EYE = np.eye(4, dtype=np.float16)
LABELS = np.zeros(6, np.int32)


def features():
    """With an identity for a kernel: logits whose gradients are the features'."""
    return np.random.default_rng(0).standard_normal((6, 4)).astype(np.float16)


def gradients(x, total):
    """By the fused loss, and in float32 by the loss on logits."""

    def by_logits(x):
        return total(lambda x, **options: unfused_loss(x, LABELS, **options))(x)

    def fused(x):
        return total(lambda x, **options: loss(x, EYE, LABELS, block_size=4, **options))(x)

    exact = jax.jit(jax.grad(by_logits))(x.astype(np.float32))
    return np.asarray(jax.jit(jax.grad(fused))(x), np.float64), np.asarray(exact, np.float64)


def assert_half_close(actual, expected):
    """Rounded to float16 once or twice; its subnormals are multiples of 2^-24."""
    np.testing.assert_allclose(actual, expected, rtol=2**-10, atol=2**-24)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("scale", [2.0**-6, 2.0**-10, 2.0**-14])
def test_small_gradients_are_not_flushed_to_0(scale, reduction):
    """Below 6.1e-5 float16 has subnormals, which the loss on logits keeps."""

    def total(f):
        return lambda x: jnp.float32(scale) * jnp.sum(f(x, reduction=reduction))

    assert_half_close(*gradients(features(), total))


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize(("weight", "g"), [(2.0**-20, 2.0**20), (2.0**20, 2.0**-20), (1e-12, 1e9)])
def test_cotangent_brings_back_what_float16_cannot_hold(weight, g, reduction):
    """A scaled loss: weights of rows (or the mean over many) make gradients small, g large again.

    Or large, and g small again. What is kept until g comes must be rounded by neither.
    """
    weights = np.full(6, weight, np.float32)

    def total(f):
        return lambda x: jnp.float32(g) * jnp.sum(f(x, sample_weight=weights, reduction=reduction))

    assert_half_close(*gradients(features(), total))


def test_loss_scaling_of_a_mean_over_many_rows():
    """65536 times a mean over 4096 confident rows: the gradient is 6e-3, and 1e-7 before."""
    rows = 4096
    x = np.zeros((rows, 2), np.float16)
    x[:, 0] = 1
    kernel = np.array([[9, 0, 0], [1, 2, 3]], np.float16)
    labels = np.zeros(rows, np.int32)

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(f, x):
        return jax.grad(lambda x: 65536 * f(x))(x)

    actual = gradient(lambda x: loss(x, kernel, labels, block_size=512), x)
    expected = gradient(
        lambda x: unfused_loss(x @ kernel.astype(np.float32), labels, reduction="mean"),
        x.astype(np.float32),
    )
    assert_half_close(np.asarray(actual, np.float64), np.asarray(expected, np.float64))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_row_that_is_no_number_spoils_no_other_of_its_block(bad):
    """Their gradients share a power of two, which the row must not choose."""
    spoilt = features()
    spoilt[1, 0] = bad
    actual, expected = gradients(spoilt, lambda f: lambda x: 100 * jnp.sum(f(x, reduction="none")))
    others = np.arange(6) != 1
    assert np.all(np.isnan(actual[1]))
    assert_half_close(actual[others], expected[others])


def test_gradients_far_below_float16_are_0_and_not_nan():
    """A block whose largest gradient is 2^-120: no power of two that float32 has brings it up."""
    weights = np.full(6, 1e-36, np.float32)

    def total(x):
        return loss(x, EYE, LABELS, sample_weight=weights, reduction="sum", block_size=4)

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(features()), 0)
