"""Defects seen in other libraries' fused losses, one test each; each names whose it is.

Those of the row mathematics alone are in test_peer_defects.py; the sharded ones in
test_linear_sharding.py; MaxText's sums in the parameters' dtype in test_linear_exactness.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.linear import case, exact, loss, outputs_and_gradients
from tests.tolerances import assert_close

both_rules = pytest.mark.parametrize("rule", ["vjp", "jvp"])
both_blocks = pytest.mark.parametrize("block", [4, (4, 10)])


def test_classes_that_do_not_divide_are_not_padded_as_in_tokamax():
    """tokamax chunked_xla: 10.8435 for zero logits and V = 50257, whose loss is ln V = 10.8249."""
    x, k = np.zeros((8, 4), np.float32), np.zeros((4, 50257), np.float32)
    labels = np.arange(8, dtype=np.int32) * 7000
    options = {"label_smoothing": 0.1, "z_loss": 0.5, "reduction": "none", "return_stats": True}
    value, stats = loss(x, k, labels, block_size=(3, 8192), **options)
    size = np.log(50257)
    assert_close(value, np.full(8, size + 0.5 * size**2), np.float32)
    assert_close(stats.entropy, np.full(8, size), np.float32)


def test_losses_and_statistics_of_bfloat16_are_not_quantised_as_in_tokamax():
    made = case({"bias"}, dtype=jnp.bfloat16)
    g = [np.zeros(13, np.float32)] * 4
    out, _ = outputs_and_gradients(made, g, reduction="none", return_stats=True, block_size=4)
    for actual, expected in zip(out, exact(made, g, "none")[0], strict=True):
        assert_close(actual, expected, np.float32)


@pytest.mark.parametrize(("rule", "block"), [("vjp", (4, 10)), ("jvp", 4)])
def test_z_loss_and_logsumexp_cotangents_are_not_dropped_as_in_t5x_and_liger(rule, block):
    made = case({"z_loss"})
    g = [np.float32(0.3), np.linspace(-1, 1, 13, dtype=np.float32), None, None]
    _, gradients = outputs_and_gradients(made, g, return_stats=True, rule=rule, block_size=block)
    expected = exact(made, g)[1]
    without = exact(case(), [g[0]])[1]
    for name in ("features", "kernel"):
        assert_close(gradients[name], expected[name], np.float32)
        assert np.abs(expected[name] - without[name]).max() > 0.01


@both_rules
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_weights_of_rows_scale_gradients_made_in_the_forward_pass_unlike_liger_968(rule, reduction):
    made = case({"sample_weight"})
    g = [np.float32(-1.7)]
    _, gradients = outputs_and_gradients(made, g, reduction=reduction, rule=rule, block_size=4)
    expected = exact(made, g, reduction)[1]
    for name, gradient in gradients.items():
        assert_close(gradient, expected[name], np.float32)


def test_sentinel_label_matches_no_padding_as_in_apple_cce_59():
    """A label equal to the first padded column, ignored, is 0; not ignored, it is no class."""
    made = case(classes=40)
    made.labels[:] %= 37
    made.labels[2] = 37
    static = {"reduction": "none", "num_classes": 37, "block_size": (4, 10)}
    for ignored in (True, False):
        if ignored:
            made.options["ignore_index"] = 37
        else:
            del made.options["ignore_index"]
        out, gradients = outputs_and_gradients(made, [np.ones(13, np.float32)], **static)
        value, at = np.asarray(out[0]), np.arange(13) == 2
        assert np.all(np.isfinite(value[~at]))
        assert value[2] == 0 if ignored else np.isnan(value[2])
        assert np.all(np.isfinite(gradients["features"][~at]))


@both_blocks
def test_soft_cap_does_not_turn_padding_into_classes_as_in_unsloth_10616(block):
    """Padded by num_classes, and by a bias of -inf."""
    x, k = np.zeros((5, 2), np.float32), np.zeros((2, 16), np.float32)
    labels = np.arange(5, dtype=np.int32)
    bias = np.where(np.arange(16) < 13, 0, -np.inf).astype(np.float32)
    for options in ({"num_classes": 13}, {"bias": bias}):
        value, stats = loss(
            x, k, labels, soft_cap=0.5, block_size=block, return_stats=True, **options
        )
        assert_close(value, np.log(13), np.float32)
        assert_close(stats.entropy, np.full(5, np.log(13)), np.float32)
        assert_close(stats.logsumexp, np.full(5, np.log(13)), np.float32)


@both_rules
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_ignored_row_of_impossible_classes_has_no_nan_gradient_as_in_torch_11551(rule, reduction):
    """Features that make every logit -inf."""
    x = np.array([[1.0, -np.inf], [1.0, 0.5]], np.float32)
    k = np.abs(case().arrays["kernel"][:2]) + 0.1
    labels = np.array([-100, 1], np.int32)

    @jax.jit
    def gradients(x, k):
        def total(x, k):
            return jnp.sum(
                loss(x, k, labels, ignore_index=-100, rule=rule, reduction=reduction, block_size=1)
            )

        return jax.grad(total, (0, 1))(x, k)

    by_features, by_kernel = gradients(x, k)
    np.testing.assert_array_equal(by_features[0], 0)
    assert np.all(np.isfinite(by_features))
    assert np.all(np.isfinite(by_kernel))


def test_mean_over_ignored_rows_alone_is_0_unlike_torch():
    made = case({"ignore_index", "bias"})
    made.labels[:] = made.options["ignore_index"]
    out, gradients = outputs_and_gradients(made, [np.float32(1)], block_size=4)
    assert out[0] == 0
    assert not any(np.any(g) for g in gradients.values())
