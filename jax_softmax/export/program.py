"""A model as StableHLO, by `jax.export`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jax_softmax.training import SoftmaxModel

PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo_bytes(model: SoftmaxModel, dtype: str) -> bytes:
    """The program `features [N, ...] -> probabilities [N, V]`, serialised, with N left free."""
    import flatbuffers  # noqa: F401 - jax.export says it in other words than the extras do

    kernel, bias = (jnp.asarray(np.asarray(model.params[name])) for name in ("kernel", "bias"))

    def probabilities(features: jax.Array) -> jax.Array:
        flat = features.reshape(features.shape[0], -1).astype(kernel.dtype)
        # As NumPy would: a GPU or TPU would round the factors first otherwise.
        scaled = flat * jnp.asarray(model.feature_scale, kernel.dtype)
        logits = jnp.matmul(scaled, kernel, precision=jax.lax.Precision.HIGHEST) + bias
        # JAX's own softmax: ours picks a way for each platform, which a file cannot.
        return jax.nn.softmax(logits)

    (rows,) = export.symbolic_shape("N")
    features = jax.ShapeDtypeStruct((rows, *model.feature_shape), np.dtype(dtype))
    exported = export.export(jax.jit(probabilities), platforms=PLATFORMS)(features)
    return bytes(exported.serialize())
