"""A single row, or rows along an axis of 1, are as exact as many: XLA:CPU adds those up in order.

Logits of few values, as half precision has them, make the roundings of equal terms add up.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import (
    linear_softmax_cross_entropy,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from jax_softmax.ops._backends.sums import chunk_sum, row_sum

EPS = 2.0**-23
SHAPES = ((), (2, 1), (1, 3))
CLASSES = (1024, 10007)


def _rows(shape: tuple[int, ...], classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    logits = 8 * np.round(rng.standard_normal((*shape, classes)))
    return logits.astype(np.float32), rng.integers(0, classes, shape).astype(np.int32)


def _error(actual: jax.Array, expected: np.ndarray) -> float:
    """In eps of what is expected."""
    off = np.abs(np.asarray(actual, np.float64) - expected)
    return float(np.max(off / np.abs(expected)) / EPS)


def _exact(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Softmax and entropy in float64."""
    z = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    return p, -(p * np.log(p)).sum(-1)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_few_rows_are_exact(shape: tuple[int, ...], classes: int) -> None:
    logits, labels = _rows(shape, classes)
    p, entropy = _exact(logits)
    _, stats = jax.jit(
        lambda z: softmax_cross_entropy_with_integer_labels(z, labels, return_stats=True)
    )(logits)
    assert _error(stats.entropy, entropy) <= 3
    assert _error(jax.jit(softmax)(logits), p) <= 5

    targets = np.full_like(logits, 2.0**-10)
    loss = jax.jit(lambda z: softmax_cross_entropy(z, targets))(logits)
    assert _error(loss, -(targets * np.log(p)).sum(-1)) <= 5


@pytest.mark.parametrize("classes", CLASSES)
def test_a_layer_s_few_rows_are_exact(classes: int) -> None:
    logits, labels = _rows((4,), classes)
    p, entropy = _exact(logits)
    direction = np.abs(np.random.default_rng(1).standard_normal(logits.shape)).astype(np.float32)

    def loss(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, stats = linear_softmax_cross_entropy(
            np.eye(4, dtype=np.float32)[:, None],
            kernel,
            labels[:, None],
            reduction="none",
            block_size=2,
            return_stats=True,
            rule="jvp",
        )
        return stats.logsumexp, stats.entropy

    (_, found), (tangent, _) = jax.jit(lambda z, dot: jax.jvp(loss, (z,), (dot,)))(
        logits, direction
    )
    assert _error(found[:, 0], entropy) <= 3
    assert _error(tangent[:, 0], (p * direction).sum(-1)) <= 5


@pytest.mark.parametrize("shape", [(), (1,), (70,), (2, 1, 3)])
@pytest.mark.parametrize("classes", [1, 129, 1000, 10007])
def test_a_row_sum_is_a_sum(shape: tuple[int, ...], classes: int) -> None:
    terms = np.random.default_rng(0).integers(-9, 9, (*shape, classes)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(row_sum)(terms), terms.sum(-1))
    gradient = jax.grad(lambda x: jnp.sum(row_sum(x) ** 2))(terms)
    np.testing.assert_array_equal(
        gradient, np.broadcast_to(2 * terms.sum(-1)[..., None], terms.shape)
    )
    if classes % 8 == 0:
        chunks = terms.reshape(*shape, classes // 8, 8)
        np.testing.assert_array_equal(jax.jit(chunk_sum)(chunks), terms.sum(-1))
