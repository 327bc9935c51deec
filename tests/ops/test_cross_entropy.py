"""The two losses on logits: values, labels, axes, shapes, dtypes and reductions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from jax_softmax.ops import reference
from jax_softmax.testing import oracle
from tests.ops.compiled import value_and_gradient
from tests.tolerances import assert_close

integer_loss = ops.softmax_cross_entropy_with_integer_labels
soft_loss = ops.softmax_cross_entropy


def one_hot(labels, classes, dtype=np.float32):
    return np.eye(classes, dtype=dtype)[labels]


@pytest.mark.parametrize("shape", [(5,), (3, 1), (4, 384), (2, 1, 3, 2)])
def test_values_match_numpy(shape, dtype, rng):
    logits = (10 * rng.standard_normal(shape)).astype(dtype)
    labels = rng.integers(0, shape[-1], shape[:-1])
    q = rng.random(shape).astype(dtype)  # sums to anything
    integer, soft = integer_loss(logits, labels), soft_loss(logits, q)
    assert integer.shape == soft.shape == shape[:-1]
    assert integer.dtype == soft.dtype == dtype
    assert_close(integer, oracle.cross_entropy(logits, one_hot(labels, shape[-1]))[0], dtype)
    assert_close(soft, oracle.cross_entropy(logits, q)[0], dtype)


def test_values_match_reference(dtype, rng):
    logits = (10 * rng.standard_normal((5, 7))).astype(dtype)
    labels = rng.integers(0, 7, 5)
    q = rng.random((5, 7)).astype(dtype)
    expected = reference.softmax_cross_entropy_with_integer_labels(logits, labels)
    assert_close(integer_loss(logits, labels), expected, dtype)
    assert_close(soft_loss(logits, q), reference.softmax_cross_entropy(logits, q), dtype)


def test_float32_stays_float32_with_x64_on(x64, rng):
    logits = rng.standard_normal((4, 384)).astype(np.float32)
    for loss, labels in [(integer_loss, np.arange(4)), (soft_loss, logits.astype(np.float64))]:
        assert all(x.dtype == np.float32 for x in value_and_gradient(loss, logits, labels))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3, (1,), (0, 2), (2, 0), (-1, 1), None])
def test_axes(axis, rng):
    """A label of several axes is a flat index into them, in the order given. Eagerly."""
    logits = rng.standard_normal((3, 4, 4)).astype(np.float32)
    axes = (0, 1, 2) if axis is None else tuple(int(a) for a in np.atleast_1d(axis) % 3)
    rows = tuple(a for a in range(3) if a not in axes)
    lengths = [logits.shape[a] for a in axes]
    shape = [logits.shape[a] for a in rows]
    labels = rng.integers(0, np.prod(lengths), shape).astype(np.int32)
    flat = one_hot(labels, np.prod(lengths)).reshape(*shape, *lengths)
    q = flat.transpose(np.argsort(rows + axes))
    g = rng.standard_normal(shape).astype(np.float32)
    expected, derivative = oracle.cross_entropy(logits, q, axes)
    derivative *= np.expand_dims(g, axes)
    for loss, y in [(integer_loss, labels), (soft_loss, q)]:
        value, vjp = jax.vjp(lambda z, f=loss, y=y: f(z, y, axis), logits)
        assert_close(value, expected, np.float32)
        assert_close(vjp(g)[0], derivative, np.float32)


@pytest.mark.parametrize("classes", [7, 384])
def test_one_hot_labels_are_integer_labels(classes, dtype, rng):
    logits = (5 * rng.standard_normal((6, classes))).astype(dtype)
    labels = rng.integers(0, classes, 6)
    by_index = value_and_gradient(integer_loss, logits, labels)
    by_vector = value_and_gradient(soft_loss, logits, one_hot(labels, classes, dtype))
    for a, b in zip(by_vector, by_index, strict=True):
        assert_close(a, b, dtype)


@pytest.mark.parametrize("kind", [np.int32, np.uint8, bool])
def test_soft_labels_may_be_integers_or_booleans(kind, rng):
    logits = rng.standard_normal((3, 4)).astype(np.float32)
    q = (rng.random((3, 4)) < 0.5).astype(kind)
    value, gradient = value_and_gradient(soft_loss, logits, q, g=np.ones(3, np.float32))
    expected, derivative = oracle.cross_entropy(logits, q)
    assert_close(value, expected, np.float32)
    assert_close(gradient, derivative, np.float32)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (2, 1), (3, 1, 4), ()])
def test_soft_labels_broadcast_and_their_gradient_sums(shape, rng):
    logits = rng.standard_normal((3, 2, 4)).astype(np.float32)
    q = rng.random(shape).astype(np.float32)
    g = rng.standard_normal((3, 2)).astype(np.float32)
    loss, gradient = value_and_gradient(swapped, q, logits, g=g)
    assert_close(
        loss, oracle.cross_entropy(logits, np.broadcast_to(q, logits.shape))[0], np.float32
    )
    by_entry = g[..., None] * -np.log(oracle.softmax(logits))
    padded = (1,) * (3 - len(shape)) + shape
    over = tuple(a for a in range(3) if padded[a] == 1)
    assert_close(gradient, by_entry.sum(over, keepdims=True).reshape(shape), np.float32, scale=24)


def swapped(q, logits, **options):
    return soft_loss(logits, q, **options)


def test_gradient_of_soft_labels_has_their_dtype():
    logits = np.zeros((2, 3), np.float32)
    q = jnp.ones((2, 3), jnp.bfloat16)
    assert value_and_gradient(swapped, q, logits)[1].dtype == jnp.bfloat16


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("classes", [10, 384])
def test_half_precision_logits_give_float32_losses(half, classes, rng):
    logits = jnp.asarray(5 * rng.standard_normal((4, classes)), half)
    labels = rng.integers(0, classes, 4)
    q = one_hot(labels, classes)
    expected, derivative = oracle.cross_entropy(logits, q)
    for loss, y in [(integer_loss, labels), (soft_loss, q)]:
        value, gradient = value_and_gradient(loss, logits, y, g=np.ones(4, np.float32))
        assert value.dtype == np.float32
        assert gradient.dtype == logits.dtype
        assert_close(value, expected, np.float32)
        assert_close(gradient, derivative, logits.dtype)


@pytest.mark.parametrize(("reduction", "over"), [("sum", 1), ("mean", 6)])
def test_reductions(reduction, over, dtype, rng):
    logits = rng.standard_normal((3, 2, 5)).astype(dtype)
    labels = rng.integers(0, 5, (3, 2))
    q = one_hot(labels, 5, dtype)
    expected, derivative = oracle.cross_entropy(logits, q)
    for loss, y in [(integer_loss, labels), (soft_loss, q)]:
        value, gradient = value_and_gradient(loss, logits, y, reduction=reduction)
        assert value.shape == ()
        assert value.dtype == dtype
        assert_close(value, expected.sum() / over, dtype)
        assert_close(gradient, derivative / over, dtype)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (0, 384)])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_empty_batches(shape, reduction):
    logits = np.zeros(shape, np.float32)
    for loss, labels in [(integer_loss, np.zeros(shape[:-1], np.int32)), (soft_loss, logits)]:
        value, gradient = value_and_gradient(loss, logits, labels, reduction=reduction)
        assert value.shape == (shape[:-1] if reduction == "none" else ())
        assert np.all(np.asarray(value) == 0)
        assert gradient.shape == shape


def test_losses_are_the_same_eagerly_and_under_jit(rng):
    logits = rng.standard_normal((4, 384)).astype(np.float32)
    labels = np.array([0, 1, 2, 383], np.int32)
    for loss, y in [(integer_loss, labels), (soft_loss, one_hot(labels, 384))]:
        mean = functools.partial(loss, reduction="mean")
        np.testing.assert_array_equal(mean(logits, y), jax.jit(mean)(logits, y))
