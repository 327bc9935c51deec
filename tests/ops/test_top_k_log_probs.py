"""The k likeliest of all V classes, in order, the lower of equal ones, over blocks and devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jax_softmax import ops
from jax_softmax.testing.oracle import softmax
from jax_softmax.testing.regimes import regime_rows
from tests.ops.test_linear_products import products
from tests.tolerances import LOSS_EPS

CLASSES = 41


def expected(logits, k):
    """By a stable sort, from the definition in float64."""
    order = np.argsort(-logits.astype(np.float64), -1, kind="stable")[..., :k]
    z = np.take_along_axis(logits.astype(np.float64), order, -1)
    p = softmax(logits)
    largest = logits.max(-1, keepdims=True)
    first = np.arange(logits.shape[-1]) == order[..., :1]
    others = np.where(first, 0, np.exp(logits.astype(np.float64) - largest)).sum(-1, keepdims=True)
    assert p.shape == logits.shape
    return z - largest - np.log1p(others), order


def layer_of(rng, rows=(5,), ties=True):
    """Small whole numbers, whose products are exact: many logits are equal."""
    x = rng.integers(-2, 3, (*rows, 3)).astype(np.float32)
    k = rng.integers(-1, 2, (3, CLASSES)).astype(np.float32)
    return x, k if ties else k + rng.random(k.shape).astype(np.float32)


@pytest.mark.parametrize("classes", [10, 1000, 1024])
def test_values_are_within_the_contract(classes):
    logits = regime_rows(classes, 10, np.random.default_rng(0))[0].astype(np.float32)
    log_probs, indices = jax.jit(ops.top_k_log_probs, static_argnums=1)(logits, 7)
    right, order = expected(logits, 7)
    np.testing.assert_array_equal(indices, order)
    assert indices.dtype == np.int32
    seen = np.abs(right) > np.finfo(np.float32).tiny
    error = np.abs(np.asarray(log_probs, np.float64) - right)[seen] / np.abs(right[seen])
    assert error.max() <= LOSS_EPS * np.finfo(np.float32).eps


@pytest.mark.parametrize("block", [2, (2, 10), (3, 41), (5, 4)])
@pytest.mark.parametrize("k", [1, 6, CLASSES])
def test_of_a_layer_in_blocks_of_rows_and_classes(k, block, rng):
    x, kernel = layer_of(rng)
    found = ops.linear_top_k_log_probs(x, kernel, k, block_size=block)
    log_probs, order = expected(x @ kernel, k)
    np.testing.assert_array_equal(found[1], order)
    np.testing.assert_allclose(found[0], log_probs, rtol=2e-6)


@pytest.mark.parametrize("num_classes", [None, 37])
@pytest.mark.parametrize("k", [1, 9])
def test_over_the_devices_of_classes_and_rows(k, num_classes, rng):
    x, kernel = layer_of(rng, (6,))
    kernel = np.pad(kernel, [(0, 0), (0, 3)])
    classes = CLASSES + 3 if num_classes is None else num_classes
    mesh = jax.sharding.Mesh(np.reshape(jax.devices(), (2, 4)), ("data", "model"))

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P("data"), P(None, "model")),
        out_specs=(P("data"), P("data")),
    )
    def spread(x, kernel):
        return ops.linear_top_k_log_probs(
            x, kernel, k, axis_name="model", num_classes=num_classes, block_size=2
        )

    log_probs, order = expected(x @ kernel[:, :classes], k)
    found = spread(x, kernel)
    np.testing.assert_array_equal(found[1], order)
    np.testing.assert_allclose(found[0], log_probs, rtol=2e-6)
    # Candidates are exchanged, and no logits.
    text = spread.lower(x, kernel).compile().as_text().splitlines()
    gathered = [line for line in text if "all-gather(" in line]
    assert all(f",{4 * k}]" in line for line in gathered)


def test_one_product_and_a_block_of_logits():
    rows, width, classes = 512, 64, 8192
    x, kernel = jnp.zeros((rows, width)), jnp.zeros((width, classes))

    def f(x, kernel):
        return ops.linear_top_k_log_probs(x, kernel, 8, block_size=32)

    assert products(f, x, kernel) == 1
    temporaries = jax.jit(f).lower(x, kernel).compile().memory_analysis().temp_size_in_bytes
    # The logits of a block, and beside them the classes that the largest are picked from.
    assert temporaries <= 4 * 4 * 32 * classes < 0.3 * 4 * rows * classes


def test_options_and_axes(rng):
    z = rng.standard_normal((3, 8, 2)).astype(np.float32)
    found = ops.top_k_log_probs(z, 3, 1, temperature=0.7, soft_cap=2.0)
    moved = 2 * np.tanh(np.moveaxis(z, 1, -1).astype(np.float64) / 2) / 0.7
    log_probs, order = expected(moved, 3)
    np.testing.assert_array_equal(found[1], order)
    np.testing.assert_allclose(found[0], log_probs, rtol=2e-6)


def test_rows_of_infinity_and_nan():
    z = np.float32([[0, -np.inf, -np.inf, 1], [np.nan, 0, 0, 0], [np.inf, 0, 0, 0]])
    log_probs, indices = ops.top_k_log_probs(z, 3)
    np.testing.assert_array_equal(indices[0], [3, 0, 1])
    assert log_probs[0, 2] == -np.inf
    assert np.isnan(log_probs[1:]).all()


def test_half_precision_has_float32_log_probs(rng):
    z = jnp.asarray(rng.standard_normal((3, 300)), jnp.bfloat16)
    log_probs, _ = ops.top_k_log_probs(z, 5)
    assert log_probs.dtype == np.float32
    np.testing.assert_allclose(log_probs, expected(np.asarray(z, np.float32), 5)[0], rtol=1e-6)


def test_gradients_stop(rng):
    x, kernel = layer_of(rng, ties=False)

    def total(x, kernel):
        of_layer, _ = ops.linear_top_k_log_probs(x, kernel, 3)
        return jnp.sum(of_layer) + jnp.sum(ops.top_k_log_probs(x @ kernel, 3)[0])

    for gradient in jax.grad(total, (0, 1))(x, kernel):
        np.testing.assert_array_equal(gradient, 0)


def test_vmap(rng):
    z = rng.standard_normal((4, 3, 12)).astype(np.float32)
    mapped, plain = jax.vmap(lambda z: ops.top_k_log_probs(z, 2))(z), ops.top_k_log_probs(z, 2)
    jax.tree.map(np.testing.assert_array_equal, mapped, plain)


@pytest.mark.parametrize("k", [0, -1, 7])
def test_k_out_of_range_raises(k):
    with pytest.raises(ValueError, match=f"k: expected a number from 1 to the 6 classes, got {k}."):
        ops.top_k_log_probs(np.zeros((2, 6), np.float32), k)
    with pytest.raises(ValueError, match=f"k: expected a number from 1 to the 6 classes, got {k}."):
        ops.linear_top_k_log_probs(np.zeros((2, 3), np.float32), np.zeros((3, 6), np.float32), k)


@pytest.mark.parametrize("k", [1.0, True, "2"])
def test_k_must_be_a_python_integer(k):
    with pytest.raises(TypeError, match="k: expected a Python integer, got"):
        ops.top_k_log_probs(np.zeros((2, 6), np.float32), k)
