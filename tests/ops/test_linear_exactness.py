"""The numerical contract of the fused loss, held against its own logits.

An identity beside them makes the products exact: with `features = I` the kernel's rows are the
logits and its gradient is theirs; with `kernel = I` the features are.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax.testing.exact import error_in_eps, tiny
from jax_softmax.testing.oracle import options_cross_entropy
from jax_softmax.testing.regimes import regime_rows, worst_by_regime
from tests.ops.linear import loss, unfused_loss
from tests.tolerances import GRADIENT_EPS, LOSS_EPS, gradient_eps

CLASSES = 1000


def beyond(errors, bound):
    return {regime: error for regime, error in errors.items() if not error <= bound}


def inputs(classes, dtype, rows=10):
    logits, labels, cotangents = regime_rows(classes, rows, np.random.default_rng(classes))
    return logits.astype(dtype), labels.astype(np.int32), cotangents


@functools.partial(jax.jit, static_argnums=(0, 1))
def by_kernel(block, rule, logits, labels, cotangents):
    """Losses of rows and their gradient by the logits, which are the kernel."""
    one_hot = jnp.eye(len(logits), dtype=logits.dtype)
    value, vjp = jax.vjp(
        lambda z: loss(one_hot, z, labels, reduction="none", block_size=block, rule=rule), logits
    )
    return value, vjp(cotangents)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def by_features(block, rule, logits, labels, cotangents):
    """The same where the logits are the features."""
    one_hot = jnp.eye(logits.shape[-1], dtype=logits.dtype)
    value, vjp = jax.vjp(
        lambda z: loss(z, one_hot, labels, reduction="none", block_size=block, rule=rule), logits
    )
    return value, vjp(cotangents)[0]


def errors(f, logits, labels, cotangents):
    """The worst error of loss and gradient in each regime; what underflows is left out."""
    dtype = logits.dtype
    value, gradient = f(logits, labels, cotangents)
    assert value.dtype == np.float32
    assert gradient.dtype == dtype
    exact = options_cross_entropy(logits, labels).loss
    expected = exact.gradient * cotangents.astype(exact.gradient.dtype)[:, None]
    seen = np.abs(exact.gradient) >= tiny(np.float32)
    seen &= np.abs(expected) >= tiny(dtype)
    loss_error = error_in_eps(value, exact.value, np.float32, exact.value >= tiny(np.float32))
    gradient_error = error_in_eps(gradient, expected, dtype, seen)
    return worst_by_regime(loss_error), worst_by_regime(gradient_error)


@pytest.mark.parametrize(
    ("dtype", "f", "block", "rule"),
    [
        ("float32", by_kernel, 9, "vjp"),
        ("float32", by_features, (9, 300), "vjp"),
        ("float32", by_kernel, (9, 128), "jvp"),
        ("bfloat16", by_kernel, (9, 300), "vjp"),
        ("bfloat16", by_features, 9, "vjp"),
    ],
)
def test_losses_and_gradients_keep_the_contract(dtype, f, block, rule):
    loss_error, gradient_error = errors(
        functools.partial(f, block, rule), *inputs(CLASSES, jnp.dtype(dtype))
    )
    assert not beyond(loss_error, LOSS_EPS)
    assert not beyond(gradient_error, gradient_eps(jnp.dtype(dtype)))


@pytest.mark.parametrize("f", [by_features, by_kernel])
def test_float16_keeps_the_contract(f):
    """Its gradients share a scale in a block: of cotangents as large as each other."""
    logits, labels, _ = inputs(CLASSES, jnp.dtype("float16"))
    cotangents = np.linspace(1, 2, len(labels), dtype=np.float32)
    loss_error, gradient_error = errors(
        functools.partial(f, (9, 300), "vjp"), logits, labels, cotangents
    )
    assert not beyond(loss_error, LOSS_EPS)
    assert not beyond(gradient_error, gradient_eps(np.float16))


def test_gradients_summed_over_many_blocks_keep_their_digits(rng):
    """1000 blocks of a row: 31 in each of 32 groups, and 8. One running sum errs by 5 eps."""
    rows, width, classes = 1000, 4, 20
    features = rng.standard_normal((rows, width)).astype(np.float32)
    kernel = rng.standard_normal((width, classes)).astype(np.float32)
    bias = rng.standard_normal(classes).astype(np.float32)
    labels = rng.integers(0, classes, rows).astype(np.int32)

    def gradients(block):
        def total(features, kernel, bias):
            return loss(features, kernel, labels, bias=bias, block_size=block)

        return jax.jit(jax.grad(total, (0, 1, 2)))(features, kernel, bias)

    x = features.astype(np.float64)
    exact = options_cross_entropy(x @ kernel.astype(np.float64) + bias, labels)
    by_logits = exact.loss.gradient / rows
    by_features, by_kernel, by_bias = gradients(1)
    for actual, expected, size in (
        (by_kernel, x.T @ by_logits, np.abs(x.T) @ np.abs(by_logits)),
        (by_bias, by_logits.sum(0), np.abs(by_logits).sum(0)),
    ):
        error = np.abs(np.asarray(actual, np.float64) - expected) / size
        assert np.max(error) < 2.5 * np.finfo(np.float32).eps
    np.testing.assert_allclose(by_features, gradients(rows)[0], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_few_classes_in_blocks_of_two_keep_the_contract(classes):
    loss_error, gradient_error = errors(
        functools.partial(by_kernel, (16, 2), "vjp"), *inputs(classes, np.dtype(np.float32))
    )
    assert not beyond(loss_error, LOSS_EPS)
    assert not beyond(gradient_error, GRADIENT_EPS)


@pytest.mark.parametrize("classes", [50257])
@pytest.mark.parametrize("block", [None, (2, 4096), (3, 50000), (3, 128)])
def test_a_vocabulary_keeps_the_contract(block, classes):
    loss_error, gradient_error = errors(
        functools.partial(by_kernel, block, "vjp"), *inputs(classes, np.dtype(np.float32), 2)
    )
    assert not beyond(loss_error, LOSS_EPS)
    assert not beyond(gradient_error, GRADIENT_EPS)


def test_totals_keep_the_contract_under_a_cotangent():
    """A mean's gradient is kept until its cotangent comes: by the rows' exact ones."""
    logits, labels, _ = inputs(CLASSES, np.dtype(np.float32))
    exact = options_cross_entropy(logits, labels).loss

    @jax.jit
    def gradient(logits, g):
        one_hot = jnp.eye(len(logits), dtype=logits.dtype)
        return jax.grad(lambda z: g * loss(one_hot, z, labels, block_size=(9, 300)))(logits)

    for g in (0.3, 65536.0):
        expected = exact.gradient * float(np.float32(g)) / len(labels)
        kept = np.minimum(np.abs(expected), np.abs(exact.gradient) / len(labels))
        seen = kept >= tiny(np.float32)
        error = error_in_eps(gradient(logits, np.float32(g)), expected, np.float32, seen)
        # One rounding more each: the mean's share of a row, and the cotangent.
        assert not beyond(worst_by_regime(error), GRADIENT_EPS + 1)


@pytest.mark.parametrize("block", [(5, 300), 5])
def test_statistics_keep_the_contract(block):
    logits, labels, _ = inputs(CLASSES, np.dtype(np.float32))

    @jax.jit
    def statistics(logits):
        one_hot = jnp.eye(len(logits), dtype=logits.dtype)
        return loss(one_hot, logits, labels, reduction="none", return_stats=True, block_size=block)

    value, stats = statistics(logits)
    exact = options_cross_entropy(logits, labels)
    np.testing.assert_array_equal(stats.argmax, exact.argmax)
    for actual, name in zip((value, *stats[:3]), ("loss", *stats._fields[:3]), strict=True):
        output = getattr(exact, name)
        size = np.maximum(output.value_size, tiny(np.float32))
        error = np.abs(np.asarray(actual, np.float64) - output.value) / size
        assert error.max() <= LOSS_EPS * np.finfo(np.float32).eps, name


def test_confident_rows_keep_their_gradients():
    """A label that leads by 20 and 60: every peer's gradient is 0 there."""
    logits = np.zeros((2, 10), np.float32)
    logits[[0, 1], 3] = 20, 60
    labels = np.full(2, 3, np.int32)
    for block in (None, (1, 4)):
        value, gradient = by_kernel(block, "vjp", logits, labels, np.ones(2, np.float32))
        exact = options_cross_entropy(logits, labels).loss
        assert error_in_eps(value, exact.value, np.float32, True).max() <= LOSS_EPS
        assert error_in_eps(gradient, exact.gradient, np.float32, True).max() <= GRADIENT_EPS


def test_ties_take_the_first_class_over_all_blocks():
    """Of zeros, of two equal leaders in different blocks, of a row of -inf (given by the bias)."""
    features, kernel = np.zeros((4, 2), np.float32), np.zeros((2, 11), np.float32)
    biases = np.zeros((3, 11), np.float32)
    biases[1, [5, 9]] = 1
    biases[2] = -np.inf
    labels = np.zeros(4, np.int32)

    @jax.jit
    @jax.vmap
    def first(bias):
        return loss(features, kernel, labels, bias=bias, return_stats=True, block_size=(3, 4))[1]

    np.testing.assert_array_equal(first(biases).argmax, np.repeat([[0], [5], [0]], 4, 1))


# Half precision beside the loss on logits, whose products are in the same dtype


ROWS, WIDTH = 64, 8


def exact_products(dtype, seed=0):
    """Small integers, whose logits are exact in `dtype`: both losses have the same."""
    rng = np.random.default_rng(seed)
    features = rng.integers(-3, 4, (ROWS, WIDTH))
    kernel = rng.integers(-2, 3, (WIDTH, 129))
    labels = rng.integers(0, 129, ROWS).astype(np.int32)
    logits = features @ kernel
    assert np.array_equal(logits.astype(dtype).astype(np.int64), logits)
    return features.astype(dtype), kernel.astype(dtype), labels, logits


def layer_errors(f, dtype, g, reduction):
    """Root mean square errors of the gradients by features and kernel, in eps of their size.

    The size is the sum of the absolute values of the products that are summed.
    """
    features, kernel, labels, logits = exact_products(dtype)

    @jax.jit
    def gradients(features, kernel, g):
        return jax.grad(lambda x, k: jnp.sum(g * f(x, k, labels)), (0, 1))(features, kernel)

    actual = gradients(features, kernel, g)
    exact = options_cross_entropy(logits.astype(np.float64), labels).loss.gradient
    exact = np.asarray(exact * np.reshape(g, (-1, 1)), np.float64)
    exact = exact / (ROWS if reduction == "mean" else 1)
    x, k = features.astype(np.float64), kernel.astype(np.float64)
    expected = exact @ k.T, x.T @ exact
    sizes = np.abs(exact) @ np.abs(k.T), np.abs(x.T) @ np.abs(exact)
    eps = float(jnp.finfo(dtype).eps)
    return [
        np.sqrt(np.mean((np.abs(np.asarray(a, np.float64) - b) / size / eps) ** 2))
        for a, b, size in zip(actual, expected, sizes, strict=True)
    ]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_gradients_err_no_more_than_those_through_logits(dtype, reduction):
    """Nor do many blocks: 64 of one row, whose shares a sum in bfloat16 would lose (MaxText)."""
    g = np.random.default_rng(1).standard_normal(ROWS if reduction == "none" else ())
    g = np.asarray(g, np.float32)

    def unfused(x, k, labels):
        return unfused_loss(x @ k, labels, reduction=reduction)

    usual = layer_errors(unfused, dtype, g, reduction)
    for block in (None, 1):
        fused = layer_errors(
            functools.partial(loss, reduction=reduction, block_size=block), dtype, g, reduction
        )
        for ours, theirs in zip(fused, usual, strict=True):
            # Equal but for which way single sums happen to round.
            assert ours <= 1.05 * theirs


def test_many_blocks_of_rows_sum_float32_gradients_as_well_as_one():
    g = np.float32(0.7)
    one, many = (
        layer_errors(functools.partial(loss, block_size=block), np.float32, g, "mean")
        for block in (ROWS, 1)
    )
    # Measured 1.06: a running sum of 64 shares rounds as often as a product over 64 rows.
    assert many[1] <= 1.25 * one[1]


def test_gradient_of_half_precision_is_rounded_once_after_its_cotangent():
    """By the bias and by the features: sums in float32, times 0.3, then rounded."""
    dtype = jnp.bfloat16
    _, _, labels, logits = exact_products(dtype)
    one_hot = np.eye(129, dtype=dtype)

    @jax.jit
    def gradients(z, bias):
        def total(z, bias):
            return np.float32(0.3) * loss(z, one_hot, labels, bias=bias, block_size=7)

        return jax.grad(total, (0, 1))(z, bias)

    # The logits as features of an identity: rounded once before, for the product.
    by_logits, by_bias = gradients(logits.astype(dtype), np.zeros(129, dtype))
    exact = options_cross_entropy(logits.astype(np.float64), labels).loss.gradient
    exact = np.asarray(exact, np.float64) * float(np.float32(0.3)) / ROWS
    error = error_in_eps(by_bias, exact.sum(0), dtype, True)
    size = np.abs(exact).sum(0) / np.abs(exact.sum(0))
    few_eps = float(np.finfo(np.float32).eps / jnp.finfo(dtype).eps) * ROWS * size
    assert np.all(error <= gradient_eps(dtype) + few_eps)
    seen = np.abs(exact) > 1e-30
    assert error_in_eps(by_logits, exact, dtype, seen).max() <= 2 * gradient_eps(dtype)


# V = 50257 of zero logits


@pytest.mark.parametrize("block", [3, (3, 1000), (8, 50256)])
def test_zero_logits_of_a_vocabulary_lose_its_logarithm(block):
    labels = np.array([0, 1, 999, 1000, 4096, 50255, 50256, 25000], np.int32)
    value = loss(
        np.zeros((8, 2), np.float32),
        np.zeros((2, 50257), np.float32),
        labels,
        reduction="none",
        block_size=block,
    )
    error = np.abs(np.asarray(value, np.float64) - np.log(50257)) / np.log(50257)
    assert error.max() <= 2 * np.finfo(np.float32).eps


# float16 has no room for what a mean divides


def test_float16_gradients_of_a_mean_over_many_rows_do_not_underflow():
    """Confident rows of 2048: a row's share of the kernel's gradient is 4e-9, all of them 7e-6."""
    rows = 2048
    features = np.ones((rows, 1), np.float16)
    kernel = np.array([[12.0, 0, 0]], np.float16)
    labels = np.zeros(rows, np.int32)

    @jax.jit
    def gradient(kernel):
        return jax.grad(lambda k: loss(features, k, labels, block_size=128))(kernel)

    exact = options_cross_entropy(kernel.astype(np.float64), labels[:1]).loss.gradient
    # A subnormal of float16, whose unit is 6e-8.
    np.testing.assert_allclose(gradient(kernel), exact, atol=2**-25, rtol=1e-3)
