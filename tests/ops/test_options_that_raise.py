"""Options that are refused: the message names the option, what was expected and what came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.options import integer_loss
from tests.ops.test_options_rules import (
    CLASSES,
    INF,
    LABELS,
    NAN,
    ROWS,
    both_losses,
    labels_for,
    normal_rows,
)


@pytest.mark.parametrize(
    ("dtype", "index"),
    [(np.uint8, -100), (np.uint8, 256), (np.int8, -129), (np.uint32, -1), (np.int32, 2**31)],
)
def test_ignore_index_that_the_dtype_cannot_hold_raises(dtype, index):
    words = rf"ignore_index: expected a number that labels of dtype {np.dtype(dtype)} can hold"
    with pytest.raises(ValueError, match=words):
        integer_loss(normal_rows(), LABELS.astype(dtype), ignore_index=index)


@pytest.mark.parametrize("index", [1.0, "1", np.array([1])])
def test_ignore_index_must_be_a_python_integer(index):
    with pytest.raises(TypeError, match="ignore_index: expected None or a Python integer, got"):
        integer_loss(normal_rows(), LABELS, ignore_index=index)


@both_losses
@pytest.mark.parametrize("name", ["label_smoothing", "z_loss", "soft_cap", "temperature"])
def test_traced_scalar_options_raise(loss, name):
    with pytest.raises(TypeError, match=f"{name}: expected a Python number, got a traced array"):
        jax.jit(lambda x: loss(normal_rows(), labels_for(loss), **{name: x}))(0.5)


def test_traced_ignore_index_raises():
    with pytest.raises(TypeError, match="ignore_index: expected None or a Python integer"):
        jax.jit(lambda x: integer_loss(normal_rows(), LABELS, ignore_index=x))(1)


@both_losses
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("label_smoothing", -0.1, r"label_smoothing: expected a number in \[0, 1\], got -0.1"),
        ("label_smoothing", 1.1, r"label_smoothing: expected a number in \[0, 1\], got 1.1"),
        ("label_smoothing", NAN, r"label_smoothing: expected a number in \[0, 1\], got nan"),
        ("z_loss", INF, "z_loss: expected a finite number, got inf"),
        ("z_loss", NAN, "z_loss: expected a finite number, got nan"),
        ("soft_cap", 0, "soft_cap: expected None or a number from 1e-30 to 1e30, got 0"),
        ("soft_cap", -3.0, "soft_cap: expected None or a number from 1e-30 to 1e30, got -3"),
        ("soft_cap", INF, "soft_cap: expected None or a number from 1e-30 to 1e30, got inf"),
        ("temperature", 0, "temperature: expected a number from 1e-6 to 1e6, got 0"),
        ("temperature", -1.0, "temperature: expected a number from 1e-6 to 1e6, got -1"),
        ("temperature", INF, "temperature: expected a number from 1e-6 to 1e6, got inf"),
        ("temperature", NAN, "temperature: expected a number from 1e-6 to 1e6, got nan"),
        ("rule", "jacobian", "rule: expected 'vjp' or 'jvp', got 'jacobian'"),
    ],
)
def test_options_out_of_range_raise(loss, name, value, words):
    with pytest.raises(ValueError, match=words):
        loss(normal_rows(), labels_for(loss), **{name: value})


@both_losses
@pytest.mark.parametrize("name", ["label_smoothing", "z_loss", "soft_cap", "temperature"])
def test_options_that_are_no_numbers_raise(loss, name):
    with pytest.raises(TypeError, match=f"{name}: expected a Python number, got"):
        loss(normal_rows(), labels_for(loss), **{name: "a"})


@both_losses
@pytest.mark.parametrize("shape", [(5,), (ROWS, CLASSES), (1, CLASSES), ()])
def test_class_weights_must_be_one_a_class(loss, shape):
    with pytest.raises(ValueError, match=r"class_weights: expected shape \(6,\), got"):
        loss(normal_rows(), labels_for(loss), class_weights=np.ones(shape, np.float32))


@both_losses
@pytest.mark.parametrize("shape", [(5,), (ROWS, CLASSES), (1, ROWS)])
def test_sample_weight_must_broadcast_to_the_rows(loss, shape):
    words = r"sample_weight: expected factors that broadcast to the rows \(4,\), got shape"
    with pytest.raises(ValueError, match=words):
        loss(normal_rows(), labels_for(loss), sample_weight=np.ones(shape, np.float32))


@both_losses
def test_numpy_scalars_are_python_numbers(loss):
    y = labels_for(loss)
    expected = loss(normal_rows(), y, label_smoothing=0.5, soft_cap=2.0)
    actual = loss(normal_rows(), y, label_smoothing=np.float32(0.5), soft_cap=jnp.float32(2))
    np.testing.assert_array_equal(actual, expected)
