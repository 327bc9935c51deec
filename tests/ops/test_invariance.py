"""What must not change: a shift of the row (to the bit), the order of the classes, total mass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jax_softmax import ops
from tests.tolerances import VALUE, assert_close

WIDTHS = st.sampled_from([2, 5, 384])


@jax.jit
def everything(logits, labels, q, g):
    """Values and derivatives of the four functions."""
    integer, integer_vjp = jax.vjp(
        lambda z: ops.softmax_cross_entropy_with_integer_labels(z, labels), logits
    )
    soft, soft_vjp = jax.vjp(ops.softmax_cross_entropy, logits, q)
    p, p_vjp = jax.vjp(ops.softmax, logits)
    log_p, log_p_vjp = jax.vjp(ops.log_softmax, logits)
    return {
        "integer": (integer, integer_vjp(g[:, 0])),
        "soft": (soft, soft_vjp(g[:, 0])),
        "softmax": (p, p_vjp(g)),
        "log_softmax": (log_p, log_p_vjp(g)),
    }


@pytest.mark.parametrize("classes", [10, 129, 384])
def test_exact_shift_changes_no_bit(classes, rng):
    """Multiples of 2^-10 below 8 stay exact float32 numbers when up to 2^13 is added."""
    logits = rng.integers(-(2**13), 2**13, (6, classes)).astype(np.float32) / 2**10
    logits[0, 4] = 40  # confident
    logits[1, 3] = -np.inf
    labels = np.array([4, 0, 1, 2, 3, 9], np.int32)
    q = rng.random(logits.shape, np.float32)
    q[1, 3] = 0
    g = rng.standard_normal(logits.shape, np.float32)
    expected = everything(logits, labels, q, g)
    for c in [2.0**k for k in range(-10, 13)] + [-(2.0**12)]:
        shifted = logits + np.float32(c)
        assert np.array_equal(shifted - np.float32(c), logits)
        jax.tree.map(assert_same_bits, everything(shifted, labels, q, g), expected)


def assert_same_bits(a, b):
    np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


@st.composite
def rows(draw):
    """A row of float32 logits, a label, and the dtype's whole everyday range."""
    width = draw(WIDTHS)
    numbers = st.floats(-300, 300, width=32)
    return draw(arrays(np.float32, width, elements=numbers)), draw(st.integers(0, width - 1))


def one_row(logits, label):
    q = np.zeros((1, logits.size), np.float32)
    q[0, label] = 1
    g = np.ones((1, logits.size), np.float32)
    return everything(logits[None], np.array([label], np.int32), q, g)


@given(rows())
def test_probabilities_are_non_negative_and_sum_to_one(row):
    logits, label = row
    p = np.asarray(one_row(logits, label)["softmax"][0], np.float64)
    assert np.all(p >= 0)
    assert_close(p.sum(), 1, np.float32)


@given(rows())
def test_losses_and_negative_log_probabilities_are_non_negative(row):
    out = one_row(*row)
    assert np.all(out["integer"][0] >= 0)
    assert np.all(out["soft"][0] >= 0)
    assert np.all(out["log_softmax"][0] <= 0)


@given(rows())
def test_gradient_of_a_row_sums_to_zero(row):
    out = one_row(*row)
    assert_close(np.asarray(out["integer"][1][0], np.float64).sum(), 0, np.float32)
    assert_close(np.asarray(out["soft"][1][0], np.float64).sum(), 0, np.float32)


@given(rows(), st.randoms(use_true_random=False))
def test_order_of_the_classes_does_not_matter(row, random):
    logits, label = row
    order = np.array(random.sample(range(logits.size), logits.size))
    plain = one_row(logits, label)
    mixed = one_row(logits[order], int(np.flatnonzero(order == label)[0]))
    for name in ("integer", "soft"):
        assert_close(mixed[name][0], plain[name][0], np.float32)
        assert_close(mixed[name][1][0], plain[name][1][0][:, order], np.float32)
    for name in ("softmax", "log_softmax"):
        assert_close(mixed[name][0], plain[name][0][:, order], np.float32)


@given(rows())
def test_softmax_is_exp_of_log_softmax(row):
    out = one_row(*row)
    # exp turns an absolute error of the logarithm into a relative one.
    log_p = np.asarray(out["log_softmax"][0], np.float64)
    slack = VALUE["float32"].rtol * np.maximum(1, np.abs(log_p)) * np.exp(log_p)
    error = np.abs(np.asarray(out["softmax"][0], np.float64) - np.exp(log_p))
    assert np.all(error <= slack + float(jnp.finfo(jnp.float32).tiny))
