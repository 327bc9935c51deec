"""What is kept for the backward pass, and what a compiled program needs beside its inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from tests.ops.pairs import PAIRS

ROWS = 16
every_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def residuals(f, *args):
    """The arrays that the backward pass keeps, as (shape, dtype)."""
    _, vjp = jax.eval_shape(lambda *args: jax.vjp(f, *args), *args)
    return [(x.shape, np.dtype(x.dtype)) for x in jax.tree.leaves(vjp)]


def split(kept, shape):
    """Those of the logits' size, and the bytes of the others for each row."""
    large = [x for x in kept if np.prod(x[0]) >= np.prod(shape)]
    small = sum(int(np.prod(s)) * d.itemsize for s, d in kept if np.prod(s) < np.prod(shape))
    return large, small / shape[0]


@every_pair
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("classes", [1000, 1024])
def test_residuals_are_the_logits_and_a_few_numbers_a_row(pair, dtype, classes, rng):
    shape = (ROWS, classes)
    logits = jnp.zeros(shape, dtype)
    labels = jnp.asarray(pair.labels(shape, np.float32, rng))
    kept = residuals(lambda z: pair.op(z, labels), logits)
    large, bytes_a_row = split(kept, shape)
    expected = [(shape, np.dtype(dtype))]
    if pair.kind == "soft":  # the labels are an array like the logits
        expected.append((shape, np.dtype(np.float32)))
    assert sorted(large, key=str) == sorted(expected, key=str)
    assert bytes_a_row <= 32


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reductions_and_masks_keep_no_more(reduction, rng):
    shape = (ROWS, 1024)
    logits = jnp.zeros(shape)
    labels = jnp.zeros(ROWS, jnp.int32)
    keep = jnp.arange(ROWS) % 2 == 0

    def loss(z):
        return ops.softmax_cross_entropy_with_integer_labels(
            z, labels, where=keep, reduction=reduction
        )

    large, bytes_a_row = split(residuals(loss, logits), shape)
    assert large == [(shape, np.dtype(np.float32))]
    assert bytes_a_row <= 32


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the bound is XLA:CPU's")
def test_compiled_loss_and_gradient_needs_a_tenth_of_the_logits():
    logits = jax.ShapeDtypeStruct((512, 32768), jnp.float32)
    labels = jax.ShapeDtypeStruct((512,), jnp.int32)

    def loss(logits, labels):
        return ops.softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")

    compiled = jax.jit(jax.value_and_grad(loss)).lower(logits, labels).compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    assert temporaries < 0.1 * logits.size * logits.dtype.itemsize
