"""What `evaluate` and `predict` compute of a block of examples, over the devices of a mesh.

Each device has its own examples and its own slice of the classes, whose logits it computes. Devices
exchange a few numbers an example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jax_softmax.ops import linear_softmax_cross_entropy, softmax
from jax_softmax.training.mesh import DATA, MODEL
from jax_softmax.training.programs import latest_programs
from jax_softmax.training.step import Params


@latest_programs("mesh", "classes")
def losses_and_predictions(
    params: Params,
    scale: jax.Array,
    features: jax.Array,
    labels: jax.Array,
    *,
    mesh: Mesh,
    classes: int,
) -> tuple[jax.Array, jax.Array]:
    """Losses and likeliest classes, `[N]` each; the kernel is `[V, D]`, filled up as `classes`."""

    def on_device(
        params: Params, scale: jax.Array, features: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        losses = linear_softmax_cross_entropy(
            _scaled(features, params, scale),
            params["kernel"],
            labels,
            bias=params["bias"],
            kernel_layout="vd",
            axis_name=MODEL,
            num_classes=classes,
            reduction="none",
        )
        return losses, _first_largest(_logits(params, scale, features, classes))

    found: tuple[jax.Array, jax.Array] = _over(
        mesh, on_device, P(DATA), params, scale, features, labels
    )
    return found


@latest_programs("mesh", "classes")
def likeliest(
    params: Params, scale: jax.Array, features: jax.Array, *, mesh: Mesh, classes: int
) -> tuple[jax.Array]:
    """The likeliest classes, `[N]`."""

    def on_device(params: Params, scale: jax.Array, features: jax.Array) -> tuple[jax.Array]:
        return (_first_largest(_logits(params, scale, features, classes)),)

    found: tuple[jax.Array] = _over(mesh, on_device, P(DATA), params, scale, features)
    return found


@latest_programs("mesh", "classes")
def probabilities(
    params: Params, scale: jax.Array, features: jax.Array, *, mesh: Mesh, classes: int
) -> tuple[jax.Array]:
    """Class probabilities, `[N, V]`, `V` filled up with classes of probability 0."""

    def on_device(params: Params, scale: jax.Array, features: jax.Array) -> tuple[jax.Array]:
        logits = _logits(params, scale, features, classes)
        if mesh.shape[MODEL] == 1:
            return (softmax(logits),)
        largest = lax.pmax(jnp.max(logits, -1, keepdims=True), MODEL)
        shares = jnp.exp(logits - largest)
        return (shares / lax.psum(jnp.sum(shares, -1, keepdims=True), MODEL),)

    found: tuple[jax.Array] = _over(mesh, on_device, P(DATA, MODEL), params, scale, features)
    return found


def _over(
    mesh: Mesh, function: Callable[..., Any], out: P, params: Params, scale: jax.Array, *rows: Any
) -> Any:
    """What the function gives, over the mesh, of slices of the parameters and of the rows."""
    of_rows = [P(DATA)] * len(rows)
    over = jax.shard_map(function, mesh=mesh, in_specs=(P(MODEL), P(), *of_rows), out_specs=out)
    return over(params, scale, *rows)


def _scaled(features: jax.Array, params: Params, scale: jax.Array) -> jax.Array:
    dtype = params["kernel"].dtype
    return features.astype(dtype) * scale.astype(dtype)


def _logits(params: Params, scale: jax.Array, features: jax.Array, classes: int) -> jax.Array:
    """`[N, V]` logits of this device's classes; `-inf` for those that fill up."""
    logits = _scaled(features, params, scale) @ params["kernel"].T + params["bias"][None, :]
    return jnp.where(_numbers(logits) < classes, logits, -jnp.inf)


def _numbers(logits: jax.Array) -> jax.Array:
    """`[N, V]`: which class each logit is of."""
    first = lax.axis_index(MODEL) * logits.shape[1]
    return first + lax.broadcasted_iota(jnp.int32, logits.shape, 1)


def _first_largest(logits: jax.Array) -> jax.Array:
    """`argmax` over the classes of all devices, the first NaN where there is one."""
    unknown = jnp.isnan(logits)
    largest = lax.pmax(jnp.max(jnp.where(unknown, -jnp.inf, logits), -1, keepdims=True), MODEL)
    any_unknown = lax.pmax(jnp.any(unknown, -1, keepdims=True).astype(jnp.int32), MODEL)
    found = jnp.where(any_unknown > 0, unknown, logits == largest)
    none = jnp.iinfo(jnp.int32).max
    return lax.pmin(jnp.min(jnp.where(found, _numbers(logits), none), -1), MODEL)
