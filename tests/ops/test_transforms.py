"""The four functions under `jit`, `vmap`, `scan` and `jax.checkpoint`: the eager result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.pairs import PAIRS
from tests.tolerances import assert_close


def value_and_gradient(f, logits, labels, g):
    value, vjp = jax.vjp(lambda z: f(z, labels), logits)
    return value, vjp(g)[0]


def under_scan(f, *args):
    """A row a step."""
    return jax.lax.scan(lambda _, row: (None, value_and_gradient(f, *row)), None, args)[1]


def through_vmap_scan_and_checkpoint(f, *args):
    """The derivative taken of a running sum, outside the loop over rows."""

    def total(z, labels, g):
        def step(carry, row):
            value = jax.checkpoint(f)(row[0], row[1])
            return carry + jnp.sum(value * row[2]), value

        return jax.lax.scan(step, jnp.zeros((), z.dtype), (z, labels, g))

    def row_by_row(*args):
        (_, value), gradient = jax.value_and_grad(total, has_aux=True)(*args)
        return value, gradient

    return jax.vmap(row_by_row)(*(x.reshape(2, 2, *x.shape[1:]) for x in args))


@functools.cache
def eager_case(name, classes):
    """Arguments and the result without any transform but `vjp`."""
    rng, pair, shape = np.random.default_rng(0), PAIRS[name], (4, classes)
    logits = (5 * rng.standard_normal(shape)).astype(np.float32)
    args = logits, pair.labels(shape, np.float32, rng), pair.cotangent(shape, np.float32, rng)
    return args, value_and_gradient(pair.op, *args)


@pytest.mark.parametrize(
    ("name", "transform", "classes"),
    [
        *((n, under_scan, 10) for n in PAIRS),
        *((n, through_vmap_scan_and_checkpoint, 384) for n in PAIRS),
    ],
)
def test_transform_gives_the_eager_result(name, transform, classes):
    args, expected = eager_case(name, classes)
    actual = jax.jit(lambda *args: transform(PAIRS[name].op, *args))(*args)
    for a, b in zip(actual, expected, strict=True):
        assert_close(np.reshape(a, b.shape), b, np.float32)


@pytest.mark.parametrize("classes", [10, 384])
def test_vmap_over_labels_alone(classes, rng):
    """The logits are shared: only the class set apart differs."""
    logits = rng.standard_normal(classes).astype(np.float32)
    labels = np.arange(5, dtype=np.int32)
    op = PAIRS["integer_labels"].op
    rows = np.repeat(logits[None], 5, 0)
    assert_close(jax.vmap(op, (None, 0))(logits, labels), op(rows, labels), np.float32)


def test_vmap_over_the_last_axis(rng):
    logits = rng.standard_normal((384, 3)).astype(np.float32)
    labels = np.array([0, 5, 9], np.int32)
    op = PAIRS["integer_labels"].op
    expected = op(np.ascontiguousarray(logits.T), labels)
    assert_close(jax.vmap(op, (1, 0))(logits, labels), expected, np.float32)
