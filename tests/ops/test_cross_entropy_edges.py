"""The losses' exact rules: `where`, -inf, NaN and +inf logits, labels that are no class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from jax_softmax.testing import oracle
from tests.ops.compiled import value_and_gradient
from tests.tolerances import assert_close

integer_loss = ops.softmax_cross_entropy_with_integer_labels
soft_loss = ops.softmax_cross_entropy
INF, NAN = np.inf, np.nan
LABELS = np.array([0, 1, 2, 3], np.int32)  # of four rows: one shape, few compiled programs
both_regimes = pytest.mark.parametrize("classes", [6, 384])
both_losses = pytest.mark.parametrize("loss", [integer_loss, soft_loss])


def labels_for(loss, classes, labels=LABELS):
    return labels if loss is integer_loss else np.eye(classes, dtype=np.float32)[labels]


def numpy_value_and_gradient(loss, logits, labels, **options):
    return tuple(map(np.asarray, value_and_gradient(loss, logits, labels, **options)))


def normal_rows(classes):
    return np.random.default_rng(classes).standard_normal((4, classes)).astype(np.float32)


@both_losses
@both_regimes
def test_where_over_classes(loss, classes, rng):
    logits = normal_rows(classes)
    keep = rng.random(logits.shape) < 0.5
    keep[np.arange(4), LABELS] = True
    hidden = np.where(keep, logits, NAN)  # what is left out must not matter
    y = labels_for(loss, classes)
    value, gradient = numpy_value_and_gradient(loss, hidden, y, where=keep)
    q = labels_for(soft_loss, classes)
    expected, derivative = oracle.cross_entropy(logits, q, where=keep)
    assert_close(value, expected, np.float32)
    assert_close(gradient, derivative * [[1], [2], [3], [4]], np.float32)
    assert np.all(gradient[~keep] == 0)


@both_losses
@both_regimes
@pytest.mark.parametrize("whole_row", [False, True])
def test_dropped_rows_count_for_nothing_whatever_they_hold(loss, classes, whole_row):
    """By a mask of rows, or of all their classes: NaN logits and labels that are no class."""
    logits = normal_rows(classes)
    logits[0], logits[1, 2], logits[2] = NAN, INF, -INF
    y = labels_for(loss, classes)
    y = np.array([-1, classes, 2**31 - 1, 3], np.int32) if loss is integer_loss else y
    keep = np.array([False, False, False, True])
    where = np.repeat(keep[:, None], classes, 1) if whole_row else keep
    value, gradient = numpy_value_and_gradient(loss, logits, y, where=where)
    np.testing.assert_array_equal(value[:3], 0)
    np.testing.assert_array_equal(gradient[:3], 0)
    expected, derivative = oracle.cross_entropy(logits[3:], np.eye(classes)[3:4])
    assert_close(value[3:], expected, np.float32)
    assert_close(gradient[3:], 4 * derivative, np.float32)


@both_losses
def test_mean_is_over_the_rows_that_count(loss):
    logits = normal_rows(6)
    y = labels_for(loss, 6)
    keep = np.array([True, False, True, False])
    mean, gradient = numpy_value_and_gradient(loss, logits, y, where=keep, reduction="mean")
    expected, derivative = oracle.cross_entropy(logits, labels_for(soft_loss, 6))
    assert_close(mean, expected[keep].mean(), np.float32)
    assert_close(gradient, np.where(keep[:, None], derivative / 2, 0), np.float32)


@both_losses
def test_mean_over_no_rows_is_zero_with_zero_gradient(loss):
    logits = np.full((4, 6), NAN, np.float32)
    y = labels_for(loss, 6)
    keep = np.zeros(4, bool)
    value, gradient = numpy_value_and_gradient(loss, logits, y, where=keep, reduction="mean")
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def labels_first(q, logits, **options):
    return soft_loss(logits, q, **options)


def test_dropped_soft_labels_may_be_nan_and_have_no_gradient():
    q = np.array([[NAN, INF, 1], [0, 0, 1]], np.float32)
    keep = np.array([False, True])
    logits = np.zeros((2, 3), np.float32)
    value, gradient = numpy_value_and_gradient(labels_first, q, logits, where=keep)
    assert_close(value, [0, np.log(3)], np.float32)
    np.testing.assert_array_equal(gradient[0], 0)
    assert_close(gradient[1], np.full(3, 2 * np.log(3)), np.float32)


def test_row_mask_of_a_single_row():
    logits = np.array([0.0, 1.0, NAN], np.float32)
    assert integer_loss(logits, np.int32(1), where=np.bool_(False)) == 0
    assert np.isnan(integer_loss(logits, np.int32(1), where=np.bool_(True)))


def test_where_with_another_axis(rng):
    logits = rng.standard_normal((6, 4)).astype(np.float32)
    keep = np.array([[True]] * 5 + [[False]])  # broadcasts over the rows
    rows = np.array([True, False, True, True])
    turned = np.broadcast_to(keep.T, (4, 6))
    for by_columns, by_rows in [(keep, turned), (rows, rows)]:
        assert_close(
            integer_loss(logits, LABELS, axis=0, where=by_columns),
            integer_loss(np.ascontiguousarray(logits.T), LABELS, where=by_rows),
            np.float32,
        )


@both_losses
@both_regimes
def test_impossible_classes(loss, classes):
    """-inf: probability and gradient 0, no NaN; a label on it, or a row of it, has loss +inf."""
    logits = np.zeros((4, classes), np.float32)
    logits[0, 1] = logits[1, 1] = -INF
    logits[2] = -INF
    logits[3, :3] = logits[3, 4:] = -INF
    y = labels_for(loss, classes)
    value, gradient = numpy_value_and_gradient(loss, logits, y)
    assert_close(value[0], np.log(classes - 1), np.float32)
    np.testing.assert_array_equal(value[1:], [INF, INF, 0])
    np.testing.assert_array_equal(gradient[logits == -INF], 0)
    assert not np.any(np.isnan(gradient))
    assert_close(gradient[1, 0], 2 / (classes - 1), np.float32)
    np.testing.assert_array_equal(gradient[3], 0)


@both_regimes
def test_infinite_cotangent_of_an_infinite_loss_leaves_its_label_at_0(classes):
    """As `jnp.square(loss)` sends back."""
    logits = normal_rows(classes)
    logits[1, LABELS[1]] = -INF

    def squared(z):
        return jnp.sum(jnp.square(integer_loss(z, LABELS)))

    gradient = np.asarray(jax.jit(jax.grad(squared))(logits))
    assert gradient[1, LABELS[1]] == 0
    assert np.all(np.isfinite(np.delete(gradient, 1, 0)))


@both_regimes
def test_integer_label_on_an_excluded_class_is_infinite(classes):
    logits = np.zeros((4, classes), np.float32)
    keep = np.ones(logits.shape, bool)
    keep[2, LABELS[2]] = False
    value, gradient = numpy_value_and_gradient(integer_loss, logits, LABELS, where=keep)
    np.testing.assert_array_equal(np.isinf(value), [False, False, True, False])
    assert gradient[2, LABELS[2]] == 0
    assert np.all(np.isfinite(gradient))


@both_regimes
def test_soft_labels_on_excluded_classes_are_dropped(classes, rng):
    logits = normal_rows(classes)
    keep = rng.random(logits.shape) < 0.5
    q = rng.random(logits.shape).astype(np.float32)
    expected, derivative = oracle.cross_entropy(logits, q, where=keep)
    y = np.where(keep, q, NAN)
    value, gradient = numpy_value_and_gradient(soft_loss, logits, y, where=keep)
    assert_close(value, expected, np.float32, scale=classes)
    assert_close(gradient, derivative * [[1], [2], [3], [4]], np.float32, scale=classes)
    _, by_labels = numpy_value_and_gradient(labels_first, y, logits, where=keep)
    assert np.all(by_labels[~keep] == 0)
    assert np.all(np.isfinite(by_labels))


@both_losses
@both_regimes
@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("column", [0, 1, 3, -1])
def test_nan_and_infinite_logits_spoil_their_own_row_only(loss, classes, bad, column):
    logits = normal_rows(classes)
    y = labels_for(loss, classes)
    clean_value, clean_gradient = numpy_value_and_gradient(loss, logits, y)
    logits[1, 2] = -INF  # a NaN row is NaN at an impossible class too
    logits[1, column] = bad
    value, gradient = numpy_value_and_gradient(loss, logits, y)
    assert np.isnan(value[1])
    assert np.all(np.isnan(gradient[1]))
    others = [0, 2, 3]
    np.testing.assert_array_equal(value[others], clean_value[others])
    np.testing.assert_array_equal(gradient[others], clean_gradient[others])


@both_losses
@pytest.mark.parametrize("bad", [NAN, INF])
def test_nan_row_with_an_impossible_label_is_nan(loss, bad):
    logits = np.zeros((4, 6), np.float32)
    logits[np.arange(4), LABELS] = -INF
    logits[:, 5] = bad
    value, gradient = numpy_value_and_gradient(loss, logits, labels_for(loss, 6))
    assert np.all(np.isnan(value))
    assert np.all(np.isnan(gradient))


@both_regimes
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32])
def test_labels_that_are_no_class_give_nan_for_their_row_only(dtype, classes):
    logits = normal_rows(classes)
    logits[1, 0] = -INF  # class 0 stands in for them: what it holds must not show
    valid = LABELS.astype(dtype)
    clean_value, clean_gradient = numpy_value_and_gradient(integer_loss, logits, valid)
    limits = np.iinfo(dtype)
    bad = [-1, -100, classes, classes + 5, 255, 2**31 - 1]
    for label in (n for n in bad if limits.min <= n <= limits.max and not 0 <= n < classes):
        labels = valid.copy()
        labels[1] = label
        value, gradient = numpy_value_and_gradient(integer_loss, logits, labels)
        assert np.isnan(value[1]), label
        assert np.all(np.isnan(gradient[1])), label
        others = [0, 2, 3]
        np.testing.assert_array_equal(value[others], clean_value[others])
        np.testing.assert_array_equal(gradient[others], clean_gradient[others])


def test_64_bit_labels_do_not_wrap(x64):
    logits = np.zeros((4, 6), np.float32)
    labels = np.array([2, 2**32, -(2**32) + 1, 2**63 - 1])
    value, gradient = numpy_value_and_gradient(integer_loss, logits, labels)
    assert np.isfinite(value[0])
    assert np.all(np.isfinite(gradient[0]))
    assert np.all(np.isnan(value[1:]))
    assert np.all(np.isnan(gradient[1:]))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32])
def test_label_dtypes(dtype, rng):
    """Also where the number of classes does not fit the labels' dtype."""
    logits = rng.standard_normal((3, 300)).astype(np.float32)
    labels = np.array([0, 7, 127])
    expected = integer_loss(logits, labels.astype(np.int32))
    np.testing.assert_array_equal(integer_loss(logits, labels.astype(dtype)), expected)


@both_losses
def test_one_class_has_no_loss(loss):
    logits = np.array([[3.0], [-INF]], np.float32)
    y = labels_for(loss, 1, np.zeros(2, np.int32))
    value, gradient = numpy_value_and_gradient(loss, logits, y)
    np.testing.assert_array_equal(value, [0, INF])
    np.testing.assert_array_equal(gradient, 0)
