"""Over which devices a model is spread: sizes as people give them, and arrays put in their places.

Examples are spread over the axis `data`, classes over the axis `model`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_softmax._checks import is_integer, shown
from jax_softmax.errors import InputError

DATA, MODEL = "data", "model"

# Devices wait for one another in a program. Were two started by two threads at once, on one device
# in one order and on another in the other, they could wait for ever.
_ONE_AT_A_TIME = threading.RLock()

_SUCH_AS = "such as {'data': 4, 'model': 2}"


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """How many devices there are along each axis of a mesh.

    Attributes:
      data: that the examples are spread over.
      model: that the classes are spread over.

    Raises:
      InputError: if a size is no positive integer.

    >>> str(MeshShape(data=4, model=2)), MeshShape(model=8).size
    ('data=4,model=2', 8)
    """

    data: int = 1
    model: int = 1

    def __post_init__(self) -> None:
        for axis, size in vars(self).items():
            if not (is_integer(size) and size >= 1):
                raise InputError(
                    f"mesh: expected an integer of at least 1 for the axis {axis}, got "
                    f"{shown(size)}; leave it out for 1."
                )
            object.__setattr__(self, axis, int(size))

    @property
    def size(self) -> int:
        """How many devices that takes."""
        return self.data * self.model

    def __str__(self) -> str:
        return f"{DATA}={self.data},{MODEL}={self.model}"


def mesh_shape(sizes: object) -> MeshShape | None:
    """What a person gave for a mesh, checked: a mapping of axes to sizes, or None.

    Raises:
      InputError: if it is neither, or has another axis, or a size is no positive integer.

    >>> mesh_shape({"data": 4})
    MeshShape(data=4, model=1)
    """
    if sizes is None or isinstance(sizes, MeshShape):
        return sizes
    if not isinstance(sizes, Mapping):
        raise InputError(
            f"mesh: expected sizes of the axes data and model, {_SUCH_AS}, or None for all "
            f"devices on data, got {shown(sizes)}."
        )
    unknown = [axis for axis in sizes if axis not in (DATA, MODEL)]
    if unknown or not sizes:
        got = f"an axis {shown(unknown[0])}" if unknown else "none"
        raise InputError(f"mesh: expected the axes data and model, {_SUCH_AS}, got {got}.")
    return MeshShape(**sizes)


def parse_mesh(words: str) -> MeshShape:
    """The mesh that a command line says.

    Raises:
      InputError: if it does not say sizes of the axes data and model, each once.

    >>> parse_mesh("data=4,model=2")
    MeshShape(data=4, model=2)
    """
    sizes: dict[str, int] = {}
    for part in words.split(","):
        axis, equals, size = (piece.strip() for piece in part.partition("="))
        if not (equals and size.isdecimal() and axis not in sizes):
            raise InputError(
                f"--mesh: expected sizes of the axes data and model, each once, such as "
                f"data=4,model=2, got {shown(words)}."
            )
        sizes[axis] = int(size)
    shape = mesh_shape(sizes)
    assert shape is not None
    return shape


def default_devices() -> list[Any]:
    """All devices; where JAX was given a default device, that one."""
    config: Any = jax.config
    chosen = config.jax_default_device
    if chosen is None or isinstance(chosen, str):
        return jax.devices(chosen)
    return [chosen]


def mesh_of(sizes: object) -> Mesh | None:
    """The devices of a mesh, the first that there are; None where one device is enough.

    Args:
      sizes: what `mesh_shape` takes; None is all devices on the axis data.

    Raises:
      InputError: if there are fewer devices, or the sizes are none.
    """
    shape = mesh_shape(sizes)
    devices = default_devices() if shape is None else jax.devices()
    shape = MeshShape(data=len(devices)) if shape is None else shape
    if shape.size > len(devices):
        here = "1 device" if len(devices) == 1 else f"{len(devices)} devices"
        raise InputError(
            f"mesh: expected at most the {here} that JAX finds here, got {shape}, which takes "
            f"{shape.size}; make it smaller, or leave it out for all devices on data."
        )
    chosen = devices[: shape.size]
    _check_of_all_processes(chosen, shape)
    if shape.size == 1:
        return None
    return Mesh(np.array(chosen).reshape(shape.data, shape.model), (DATA, MODEL))


def _check_of_all_processes(devices: list[Any], shape: MeshShape) -> None:
    missing = set(range(jax.process_count())) - {device.process_index for device in devices}
    if missing:
        raise InputError(
            f"mesh: expected devices of all {jax.process_count()} processes, got {shape}, which "
            f"has none of process {min(missing)}; make it larger, or leave it out for all devices "
            f"on data."
        )


@contextlib.contextmanager
def alone_on(mesh: Mesh) -> Iterator[None]:
    """Programs over the mesh run inside: no two at a time, and whatever mesh the caller has set."""
    with _ONE_AT_A_TIME, jax.set_mesh(mesh):
        yield


def padded(length: int, devices: int) -> int:
    """The length that divides among so many devices.

    >>> padded(10, 4)
    12
    """
    return -(-length // devices) * devices


def own_rows(mesh: Mesh, length: int) -> slice:
    """Which of so many rows, spread over the axis data, this process has devices for.

    >>> own_rows(Mesh(np.array(jax.devices()[:1]).reshape(1, 1), (DATA, MODEL)), 10)
    slice(0, 10, None)
    """
    rows = padded(length, mesh.shape[DATA])
    indices = NamedSharding(mesh, P(DATA)).addressable_devices_indices_map((rows,)).values()
    spans = [index[0].indices(rows) for index in indices if index is not None]
    ends = min(span[0] for span in spans), max(span[1] for span in spans)
    return slice(*(min(end, length) for end in ends))


def place(
    mesh: Mesh,
    axis: str | None,
    array: np.ndarray,
    fill: int = 0,
    *,
    first: int = 0,
    length: int | None = None,
) -> jax.Array:
    """An array with its first axis spread over a mesh axis, or as a whole on every device.

    A process makes the parts of its own devices only.

    Args:
      mesh: the devices.
      axis: `"data"`, `"model"`, or None.
      array: `[N, ...]`; or the rows of this process's devices, from `first` on.
      fill: what fills up the rows that are missing where N does not divide.
      first: which row the array begins with.
      length: N, where the array has not all of them.
    """
    length = len(array) if length is None else length
    array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
    sharding = NamedSharding(mesh, P(axis))
    rows = length if axis is None else padded(length, mesh.shape[axis])

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(rows)
        held = array[start - first : stop - first]
        missing = [(0, stop - start - len(held)), *[(0, 0)] * (array.ndim - 1)]
        return np.pad(held, missing, constant_values=fill) if missing[0][1] else held

    return jax.make_array_from_callback((rows, *array.shape[1:]), sharding, part)
