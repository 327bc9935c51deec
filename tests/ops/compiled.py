"""One jitted call for value and gradient: tests that agree in shapes share a compiled program."""

import functools

import jax
import jax.numpy as jnp

STATIC = (
    "axis",
    "ignore_index",
    "label_smoothing",
    "reduction",
    "rule",
    "soft_cap",
    "temperature",
    "z_loss",
)


@functools.partial(jax.jit, static_argnums=0, static_argnames=STATIC)
def value_and_gradient(f, logits, *labels, g=None, where=None, **options):
    """`f(logits, *labels)` and its vjp by the logits; the cotangent is 1, 2, 3 ... unless given."""
    value, vjp = jax.vjp(lambda z: f(z, *labels, where=where, **options), logits)
    if g is None:
        g = jnp.arange(1, value.size + 1, dtype=value.dtype).reshape(value.shape)
    return value, vjp(g)[0]
