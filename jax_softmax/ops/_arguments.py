"""Checks of arguments: dtypes, shapes, the class axes, the entries that count."""

from __future__ import annotations

import math
import operator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

Axis = int | tuple[int, ...] | None


def floating_array(name: str, x: Any) -> jax.Array:
    """`x` as a floating array of 16 bits or more; raises TypeError if it is not one."""
    array = as_array(name, x)
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    if not floating or array.dtype.itemsize < 2:
        of = "a floating dtype of 16 bits or more" if floating else "a floating dtype"
        raise TypeError(
            f"{name}: expected {of}, got {array.dtype}; convert first, e.g. "
            f"{name}.astype(jnp.float32)."
        )
    return array


def as_array(name: str, x: Any) -> jax.Array:
    """`x` as an array; raises a TypeError with its name if it is not one."""
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError, OverflowError) as error:
        raise _no_array(name, x) from error


def _no_array(name: str, x: Any) -> TypeError:
    if isinstance(x, list | tuple):
        remedy = "its elements must be numbers, and its rows of one length"
    else:
        remedy = (
            "of a layer or module pass the array that it holds, e.g. layer.kernel[...] or "
            "layer.weight"
        )
    return TypeError(f"{name}: expected an array, got {type(x).__name__}; {remedy}.")


def real_array(name: str, x: jax.typing.ArrayLike) -> jax.Array:
    """`x` as an array; raises TypeError if it is complex."""
    array = as_array(name, x)
    if jnp.iscomplexobj(array):
        raise TypeError(f"{name}: expected real numbers, got {array.dtype}.")
    return array


def mask_array(where: jax.typing.ArrayLike) -> jax.Array:
    """`where` as booleans; raises TypeError if it holds neither booleans nor integers."""
    mask = as_array("where", where)
    if not (mask.dtype == bool or jnp.issubdtype(mask.dtype, jnp.integer)):
        raise TypeError(
            f"where: expected booleans, got {mask.dtype}; compare first, e.g. where > 0, and pass "
            f"weights of rows as sample_weight."
        )
    return mask.astype(bool)


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


def label_array(labels: Any, ignore_index: int | None, name: str = "labels") -> jax.Array:
    """Labels as a JAX array, where a label too wide for the dtype is still not a class.

    Without x64 `jnp.asarray` would wrap 2**32 to class 0.
    """
    if not isinstance(labels, jax.Array) and not hasattr(labels, "__jax_array__"):
        given = labels
        try:
            labels = np.asarray(given)
        except jax.errors.TracerArrayConversionError:
            pass  # a list with traced numbers
        except (TypeError, ValueError) as error:
            raise _no_array(name, given) from error
        else:
            if labels.dtype.kind in "OSU":  # not one that JAX has
                raise _no_array(name, given)
    if isinstance(labels, np.ndarray) and np.issubdtype(labels.dtype, np.integer):
        held = jnp.iinfo(jax.dtypes.canonicalize_dtype(labels.dtype))
        outside = (labels < held.min) | (labels > held.max)
        if outside.any():
            labels = np.where(outside, held.max - (ignore_index == held.max), labels)
    return as_array(name, labels)


def check_integer_labels(
    labels: jax.Array, rows: tuple[int, ...], instead: str, whose: str
) -> None:
    """Raises unless `labels` are integers `[*rows]`.

    Args:
      labels: the array.
      rows: the shape it must have.
      instead: what to do with class probabilities, for the message.
      whose: the array that has these rows, for the message.
    """
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        remedy = "of two classes pass labels.astype(int); " if labels.dtype == bool else ""
        raise TypeError(
            f"labels: expected an integer dtype, got {labels.dtype}; {remedy}for class "
            f"probabilities {instead}."
        )
    if labels.shape != rows:
        remedy = "; pass labels[..., 0]" if labels.shape == (*rows, 1) else ""
        raise ValueError(f"labels: expected shape {rows} ({whose}), got {labels.shape}{remedy}.")


def check_labels_of_rows(
    labels: jax.Array, rows: tuple[int, ...], whose: str, name: str = "labels"
) -> None:
    """Raises unless `labels` are integers, `[*rows]` or `[*rows, K]` with at least one a row."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels: expected an integer dtype, got {labels.dtype}; convert first, e.g. "
            f"labels.astype(jnp.int32)."
        )
    several = labels.ndim == len(rows) + 1 and labels.shape[:-1] == rows
    if labels.shape != rows and not (several and labels.shape[-1] > 0):
        raise ValueError(
            f"labels: expected shape {rows} ({whose}), or with an axis more for several labels a "
            f"row, got {labels.shape}."
        )


def class_weight_array(class_weights: Any, classes: int, dtype: jnp.dtype) -> jax.Array | None:
    """Class weights `[V]` of `dtype`, or None; differentiating them raises TypeError."""
    if class_weights is None:
        return None
    array = not_differentiated("class_weights", real_array("class_weights", class_weights)).astype(
        dtype
    )
    if array.shape != (classes,):
        raise ValueError(f"class_weights: expected shape {(classes,)}, got {array.shape}.")
    return array


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def not_differentiated(name: str, x: jax.Array) -> jax.Array:
    """`x`; differentiating it raises TypeError, which says to stop that at `name`."""
    return x


def _no_derivative(
    name: str, primals: tuple[jax.Array], tangents: tuple[jax.Array | SymbolicZero]
) -> tuple[jax.Array, Any]:
    (tangent,) = tangents
    if not isinstance(tangent, SymbolicZero):
        raise TypeError(
            f"{name}: expected constants, for they have no derivative; pass "
            f"jax.lax.stop_gradient({name})."
        )
    return primals[0], tangent


not_differentiated.defjvp(_no_derivative, symbolic_zeros=True)


def broadcast_rows(
    sample_weight: jax.typing.ArrayLike, rows: tuple[int, ...], dtype: jnp.dtype
) -> jax.Array:
    """One factor per row, `[*rows]` of `dtype`.

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


def canonical_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The class axes in the order given, as non-negative, distinct integers.

    Raises:
      TypeError: if an axis is not an integer.
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
      `[..., V]` booleans or None, with row axes of length 1 where rows share a mask; and `[...]`
      booleans or None.

    Raises:
      ValueError: if the mask fits neither the logits nor their rows.
    """
    if where is None:
        return None, None
    mask = mask_array(where)
    rows = tuple(n for a, n in enumerate(shape) if a not in axes)
    try:
        if mask.ndim == len(shape):
            jnp.broadcast_shapes(mask.shape, shape)
            # Rows that share a mask keep sharing it.
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
