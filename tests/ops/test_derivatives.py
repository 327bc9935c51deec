"""The hand-written rules against JAX's derivatives of the definitions, and against differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from tests.ops.pairs import PAIRS
from tests.tolerances import (
    CHECK_GRADS,
    FINITE_DIFFERENCE,
    FINITE_DIFFERENCE_STEP,
    SECOND_DERIVATIVE,
    assert_close,
)

ROWS = 5  # one shape a width, so that tests share compiled programs
every_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
# 384 is summed in chunks on a CPU, the others are not.
both_regimes = pytest.mark.parametrize("classes", [10, 384])
second_order = pytest.mark.parametrize(
    ("name", "classes"), [("integer_labels", 384), *((name, 10) for name in PAIRS)]
)


@functools.partial(jax.jit, static_argnums=0)
def derivatives(f, logits, labels, cotangent, direction):
    """The vjp, and the derivative of `<direction, vjp>`: reverse over reverse."""

    def slope(z):
        gradient = jax.vjp(lambda z: f(z, labels), z)[1](cotangent)[0]
        return jnp.sum(direction * gradient), gradient

    second, first = jax.grad(slope, has_aux=True)(logits)
    return first, second


@functools.partial(jax.jit, static_argnums=0)
def hessian(f, logits, labels, cotangent):
    """Forward over reverse, of `<cotangent, f>`."""
    return jax.hessian(lambda z: jnp.sum(cotangent * f(z, labels)))(logits)


def inputs(pair, classes, dtype, rng):
    """Logits, labels, a random cotangent and a random direction."""
    shape = (ROWS, classes)
    logits = (3 * rng.standard_normal(shape)).astype(dtype)
    direction = rng.standard_normal(shape).astype(dtype)
    return logits, pair.labels(shape, dtype, rng), pair.cotangent(shape, dtype, rng), direction


def confident_inputs(pair, classes, lead, dtype, rng):
    """Rows with a class that leads by `lead`: all of it is masked out or cancels."""
    _, labels, g, direction = inputs(pair, classes, dtype, rng)
    logits = rng.standard_normal((ROWS, classes)).astype(dtype)
    leaders = np.array([5, 0, classes - 1, 7, 2], np.int32)
    logits[np.arange(ROWS), leaders] = logits.max(-1) + lead
    if pair.kind == "integer":
        labels[:4] = leaders[:4]
    return logits, labels, g, direction


def float64(arrays):
    return [x if x.dtype == np.int32 else x.astype(np.float64) for x in arrays]


@every_pair
@both_regimes
def test_float32_derivatives_match_reference(pair, classes, rng):
    args = inputs(pair, classes, np.float32, rng)
    first, second = derivatives(pair.op, *args)
    assert first.dtype == np.float32
    with jax.enable_x64(True):
        expected_first, expected_second = derivatives(pair.reference, *float64(args))
    weight = pair.weight(*args[1:3])
    assert_close(first, expected_first, np.float32, scale=weight)
    assert_close(second, expected_second, np.float32, scale=weight)


@every_pair
@pytest.mark.parametrize("classes", [10, 129, 384])
def test_float64_derivatives_match_reference(pair, classes, x64, rng):
    args = inputs(pair, classes, np.float64, rng)
    actual = derivatives(pair.op, *args)
    for a, b in zip(actual, derivatives(pair.reference, *args), strict=True):
        assert_close(a, b, np.float64)


@every_pair
@both_regimes
@pytest.mark.parametrize("lead", [14.0, 120.0])
def test_derivatives_of_confident_rows(pair, classes, lead, rng):
    """In float32, where exp(120) overflows: sums of what is left out are infinite."""
    args = confident_inputs(pair, classes, lead, np.float32, rng)
    actual = derivatives(pair.op, *args)
    with jax.enable_x64(True):
        expected = derivatives(pair.reference, *float64(args))
    weight = pair.weight(*args[1:3])
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, np.float32, SECOND_DERIVATIVE, scale=weight)


@every_pair
@both_regimes
def test_derivatives_where_float64_overflows(pair, classes, x64, rng):
    args = confident_inputs(pair, classes, 800.0, np.float64, rng)
    weight = pair.weight(*args[1:3])
    actual, expected = derivatives(pair.op, *args), derivatives(pair.reference, *args)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, np.float64, SECOND_DERIVATIVE, scale=weight)


@both_regimes
def test_confident_curvature_keeps_its_relative_precision(classes, rng):
    """At a label that leads by 40 it is p (1 - p), about 1e-16, where float32 has p = 1."""
    pair = PAIRS["integer_labels"]
    logits, labels, _, _ = confident_inputs(pair, classes, 40.0, np.float32, rng)
    at_label = np.zeros_like(logits)
    at_label[np.arange(ROWS), labels] = 1
    _, second = derivatives(pair.op, logits, labels, np.ones(ROWS, np.float32), at_label)
    z = logits.astype(np.float64)
    others = np.exp(z[at_label == 0].reshape(ROWS, -1) - z[at_label == 1][:, None]).sum(-1)
    expected = others / (1 + others) ** 2
    assert np.all(expected[:4] < 1e-13)
    assert_close(np.asarray(second)[at_label == 1][:4] / expected[:4], np.ones(4), np.float32)


@second_order
def test_hessian_matches_reference(name, classes, x64, rng):
    pair = PAIRS[name]
    z, labels, g, _ = (x[:1] for x in inputs(pair, classes, np.float64, rng))
    expected = hessian(pair.reference, z, labels, g)
    assert_close(hessian(pair.op, z, labels, g), expected, np.float64)


@both_regimes
def test_soft_labels_have_a_gradient(classes, dtype, rng):
    pair = PAIRS["softmax_cross_entropy"]
    logits, q, g, _ = inputs(pair, classes, dtype, rng)
    by_op, by_reference = (
        jax.jit(lambda q, f=f: jax.vjp(lambda q: f(logits, q), q)[1](g)[0])(q)
        for f in (pair.op, pair.reference)
    )
    assert by_op.dtype == dtype
    assert_close(by_op, by_reference, dtype)


@second_order
def test_check_grads_to_second_order(name, classes, x64, rng):
    pair = PAIRS[name]
    logits, labels, _, _ = (x[:1] for x in inputs(pair, classes, np.float64, rng))
    args, op = (logits,), lambda z: pair.op(z, labels)
    if pair.kind == "soft":
        args, op = (logits, labels), pair.op
    check_grads(jax.jit(op), args, order=2, modes=["rev"], **CHECK_GRADS._asdict())


@every_pair
@both_regimes
def test_central_differences_one_class_at_a_time(pair, classes, x64, rng):
    """One at a time because a shift of the whole row changes nothing."""
    args = inputs(pair, classes, np.float64, rng)
    gradient = derivatives(pair.op, *args)[0][0]
    z, labels, g = (x[:1] for x in args[:3])
    step = FINITE_DIFFERENCE_STEP * np.eye(classes)
    terms = jax.jit(jax.vmap(lambda z: g * pair.op(z[None], labels)))
    size = np.abs(terms(z)).sum()
    rise = (terms(z + step) - terms(z - step)).reshape(classes, -1).sum(-1)
    slope = rise / (2 * FINITE_DIFFERENCE_STEP)
    np.testing.assert_allclose(gradient / size, slope / size, **FINITE_DIFFERENCE._asdict())


@every_pair
def test_vmap_of_grad_is_the_batched_grad(pair, rng):
    args = inputs(pair, 384, np.float32, rng)
    by_row = jax.vmap(lambda *row: derivatives(pair.op, *row))(*args)
    for a, b in zip(by_row, derivatives(pair.op, *args), strict=True):
        assert_close(a, b, np.float32)


def test_gradient_is_zero_at_the_optimum(dtype, rng):
    """Soft labels equal to the probabilities."""
    pair = PAIRS["softmax_cross_entropy"]
    logits, _, g, direction = inputs(pair, 10, dtype, rng)
    q = np.asarray(PAIRS["softmax"].op(logits, None))
    assert_close(derivatives(pair.op, logits, q, g, direction)[0], 0 * q, dtype)
