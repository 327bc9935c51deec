"""Defects seen in other libraries' losses on logits, one test each; each names whose it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax.testing.exact import error_in_eps
from jax_softmax.testing.oracle import options_cross_entropy
from tests.ops.options import LOSSES, case, integer_loss, soft_loss
from tests.tolerances import LOSS_EPS, assert_close, gradient_eps

both_rules = pytest.mark.parametrize("rule", ["vjp", "jvp"])


def test_padded_classes_do_not_count_as_in_tokamax():
    """tokamax chunked_xla: 10.8435 for zero logits and V = 50257, whose loss is ln V = 10.8249."""
    logits, labels = np.zeros((8, 50257), np.float32), np.arange(8, dtype=np.int32)
    assert_close(integer_loss(logits, labels), np.full(8, np.log(50257)), np.float32)
    assert_close(integer_loss(logits, labels, label_smoothing=0.1), np.log(50257), np.float32)


@pytest.mark.parametrize("loss", LOSSES)
def test_bfloat16_losses_and_statistics_are_not_quantised_as_in_optax_1020_and_tokamax(loss, rng):
    logits, labels, _ = case(LOSSES[loss], set(), (8, 1000), jnp.bfloat16, rng)
    value, stats = LOSSES[loss](logits, labels, return_stats=True)
    exact = options_cross_entropy(logits, labels)
    scale = exact.loss.value_size
    assert_close(value, exact.loss.value, np.float32, scale=scale)
    assert_close(stats.logsumexp, exact.logsumexp.value, np.float32)
    assert value.dtype == stats.entropy.dtype == np.float32


@pytest.mark.parametrize("label", [-1, -100, 6])
def test_label_that_is_no_class_does_not_wrap_as_in_optax(label):
    logits = np.zeros((2, 6), np.float32)
    value = integer_loss(logits, np.array([label, 0], np.int32))
    np.testing.assert_array_equal(np.isnan(value), [True, False])


@pytest.mark.parametrize("loss", LOSSES)
def test_jacfwd_at_impossible_classes_is_not_nan_as_in_optax_pr_1762(loss):
    logits = np.array([0.5, -np.inf, 1.0], np.float32)
    y = np.int32(0) if loss == "integer" else np.array([1, 0, 0], np.float32)
    jacobian = jax.jacfwd(functools.partial(LOSSES[loss], rule="jvp"))(logits, y)
    assert jacobian[1] == 0
    assert np.all(np.isfinite(jacobian))


@both_rules
def test_confident_gradient_at_the_label_is_not_0_as_in_every_peer(rule):
    logits = np.array([[20.0, 0.0, 1.0], [60.0, 0.0, 1.0]], np.float32)
    labels = np.zeros(2, np.int32)
    gradient = jax.grad(lambda z: integer_loss(z, labels, rule=rule, reduction="sum"))(logits)
    exact = options_cross_entropy(logits, labels).loss.gradient
    assert np.all(gradient[:, 0] < 0)
    assert error_in_eps(gradient, exact, np.float32, True).max() <= gradient_eps(np.float32)


def test_shifted_rows_keep_the_loss_that_optax_loses(rng):
    logits = (rng.standard_normal((8, 1000)) + 1e4).astype(np.float32)
    labels = logits.argmax(-1).astype(np.int32)
    exact = options_cross_entropy(logits, labels).loss.value
    error = error_in_eps(integer_loss(logits, labels), exact, np.float32, True)
    assert error.max() <= LOSS_EPS


@both_rules
@pytest.mark.parametrize("loss", LOSSES)
def test_z_loss_and_logsumexp_cotangents_are_not_dropped_as_in_t5x_and_liger(loss, rule, rng):
    logits, labels, _ = case(LOSSES[loss], set(), (3, 5), np.float32, rng)

    def total(z):
        value, stats = LOSSES[loss](z, labels, z_loss=0.1, return_stats=True, rule=rule)
        return jnp.sum(value + 0.5 * stats.logsumexp)

    exact = options_cross_entropy(logits, labels, z_loss=0.1)
    expected = exact.loss.gradient + 0.5 * exact.logsumexp.gradient
    assert_close(jax.grad(total)(logits), expected, np.float32)


@both_rules
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_weights_of_rows_scale_their_gradients_unlike_liger_968(rule, reduction, rng):
    """With rule="jvp" the gradient of a scalar is computed in the forward pass, as in Liger."""
    logits, labels, options = case(integer_loss, {"sample_weight"}, (4, 5), np.float32, rng)
    weight = options["sample_weight"]

    def total(z, weight):
        return integer_loss(z, labels, sample_weight=weight, rule=rule, reduction=reduction)

    gradient = jax.grad(total)(logits, weight)
    exact = options_cross_entropy(logits, labels, sample_weight=weight)
    assert_close(gradient, exact.reduced(reduction)[1], np.float32)


def test_sentinel_label_matches_no_masked_class_as_in_apple_cce_59():
    """A label equal to the index of a padded class, ignored: 0, not inf."""
    logits = np.zeros((2, 8), np.float32)
    where = np.arange(8) < 6
    labels = np.array([7, 1], np.int32)
    options = {"where": where[None], "ignore_index": 7, "label_smoothing": 0.1}
    assert_close(integer_loss(logits, labels, **options), [0, np.log(6)], np.float32)


def test_soft_cap_does_not_turn_padding_into_a_class_as_in_unsloth_10616():
    logits = np.zeros((1, 8), np.float32)
    logits[:, 6:] = -np.inf
    value, stats = integer_loss(logits, np.zeros(1, np.int32), soft_cap=0.5, return_stats=True)
    assert_close(value, [np.log(6)], np.float32)
    assert_close(stats.entropy, [np.log(6)], np.float32)


@both_rules
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_ignored_row_of_impossible_classes_has_no_nan_gradient_as_in_torch_11551(rule, reduction):
    logits = np.array([[-np.inf] * 3, [0, 1, 2]], np.float32)
    labels = np.array([-100, 1], np.int32)

    def total(z):
        return jnp.sum(integer_loss(z, labels, ignore_index=-100, rule=rule, reduction=reduction))

    gradient = jax.grad(total)(logits)
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("loss", LOSSES)
def test_large_cap_and_soft_labels_of_no_mass_are_no_trap(loss):
    """A row of soft labels 0 has loss 0 and no gradient, whatever its logits."""
    if loss == "integer":
        value = integer_loss(np.zeros((1, 3), np.float32), np.zeros(1, np.int32), soft_cap=1e30)
        assert_close(value, [np.log(3)], np.float32)
    else:
        logits, q = np.array([[1e4, -1e4, 0]], np.float32), np.zeros((1, 3), np.float32)
        value, vjp = jax.vjp(lambda z: soft_loss(z, q), logits)
        assert value[0] == 0
        np.testing.assert_array_equal(vjp(np.ones(1, np.float32))[0], 0)
