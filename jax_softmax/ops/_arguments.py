"""Arguments the ops share: their dtypes, the class axes, the entries that count."""

from __future__ import annotations

import math
import operator
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

Axis = int | tuple[int, ...] | None
Reduction = Literal["none", "sum", "mean"]


def check_floating(name: str, x: jax.Array) -> None:
    """Raises TypeError unless `x` is a floating array of 16 bits a number or more."""
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize < 2:
        raise TypeError(
            f"{name}: expected a floating dtype, got {x.dtype}; "
            f"convert first, e.g. {name}.astype(jnp.float32)."
        )


def real_array(name: str, x: jax.typing.ArrayLike) -> jax.Array:
    """`x` as an array; raises TypeError if it is complex."""
    array = jnp.asarray(x)
    if jnp.iscomplexobj(array):
        raise TypeError(f"{name}: expected real numbers, got {array.dtype}.")
    return array


def check_reduction(reduction: str) -> None:
    """Raises ValueError unless `reduction` is one that the losses know."""
    if reduction not in get_args(Reduction):
        known = ", ".join(repr(name) for name in get_args(Reduction))
        raise ValueError(f"reduction: expected one of {known}, got {reduction!r}.")


def check_ignore_index(ignore_index: int | None, dtype: jnp.dtype) -> None:
    """Raises unless `ignore_index` is None or a number that labels of `dtype` can hold."""
    if ignore_index is None:
        return
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int | np.integer):
        raise TypeError(f"ignore_index: expected None or a Python integer, got {ignore_index!r}.")
    held = jnp.iinfo(dtype)
    if not held.min <= ignore_index <= held.max:
        raise ValueError(
            f"ignore_index: expected a number that labels of dtype {dtype} can hold, got "
            f"{ignore_index}; convert the labels, e.g. labels.astype(jnp.int32)."
        )


def label_array(labels: jax.typing.ArrayLike, ignore_index: int | None) -> jax.Array:
    """Labels as JAX's array, in which a label too wide for its dtype is still no class.

    Without x64 `jnp.asarray` would wrap 2**32 to class 0.
    """
    if not isinstance(labels, jax.Array) and not hasattr(labels, "__jax_array__"):
        labels = np.asarray(labels)
    if isinstance(labels, np.ndarray) and np.issubdtype(labels.dtype, np.integer):
        held = jnp.iinfo(jax.dtypes.canonicalize_dtype(labels.dtype))
        outside = (labels < held.min) | (labels > held.max)
        if outside.any():
            labels = np.where(outside, held.max - (ignore_index == held.max), labels)
    return jnp.asarray(labels)


def broadcast_rows(
    sample_weight: jax.typing.ArrayLike, rows: tuple[int, ...], dtype: jnp.dtype
) -> jax.Array:
    """A factor for each row, `[*rows]` of `dtype`.

    Raises:
      ValueError: if the factors do not broadcast to the rows.
    """
    given = real_array("sample_weight", sample_weight).astype(dtype)
    try:
        return jnp.broadcast_to(given, rows)
    except ValueError as error:
        raise ValueError(
            f"sample_weight: expected factors that broadcast to the rows {rows}, got shape "
            f"{given.shape}."
        ) from error


def statistics_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of row statistics and losses: float32 for half precision, else the input's own."""
    # Not promote_types, which raises where a user has JAX's strict promotion on.
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def canonical_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The class axes in the order given, as non-negative, distinct integers.

    Raises:
      TypeError: if an axis is no integer.
      ValueError: if an axis is out of range or named twice.
    """
    if axis is None:
        return tuple(range(ndim))
    axes = axis if isinstance(axis, tuple) else (axis,)
    try:
        axes = tuple(map(operator.index, axes))
    except TypeError as error:
        raise TypeError(
            f"axis: expected an integer, a tuple of integers or None, got {axis!r}."
        ) from error
    for a in axes:
        if not -ndim <= a < ndim:
            raise ValueError(
                f"axis: expected values in [{-ndim}, {ndim}) for an array of {ndim} dimensions, "
                f"got {axis}."
            )
    axes = tuple(a % ndim for a in axes)
    if len(set(axes)) != len(axes):
        raise ValueError(f"axis: expected distinct axes, got {axis}.")
    return axes


def classes_last(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """`x` with the class axes moved to the end and flattened into one: `[..., V]`."""
    if axes == (x.ndim - 1,):
        return x
    rows = tuple(a for a in range(x.ndim) if a not in axes)
    shape = tuple(x.shape[a] for a in rows)
    return jnp.transpose(x, rows + axes).reshape(*shape, math.prod(x.shape[a] for a in axes))


def classes_back(x: jax.Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> jax.Array:
    """Undoes `classes_last`: an array of `shape` from its `[..., V]` form."""
    if axes == (len(shape) - 1,):
        return x
    order = tuple(a for a in range(len(shape)) if a not in axes) + axes
    inverse = tuple(order.index(a) for a in range(len(shape)))
    return jnp.transpose(x.reshape(tuple(shape[a] for a in order)), inverse)


def mask_classes_last(
    where: jax.typing.ArrayLike | None, axes: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[jax.Array | None, jax.Array | None]:
    """`where` as a mask of classes and a mask of rows, at most one of which is not None.

    Args:
      where: None, or a mask of the logits' rank (classes) or without the class axes (rows).
      axes: the class axes.
      shape: the logits' shape.

    Returns:
      `[..., V]` booleans or None, in the logits' last-axis form but for rows that share them (axes
      of length 1), and `[...]` booleans or None.

    Raises:
      ValueError: if the mask fits neither the logits nor their rows.
    """
    if where is None:
        return None, None
    mask = jnp.asarray(where).astype(bool)
    rows = tuple(n for a, n in enumerate(shape) if a not in axes)
    try:
        if mask.ndim == len(shape):
            jnp.broadcast_shapes(mask.shape, shape)
            # Rows that share a mask go on sharing it.
            wide = tuple(n if a in axes else mask.shape[a] for a, n in enumerate(shape))
            return classes_last(jnp.broadcast_to(mask, wide), axes), None
        if mask.ndim == len(rows):
            return None, jnp.broadcast_to(mask, rows)
    except ValueError as error:
        raise ValueError(_where_words(mask.shape, shape, rows)) from error
    raise ValueError(_where_words(mask.shape, shape, rows))


def _where_words(got: tuple[int, ...], shape: tuple[int, ...], rows: tuple[int, ...]) -> str:
    return (
        f"where: expected a mask that broadcasts to the logits' shape {shape} or to their rows "
        f"{rows}, got {got}."
    )
