"""The numerical contract under options: errors held against the sizes of the terms that cancel."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax.testing.exact import tiny
from jax_softmax.testing.oracle import options_cross_entropy
from jax_softmax.testing.regimes import regime_rows, worst_by_regime
from tests.ops.compiled import value_and_gradient
from tests.ops.options import IGNORED, LOSSES, integer_loss
from tests.tolerances import LOSS_EPS, gradient_eps, soft_cap_eps

OPTIONS = {
    "label_smoothing": {"label_smoothing": 0.1},
    "much smoothing": {"label_smoothing": 0.999},
    "class_weights": {"class_weights"},
    "sample_weight": {"sample_weight"},
    "z_loss": {"z_loss": 1e-2},
    "ignore_index": {"ignore_index"},
    "where": {"where"},
    "all but the cap": {"label_smoothing", "class_weights", "sample_weight", "z_loss", "where"},
}
FIXED = {"label_smoothing": 0.1, "z_loss": 1e-3}


def inputs(loss, options, classes, dtype):
    rows = {262144: 1, 50257: 2}.get(classes, 20)
    rng = np.random.default_rng(classes)
    logits, labels, cotangents = regime_rows(classes, rows, rng)
    labels = labels.astype(np.int32)
    count = len(labels)
    arguments = dict(options) if isinstance(options, dict) else {}
    for name in set(options) - set(arguments):
        if name == "class_weights":
            arguments[name] = (0.1 + 2 * rng.random(classes)).astype(np.float32)
        elif name == "sample_weight":
            arguments[name] = rng.standard_normal(count).astype(np.float32)
        elif name == "where":
            arguments[name] = rng.random(logits.shape) < 0.7
            arguments[name][np.arange(count), labels] = True
        elif name == "ignore_index":
            arguments[name] = IGNORED
            labels[::5] = IGNORED
        else:
            arguments[name] = FIXED[name]
    if loss is not integer_loss:
        labels = rng.random(logits.shape).astype(np.float32) ** 4
        labels /= labels.sum(-1, keepdims=True)
    return logits.astype(dtype), labels, cotangents, arguments


def errors(loss, options, classes, dtype=jnp.float32, rule="vjp"):
    """The worst error of the loss and of the gradient in each regime, over the sizes, in eps.

    Left out is what underflows: sizes, derivatives or probabilities below the smallest normal
    number, and the cap's slope `4q` where `q` is.
    """
    logits, labels, g, arguments = inputs(loss, options, classes, dtype)
    loss_dtype = np.float32
    exact = options_cross_entropy(logits, labels, **arguments)
    value, gradient = value_and_gradient(loss, logits, labels, g=g, rule=rule, **arguments)
    assert value.dtype == loss_dtype
    assert gradient.dtype == dtype
    wide = g[:, None].astype(np.float64)
    expected, size = exact.loss.gradient * wide, exact.loss.gradient_size * np.abs(wide)
    unseen = (np.abs(expected) < tiny(dtype)) | (exact.cap_slope < 4 * tiny(loss_dtype))
    unseen |= exact.probability * exact.cap_slope < 4 * tiny(loss_dtype)
    gradient_error = in_eps(gradient, expected, size, dtype, unseen)
    sizes = exact.loss.value_size
    loss_error = in_eps(value, exact.loss.value, sizes, loss_dtype, sizes < tiny(loss_dtype))
    return worst_by_regime(loss_error), worst_by_regime(gradient_error)


def in_eps(actual, expected, size, dtype, unseen):
    error = np.abs(np.asarray(actual, np.float64) - expected)
    scale = np.where(unseen, 1, size) * float(jnp.finfo(dtype).eps)
    return np.where(unseen, 0, error / scale)


def beyond(errors, bound):
    return {regime: error for regime, error in errors.items() if not error <= bound}


INTEGER = [("integer", name) for name in OPTIONS]
SOFT = [("soft", name) for name in ("label_smoothing", "z_loss", "all but the cap")]


@pytest.mark.parametrize(("loss", "name"), INTEGER + SOFT)
@pytest.mark.parametrize("classes", [3, 1000])
def test_options_keep_the_contract(loss, name, classes):
    loss_error, gradient_error = errors(LOSSES[loss], OPTIONS[name], classes)
    assert not beyond(loss_error, LOSS_EPS)
    assert not beyond(gradient_error, gradient_eps(jnp.float32))


@pytest.mark.parametrize("loss", LOSSES)
def test_forward_mode_rule_keeps_the_contract(loss):
    options = OPTIONS["all but the cap"]
    loss_error, gradient_error = errors(LOSSES[loss], options, 1000, rule="jvp")
    assert not beyond(loss_error, LOSS_EPS)
    assert not beyond(gradient_error, gradient_eps(jnp.float32))


@pytest.mark.parametrize("name", ["label_smoothing", "all but the cap"])
def test_bfloat16_gradients_keep_the_contract_under_options(name):
    loss_error, gradient_error = errors(integer_loss, OPTIONS[name], 1000, jnp.dtype("bfloat16"))
    assert not beyond(loss_error, LOSS_EPS)
    assert not beyond(gradient_error, gradient_eps(jnp.bfloat16))


@pytest.mark.parametrize("classes", [50257, 262144])
def test_smoothing_of_a_vocabulary_keeps_the_contract(classes):
    loss_error, gradient_error = errors(integer_loss, OPTIONS["label_smoothing"], classes)
    assert not beyond(loss_error, LOSS_EPS)
    assert not beyond(gradient_error, gradient_eps(jnp.float32))


@pytest.mark.parametrize(
    ("cap", "classes"), [(0.3, 3), (0.3, 1000), (5.0, 3), (5.0, 1000), (30.0, 3), (30.0, 1000)]
)
def test_soft_cap_keeps_the_contract(cap, classes):
    loss_error, gradient_error = errors(integer_loss, {"soft_cap": cap}, classes)
    assert not beyond(loss_error, soft_cap_eps(cap))
    assert not beyond(gradient_error, soft_cap_eps(cap))


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_half_gradients_of_scalars_stay_correctly_rounded_in_the_forward_mode_rule(half, reduction):
    """The gradient is kept for a scalar: in float32, until the cotangent has multiplied it."""
    dtype = jnp.dtype(half)
    logits, labels, _, _ = inputs(integer_loss, {}, 1000, dtype)
    g = np.float32(37.3)
    _, gradient = value_and_gradient(
        integer_loss, logits, labels, g=g, rule="jvp", reduction=reduction
    )
    exact = options_cross_entropy(logits, labels)
    expected = exact.reduced(reduction)[1] * float(g)
    unseen = np.abs(expected) < tiny(dtype)
    unseen |= np.abs(exact.loss.gradient) / len(labels) < tiny(np.float32)
    error = in_eps(gradient, expected, np.abs(expected), dtype, unseen)
    assert not beyond(worst_by_regime(error), gradient_eps(dtype))


@pytest.mark.parametrize("loss", LOSSES)
def test_exact_shift_changes_no_bit_under_options(loss, rng):
    """Multiples of 2^-10 below 8 stay exact float32 numbers when up to 2^13 is added."""
    logits = rng.integers(-(2**13), 2**13, (6, 129)).astype(np.float32) / 2**10
    logits[0, 4] = 40  # confident
    labels = np.array([4, 0, 1, 2, 3, 9], np.int32)
    if LOSSES[loss] is not integer_loss:
        labels = rng.random(logits.shape, np.float32)
    options = {"class_weights": rng.random(129, np.float32), "label_smoothing": 0.1}
    expected = value_and_gradient(LOSSES[loss], logits, labels, **options)
    for c in (2.0**-10, 0.25, 64.0, 2.0**12, -(2.0**12)):
        shifted = logits + np.float32(c)
        assert np.array_equal(shifted - np.float32(c), logits)
        actual = value_and_gradient(LOSSES[loss], shifted, labels, **options)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(
                np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32)
            )


def test_confident_row_keeps_its_smoothed_gradient_at_the_optimum():
    """There W p_j - t_j cancels: the error stays below 5 eps of the terms."""
    smoothing, classes = 0.1, 10
    target = np.full((1, classes), smoothing / classes)
    target[0, 3] += 1 - smoothing
    logits = np.log(target).astype(np.float32)
    labels = np.array([3], np.int32)
    _, gradient = value_and_gradient(integer_loss, logits, labels, label_smoothing=smoothing)
    exact = options_cross_entropy(logits, labels, label_smoothing=smoothing).loss
    error = in_eps(gradient, exact.gradient, exact.gradient_size, np.float32, False)
    assert error.max() <= gradient_eps(jnp.float32)
