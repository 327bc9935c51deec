"""The exact rules of the losses' options at their edges; `where`, -inf and NaN without options
are in test_cross_entropy_edges.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from jax_softmax.testing.oracle import options_cross_entropy
from tests.ops.compiled import value_and_gradient
from tests.ops.options import IGNORED, LOSSES, integer_loss, soft_loss
from tests.tolerances import assert_close

INF, NAN = np.inf, np.nan
ROWS, CLASSES = 4, 6
LABELS = np.array([0, 1, 2, 3], np.int32)
WEIGHTS = np.array([0.5, 2, 1, 3, 0.25, 1], np.float32)
both_losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
both_rules = pytest.mark.parametrize("rule", ["vjp", "jvp"])


def normal_rows():
    return np.random.default_rng(1).standard_normal((ROWS, CLASSES)).astype(np.float32)


def labels_for(loss, labels=LABELS):
    return labels if loss is integer_loss else np.eye(CLASSES, dtype=np.float32)[labels]


def run(loss, logits, labels, **options):
    return tuple(map(np.asarray, value_and_gradient(loss, logits, labels, **options)))


def check(loss, logits, labels, reduction="none", rule="vjp", **options):
    """Against the definition, with the cotangents 1, 2, 3 ... of `value_and_gradient`."""
    value, gradient = run(loss, logits, labels, reduction=reduction, rule=rule, **options)
    expected, derivative = options_cross_entropy(logits, labels, **options).reduced(reduction)
    g = np.arange(1, ROWS + 1)[:, None] if reduction == "none" else 1
    assert_close(value, expected, np.float32)
    assert_close(gradient, derivative * g, np.float32)
    return value, gradient


# Rows that do not count


def spoilt():
    """Three rows that would spoil everything, and one that counts."""
    logits = normal_rows()
    logits[0], logits[1, 2], logits[2] = NAN, INF, -INF
    return logits


DROPS = {
    "ignored": {"ignore_index": IGNORED},
    "weight 0": {"sample_weight": np.array([0, 0, 0, 1.5], np.float32)},
}
OPTIONS = {"label_smoothing": 0.1, "class_weights": WEIGHTS, "z_loss": 0.1}


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
@pytest.mark.parametrize(
    ("rule", "reduction"), [("vjp", "none"), ("vjp", "mean"), ("jvp", "none"), ("jvp", "mean")]
)
def test_rows_that_do_not_count_are_selected_out_whatever_they_hold(drop, rule, reduction):
    labels = np.array([-1, CLASSES, 2**31 - 1, 3], np.int32)
    if "ignore_index" in drop:
        labels[:3] = IGNORED
    options = {"rule": rule, "reduction": reduction, **OPTIONS, **drop}
    value, gradient = run(integer_loss, spoilt(), labels, **options)
    np.testing.assert_array_equal(gradient[:3], 0)
    exact = options_cross_entropy(normal_rows()[3:], labels[3:], **OPTIONS)
    weight = 1.5 if "sample_weight" in drop else 1
    if reduction == "none":
        np.testing.assert_array_equal(value[:3], 0)
        assert_close(value[3], weight * exact.loss.value[0], np.float32)
        assert_close(gradient[3], 4 * weight * exact.loss.gradient[0], np.float32)
    else:
        assert_close(value, exact.loss.value[0] / WEIGHTS[3], np.float32)
        assert_close(gradient[3], exact.loss.gradient[0] / WEIGHTS[3], np.float32)


@both_rules
def test_rows_of_weight_0_are_selected_out_with_soft_labels(rule):
    q = labels_for(soft_loss)
    q[0] = NAN
    options = {**OPTIONS, **DROPS["weight 0"], "rule": rule, "reduction": "mean"}
    value, gradient = run(soft_loss, spoilt(), q, **options)
    exact = options_cross_entropy(normal_rows()[3:], q[3:], **OPTIONS)
    np.testing.assert_array_equal(gradient[:3], 0)
    assert_close(value, exact.loss.value[0], np.float32)
    assert_close(gradient[3], exact.loss.gradient[0], np.float32)
    by_labels = run(lambda q, z, **o: soft_loss(z, q, **o), q, spoilt(), **options)[1]
    np.testing.assert_array_equal(by_labels[:3], 0)
    assert_close(by_labels[3], exact.by_labels[0], np.float32)


@both_rules
def test_rows_that_do_not_count_are_selected_out_under_vmap(rule):
    labels = np.array([IGNORED, IGNORED, IGNORED, 3], np.int32)
    loss = functools.partial(integer_loss, ignore_index=IGNORED, z_loss=0.1, rule=rule)
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(loss)))(spoilt(), labels)
    np.testing.assert_array_equal(value[:3], 0)
    np.testing.assert_array_equal(gradient[:3], 0)
    exact = options_cross_entropy(normal_rows(), LABELS, z_loss=0.1).loss
    assert_close(value[3], exact.value[3], np.float32)
    assert_close(gradient[3], exact.gradient[3], np.float32)


@both_rules
def test_weight_of_a_row_that_does_not_count_has_gradient_0(rule):
    labels = np.array([IGNORED, IGNORED, IGNORED, 3], np.int32)

    def mean(weight):
        return integer_loss(
            spoilt(), labels, ignore_index=IGNORED, sample_weight=weight, rule=rule, reduction="sum"
        )

    gradient = np.asarray(jax.grad(mean)(np.ones(ROWS, np.float32)))
    np.testing.assert_array_equal(gradient[:3], 0)
    assert gradient[3] > 0


# What the mean divides by


NOTHING = {
    "ignored": {"ignore_index": 2},
    "sample weights": {"sample_weight": np.zeros(ROWS, np.float32)},
    "class weights": {"class_weights": np.zeros(CLASSES, np.float32)},
    "opposite weights": {"sample_weight": np.array([1, -1, 2, -2], np.float32)},
}


@pytest.mark.parametrize(
    ("options", "rule"),
    list(zip(NOTHING.values(), ("vjp", "jvp", "jvp", "vjp"), strict=True)),
    ids=NOTHING,
)
def test_mean_over_nothing_is_0_with_zero_gradient(options, rule):
    labels = np.full(ROWS, 2, np.int32)
    options = {"z_loss": 0.1, "label_smoothing": 0.1, "reduction": "mean", "rule": rule, **options}
    value, gradient = run(integer_loss, normal_rows(), labels, **options)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@both_rules
def test_soft_mean_over_nothing_is_0_with_zero_gradient(rule):
    options = {**NOTHING["sample weights"], "z_loss": 0.1, "reduction": "mean", "rule": rule}
    value, gradient = run(soft_loss, spoilt(), labels_for(soft_loss), **options)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_mean_divides_by_sample_times_class_weights_for_integer_labels():
    weight = np.array([1, 2, 3, 4], np.float32)
    options = {"class_weights": WEIGHTS, "sample_weight": weight}
    value, _ = check(integer_loss, normal_rows(), LABELS, "mean", **options)
    rows, _ = run(integer_loss, normal_rows(), LABELS, **options)
    assert_close(value, rows.sum() / (weight * WEIGHTS[LABELS]).sum(), np.float32)


def test_mean_divides_by_sample_weights_alone_for_soft_labels():
    weight = np.array([1, 2, 3, 4], np.float32)
    options = {"class_weights": WEIGHTS, "sample_weight": weight}
    value, _ = check(soft_loss, normal_rows(), labels_for(soft_loss), "mean", **options)
    rows, _ = run(soft_loss, normal_rows(), labels_for(soft_loss), **options)
    assert_close(value, rows.sum() / weight.sum(), np.float32)


def test_row_of_class_weight_0_has_no_weight_but_keeps_its_smoothing():
    """As in torch: w_y = 0 drops the row from the divisor, not the smoothed targets' sum."""
    weights = WEIGHTS.copy()
    weights[LABELS[0]] = 0
    for smoothing in (0.0, 0.2):
        options = {"class_weights": weights, "label_smoothing": smoothing}
        value, gradient = check(integer_loss, normal_rows(), LABELS, **options)
        assert (value[0] > 0) == (smoothing > 0)
        assert np.any(gradient[0] != 0) == (smoothing > 0)
        check(integer_loss, normal_rows(), LABELS, "mean", **options)


def test_sample_weight_broadcasts_to_the_rows():
    logits = normal_rows().reshape(2, 2, CLASSES)
    labels = LABELS.reshape(2, 2)
    weight = np.array([[2], [3]], np.float32)
    plain = np.asarray(integer_loss(logits, labels))
    assert_close(integer_loss(logits, labels, sample_weight=weight), weight * plain, np.float32)
    assert_close(integer_loss(logits, labels, sample_weight=2.0), 2 * plain, np.float32)


# Smoothing


@both_losses
def test_smoothing_spreads_over_the_classes_that_where_leaves(loss, rng):
    where = rng.random((ROWS, CLASSES)) < 0.5
    where[np.arange(ROWS), LABELS] = True
    logits = np.where(where, normal_rows(), NAN).astype(np.float32)
    y, options = labels_for(loss), {"where": where, "label_smoothing": 0.3}
    exact = options_cross_entropy(normal_rows(), y, **options).loss
    value, gradient = run(loss, logits, y, **options)
    assert_close(value, exact.value, np.float32)
    assert_close(gradient, exact.gradient * [[1], [2], [3], [4]], np.float32)
    np.testing.assert_array_equal(gradient[~where], 0)


@both_losses
@pytest.mark.parametrize(("smoothing", "weights"), [(0.0, None), (0.999, WEIGHTS), (1.0, None)])
def test_smoothing_at_its_ends(loss, smoothing, weights):
    options = {"label_smoothing": smoothing, "class_weights": weights}
    options = {name: value for name, value in options.items() if value is not None}
    value, gradient = check(loss, normal_rows(), labels_for(loss), **options)
    if smoothing == 0:
        plain = run(loss, normal_rows(), labels_for(loss), **{**options, "label_smoothing": 0.0})
        np.testing.assert_array_equal(value, plain[0])
        np.testing.assert_array_equal(gradient, plain[1])


def test_full_smoothing_does_not_depend_on_the_label():
    value, gradient = run(integer_loss, normal_rows(), LABELS, label_smoothing=1.0)
    other, other_gradient = run(integer_loss, normal_rows(), LABELS + 1, label_smoothing=1.0)
    assert_close(value, other, np.float32)
    assert_close(gradient, other_gradient, np.float32)


@pytest.mark.parametrize(
    ("loss", "weights"), [(integer_loss, None), (integer_loss, WEIGHTS), (soft_loss, WEIGHTS)]
)
def test_impossible_class_with_smoothing_is_infinite_as_in_torch(loss, weights):
    logits = normal_rows()
    logits[1, 4] = -INF
    options = {"label_smoothing": 0.1}
    if weights is not None:
        options["class_weights"] = weights
    value, gradient = run(loss, logits, labels_for(loss), **options)
    np.testing.assert_array_equal(np.isinf(value), [False, True, False, False])
    assert value[1] == INF
    assert gradient[1, 4] == 0
    assert np.all(np.isfinite(gradient))


@both_losses
def test_impossible_class_of_weight_0_is_not_charged_by_smoothing(loss):
    logits = normal_rows()
    logits[:, 4] = -INF
    weights = WEIGHTS.copy()
    weights[4] = 0
    check(loss, logits, labels_for(loss), label_smoothing=0.1, class_weights=weights)


# where, labels and impossible classes under options


@both_losses
def test_rows_mask_and_classes_mask_agree(loss):
    rows = np.array([True, False, True, True])
    classes = np.repeat(rows[:, None], CLASSES, 1)
    options = {**OPTIONS, "reduction": "mean"}
    by_rows = run(loss, normal_rows(), labels_for(loss), where=rows, **options)
    by_classes = run(loss, normal_rows(), labels_for(loss), where=classes, **options)
    for a, b in zip(by_rows, by_classes, strict=True):
        assert_close(a, b, np.float32)
    check(loss, normal_rows(), labels_for(loss), "mean", where=rows, **OPTIONS)


@both_rules
def test_integer_label_on_an_excluded_class_is_infinite_under_options(rule):
    where = np.ones((ROWS, CLASSES), bool)
    where[2, LABELS[2]] = False
    options = {**OPTIONS, "where": where, "soft_cap": 3.0, "rule": rule}
    value, gradient = run(integer_loss, normal_rows(), LABELS, **options)
    np.testing.assert_array_equal(value == INF, [False, False, True, False])
    assert gradient[2, LABELS[2]] == 0
    assert np.all(np.isfinite(gradient))


@both_rules
def test_soft_label_on_an_excluded_class_is_dropped_under_options(rule):
    where = np.ones((ROWS, CLASSES), bool)
    where[2, LABELS[2]] = False
    options = {**OPTIONS, "where": where, "soft_cap": 3.0, "rule": rule}
    value, _ = check(soft_loss, normal_rows(), labels_for(soft_loss), **options)
    assert np.all(np.isfinite(value))


@both_losses
@both_rules
def test_impossible_logit_stays_impossible_under_a_soft_cap(loss, rule):
    logits = normal_rows()
    logits[0, 5] = logits[1, 1] = -INF
    logits[2] = -INF
    value, gradient = run(loss, logits, labels_for(loss), soft_cap=2.0, rule=rule)
    np.testing.assert_array_equal(np.isinf(value), [False, True, True, False])
    exact = options_cross_entropy(logits[:1], labels_for(loss)[:1], soft_cap=2.0).loss
    assert_close(value[0], exact.value[0], np.float32)
    assert_close(gradient[0], exact.gradient[0], np.float32)
    np.testing.assert_array_equal(gradient[logits == -INF], 0)
    assert not np.any(np.isnan(gradient))


@both_losses
@both_rules
@pytest.mark.parametrize("bad", [NAN, INF])
def test_soft_cap_does_not_hide_what_is_no_number(loss, rule, bad):
    """tanh(inf) is a number: a row of +inf is NaN all the same, and no other row is."""
    logits = normal_rows()
    logits[1, 4] = bad
    options = {**OPTIONS, "soft_cap": 2.0, "rule": rule}
    value, gradient = run(loss, logits, labels_for(loss), **options)
    np.testing.assert_array_equal(np.isnan(value), [False, True, False, False])
    assert np.all(np.isnan(gradient[1]))
    assert not np.any(np.isnan(gradient[[0, 2, 3]]))


@pytest.mark.parametrize(("loss", "cap"), [(integer_loss, 0.01), (soft_loss, 3.0)])
def test_cap_smaller_than_the_logits(loss, cap):
    logits = (40 * normal_rows()).astype(np.float32)
    value, gradient = check(loss, logits, labels_for(loss), soft_cap=cap)
    assert np.all(value <= np.log(CLASSES) + 2 * cap)
    assert np.all(np.isfinite(gradient))


def test_huge_cap_changes_nothing():
    capped = run(integer_loss, normal_rows(), LABELS, soft_cap=1e6)
    for a, b in zip(capped, run(integer_loss, normal_rows(), LABELS), strict=True):
        assert_close(a, b, np.float32)


@pytest.mark.parametrize(
    ("rule", "reduction"), [("vjp", "none"), ("jvp", "none"), ("vjp", "mean"), ("jvp", "sum")]
)
def test_label_that_is_no_class_is_nan_under_options(rule, reduction):
    for label in (-1, CLASSES, IGNORED - 1):
        labels = LABELS.copy()
        labels[1] = label
        value, gradient = run(
            integer_loss,
            normal_rows(),
            labels,
            ignore_index=IGNORED,
            rule=rule,
            reduction=reduction,
            **OPTIONS,
        )
        assert np.all(np.isnan(gradient[1]))
        if reduction == "none":
            np.testing.assert_array_equal(np.isnan(value), [False, True, False, False])
            assert not np.any(np.isnan(gradient[[0, 2, 3]]))
        else:
            assert np.isnan(value)


def test_ignore_index_may_be_a_class():
    check(integer_loss, normal_rows(), LABELS, "mean", ignore_index=2)
    value, gradient = run(integer_loss, normal_rows(), LABELS, ignore_index=2)
    assert value[2] == 0
    np.testing.assert_array_equal(gradient[2], 0)


def test_ignore_index_of_unsigned_labels():
    labels = np.array([0, 255, 2, 3], np.uint8)
    value, _ = run(integer_loss, normal_rows(), labels, ignore_index=255)
    np.testing.assert_array_equal(value == 0, [False, True, False, False])


@both_losses
def test_several_class_axes_and_leading_shapes_take_options(loss, rng):
    logits = rng.standard_normal((2, ROWS, 3)).astype(np.float32)  # classes: axes 0 and 2
    flat = logits.transpose(1, 0, 2).reshape(ROWS, CLASSES)
    y = labels_for(loss)
    options = {**OPTIONS, "sample_weight": np.arange(1, 5, dtype=np.float32)}
    folded = y if loss is integer_loss else y.reshape(ROWS, 2, 3).transpose(1, 0, 2)
    actual = loss(logits, folded, axis=(0, 2), **options)
    assert_close(actual, options_cross_entropy(flat, y, **options).loss.value, np.float32)


@pytest.mark.parametrize("soft", [False, True])
def test_an_excluded_class_may_hold_nan_under_a_soft_cap(soft):
    logits, where = jnp.array([jnp.nan, 1.0, 2.0]), jnp.array([False, True, True])

    def loss(z):
        if soft:
            labels = jnp.array([0.0, 1.0, 0.0])
            return ops.softmax_cross_entropy(z, labels, where=where, soft_cap=30.0)
        return ops.softmax_cross_entropy_with_integer_labels(
            z, jnp.int32(1), where=where, soft_cap=30.0
        )

    gradient = jax.grad(loss)(logits)
    assert gradient[0] == 0
    assert jnp.isfinite(gradient).all()


def test_integer_class_probabilities_are_not_rounded_to_the_logits_dtype():
    loss = ops.softmax_cross_entropy(jnp.zeros(2, jnp.bfloat16), jnp.array([257, 0]))
    np.testing.assert_allclose(loss, 257 * np.log(2), rtol=1e-6)
