"""The exact rules of the fused loss at their edges: rows that do not count, labels, -inf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.linear import (
    case,
    cotangents_for,
    exact,
    loss,
    outputs_and_gradients,
    unfused_loss,
)
from tests.ops.options import IGNORED
from tests.tolerances import assert_close

INF, NAN = np.inf, np.nan
NAMES = {"bias", "label_smoothing", "class_weights", "z_loss"}


def spoilt(made):
    """The same with features that would spoil everything in the first three rows."""
    features = made.arrays["features"].copy()
    features[0], features[1, 2], features[2] = NAN, INF, -INF
    return made.changed(features=features)


@pytest.mark.parametrize(
    ("drop", "rule", "reduction", "block"),
    [
        ("ignored", "vjp", "none", (4, 10)),
        ("ignored", "jvp", "mean", 4),
        ("weight 0", "vjp", "mean", (4, 10)),
        ("weight 0", "jvp", "none", 4),
    ],
)
def test_rows_that_do_not_count_are_selected_out_whatever_they_hold(drop, rule, reduction, block):
    made = case(NAMES | {"sample_weight"}, (9,))
    if drop == "ignored":
        made.options["ignore_index"] = IGNORED
        made.labels[:3] = IGNORED
    else:
        made.arrays["sample_weight"][:3] = 0
        made.labels[:3] = -1, 37, 2**31 - 1
    g = cotangents_for(made, reduction, True)
    stats = reduction == "none"
    out, gradients = outputs_and_gradients(
        spoilt(made), g, reduction=reduction, rule=rule, block_size=block, return_stats=stats
    )
    harmless = made._replace(labels=made.labels.copy())
    if drop != "ignored":
        harmless.labels[:3] = 0
    expected, by = exact(harmless, g if stats else g[:1], reduction)
    for a, b in zip(out, expected, strict=False):
        assert_close(a, b, np.float32)
    by["sample_weight"][:3] = 0  # their loss is no number
    for name, gradient in gradients.items():
        assert_close(gradient, by[name], np.float32)
    np.testing.assert_array_equal(gradients["features"][:3], 0)
    np.testing.assert_array_equal(gradients["sample_weight"][:3], 0)


NOTHING = {
    "ignored": {"ignore_index": 2},
    "class weights": {"class_weights": np.zeros(37, np.float32)},
    "sample weights": {},
    "opposite weights": {},
}


@pytest.mark.parametrize("nothing", NOTHING)
def test_mean_over_nothing_is_0_with_zero_gradients(nothing):
    made = case({"bias", "label_smoothing", "z_loss"}, (4,))
    made = made._replace(labels=np.full(4, 2, np.int32))
    made.options.update(NOTHING[nothing])
    if nothing == "sample weights":
        made = spoilt(made.changed(sample_weight=np.zeros(4, np.float32)))
    if nothing == "opposite weights":
        made = made.changed(sample_weight=np.array([1, -1, 2, -2], np.float32))
    rule = "jvp" if nothing in ("ignored", "opposite weights") else "vjp"
    out, gradients = outputs_and_gradients(made, [np.float32(3)], rule=rule, block_size=3)
    assert out[0] == 0
    for name in ("features", "kernel", "bias"):
        np.testing.assert_array_equal(gradients[name], 0)


@pytest.mark.parametrize(
    ("rule", "reduction", "block"),
    [("vjp", "none", (3, 10)), ("jvp", "none", 3), ("vjp", "mean", 3)],
)
def test_label_that_is_no_class_makes_its_row_nan_and_no_other(rule, reduction, block):
    made = case({"ignore_index"}, (7,))
    for label in (-1, -100, 37, 2**31 - 1):
        made.labels[3] = label
        out, gradients = outputs_and_gradients(
            made, [np.float32(1)], reduction=reduction, rule=rule, block_size=block
        )
        bad = np.isnan(np.asarray(gradients["features"])).all(-1)
        np.testing.assert_array_equal(bad, np.arange(7) == 3)
        assert not np.isnan(np.asarray(gradients["features"])[~bad]).any()
        if reduction == "none":
            np.testing.assert_array_equal(np.isnan(out[0]), np.arange(7) == 3)
        else:
            assert np.isnan(out[0])


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_row_of_nan_or_infinity_is_nan_and_no_other(dtype):
    """Large cotangents beside it must not matter (float16 is in test_linear_peer_defects)."""
    made = case((), (6,), dtype=dtype)
    made.arrays["features"][[1, 4], 0] = NAN, INF
    out, gradients = outputs_and_gradients(
        made, [np.full(6, 100, np.float32)], reduction="none", block_size=3
    )
    bad = np.isin(np.arange(6), [1, 4])
    np.testing.assert_array_equal(np.isnan(out[0]), bad)
    np.testing.assert_array_equal(
        np.isnan(np.asarray(gradients["features"], np.float32)).any(-1), bad
    )


@pytest.mark.parametrize(("rule", "block"), [("vjp", (4, 10)), ("jvp", 5)])
def test_bias_of_minus_infinity_excludes_a_class(rule, block):
    """Probability 0 and gradient 0, in every block; a label on one has loss inf."""
    made = case({"bias"})
    excluded = [0, 9, 10, 36]  # on both sides of blocks of 10
    made.arrays["bias"][excluded] = -INF
    made.labels[:] = np.where(np.isin(made.labels, excluded), 5, made.labels)
    g = cotangents_for(made, "none", True)
    static = {"reduction": "none", "return_stats": True, "rule": rule, "block_size": block}
    out, gradients = outputs_and_gradients(made, g, **static)
    expected, by = exact(made, g, "none")
    for a, b in zip(out, expected, strict=True):
        assert_close(a, b, np.float32)
    for name in ("features", "kernel", "bias"):
        assert_close(gradients[name], by[name], np.float32)
    np.testing.assert_array_equal(np.asarray(gradients["kernel"])[:, excluded], 0)
    made.labels[2] = 10
    out, gradients = outputs_and_gradients(made, g, **static)
    np.testing.assert_array_equal(np.isinf(out[0]), np.arange(13) == 2)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))


def test_block_of_impossible_classes():
    """A whole block of classes at -inf, and all but the label's."""
    made = case({"bias"})
    made.labels[:] = 12
    g = [np.linspace(-1, 1, 13, dtype=np.float32)]
    for possible in (np.arange(10, 20), [12]):
        bias = np.full(37, -INF, np.float32)
        bias[possible] = 0.5
        out, gradients = outputs_and_gradients(
            made.changed(bias=bias), g, reduction="none", block_size=(4, 10)
        )
        expected, by = exact(made.changed(bias=bias), g, "none")
        assert_close(out[0], expected[0], np.float32)
        for name in ("features", "kernel", "bias"):
            assert_close(gradients[name], by[name], np.float32)


def test_ignore_index_may_be_a_class():
    made = case({"bias"})
    made.labels[::3] = 5
    made.options["ignore_index"] = 5
    g = cotangents_for(made, "mean", False)
    out, gradients = outputs_and_gradients(made, g, block_size=4)
    expected, by = exact(made, g)
    assert_close(out[0], expected[0], np.float32)
    assert_close(gradients["kernel"], by["kernel"], np.float32)


def test_label_of_a_wide_dtype_does_not_wrap(x64):
    """2**32 is not class 0."""
    made = case((), (3,), dtype=np.float64)
    labels = np.array([0, 2**32, 1 - 2**32], np.int64)
    out, _ = outputs_and_gradients(made._replace(labels=labels), [1.0], reduction="none")
    np.testing.assert_array_equal(np.isnan(out[0]), [False, True, True])


def test_one_class_and_one_feature():
    value, gradients = jax.value_and_grad(loss, (0, 1))(
        np.ones((3, 1), np.float32), np.ones((1, 1), np.float32), np.zeros(3, np.int32)
    )
    assert value == 0
    assert not any(np.any(g) for g in gradients)


def test_wide_features_take_the_kernels_gradient_in_pieces():
    """On a CPU it is added to 2^19 numbers at a time: here 4 classes, of 11."""
    made = case((), (3,), width=2**17, classes=11)
    made.arrays["kernel"] /= 2**9
    g = [np.float32(0.3)]
    for layout in ("dv", "vd"):
        _, gradients = outputs_and_gradients(made, g, kernel_layout=layout, block_size=2)
        expected = exact(made, g)[1]
        assert_close(gradients["kernel"], expected["kernel"], np.float32)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("rows", [(0,), (3, 0), (0, 5)])
def test_empty_batch(rows, reduction):
    made = case({"bias", "sample_weight"}, rows)
    g = cotangents_for(made, reduction, False)
    for block in (None, (4, 10)):
        out, gradients = outputs_and_gradients(made, g, reduction=reduction, block_size=block)
        assert out[0].shape == (rows if reduction == "none" else ())
        assert not np.any(out[0])
        for name, gradient in gradients.items():
            assert gradient.shape == made.arrays[name].shape
            np.testing.assert_array_equal(gradient, 0)


def test_no_features_leave_the_bias():
    made = case({"bias"}, width=0)
    g = cotangents_for(made, "mean", False)
    out, gradients = outputs_and_gradients(made, g, block_size=4)
    expected, by = exact(made, g)
    assert_close(out[0], expected[0], np.float32)
    assert_close(gradients["bias"], by["bias"], np.float32)


@pytest.mark.parametrize("fused", [True, False])
def test_mean_over_a_divisor_of_0_leaves_out_what_is_no_number(fused):
    """Classes of weight 0 alone: the mean and its gradients are 0 beside a row of NaN too."""
    features = np.ones((3, 2), np.float32)
    features[1] = np.nan
    given = {"class_weights": np.zeros(4, np.float32), "reduction": "mean"}

    def mean(x, kernel):
        labels = np.zeros(3, np.int32)
        op = loss if fused else lambda x, k, y, **options: unfused_loss(x @ k, y, **options)
        return op(x, kernel, labels, **given)

    kernel = np.ones((2, 4), np.float32)
    value, gradients = jax.jit(jax.value_and_grad(mean, (0, 1)))(features, kernel)
    assert value == 0
    np.testing.assert_array_equal(gradients[0], 0)
    if fused:  # the product before the loss has NaN * 0 of its own
        np.testing.assert_array_equal(gradients[1], 0)
