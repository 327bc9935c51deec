"""Losses near the largest number, and derivatives of any order beside classes of `-inf`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from tests.grids import pairwise

integer = ops.softmax_cross_entropy_with_integer_labels
soft = ops.softmax_cross_entropy
both_rules = pytest.mark.parametrize("rule", ["vjp", "jvp"])

BIG = np.float32(3e38)


@pairwise(rule=["vjp", "jvp"], dtype=[np.float32, np.float64], classes=[2, 40, 384])
def test_a_loss_of_almost_the_largest_number_is_finite(rule, dtype, classes):
    with jax.enable_x64(dtype == np.float64):
        big = dtype(0.88) * np.finfo(dtype).max
        z = np.zeros((1, classes), dtype)
        z[0, 0] = big
        q = np.eye(classes, dtype=dtype)[None, 1]
        expected = np.zeros((1, classes))
        expected[0, :2] = 1, -1
        for loss, labels in ((soft, q), (integer, np.array([1]))):
            total = functools.partial(lambda f, y, z: jnp.sum(f(z, y, rule=rule)), loss, labels)
            value, gradient = jax.jit(jax.value_and_grad(total))(z)
            assert value == big
            np.testing.assert_array_equal(gradient, expected)


@both_rules
def test_huge_losses_with_shares_and_weights(rule):
    z = np.float32([[BIG, 0]])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    close(soft(z, np.float32([[0.5, 0.5]]), rule=rule), [1.5e38])
    close(soft(z, np.float32([[0, 1]]), class_weights=[5.0, 0.5], rule=rule), [1.5e38])
    close(soft(z, np.float32([[1, 0]]), label_smoothing=0.5, rule=rule), [0.75e38])
    close(soft(z, np.float32([[0, 1]]), sample_weight=[0.25], rule=rule), [0.75e38])
    close(soft(np.float32([[BIG, -0.3e38]]), np.float32([[0, 1]]), rule=rule), [3.3e38])


def test_a_loss_beyond_the_largest_number_is_infinite_and_not_nan():
    z = np.float32([[BIG, -BIG], [0, 1]])
    value = np.asarray(soft(z, np.float32([[0, 1], [0, 1]])))
    assert np.isposinf(value[0]) and np.isfinite(value[1])
    gradient = jax.grad(lambda z: jnp.sum(soft(z, np.float32([[0, 1], [0, 1]]))))(z)
    assert np.isfinite(gradient).all()


# By soft labels, beside a class that cannot happen

Z = np.array([[1, -np.inf, -1, 0.5], [0, 2, -np.inf, 1], [3, 1, 0, 2]])
Q = np.array([[0, 0, 0.7, 0.3], [0.2, 0.8, 0, 0], [0, 1, 0, 0]])  # 0 at possible classes too
POSSIBLE = ~np.isneginf(Z)
FINITE = np.where(POSSIBLE, np.log(np.exp(Z).sum(-1))[:, None] - np.where(POSSIBLE, Z, 0), 0)
LOSS = (Q * FINITE).sum(-1)

# Each with its first and second derivative.
FUNCTIONS = {
    "square": (jnp.square, lambda x: 2 * x, lambda x: 2 + 0 * x),
    "exp": (jnp.exp, np.exp, np.exp),
    "sin": (jnp.sin, np.cos, lambda x: -np.sin(x)),
}
WAYS = {
    "forward over reverse": jax.hessian,
    "reverse over reverse": lambda f: jax.jacrev(jax.jacrev(f)),
}


@pairwise(rule=["vjp", "jvp"], way=WAYS, function=FUNCTIONS, smoothing=[0.0, 0.2])
def test_second_derivatives_by_labels(rule, way, function, smoothing, x64):
    """`f''(l) s_j s_k`, which is not 0 at a label of 0, and is 0 where a class cannot happen."""
    if smoothing:
        z, possible = Z[2:], POSSIBLE[2:]  # which `-inf` would make infinite
        q, finite = Q[2:], FINITE[2:]
        loss = ((1 - smoothing) * q * finite + smoothing / 4 * finite).sum(-1)
    else:
        z, possible, q, finite, loss = Z, POSSIBLE, Q, FINITE, LOSS

    outer, first, second = function

    @jax.jit
    def derivatives(q):
        def total(q):
            return jnp.sum(outer(soft(z, q, label_smoothing=smoothing, rule=rule)))

        return jax.grad(total)(q), way(total)(q)

    slope = (1 - smoothing) * finite
    expected = np.zeros((*q.shape, *q.shape))
    rows = np.arange(len(q))
    expected[rows, :, rows] = second(loss)[:, None, None] * (slope[:, :, None] * slope[:, None, :])
    gradient, hessian = derivatives(q)
    np.testing.assert_allclose(gradient, first(loss)[:, None] * slope, rtol=1e-12)
    np.testing.assert_allclose(hessian, expected, rtol=1e-10, atol=1e-12)
    assert possible.any()


@both_rules
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_second_derivatives_by_logits_and_labels(rule, way, x64):
    """The mixed ones too: `d2 l / dq_j dz_k = p_k - (j = k)`, and finite where j cannot happen."""

    def total(both):
        z, q = both
        return jnp.sum(jnp.square(soft(z, q, rule=rule)))

    blocks = jax.tree.leaves(jax.jit(way(total))((jnp.asarray(Z), jnp.asarray(Q))))
    p = np.exp(np.where(POSSIBLE, Z, -np.inf) - np.log(np.exp(Z).sum(-1))[:, None])
    by_z = p * Q.sum(-1, keepdims=True) - Q
    eye = np.eye(4) * POSSIBLE[:, :, None]
    mixed = (p[:, :, None] - eye) * POSSIBLE[:, None, :]  # [row, k of z, j of q]
    by_row = 2 * (by_z[:, :, None] * FINITE[:, None, :] + LOSS[:, None, None] * mixed)
    expected = np.zeros((3, 4, 3, 4))
    expected[np.arange(3), :, np.arange(3)] = by_row
    for block in blocks:
        assert np.isfinite(block).all()
    by_labels = np.where(POSSIBLE, blocks[1], 0)
    np.testing.assert_allclose(by_labels, expected, rtol=1e-10, atol=1e-12)
    by_labels = np.where(POSSIBLE[:, :, None, None], blocks[2], 0)
    np.testing.assert_allclose(by_labels, expected.transpose(2, 3, 0, 1), rtol=1e-10, atol=1e-12)


def test_forward_mode_by_labels_beside_an_impossible_class(x64):
    f = functools.partial(soft, Z, rule="jvp")
    found = np.asarray(jax.jit(jax.jacfwd(f))(jnp.asarray(Q)))
    np.testing.assert_allclose(found[np.arange(3), np.arange(3)], FINITE, rtol=1e-12)
    twice = jax.jacfwd(jax.jacfwd(lambda q: jnp.sum(jnp.square(f(q)))))
    second = jax.jit(twice)(jnp.asarray(Q))
    rows = np.asarray(second)[np.arange(3), :, np.arange(3)]
    np.testing.assert_allclose(rows, 2 * FINITE[:, :, None] * FINITE[:, None, :], rtol=1e-10)
