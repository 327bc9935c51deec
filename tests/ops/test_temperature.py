"""A temperature divides the logits, after the cap, as if the caller had, and costs no exactness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from jax_softmax.testing.exact import tiny
from jax_softmax.testing.oracle import options_cross_entropy
from jax_softmax.testing.regimes import regime_rows
from tests.grids import pairwise
from tests.ops.compiled import value_and_gradient
from tests.ops.options import integer_loss, soft_loss
from tests.tolerances import LOSS_EPS, gradient_eps

# Powers of two are divided by exactly; a reciprocal of the others is not.
TEMPERATURES = [0.7, 0.05, 3.0, 0.5]


def in_eps(actual, expected, dtype, seen):
    error = np.abs(np.asarray(actual, np.float64) - expected)
    return float((error / np.abs(np.where(seen, expected, 1)))[seen].max() / jnp.finfo(dtype).eps)


@pairwise(temperature=TEMPERATURES, classes=[10, 1000, 1024], dtype=["float32", "bfloat16"])
def test_the_contract_is_kept_for_the_divided_logits(temperature, classes, dtype):
    rng = np.random.default_rng(classes)
    logits, labels, g = regime_rows(classes, 20, rng)
    logits, labels = jnp.asarray(logits, dtype), labels.astype(np.int32)
    exact = options_cross_entropy(np.asarray(logits), labels, temperature=temperature)
    value, gradient = value_and_gradient(integer_loss, logits, labels, g=g, temperature=temperature)
    least = tiny(np.float32)
    seen = exact.loss.value > least
    assert in_eps(value, exact.loss.value, np.float32, seen) <= LOSS_EPS
    expected = g[:, None] * exact.loss.gradient
    factors = np.minimum(exact.probability, exact.not_probability)
    seen = (np.abs(expected) > least) & (factors > 64 * least)
    assert in_eps(gradient, expected, dtype, seen) <= gradient_eps(dtype)


@pytest.mark.parametrize("loss", [integer_loss, soft_loss])
@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_it_is_the_loss_of_logits_that_the_caller_divided(loss, rule, rng):
    z = rng.standard_normal((5, 40)).astype(np.float32)
    labels = rng.integers(0, 40, 5) if loss is integer_loss else rng.random((5, 40))
    labels = labels.astype(np.int32 if loss is integer_loss else np.float32)
    options = {"z_loss": 0.1, "label_smoothing": 0.1, "return_stats": True, "rule": rule}
    divided = z / np.float32(0.7)
    found = loss(z, labels, temperature=0.7, **options)
    expected = loss(divided, labels, **options)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_division_is_rounded_once(rng):
    """Compiled, a division by a constant is a product with its reciprocal: an ulp off."""
    z = (1000 * rng.standard_normal((1, 4096))).astype(np.float32)
    stats = jax.jit(
        lambda z: integer_loss(z, jnp.argmax(z, -1), temperature=0.7, return_stats=True)
    )
    expected = integer_loss(z / np.float32(0.7), z.argmax(-1).astype(np.int32), return_stats=True)
    np.testing.assert_array_equal(stats(z)[1].logsumexp, expected[1].logsumexp)


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_impossible_classes_stay_impossible(rule):
    z = np.float32([[0, -np.inf, 1], [-np.inf] * 3, [np.nan, 0, 1], [np.inf, 0, 1]])
    value, gradient = value_and_gradient(
        integer_loss, z, np.int32([0, 1, 1, 1]), temperature=0.7, rule=rule
    )
    expected = np.log1p(np.exp(1 / 0.7))
    np.testing.assert_allclose(value, [expected, np.inf, np.nan, np.nan], rtol=1e-6)
    assert gradient[0, 1] == 0 and not np.isnan(gradient[:2]).any()
    np.testing.assert_array_equal(gradient[1], 0)


def test_temperature_1_changes_no_program(rng):
    z, y = rng.standard_normal((4, 300)).astype(np.float32), np.zeros(4, np.int32)

    def text(**options):
        f = jax.value_and_grad(lambda z: integer_loss(z, y, reduction="mean", **options))
        return jax.jit(f).lower(z).as_text()

    assert text(temperature=1) == text()
    assert text(temperature=2) != text()


def test_second_derivatives(x64, rng):
    z = rng.standard_normal(6)

    def hessian(loss):
        return jax.hessian(loss)(z)

    expected = hessian(lambda z: -jax.nn.log_softmax(3 * jnp.tanh(z / 3) / 0.7)[2])
    found = hessian(lambda z: integer_loss(z, jnp.int32(2), soft_cap=3.0, temperature=0.7))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_layer_divides_its_logits(reduction, x64, rng):
    x, k = rng.standard_normal((7, 3)), rng.standard_normal((3, 11))
    y = rng.integers(0, 11, 7)

    def fused(x, k, **options):
        loss = ops.linear_softmax_cross_entropy(
            x, k, y, reduction=reduction, block_size=3, temperature=0.7, **options
        )
        return jnp.sum(loss)

    def plain(x, k):
        loss = integer_loss(x @ k / 0.7, y, reduction=reduction)
        return jnp.sum(loss)

    for found, expected in zip(
        jax.grad(fused, (0, 1))(x, k), jax.grad(plain, (0, 1))(x, k), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


def test_a_sharded_layer_divides_its_logits(rng):
    x, k = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 3), (3, 22)))
    y = rng.integers(0, 22, 8).astype(np.int32)
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    found = ops.sharded_linear_softmax_cross_entropy(
        x, k, y, mesh=mesh, axis_name="model", data_axis_name="data", temperature=0.7
    )
    expected = integer_loss(x @ k / np.float32(0.7), y, reduction="mean")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
