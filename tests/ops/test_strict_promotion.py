"""Half precision where a user has JAX refuse to mix dtypes: what is widened says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops

LABELS = np.arange(4)
OPTIONS = {
    "label_smoothing": 0.1,
    "class_weights": np.ones(6, np.float32),
    "sample_weight": np.ones(4, np.float32),
    "z_loss": 0.1,
    "soft_cap": 30.0,
}
LOSSES = {
    "integer labels": lambda z, **options: ops.softmax_cross_entropy_with_integer_labels(
        z, LABELS, **options
    ),
    "probabilities": lambda z, **options: ops.softmax_cross_entropy(
        z, np.full((4, 6), 1 / 6, np.float32), **options
    ),
    "a layer": lambda z, **options: ops.linear_softmax_cross_entropy(
        z, jnp.ones((6, 6), z.dtype), LABELS, **options
    ),
}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["no option", "options"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_losses(name, dtype, options):
    logits = jnp.ones((4, 6), dtype)
    loss, gradient = jax.value_and_grad(lambda z: LOSSES[name](z, reduction="mean", **options))(
        logits
    )
    assert loss.dtype == np.float32 and gradient.dtype == dtype


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name):
    x = jnp.ones((4, 6), jnp.bfloat16)
    value, pull = jax.vjp(getattr(ops, name), x)
    assert value.dtype == pull(value)[0].dtype == jnp.bfloat16
