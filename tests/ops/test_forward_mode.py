"""`rule="jvp"`: forward mode, the values of `rule="vjp"`, and no more kept than it keeps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jax_softmax.testing.oracle import options_cross_entropy
from tests.ops.options import LOSSES, case, integer_loss, names_for, soft_loss
from tests.ops.test_memory import residuals, split
from tests.tolerances import CHECK_GRADS, assert_close

SHAPE = (4, 5)
NAMES = {"label_smoothing", "class_weights", "sample_weight", "z_loss", "soft_cap", "ignore_index"}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def build(loss, dtype, rng, names=NAMES, shape=SHAPE, **more):
    """The loss of logits alone under options, its logits, and the definition's rows."""
    names = names.intersection(names_for(loss))
    logits, labels, options = case(loss, names, shape, dtype, rng)
    exact = options_cross_entropy(logits, labels, **options)
    return functools.partial(with_labels, loss, labels, options, **more), logits, exact


def with_labels(loss, labels, options, logits, **more):
    return loss(logits, labels, **options, **more)


@every_loss
def test_jvp_linearize_and_jacfwd_match_the_definition(loss, dtype, rng):
    f, logits, exact = build(loss, dtype, rng, rule="jvp")
    tangent = rng.standard_normal(SHAPE).astype(dtype)

    @jax.jit
    def forward(logits, tangent):
        linear_value, linear = jax.linearize(f, logits)
        return (
            jax.jvp(f, (logits,), (tangent,)),
            (linear_value, linear(tangent)),
            jax.jacfwd(f)(logits),
        )

    by_jvp, by_linearize, jacobian = forward(logits, tangent)
    for value, slope in (by_jvp, by_linearize):
        assert_close(value, exact.loss.value, dtype)
        assert_close(slope, (exact.loss.gradient * tangent).sum(-1), dtype)
    expected = np.zeros((4, *SHAPE))
    expected[np.arange(4), np.arange(4)] = exact.loss.gradient
    assert_close(jacobian, expected, dtype)


@every_loss
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_jvp_of_a_scalar(loss, reduction, rng):
    f, logits, exact = build(loss, np.float32, rng, rule="jvp", reduction=reduction)
    tangent = rng.standard_normal(SHAPE).astype(np.float32)
    value, slope = jax.jit(lambda z, t: jax.jvp(f, (z,), (t,)))(logits, tangent)
    expected, gradient = exact.reduced(reduction)
    assert_close(value, expected, np.float32)
    assert_close(slope, (gradient * tangent).sum(), np.float32)


def test_jvp_by_every_argument_that_has_a_derivative(x64, rng):
    logits, q, options = case(soft_loss, NAMES - {"ignore_index"}, SHAPE, np.float64, rng)
    weight = 0.5 + rng.random(4)
    del options["sample_weight"]

    def f(z, q, w):
        return soft_loss(z, q, sample_weight=w, rule="jvp", reduction="mean", **options)

    args = (logits, q.astype(np.float64), weight)
    check_grads(jax.jit(f), args, order=1, modes=["fwd", "rev"], **CHECK_GRADS._asdict())


@pytest.mark.parametrize(
    ("loss", "reduction"), [(integer_loss, "none"), (integer_loss, "mean"), (soft_loss, "mean")]
)
def test_hessians_of_both_rules_agree_both_ways(loss, reduction, x64, rng):
    by_vjp, logits, _ = build(loss, np.float64, rng, rule="vjp", reduction=reduction)
    by_jvp = functools.partial(by_vjp, rule="jvp")
    g = rng.standard_normal(4)

    @jax.jit
    def hessians(z):
        def total(f):
            return lambda z: jnp.sum((g if reduction == "none" else 1) * f(z))

        return (
            jax.hessian(total(by_vjp))(z),  # forward over reverse
            jax.hessian(total(by_jvp))(z),
            jax.jacrev(jax.jacrev(total(by_jvp)))(z),
            jax.jacfwd(jax.jacfwd(total(by_jvp)))(z),
        )

    expected, *others = hessians(logits)
    assert np.any(np.asarray(expected) != 0)
    for other in others:
        assert_close(other, expected, np.float64)


@every_loss
def test_rules_give_the_same_values(loss, rng):
    by_vjp, logits, _ = build(loss, np.float32, rng, rule="vjp")
    by_jvp = functools.partial(by_vjp, rule="jvp")
    np.testing.assert_array_equal(jax.jit(by_jvp)(logits), jax.jit(by_vjp)(logits))


def total(f, z):
    return jnp.sum(jnp.arange(1, 5, dtype=z.dtype) * f(z))


def under_vmap(loss, z, labels):
    rows = jax.vmap(jax.value_and_grad(functools.partial(loss, rule="jvp")))(z, labels)
    return rows[1] * jnp.arange(1, 5, dtype=z.dtype)[:, None]


def under_checkpoint(loss, z, labels):
    f = jax.checkpoint(functools.partial(loss, labels=labels, rule="jvp"))
    return jax.grad(functools.partial(total, f))(z)


def under_scan(loss, z, labels):
    def running(z):
        def step(carry, row):
            return carry + row[2] * loss(row[0], row[1], rule="jvp"), None

        return jax.lax.scan(step, 0.0, (z, labels, jnp.arange(1, 5, dtype=z.dtype)))[0]

    return jax.grad(running)(z)


@every_loss
@pytest.mark.parametrize("transform", [under_vmap, under_checkpoint, under_scan])
def test_gradient_under_transforms(loss, transform, rng):
    logits, labels, _ = case(loss, set(), SHAPE, np.float32, rng)
    exact = options_cross_entropy(logits, labels).loss.gradient * [[1], [2], [3], [4]]
    assert_close(jax.jit(functools.partial(transform, loss))(logits, labels), exact, np.float32)


@every_loss
@pytest.mark.parametrize("classes", [1000, 1024])
def test_residuals_of_rows_are_the_logits_and_a_few_numbers_a_row(loss, classes, rng):
    f, logits, _ = build(loss, np.float32, rng, NAMES, (16, classes), rule="jvp")
    large, bytes_a_row = split(residuals(f, jnp.asarray(logits)), logits.shape)
    arrays = 1 if loss is integer_loss else 2  # the labels are an array like the logits
    assert len(large) <= arrays
    # Beside the class weights: 4 bytes a class, for any number of rows.
    assert bytes_a_row - 4 * classes / 16 <= 48


@every_loss
def test_residuals_of_a_scalar_are_its_gradient(loss, rng):
    f, logits, _ = build(loss, np.float32, rng, set(), (16, 1000), rule="jvp", reduction="mean")
    large, bytes_a_row = split(residuals(f, jnp.asarray(logits)), logits.shape)
    assert large == [(logits.shape, np.dtype(np.float32))]
    assert bytes_a_row <= 48


@every_loss
@pytest.mark.parametrize("options", [{}, {"soft_cap": 2.0, "z_loss": 0.1}], ids=["plain", "cap"])
def test_forward_mode_at_impossible_classes_is_not_nan(loss, options, rng):
    logits, labels, _ = case(loss, set(), SHAPE, np.float32, rng)
    logits[0, 3] = logits[1, 0] = -np.inf
    if loss is integer_loss:
        labels[:] = 2
    else:
        labels[0, 3] = labels[1, 0] = 0
    f = functools.partial(with_labels, loss, labels, options, rule="jvp")
    jacobian = np.asarray(jax.jit(jax.jacfwd(f))(logits))[np.arange(4), np.arange(4)]
    assert_close(
        jacobian, options_cross_entropy(logits, labels, **options).loss.gradient, np.float32
    )
    np.testing.assert_array_equal(jacobian[logits == -np.inf], 0)


@every_loss
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_forward_mode_of_a_scalar_beside_an_infinite_loss_is_not_nan(loss, reduction, rng):
    logits, labels, _ = case(loss, set(), SHAPE, np.float32, rng)
    logits[0, 3] = -np.inf
    labels[0] = 3 if loss is integer_loss else np.eye(SHAPE[1])[3]
    f = functools.partial(with_labels, loss, labels, {}, rule="jvp", reduction=reduction)
    value, tangent = jax.jvp(f, (logits,), (np.ones_like(logits),))
    jacobian = np.asarray(jax.jacfwd(f)(logits))
    assert np.isposinf(value) and np.isfinite(tangent) and np.isfinite(jacobian).all()
    assert_close(jacobian, jax.grad(f)(logits), np.float32)
