"""Calls of one shape in one program, of which each differentiates other arguments.

JAX traces a jitted function once for all of them, and keeps one tree of what its forward rule
returned, that of the last call.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import (
    contrastive_cross_entropy,
    linear_kl_divergence,
    linear_softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)

X, OTHER, K = np.random.default_rng(0).standard_normal((3, 6, 6)).astype(np.float32)
B = np.zeros(6, np.float32)
Y = np.arange(6)


def dense(x, k, b):
    z = x.astype(jnp.float32) @ k.astype(jnp.float32) + b.reshape(1, 6)
    return -jnp.mean(jax.nn.log_softmax(z)[Y, Y])


def thrice(loss):
    """Features and kernel, the kernel, and the features are differentiated."""

    def total(x, k, b):
        other = jnp.asarray(OTHER, x.dtype)
        return loss(x, k, b) + 2 * loss(other, k, B) + 3 * loss(x, other, B)

    return jax.jit(jax.grad(total, (0, 1, 2)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", ["vjp", "jvp"])
@pytest.mark.parametrize("options", ["mean", "none", "statistics"])
def test_a_layers_gradients_are_those_of_the_plain_loss(options, rule, dtype):
    def loss(x, k, b):
        given = {"bias": b, "rule": rule, "block_size": 4}
        if options == "statistics":
            value, stats = linear_softmax_cross_entropy(x, k, Y, return_stats=True, **given)
            return value + jnp.mean(stats.label_log_prob)
        return jnp.mean(linear_softmax_cross_entropy(x, k, Y, reduction=options, **given))

    arrays = jnp.asarray(X, dtype), jnp.asarray(K, dtype), B
    found, expected = thrice(loss)(*arrays), thrice(dense)(*arrays)
    if options == "statistics":  # the loss and its negative
        expected = jax.tree.map(jnp.zeros_like, expected)
    tolerance = 2e-6 if dtype == "float32" else 0.02
    for actual, exact in zip(found, expected, strict=True):
        assert np.abs(np.float32(actual) - np.float32(exact)).max() < tolerance


def test_a_teachers_student():
    def loss(x, k, b):
        return linear_kl_divergence(x, k, OTHER, K, bias=b)

    def plain(x, k, b):
        p = jax.nn.softmax(jnp.asarray(OTHER) @ K)
        q = jax.nn.log_softmax(x @ k + b.reshape(1, 6))
        return jnp.mean(jnp.sum(p * (jnp.log(p) - q), -1))

    for actual, exact in zip(thrice(loss)(X, K, B), thrice(plain)(X, K, B), strict=True):
        np.testing.assert_allclose(actual, exact, rtol=1e-4, atol=1e-6)


def test_one_tower_of_two():
    def plain(a):
        z = a @ K.T
        both = jax.nn.log_softmax(z)[Y, Y] + jax.nn.log_softmax(z.T)[Y, Y]
        return -jnp.mean(both) / 2

    found = jax.jit(jax.grad(lambda a: contrastive_cross_entropy(a, K)))(X)
    np.testing.assert_allclose(found, jax.grad(plain)(X), rtol=1e-5, atol=1e-6)


def test_a_total_of_logits_that_reads_them_once():
    """Of rows enough that value and gradient are taken together."""
    rng = np.random.default_rng(1)
    z, other = rng.standard_normal((2, 4096, 512)).astype(np.float32)
    labels, w = rng.integers(0, 512, 4096), np.full(4096, 2, np.float32)

    def mean(z, w):
        return softmax_cross_entropy_with_integer_labels(
            z, labels, sample_weight=w, reduction="sum"
        )

    def total(mean, z, w):
        return mean(z, w) + 2 * mean(jnp.asarray(other), w) + 3 * mean(z, jnp.ones_like(w))

    def plain(z, w):
        return jnp.sum(w * -jax.nn.log_softmax(z)[np.arange(4096), labels])

    found = jax.jit(jax.grad(lambda z, w: total(mean, z, w), (0, 1)))(z, w)
    expected = jax.jit(jax.grad(lambda z, w: total(plain, z, w), (0, 1)))(z, w)
    for actual, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(actual, exact, rtol=1e-4, atol=1e-5)
