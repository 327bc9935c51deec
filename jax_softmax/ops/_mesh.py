"""What tracing knows about devices: mesh axes, and which of them arrays vary over."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

AxisName = str | tuple[str, ...] | None


def axis_names(axis_name: AxisName) -> tuple[str, ...]:
    """The axis names as a tuple, however they were given."""
    return () if axis_name is None else axis_name if isinstance(axis_name, tuple) else (axis_name,)


def sum_over(axis_name: AxisName, x: jax.Array) -> jax.Array:
    """The sum over the devices along a mesh axis; `x` itself if there is no axis."""
    return x if axis_name is None else lax.psum(x, axis_name)


def varying_axes(*arrays: jax.Array | None) -> frozenset[str]:
    """The mesh axes that any of the arrays varies over."""
    axes = (_axes(x) for x in arrays if x is not None)
    return frozenset().union(*axes)


def vary(x: jax.Array, axes: frozenset[str]) -> jax.Array:
    """`x`, marked as varying over `axes` too; the transpose sums over the axes this adds."""
    missing = tuple(sorted(axes - _axes(x)))
    return lax.pcast(x, missing, to="varying") if missing else x


def zeros_varying(like: jax.Array, dtype: jnp.dtype, *others: jax.Array) -> jax.Array:
    """Zeros shaped like `like`, varying as it and `others` do, for a loop to sum into."""
    return vary(jnp.zeros(like.shape, dtype), varying_axes(like, *others))


def zeros_like_type(like: Any) -> jax.Array:
    """Zeros of the shape and dtype of `like`, a `jax.ShapeDtypeStruct`, that vary as it does."""
    axes = like.manual_axis_type  # None outside of jax.shard_map
    return vary(jnp.zeros(like.shape, like.dtype), frozenset(axes.varying if axes else ()))


def sum_over_missing(x: jax.Array, like: jax.Array) -> jax.Array:
    """`x` summed over the devices of the mesh axes that it varies over and `like` does not."""
    missing = tuple(sorted(_axes(x) - _axes(like)))
    return lax.psum(x, missing) if missing else x


def _axes(x: jax.Array) -> frozenset[str]:
    varying: frozenset[str] = jax.typeof(x).manual_axis_type.varying
    return varying


def all_axes_manual() -> bool:
    """Whether this is traced inside a `jax.shard_map` over all axes of its mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return bool(mesh.axis_types) and all(
        kind == jax.sharding.AxisType.Manual for kind in mesh.axis_types
    )


def explicit_axes(*arrays: jax.Array) -> frozenset[str]:
    """The mesh axes whose shardings are part of the arrays' types."""
    return frozenset(
        name
        for x in arrays
        for name, kind in zip(_mesh(x).axis_names, _mesh(x).axis_types, strict=True)
        if kind == jax.sharding.AxisType.Explicit
    )


def on_one_device(*arrays: jax.Array) -> bool:
    """Whether each device holds its arrays whole; False if the compiler may spread them."""
    return all_axes_manual() or (jax.device_count() == 1 and not explicit_axes(*arrays))


def explicit_context() -> bool:
    """Whether this is inside a `jax.set_mesh` whose shardings are part of arrays' types."""
    kinds = jax.sharding.get_abstract_mesh().axis_types or ()
    return jax.sharding.AxisType.Explicit in kinds


def _mesh(x: jax.Array) -> Any:
    return jax.typeof(x).sharding.mesh
