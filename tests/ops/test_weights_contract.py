"""Weights: their means without overflow, and the derivative by a weight of 0, which is the loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from tests.grids import pairwise

Z = np.float32([[1, 0, -1], [0, 2, 0]])
Y = np.int32([1, 2])
ROW_LOSSES = np.log(np.exp(Z.astype(np.float64)).sum(-1)) - Z[[0, 1], Y]  # 1.41, 2.24
ONEHOT = np.eye(3, dtype=np.float32)
GRADIENT = np.exp(Z - np.log(np.exp(Z.astype(np.float64)).sum(-1))[:, None]) - ONEHOT[Y]


def integer(z, y, **options):
    return ops.softmax_cross_entropy_with_integer_labels(z, y, **options)


def soft(z, y, **options):
    q = jnp.where((y == -1)[..., None], 0, jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype))
    return ops.softmax_cross_entropy(z, q, **options)


def fused(z, y, **options):
    """A class of `-inf` in all rows is the bias's: 0 times that would be NaN."""
    options = {"reduction": "none", **options}
    if not isinstance(z, jax.core.Tracer) and np.isneginf(z).all(0).any():
        options["bias"] = jnp.where(jnp.isneginf(z).all(0), -jnp.inf, 0)
        z = jnp.where(jnp.isneginf(z), 0, z)
    return ops.linear_softmax_cross_entropy(z, jnp.eye(z.shape[-1], dtype=z.dtype), y, **options)


LOSSES = {"integer": integer, "soft": soft, "fused": fused}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
RULES = ["vjp", "jvp"]
both_rules = pytest.mark.parametrize("rule", RULES)
close = functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-6)


# Sums of weights that are no float32


@pairwise(loss=LOSSES, rule=RULES, weight=[3e38, 1.2e-38])
def test_mean_over_weights_whose_sum_overflows(loss, rule, weight):
    w = np.float32([weight, weight])

    def mean(z):
        return loss(z, Y, sample_weight=w, reduction="mean", rule=rule)

    value, gradient = jax.value_and_grad(mean)(Z)
    close(value, ROW_LOSSES.mean())
    close(gradient, GRADIENT / 2)


@every_loss
@both_rules
def test_mean_over_weights_of_which_one_is_huge(loss, rule):
    w = np.float32([3e38, 1])

    def mean(z):
        return loss(z, Y, sample_weight=w, reduction="mean", rule=rule)

    value, gradient = jax.value_and_grad(mean)(Z)
    close(value, ROW_LOSSES[0])
    close(gradient, GRADIENT * [[1], [0]])


@pairwise(loss=[integer, fused], rule=RULES, size=[1e-25, 1e25])
def test_mean_over_weights_whose_products_are_no_float32(loss, rule, size):
    """1e-25 of the sample times 1e-25 of the class, which is a share of the total all the same."""
    w, c = np.float32([size, 3 * size]), np.full(3, size, np.float32)

    def mean(z):
        return loss(z, Y, sample_weight=w, class_weights=c, reduction="mean", rule=rule)

    value, gradient = jax.value_and_grad(mean)(Z)
    share = np.array([0.25, 0.75])
    close(value, share @ ROW_LOSSES)
    close(gradient, share[:, None] * GRADIENT)


@both_rules
def test_soft_labels_mean_over_tiny_weights_of_samples_and_classes(rule):
    """Its mean divides by the samples' weights alone."""
    w, c = np.full(2, 1e-25, np.float32), np.full(3, 1e-25, np.float32)

    def mean(z):
        return soft(z, Y, sample_weight=w, class_weights=c, reduction="mean", rule=rule)

    value, gradient = jax.value_and_grad(mean)(Z)
    np.testing.assert_allclose(value, 1e-25 * ROW_LOSSES.mean(), rtol=2e-6)
    np.testing.assert_allclose(gradient, 1e-25 * GRADIENT / 2, rtol=5e-6)


@pairwise(loss=LOSSES, rule=RULES, size=[1e-30, 1e30])
def test_derivative_of_the_mean_by_small_and_large_weights(loss, rule, size):
    w = np.float32([size, 3 * size])

    def mean(w):
        return loss(jnp.asarray(Z), Y, sample_weight=w, reduction="mean", rule=rule)

    value = np.array([0.25, 0.75]) @ ROW_LOSSES
    by_weight = (ROW_LOSSES - value) / (4 * np.float64(size))
    np.testing.assert_allclose(jax.grad(mean)(w), by_weight, rtol=5e-6)


@every_loss
def test_weights_may_cancel(loss):
    """A sum of weights that is 0 makes the mean 0, with derivatives of 0."""
    w = np.float32([1, -1])
    value, gradient = jax.value_and_grad(lambda z: loss(z, Y, sample_weight=w, reduction="mean"))(Z)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@every_loss
@both_rules
def test_weights_may_be_negative(loss, rule):
    w = np.float32([3, -1])
    value, gradient = jax.value_and_grad(
        lambda z: loss(z, Y, sample_weight=w, reduction="mean", rule=rule)
    )(Z)
    close(value, (3 * ROW_LOSSES[0] - ROW_LOSSES[1]) / 2)
    close(gradient, GRADIENT * [[1.5], [-0.5]])


@every_loss
@pytest.mark.parametrize("name", ["sample_weight", "class_weights"])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_mean_over_an_infinite_or_nan_weight_is_no_number(loss, name, bad):
    """Rather than 0, or the mean of the other rows."""
    weights = {"sample_weight": np.float32([bad, 1]), "class_weights": np.float32([1, bad, 2])}
    value = loss(jnp.asarray(Z), Y, reduction="mean", **{name: weights[name]})
    assert not np.isfinite(value)


# A mean of nothing, with statistics


@every_loss
@both_rules
def test_a_mean_of_nothing_has_derivative_0_beside_statistics_and_a_nan_row(loss, rule):
    """As without them: rows of which the mean divides by 0 do not count, whatever they hold."""
    z = jnp.asarray(Z).at[1, 0].set(jnp.nan)
    options = {"sample_weight": np.float32([2, -2])}
    if loss is not soft:
        options = {"class_weights": np.float32([1, 0, 0])}

    def mean(stats, z):
        found = loss(z, Y, **options, reduction="mean", rule=rule, return_stats=stats)
        return found[0] if stats else found

    for stats in (False, True):
        value, gradient = jax.value_and_grad(functools.partial(mean, stats))(z)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("loss", [integer, fused])
def test_a_mean_of_nothing_leaves_the_statistics_their_derivatives(loss):
    """The entropy's, say, is what it is with a sum."""

    def of(reduction, z):
        options = {"class_weights": np.float32([1, 0, 0]), "reduction": reduction}
        value, stats = loss(z, Y, **options, return_stats=True)
        return (value if reduction == "mean" else 0) + jnp.sum(stats.entropy)

    close(jax.grad(functools.partial(of, "mean"))(Z), jax.grad(functools.partial(of, "sum"))(Z))


# The derivative by a weight of 0


@pairwise(loss=LOSSES, rule=RULES, reduction=["none", "sum"], w=[[0, 0], [0, 1], [2, 0]])
def test_derivative_by_a_weight_of_0_is_the_rows_loss(loss, rule, reduction, w):
    def total(w):
        return jnp.sum(loss(jnp.asarray(Z), Y, sample_weight=w, reduction=reduction, rule=rule))

    close(jax.grad(total)(np.float32(w)), ROW_LOSSES)
    if rule == "jvp":
        close(jax.jacfwd(total)(np.float32(w)), ROW_LOSSES)


@pairwise(loss=LOSSES, rule=RULES, stats=[False, True])
def test_derivative_of_a_mean_by_a_weight_of_0(loss, rule, stats):
    """`(l_i - L) / sum(w)`, and 0 where the sum is."""

    def mean(w):
        found = loss(
            jnp.asarray(Z), Y, sample_weight=w, reduction="mean", rule=rule, return_stats=stats
        )
        return found[0] if stats else found

    gradient = jax.grad(mean)
    close(gradient(np.float32([2, 0])), [0, (ROW_LOSSES[1] - ROW_LOSSES[0]) / 2])
    close(gradient(np.float32([0, 4])), [(ROW_LOSSES[0] - ROW_LOSSES[1]) / 4, 0])
    np.testing.assert_array_equal(gradient(np.float32([0, 0])), 0)


@every_loss
@both_rules
def test_derivative_by_a_weight_of_0_has_every_option(loss, rule):
    """With class weights, smoothing and the penalty: what a weight of 1 has, which is the loss."""
    options = {
        "class_weights": np.float32([0.5, 2, 3]),
        "label_smoothing": 0.2,
        "z_loss": 0.1,
        "soft_cap": 3.0,
        "rule": rule,
        "reduction": "none",
    }

    def total(w):
        return jnp.sum(loss(jnp.asarray(Z), Y, sample_weight=w, **options))

    expected = loss(jnp.asarray(Z), Y, **options)
    close(jax.grad(total)(np.zeros(2, np.float32)), expected)
    close(jax.grad(total)(np.ones(2, np.float32)), expected)


@pytest.mark.parametrize("loss", [integer, fused])
@both_rules
def test_derivative_of_a_mean_under_class_weights_by_a_weight_of_0(loss, rule):
    """`c_i (l_i - L) / sum(w c)`."""
    c = np.float32([1, 2, 3])

    def mean(w):
        return loss(
            jnp.asarray(Z), Y, sample_weight=w, class_weights=c, reduction="mean", rule=rule
        )

    by_weight = 3 * (ROW_LOSSES[1] - ROW_LOSSES[0]) / (5 * 2)
    close(jax.grad(mean)(np.float32([5, 0])), [0, by_weight])


@pairwise(loss=LOSSES, rule=RULES, reduction=["none", "sum", "mean"])
def test_derivative_by_a_weight_of_0_is_0_where_the_loss_is_not_finite(loss, rule, reduction):
    z = jnp.array([[1, 0, -1], [0, 2, -jnp.inf], [0, jnp.nan, 1], [jnp.inf, 0, 1]], jnp.float32)
    y = np.int32([1, 2, 0, 0])
    w = np.float32([2, 0, 0, 0])

    def total(w):
        return jnp.sum(loss(z, y, sample_weight=w, reduction=reduction, rule=rule))

    first = 0 if reduction == "mean" else ROW_LOSSES[0]
    value, gradient = jax.value_and_grad(total)(w)
    close(value, ROW_LOSSES[0] * (1 if reduction == "mean" else 2))
    close(gradient, [first, 0, 0, 0])


@pairwise(loss=[integer, fused], rule=RULES, weight=[0, 1], reduction=["none", "sum", "mean"])
def test_derivative_by_an_ignored_rows_weight_is_0(loss, rule, weight, reduction):
    w = np.float32([1, weight])

    def total(w):
        options = {"reduction": reduction, "rule": rule, "ignore_index": -1}
        return jnp.sum(loss(jnp.asarray(Z), np.int32([1, -1]), sample_weight=w, **options))

    close(jax.grad(total)(w), [0 if reduction == "mean" else ROW_LOSSES[0], 0])


@pytest.mark.parametrize("loss", [integer, soft])
@both_rules
def test_derivative_by_a_masked_rows_weight_is_0(loss, rule):
    def total(w):
        options = {"where": np.array([True, False]), "rule": rule}
        return jnp.sum(loss(jnp.asarray(Z), Y, sample_weight=w, **options))

    close(jax.grad(total)(np.zeros(2, np.float32)), [ROW_LOSSES[0], 0])


@pytest.mark.parametrize("loss", [integer, fused])
def test_derivative_by_the_weight_of_a_label_that_is_no_class(loss):
    """Its loss is NaN, so a weight of 0 has a derivative of 0."""

    def total(w):
        return jnp.sum(loss(jnp.asarray(Z), np.int32([1, 7]), sample_weight=w))

    close(jax.grad(total)(np.zeros(2, np.float32)), [ROW_LOSSES[0], 0])


@every_loss
@both_rules
def test_a_row_of_weight_0_keeps_its_mixed_derivative(loss, rule):
    """`d/dw` of the gradient by the logits: learning to reweight starts at weights of 0."""

    def gradient(w):
        def total(z):
            return jnp.sum(loss(z, Y, sample_weight=w, reduction="sum", rule=rule))

        return jax.grad(total)(jnp.asarray(Z))

    expected = np.zeros((2, 3, 2))
    expected[[0, 1], :, [0, 1]] = GRADIENT
    w = np.zeros(2, np.float32)
    close(jax.jacrev(gradient)(w), expected)
    close(jax.jacfwd(gradient)(w), expected)


@every_loss
@both_rules
def test_the_value_and_statistics_of_a_row_of_weight_0_stay_0(loss, rule):
    z = jnp.asarray(Z).at[1, 0].set(jnp.nan)
    w = np.float32([1, 0])
    value, stats = loss(z, Y, sample_weight=w, rule=rule, return_stats=True)
    close(value, [ROW_LOSSES[0], 0])
    for row in stats:
        assert row[1] == 0
    gradient = jax.grad(lambda z: jnp.sum(loss(z, Y, sample_weight=w, rule=rule)))(z)
    close(gradient, GRADIENT * [[1], [0]])


# Weights beside a loss that is infinite

IMPOSSIBLE = jnp.asarray(Z).at[:, 2].set(-jnp.inf)  # the second row's label


@pairwise(loss=LOSSES, reduction=["none", "sum", "mean"], w=[[1, 1], [1, 0], [0, 1]])
def test_forward_mode_by_weights_beside_an_infinite_loss(loss, reduction, w):
    """NaN nowhere but where reverse mode has it, and the same elsewhere."""

    def of(w):
        return jnp.sum(loss(IMPOSSIBLE, Y, sample_weight=w, reduction=reduction, rule="jvp"))

    w = np.float32(w)
    forward, reverse = jax.jacfwd(of)(w), jax.grad(of)(w)
    np.testing.assert_allclose(forward, reverse, rtol=2e-6)  # NaN equals NaN
    if reduction != "mean":
        assert not np.isnan(forward).any()
        close(forward[0], np.log(1 + np.e))


@every_loss
def test_the_jacobian_of_losses_by_weights_is_diagonal_beside_an_infinite_loss(loss):
    def of(w):
        return loss(IMPOSSIBLE, Y, sample_weight=w, rule="jvp")

    jacobian = np.asarray(jax.jacfwd(of)(np.ones(2, np.float32)))
    np.testing.assert_array_equal(jacobian[[0, 1], [1, 0]], 0)
    close(jacobian[0, 0], np.log(1 + np.e))
    np.testing.assert_array_equal(jacobian, jax.jacrev(of)(np.ones(2, np.float32)))
