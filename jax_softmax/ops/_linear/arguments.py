"""Checks of a linear layer's arguments, and of the mesh axes it is spread over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jax_softmax.ops._arguments import (
    check_ignore_index,
    check_integer_labels,
    floating_array,
    label_array,
    mask_array,
    real_array,
)
from jax_softmax.ops._linear.layer import KernelLayout, Linear
from jax_softmax.ops._mesh import AxisName, axis_names, varying_axes


def check_arrays(
    features: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    kernel_layout: KernelLayout,
    labels: ArrayLike,
    ignore_index: int | None,
) -> tuple[Linear, jax.Array | None]:
    """The layer and its integer labels as arrays; raises if their shapes or dtypes do not fit.

    Class probabilities become part of the layer; the labels are then None.
    """
    linear = check_layer(features, kernel, bias, kernel_layout)
    x, rows = linear.features, linear.features.shape[:-1]
    classes = linear.kernel.shape[kernel_layout.index("v")]
    y = label_array(labels, ignore_index)
    integers = jnp.issubdtype(y.dtype, jnp.integer)
    # Integers or booleans without a column per class are labels; so are integers for one class.
    indices = (integers or y.dtype == bool) and y.shape[-1:] != (classes,)
    indices = indices or (integers and classes == 1)
    if y.ndim >= x.ndim and not indices:
        q = _class_probabilities(y, (*rows, classes), ignore_index)
        return linear._replace(labels=q), None
    check_integer_labels(
        y,
        rows,
        f"pass an array of shape {(*rows, classes)}",
        f"the features' {x.shape} without the last axis",
    )
    check_ignore_index(ignore_index, y.dtype)
    return linear, y


def check_layer(
    features: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    kernel_layout: KernelLayout,
    *,
    whose: str = "",
) -> Linear:
    """The layer as arrays; raises if their shapes or dtypes do not fit.

    `whose` is put before the arguments' names.
    """
    if kernel_layout not in get_args(KernelLayout):
        raise ValueError(f"{whose}kernel_layout: expected 'dv' or 'vd', got {kernel_layout!r}.")
    x, k = floating_array(f"{whose}features", features), floating_array(f"{whose}kernel", kernel)
    b = None if bias is None else floating_array(f"{whose}bias", bias)
    if x.ndim == 0:
        raise ValueError(f"{whose}features: expected shape [..., D], got a number.")
    width, order = x.shape[-1], f"[{', '.join(kernel_layout.upper())}]"
    if k.ndim != 2 or k.shape[kernel_layout.index("d")] != width:
        raise ValueError(
            f"{whose}kernel: expected {order} with D = {width} (the features' last axis) for "
            f"{whose}kernel_layout={kernel_layout!r}, got shape {k.shape}."
        )
    classes = k.shape[kernel_layout.index("v")]
    if classes == 0:
        raise ValueError(f"{whose}kernel: expected at least one class, got shape {k.shape}.")
    if b is not None and b.shape != (classes,):
        raise ValueError(f"{whose}bias: expected shape {(classes,)}, got {b.shape}.")
    return Linear(x, k, b)


def _class_probabilities(
    labels: jax.Array, shape: tuple[int, ...], ignore_index: int | None
) -> jax.Array:
    if ignore_index is not None:
        raise ValueError(
            "ignore_index: expected None with class probabilities, which are no indices; leave "
            "rows out with where= or a sample_weight of 0."
        )
    q = real_array("labels", labels)
    fits = q.ndim == len(shape) and q.shape[-1] == shape[-1]
    if not fits or any(n not in (1, m) for n, m in zip(q.shape, shape, strict=True)):
        raise ValueError(
            f"labels: expected class probabilities of shape {shape}, or integers {shape[:-1]}, "
            f"got {q.dtype} of shape {q.shape}."
        )
    # Integers and booleans are converted a block at a time.
    return jnp.broadcast_to(q, shape)


def check_row_mask(where: ArrayLike, rows: tuple[int, ...], classes: int) -> jax.Array:
    """The rows that count, `[*rows]` booleans; raises ValueError for a mask of classes."""
    mask = mask_array(where)
    try:
        return jnp.broadcast_to(mask, rows)
    except ValueError as error:
        remedy = "."
        if mask.ndim > len(rows) or mask.shape[-1:] == (classes,):
            remedy = "; to leave classes out, pass the layer without them, or a bias of -inf there."
        raise ValueError(
            f"where: expected a mask of rows that broadcasts to {rows}, got {mask.shape}{remedy}"
        ) from error


def check_classes(num_classes: int | None, held: int, axis_name: AxisName) -> int:
    """How many classes there are on all devices together."""
    there = held * (1 if axis_name is None else lax.axis_size(axis_name))
    if num_classes is None:
        return there
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise TypeError(f"num_classes: expected None or a Python integer, got {num_classes!r}.")
    if not 0 < num_classes <= there:
        raise ValueError(
            f"num_classes: expected at most the {there} classes that the kernel has "
            f"({held} a device), got {num_classes}."
        )
    return num_classes


def check_varies(argument: str, axis_name: AxisName, name: str, x: jax.Array) -> None:
    for axis in axis_names(axis_name):
        try:
            lax.axis_size(axis)
        except NameError as error:
            raise ValueError(
                f"{argument}: expected the name of a mesh axis, inside jax.shard_map over it, got "
                f"{axis_name!r}."
            ) from error
        if axis not in varying_axes(x):
            raise ValueError(
                f"{argument}={axis_name!r}: expected {name} to be this device's part, got the same "
                f"on all devices of {axis!r}; shard it in in_specs, and leave jax.shard_map's "
                f"check_vma on: without it derivatives would be wrong."
            )


def check_same(axis_name: AxisName, **arrays: jax.Array | None) -> None:
    """Raises ValueError if row data differ between the devices that the classes are spread over."""
    for name, x in arrays.items():
        different = frozenset(axis_names(axis_name)) & varying_axes(x)
        if different:
            raise ValueError(
                f"{name}: expected the same on all devices of axis_name={axis_name!r}, got what "
                f"varies over {sorted(different)}; if it is the same (gathered, say), mark it so "
                f"with jax.lax.pmax({name}, {axis_name!r})."
            )


def check_distinct(axis_name: AxisName, data_axis_name: AxisName) -> None:
    """Raises ValueError if classes and rows are spread over the same mesh axis."""
    both = sorted(set(axis_names(axis_name)) & set(axis_names(data_axis_name)))
    if both:
        raise ValueError(
            f"axis_name and data_axis_name: expected different mesh axes for classes and rows, got "
            f"{both} for both."
        )


def check_mean(
    axis_name: AxisName,
    data_axis_name: AxisName,
    of_rows: Sequence[jax.Array | None],
    weighing: Mapping[str, ArrayLike | None],
) -> None:
    """Raises ValueError if a mean is over one device's rows, and others' may weigh differently.

    The mean of such means has another gradient than the mean of all rows, silently.

    Args:
      axis_name: the mesh axis of the classes.
      data_axis_name: the mesh axis of the rows; `()` says that each device's mean is meant.
      of_rows: what is given with the rows.
      weighing: what makes rows weigh more or less, by name. One number for all of them cancels.
    """
    known = set(axis_names(axis_name)) | set(axis_names(data_axis_name))
    over = sorted(varying_axes(*of_rows) - known)
    names = [
        name
        for name, given in weighing.items()
        if given is not None and (name == "ignore_index" or jnp.ndim(given))
    ]
    if over and names and data_axis_name != ():
        axes = (*axis_names(data_axis_name), *over)
        name = axes[0] if len(axes) == 1 else axes
        raise ValueError(
            f"data_axis_name: expected the axes of the rows for reduction='mean' with "
            f"{', '.join(names)}, got {data_axis_name!r} for rows that differ along {over}. Those "
            f"of another device may weigh more or less, and the mean of such means is not that of "
            f"all rows. Pass data_axis_name={name!r} for the mean of all rows, or "
            f"data_axis_name=() if each device's is meant."
        )
