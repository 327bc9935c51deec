"""The loss of a linear layer over the devices of a mesh, for callers outside `jax.shard_map`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, Unpack, overload

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from jax_softmax.ops._arguments import broadcast_rows
from jax_softmax.ops._autodiff import names_forward_mode
from jax_softmax.ops._linear.arguments import check_arrays, check_distinct, check_row_mask
from jax_softmax.ops._linear.layer import KernelLayout, sums_dtype
from jax_softmax.ops._mesh import AxisName, axis_names, explicit_axes, explicit_context
from jax_softmax.ops._options import Reduction, ShardedLossOptions
from jax_softmax.ops._reduction import Loss, SoftmaxStats, place_stats
from jax_softmax.ops.linear_cross_entropy import linear_softmax_cross_entropy


@overload
def sharded_linear_softmax_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    mesh: Mesh | None = None,
    axis_name: AxisName = None,
    data_axis_name: AxisName = None,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    kernel_layout: KernelLayout = "dv",
    return_stats: Literal[False] = False,
    **options: Unpack[ShardedLossOptions],
) -> jax.Array: ...


@overload
def sharded_linear_softmax_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    mesh: Mesh | None = None,
    axis_name: AxisName = None,
    data_axis_name: AxisName = None,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    kernel_layout: KernelLayout = "dv",
    return_stats: Literal[True],
    **options: Unpack[ShardedLossOptions],
) -> tuple[jax.Array, SoftmaxStats]: ...


@overload
def sharded_linear_softmax_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    mesh: Mesh | None = None,
    axis_name: AxisName = None,
    data_axis_name: AxisName = None,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    kernel_layout: KernelLayout = "dv",
    return_stats: bool,
    **options: Unpack[ShardedLossOptions],
) -> Loss: ...


@names_forward_mode
def sharded_linear_softmax_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    mesh: Mesh | None = None,
    axis_name: AxisName = None,
    data_axis_name: AxisName = None,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    kernel_layout: KernelLayout = "dv",
    class_weights: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    reduction: Reduction = "mean",
    return_stats: bool = False,
    **options: Any,
) -> Loss:
    r"""`linear_softmax_cross_entropy` with classes and rows spread over a mesh of devices.

    A row's loss is :math:`\log \sum_j e^{z_j} - z_y`, its sum over all devices' classes. Takes
    whole arrays, wherever they are, and returns what one device would. The kernel's classes are
    spread over `axis_name`, the first axis of the rows over `data_axis_name`. If they do not divide
    evenly, they are padded with classes and rows that do not count. No device holds the classes or
    rows of another: devices exchange a few numbers per row, and sums of gradients.

    Args:
      features: `[..., D]`; at least one axis of rows.
      kernel: `[D, V]`, or `[V, D]` in the layout "vd".
      labels: `[...]` integers in `[0, V)`, or class probabilities `[..., V]`.
      mesh: the devices; None for the mesh of `jax.set_mesh`.
      axis_name: the mesh axis (or axes) to spread the classes over; None for none.
      data_axis_name: the mesh axis (or axes) to spread the rows over; None for none.
      bias: None, or `[V]`.
      where: None, or booleans that broadcast to `[...]`, the rows that count.
      kernel_layout: `"dv"` or `"vd"`.
      class_weights: None, or `[V]` factors of the classes, at least 0; constants.
      sample_weight: None, or factors of the rows that broadcast to `[...]`, with a derivative.
      reduction: `"mean"`, `"sum"` or `"none"`; a total is over all rows.
      return_stats: return `(loss, SoftmaxStats)`.
      **options: the other options of `linear_softmax_cross_entropy`, except `num_classes`.

    Returns:
      What `linear_softmax_cross_entropy` returns. Losses of rows are spread as the rows are, unless
      these had to be padded.

    Raises:
      TypeError: as on one device, or if an option is unknown.
      ValueError: as on one device, or if there is no mesh, or the mesh has no axis of that name.

    See Also:
      `linear_softmax_cross_entropy`, whose `axis_name` does this inside `jax.shard_map`.

    Source: Shoeybi et al., Megatron-LM, arXiv:1909.08053.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> mesh = jax.make_mesh((1, 1), ("data", "model"))  # one device here
    >>> features, kernel, labels = jnp.ones((6, 4)), jnp.ones((4, 10)), jnp.arange(6)
    >>> loss = sharded_linear_softmax_cross_entropy(
    ...     features, kernel, labels, mesh=mesh, axis_name="model", data_axis_name="data"
    ... )
    >>> print(f"{loss:.5f}")  # log 10
    2.30259
    """
    unknown = set(options) - set(ShardedLossOptions.__annotations__)
    if unknown:
        raise TypeError(
            f"sharded_linear_softmax_cross_entropy: expected options of "
            f"linear_softmax_cross_entropy other than num_classes (the kernel has its classes), "
            f"got {sorted(unknown)}."
        )
    axis_name, data_axis_name = axis_name or None, data_axis_name or None
    devices = _mesh_or_context(mesh)
    _check_axes(devices, axis_name=axis_name, data_axis_name=data_axis_name)
    check_distinct(axis_name, data_axis_name)
    ignore_index = options.get("ignore_index")
    linear, index = check_arrays(features, kernel, bias, kernel_layout, labels, ignore_index)
    if linear.features.ndim < 2:
        raise ValueError(
            f"features: expected at least one axis of rows, [..., D], got shape "
            f"{linear.features.shape}."
        )
    rows, count = linear.features.shape[:-1], len(linear.features)
    over_classes = kernel_layout.index("v")
    classes = linear.kernel.shape[over_classes]
    missing_rows = -count % _devices(devices, data_axis_name)
    missing = -classes % _devices(devices, axis_name)
    mask = None if where is None else check_row_mask(where, rows, classes)
    if missing_rows and mask is None:
        mask = jnp.ones(rows, bool)
    if sample_weight is not None:
        sample_weight = broadcast_rows(sample_weight, rows, sums_dtype(linear))
    arrays = _Arrays(
        features=_padded(linear.features, 0, missing_rows),
        labels=_padded(index, 0, missing_rows),
        probabilities=_padded(_padded(linear.labels, 0, missing_rows), -1, missing),
        where=_padded(mask, 0, missing_rows),
        sample_weight=_padded(sample_weight, 0, missing_rows),
        kernel=_padded(linear.kernel, over_classes, missing),
        bias=_padded(linear.bias, 0, missing),
        class_weights=_padded(class_weights, 0, missing),
    )
    specs = _specs(arrays, over_classes, axis_name, data_axis_name)
    on_device: Callable[[_Arrays], Loss] = partial(
        _on_device,
        kernel_layout=kernel_layout,
        reduction=reduction,
        return_stats=return_stats,
        axis_name=axis_name,
        data_axis_name=data_axis_name,
        num_classes=classes,
        **options,
    )
    of_row = P(data_axis_name)
    placed: Any = of_row if reduction == "none" else P()
    if return_stats:
        placed = (placed, place_stats(of_row))
    # Where mesh axes are part of arrays' types, the arrays are placed by hand. Elsewhere the mesh's
    # own kind of axes must not matter.
    typed = explicit_context() or bool(explicit_axes(linear.features, linear.kernel))
    if typed:
        arrays = _Arrays(*(_place(devices, spec, x) for spec, x in zip(specs, arrays, strict=True)))
    elif isinstance(devices, Mesh):
        devices = Mesh(devices.devices, devices.axis_names)
    found: Loss = jax.shard_map(on_device, mesh=devices, in_specs=(specs,), out_specs=placed)(
        arrays
    )
    if not missing_rows:
        return found
    if typed:
        found = jax.tree.map(partial(_place, devices, P()), found)
    loss: Loss = jax.tree.map(lambda x: x[:count] if x.ndim else x, found)
    return loss


class _Arrays(NamedTuple):
    """What is spread over the devices, or how it is; `labels` or `probabilities` are None."""

    features: Any
    labels: Any
    probabilities: Any
    where: Any
    sample_weight: Any
    kernel: Any
    bias: Any
    class_weights: Any


def _specs(
    arrays: _Arrays, over_classes: int, axis_name: AxisName, data_axis_name: AxisName
) -> _Arrays:
    """How each array is spread: by its first axis of rows, and by its classes."""
    of_rows, of_classes = P(data_axis_name), P(axis_name)
    between = [None] * (arrays.features.ndim - 2)
    return _Arrays(
        features=of_rows,
        labels=of_rows,
        probabilities=P(data_axis_name, *between, axis_name),
        where=of_rows,
        sample_weight=of_rows,
        kernel=P(*[axis_name if axis == over_classes else None for axis in range(2)]),
        bias=of_classes,
        class_weights=of_classes,
    )


def _on_device(arrays: _Arrays, **options: Any) -> Loss:
    """The loss of a device's rows and classes."""
    loss: Loss = linear_softmax_cross_entropy(
        arrays.features,
        arrays.kernel,
        arrays.probabilities if arrays.labels is None else arrays.labels,
        bias=arrays.bias,
        where=arrays.where,
        class_weights=arrays.class_weights,
        sample_weight=arrays.sample_weight,
        **options,
    )
    return loss


def _mesh_or_context(mesh: Mesh | None) -> Mesh | AbstractMesh:
    """The mesh, or that of `jax.set_mesh`, of which only the axes are known while tracing."""
    if mesh is not None:
        return mesh
    context = jax.sharding.get_abstract_mesh()
    if context.empty:
        raise ValueError(
            "mesh: expected a jax.sharding.Mesh, or one that jax.set_mesh has set, got neither."
        )
    return context


def _check_axes(mesh: Mesh | AbstractMesh, **names: AxisName) -> None:
    for argument, given in names.items():
        unknown = [name for name in axis_names(given) if name not in mesh.axis_names]
        if unknown:
            raise ValueError(
                f"{argument}: expected names of the mesh's axes {mesh.axis_names}, got {given!r}."
            )


def _devices(mesh: Mesh | AbstractMesh, axis_name: AxisName) -> int:
    """How many devices there are along one or more mesh axes."""
    return math.prod(mesh.shape[name] for name in axis_names(axis_name))


def _padded(x: ArrayLike | None, axis: int, missing: int) -> jax.Array | None:
    if x is None:
        return None
    array = jnp.asarray(x)
    widths = [(0, missing if a == axis % array.ndim else 0) for a in range(array.ndim)]
    return jnp.pad(array, widths) if missing else array


def _place(mesh: Mesh | AbstractMesh, spec: P, x: jax.Array | None) -> jax.Array | None:
    return None if x is None else jax.sharding.reshard(x, NamedSharding(mesh, spec))
