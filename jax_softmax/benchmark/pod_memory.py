"""A process that compiles for 256 chips that are not here, and reads what each would hold.

TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu \
python -m jax_softmax.benchmark.pod_memory ROWS WIDTH CLASSES FILE
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_softmax import linear_softmax_cross_entropy
from jax_softmax.benchmark import linear_peers
from jax_softmax.benchmark.linear_data import taken, temporaries
from jax_softmax.benchmark.results import OURS
from jax_softmax.benchmark.timing import compiled

TOPOLOGY = "v5e:16x16"
SIDE = 16
UNFUSED = "optax, float32 logits"
_X, _K, _Y = P("data"), P(None, "model"), P("data")


def measure(rows: int, width: int, classes: int, devices: Any) -> list[dict[str, Any]]:
    """Fields of a record for the fused loss and for unfused ones, value and gradients in bfloat16.

    The rows are spread over the first axis of the mesh, the classes over the second.

    Args:
      rows: N, of features `[N, D]`.
      width: D.
      classes: V, of a kernel `[D, V]`.
      devices: two-dimensional, of a topology; 256 chips are `[16, 16]`.
    """
    mesh = Mesh(np.asarray(devices), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def array(spec: P, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    arrays = (
        array(_X, (rows, width), jnp.bfloat16),
        array(_K, (width, classes), jnp.bfloat16),
        array(_Y, (rows,), jnp.int32),
    )
    contenders = {
        OURS: fused(mesh),
        UNFUSED: jax.value_and_grad(linear_peers.optax_float32_loss, (0, 1)),
        "optax, bfloat16 logits": jax.value_and_grad(linear_peers.optax_loss, (0, 1)),
    }
    found = [{"contender": name} | _held(loss, *arrays) for name, loss in contenders.items()]
    along_data, along_model = mesh.devices.shape
    found[0]["block_rows"] = taken(rows // along_data, classes // along_model)
    return found


def fused(mesh: Mesh) -> Callable[..., Any]:
    """Value and gradients of the fused loss, rows over "data", classes over "model"."""

    def loss(x: jax.Array, k: jax.Array, y: jax.Array) -> jax.Array:
        return linear_softmax_cross_entropy(x, k, y, axis_name="model", data_axis_name="data")

    return jax.shard_map(
        jax.value_and_grad(loss, (0, 1)),
        mesh=mesh,
        in_specs=(_X, _K, _Y),
        out_specs=(P(), (_X, _K)),
    )


def _held(function: Callable[..., Any], *arrays: Any) -> dict[str, Any]:
    """What each device holds, or would if it could."""
    try:
        program, seconds = compiled(function, *arrays)
    except jax.errors.JaxRuntimeError as error:
        return what_it_lacked(str(error))
    return {"compile_seconds": seconds, "temporary_bytes": temporaries(program)}


def what_it_lacked(message: str) -> dict[str, Any]:
    """What the compiler says of a program that does not fit, as fields.

    >>> what_it_lacked("required for HLO temporaries (19.00G) exceeds available HBM (15.75G).")
    {'temporary_bytes': 20401094656, 'note': 'does not fit: a chip has 15.75 GiB'}
    >>> what_it_lacked("INTERNAL: a bug")
    {'skipped': 'does not compile: INTERNAL: a bug'}
    """
    sizes = re.search(r"temporaries \(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)", message)
    if sizes is None:
        return {"skipped": f"does not compile: {message.splitlines()[0]}"}
    return {
        "temporary_bytes": round(float(sizes[1]) * 2**30),
        "note": f"does not fit: a chip has {sizes[2]} GiB",
    }


def main(rows: str, width: str, classes: str, file: str) -> None:
    """Compiles and writes a list of fields as JSON."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY)
    devices: Any = np.reshape(topology.devices, (SIDE, SIDE))
    Path(file).write_text(json.dumps(measure(int(rows), int(width), int(classes), devices)))


if __name__ == "__main__":
    main(*sys.argv[1:])
