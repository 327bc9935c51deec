"""The three matrix products of a linear layer under a loss, accumulated in float32 or float64."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._backends.chunks import Chunk
from jax_softmax.ops._backends.interface import Backend
from jax_softmax.ops._math.logits import statistics_dtype

KernelLayout = Literal["dv", "vd"]


class Linear(NamedTuple):
    """`features @ kernel + bias`, and the labels if they are differentiable.

    Attributes:
      features: `[..., D]`.
      kernel: `[D, V]`, or `[V, D]` in the layout "vd".
      bias: None, or `[V]`.
      labels: None, or class probabilities `[..., V]`.
    """

    features: jax.Array
    kernel: jax.Array
    bias: jax.Array | None = None
    labels: jax.Array | None = None


class Parts(NamedTuple):
    """One entry per array of a layer, or None: gradients or tangents, say."""

    features: Any = None
    kernel: Any = None
    bias: Any = None
    labels: Any = None


class Product(NamedTuple):
    """What is the same for every block: the kernel's layout and `jax.lax.Precision`."""

    layout: KernelLayout
    precision: Any

    @property
    def classes_axis(self) -> int:
        """The kernel's class axis."""
        return self.layout.index("v")

    def classes(self, linear: Linear) -> int:
        """How many classes the kernel has."""
        return linear.kernel.shape[self.classes_axis]

    def cut(self, linear: Any, chunk: Chunk) -> Any:
        """The layer, or tangents of its arrays, cut to a chunk of the classes."""
        return linear._replace(
            kernel=chunk.cut(linear.kernel, self.classes_axis),
            bias=chunk.cut(linear.bias, 0),
            labels=chunk.cut(linear.labels, -1),
        )

    def logits(self, linear: Linear) -> jax.Array:
        """`features @ kernel + bias`, `[..., V]` in the dtype of the sums."""
        z = self._contract(linear.features, linear.kernel, 1 - self.classes_axis)
        return z if linear.bias is None else z + _as_row(linear.bias.astype(z.dtype), z.ndim)

    def logits_tangent(self, linear: Linear, dots: Parts) -> jax.Array | float:
        """The logits' tangent from those of the layer's arrays, which are None if there is none."""
        total: jax.Array | float = 0.0
        if dots.features is not None:
            total += self._contract(dots.features, linear.kernel, 1 - self.classes_axis)
        if dots.kernel is not None:
            total += self._contract(linear.features, dots.kernel, 1 - self.classes_axis)
        return total if dots.bias is None else total + _as_row(dots.bias, linear.features.ndim)

    def transposed(
        self,
        backend: Backend,
        gradient: jax.Array,
        linear: Linear,
        wanted: Parts,
        sums: Parts,
        chunk: Chunk,
    ) -> Parts:
        """Adds to `sums` the layer's gradients, given the gradient of its logits, `[..., V]`.

        Args:
          backend: adds to the kernel's gradient.
          gradient: the logits' gradient, in the dtype of the sums or of the products.
          linear: the layer, with a chunk of the classes.
          wanted: None for gradients that are not wanted.
          sums: of all classes; None for what is not wanted, and for features not yet begun.
          chunk: which classes the layer has.
        """
        features, kernel, bias, _ = sums
        if bias is not None:
            rows = tuple(range(gradient.ndim - 1))
            bias = chunk.update(bias, 0, lambda old: old + jnp.sum(gradient, rows))
        gradient, scale = _narrow(gradient, linear)
        if wanted.features is not None:
            share = self._contract(gradient, linear.kernel, self.classes_axis)
            share = share if scale is None else share * scale
            features = share if features is None else features + share
        if kernel is not None:
            add = partial(self._add_to_kernel, backend, gradient, scale, linear)
            kernel = chunk.update(kernel, self.classes_axis, add)
        return sums._replace(features=features, kernel=kernel, bias=bias)

    def _contract(self, x: jax.Array, kernel: jax.Array, axis: int) -> jax.Array:
        """The product over the last axis of `x` and `axis` of the kernel."""
        dtype = jnp.promote_types(x.dtype, kernel.dtype)
        return lax.dot_general(
            x.astype(dtype),
            kernel.astype(dtype),
            (((x.ndim - 1,), (axis,)), ((), ())),
            precision=self.precision,
            preferred_element_type=statistics_dtype(dtype),
        )

    def _add_to_kernel(
        self,
        backend: Backend,
        gradient: jax.Array,
        scale: jax.Array | None,
        linear: Linear,
        total: jax.Array,
    ) -> jax.Array:
        """`total + features.T @ gradient`, in the kernel's layout."""
        rows = tuple(range(gradient.ndim - 1))
        features = linear.features.astype(gradient.dtype)

        def add(total: jax.Array, gradient: jax.Array) -> jax.Array:
            pair = (features, gradient) if self.layout == "dv" else (gradient, features)
            product = lax.dot_general(
                *pair,
                ((rows, rows), ((), ())),
                precision=self.precision,
                preferred_element_type=total.dtype,
            )
            return total + (product if scale is None else product * scale)

        return backend.add_by_class(add, total, gradient, self.classes_axis)


def sums_dtype(linear: Linear) -> jnp.dtype:
    """The dtype of logits, statistics and gradients until they are rounded."""
    return statistics_dtype(product_dtype(linear))


def product_dtype(linear: Linear) -> jnp.dtype:
    """The dtype that the factors of products are converted to, as in `jnp.matmul`."""
    return jnp.promote_types(linear.features.dtype, linear.kernel.dtype)


def _as_row(bias: jax.Array, ndim: int) -> jax.Array:
    """`bias` as `[1, ..., V]`, of rank `ndim`."""
    return bias.reshape((1,) * (ndim - 1) + bias.shape)


def _narrow(gradient: jax.Array, linear: Linear) -> tuple[jax.Array, jax.Array | None]:
    """The logits' gradient in the dtype of the products, and a factor for these, or None.

    float16 cannot hold a gradient as small as a probability over many classes. For float16 it is
    scaled by a power of two that brings the largest to about 2^12. For other dtypes it is not.
    """
    dtype = product_dtype(linear)
    if dtype != jnp.float16:
        return gradient.astype(dtype), None
    size = jnp.abs(lax.stop_gradient(gradient))
    # A NaN row must not set the scale for the others.
    largest = jnp.max(jnp.where(jnp.isfinite(size), size, 0), initial=0)
    _, exponent = jnp.frexp(jnp.where(largest > 0, largest, 1))
    scale = jnp.ldexp(jnp.ones_like(largest), jnp.clip(12 - exponent, -126, 126))
    return (gradient * scale).astype(dtype), 1 / scale
