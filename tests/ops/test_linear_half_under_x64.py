"""The fused loss of half precision with x64 on: Python numbers in it are float64 there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jax_softmax import linear_softmax_cross_entropy
from tests.grids import pairwise

OPTIONS = {
    "smoothing": {"label_smoothing": 0.1},
    "all": {
        "label_smoothing": 0.1,
        "z_loss": 0.1,
        "soft_cap": 3.0,
        "class_weights": np.linspace(0.5, 2, 6),
    },
}


@pairwise(
    dtype=["float16", "bfloat16"], classes=[None, 5], options=OPTIONS, block_size=[None, 2, (2, 2)]
)
def test_half_precision_under_x64(dtype, classes, options, block_size):
    x, k = jnp.ones((4, 3), dtype), jnp.ones((3, 6), dtype)
    y = jnp.arange(4)

    @jax.jit
    def values(x, k):
        def loss(x, k):
            return linear_softmax_cross_entropy(
                x, k, y, num_classes=classes, block_size=block_size, **options
            )

        return jax.value_and_grad(loss, (0, 1))(x, k)

    expected, by = values(x, k)
    with jax.enable_x64(True):
        found, gradients = values(x, k)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for a, b in zip(gradients, by, strict=True):
        assert a.dtype == np.dtype(dtype)
        np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=0.01, atol=1e-3)


def test_float16_ones_with_padding_and_smoothing():
    """As it was reported."""
    x, k, y = jnp.ones((4, 3), jnp.float16), jnp.ones((3, 6), jnp.float16), jnp.arange(4)
    loss = functools.partial(linear_softmax_cross_entropy, label_smoothing=0.1, num_classes=5)
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(lambda x: loss(x, k, y))(x)
    np.testing.assert_allclose(value, np.log(5), rtol=1e-6)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_over_devices_under_x64(dtype):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    x, k, y = jnp.ones((4, 3), dtype), jnp.ones((3, 16), dtype), jnp.arange(4)

    def loss(x, k):
        return jax.shard_map(
            lambda x, k: linear_softmax_cross_entropy(
                x, k, y, label_smoothing=0.1, num_classes=13, axis_name="model"
            ),
            mesh=mesh,
            in_specs=(P(), P(None, "model")),
            out_specs=P(),
        )(x, k)

    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(loss))(x, k)
    np.testing.assert_allclose(value, np.log(13), rtol=1e-6)
    np.testing.assert_allclose(gradient.astype(np.float32), 0, atol=1e-3)
