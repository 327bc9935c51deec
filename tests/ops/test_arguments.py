"""Every error of the public functions says what was expected, what came, and often what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops

LOGITS = np.zeros((4, 3), np.float32)
LABELS = np.zeros(4, np.int32)
Q = np.zeros((4, 3), np.float32)


def integer_loss(logits=LOGITS, labels=LABELS, *args, **options):
    return ops.softmax_cross_entropy_with_integer_labels(logits, labels, *args, **options)


def soft_loss(logits=LOGITS, labels=Q, *args, **options):
    return ops.softmax_cross_entropy(logits, labels, *args, **options)


FUNCTIONS = {
    "softmax": lambda x=LOGITS, **options: ops.softmax(x, **options),
    "log_softmax": lambda x=LOGITS, **options: ops.log_softmax(x, **options),
    "softmax_cross_entropy": lambda x=LOGITS, **options: soft_loss(x, **options),
    "integer_labels": lambda x=LOGITS, **options: integer_loss(x, **options),
}
every_function = pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
both_losses = pytest.mark.parametrize("loss", [integer_loss, soft_loss])


def test_lists_are_taken():
    """As by optax; JAX itself warns where it is asked for the shape of a list."""
    logits = LOGITS.tolist()
    found = [f(logits) for f in FUNCTIONS.values()]
    found.append(ops.softmax_kl_divergence(logits, logits))
    for expected, got in zip([f() for f in FUNCTIONS.values()], found, strict=False):
        np.testing.assert_array_equal(got, expected)


@every_function
@pytest.mark.parametrize("dtype", [np.int32, bool, np.complex64])
def test_logits_must_be_floating(f, dtype):
    words = rf"(x|logits): expected a floating dtype, got {np.dtype(dtype)}; .*astype"
    with pytest.raises(TypeError, match=words):
        f(LOGITS.astype(dtype))


@every_function
@pytest.mark.parametrize("axis", [2, -3, (0, 2)])
def test_axis_must_exist(f, axis):
    with pytest.raises(ValueError, match=r"axis: expected values in \[-2, 2\) .* got"):
        f(axis=axis)


@every_function
def test_axes_must_be_distinct(f):
    with pytest.raises(ValueError, match=r"axis: expected distinct axes, got \(1, -1\)"):
        f(axis=(1, -1))


@every_function
def test_there_must_be_a_class(f):
    with pytest.raises(ValueError, match=r"at least one class along axis -1, got shape \(4, 0\)"):
        f(np.zeros((4, 0), np.float32))


@every_function
@pytest.mark.parametrize("shape", [(5,), (4, 2), (1, 4, 3), ()])
def test_where_must_fit_logits_or_rows(f, shape):
    words = r"where: expected a mask that broadcasts to .*\(4, 3\) or to their rows \(4,\), got"
    with pytest.raises(ValueError, match=words):
        f(where=np.ones(shape, bool))


@both_losses
def test_reduction_must_be_known(loss):
    words = "reduction: expected one of 'none', 'sum', 'mean', got 'average'"
    with pytest.raises(ValueError, match=words):
        loss(reduction="average")


@pytest.mark.parametrize("dtype", [np.float32, bool])
def test_integer_labels_must_be_integers(dtype):
    words = r"labels: expected an integer dtype, got .* use softmax_cross_entropy"
    with pytest.raises(TypeError, match=words):
        integer_loss(labels=LABELS.astype(dtype))


@pytest.mark.parametrize("shape", [(), (3,), (4, 1), (4, 3)])
def test_integer_labels_must_have_the_rows_shape(shape):
    words = r"labels: expected shape \(4,\) \(the logits' \(4, 3\) without axis -1\), got"
    with pytest.raises(ValueError, match=words):
        integer_loss(labels=np.zeros(shape, np.int32))


@pytest.mark.parametrize("shape", [(4,), (2, 3), (1, 4, 3)])
def test_soft_labels_must_broadcast_to_the_logits(shape):
    words = r"labels: .* broadcast to the logits' shape \(4, 3\), got .*_with_integer_labels"
    with pytest.raises(ValueError, match=words):
        soft_loss(labels=np.zeros(shape, np.float32))


@both_losses
def test_reduction_is_by_keyword_only(loss):
    with pytest.raises(TypeError, match="positional"):
        loss(LOGITS, LABELS if loss is integer_loss else Q, -1, None, "mean")


def test_errors_are_raised_under_jit_too():
    with pytest.raises(ValueError, match="labels: expected shape"):
        jax.jit(integer_loss)(jnp.zeros((4, 3)), jnp.zeros(3, jnp.int32))


@pytest.mark.parametrize(
    ("loss", "name", "value"),
    [
        (soft_loss, "labels", np.ones((2, 3)) * 1j),
        (soft_loss, "sample_weight", [1j, 1]),
        (integer_loss, "class_weights", [1, 1j, 1]),
    ],
)
def test_complex_numbers_are_refused(loss, name, value):
    with pytest.raises(TypeError, match=f"^{name}: expected real numbers, got complex"):
        loss(**{name: value})


@pytest.mark.parametrize("value", ["0.1", True])
def test_an_option_is_a_number(value):
    with pytest.raises(TypeError, match=r"^label_smoothing: expected a Python number"):
        integer_loss(label_smoothing=value)


def test_a_numpy_integer_is_an_ignore_index():
    labels = np.array([0, 1, 2, 0])
    expected = integer_loss(labels=labels, ignore_index=0)
    np.testing.assert_array_equal(integer_loss(labels=labels, ignore_index=np.int64(0)), expected)
