"""What each of 256 TPU chips would hold of a linear layer's loss, compiled for chips not here.

python benchmarks/pod.py [--rows N] [--width D] [--classes V ...] [--json FILE]

Needs `pip install "jax[tpu]"` on a Linux machine, and no TPU. A size takes a minute or less.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# Before JAX starts: the first keeps TPU's compiler from waiting for a server that only a TPU's
# machine has.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_softmax import linear_softmax_cross_entropy
from jax_softmax.benchmark import Record
from jax_softmax.benchmark.fused_suite import on_logits
from jax_softmax.benchmark.loss_suite import optax_loss
from jax_softmax.benchmark.results import OURS
from jax_softmax.benchmark.timing import compiled, temporaries
from jax_softmax.cli.bench_report import report_console

TOPOLOGY, SIDE = "v5e:16x16", 16
UNFUSED = "optax, float32 logits"
_X, _K, _Y = P("data"), P(None, "model"), P("data")


def measure(rows: int, width: int, classes: int, devices: Any) -> list[Record]:
    """What each device holds for the fused loss and for unfused ones, in bfloat16.

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
        OURS: _fused(mesh),
        UNFUSED: jax.value_and_grad(on_logits(optax_loss, jnp.float32), (0, 1)),
        "optax, bfloat16 logits": jax.value_and_grad(on_logits(optax_loss), (0, 1)),
    }
    about = Record(
        suite="pod",
        case=f"value and gradients, {rows:,}×{width:,}×classes bfloat16",
        rows=rows,
        width=width,
        classes=classes,
        dtype="bfloat16",
        devices=mesh.size,
        logits_bytes=rows * classes * 2 // mesh.size,
    )
    return [
        replace(about, contender=name, ours=name == OURS, **_held(function, *arrays))
        for name, function in contenders.items()
    ]


def _fused(mesh: Mesh) -> Callable[..., Any]:
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
    """What the compiler says of a program that does not fit, as fields of a record."""
    sizes = re.search(r"temporaries \(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)", message)
    if sizes is None:
        return {"skipped": f"does not compile: {message.splitlines()[0]}"}
    return {
        "temporary_bytes": round(float(sizes[1]) * 2**30),
        "note": f"does not fit: a chip has {sizes[2]} GiB",
    }


def print_table(records: Sequence[Record]) -> None:
    """A line for each number of classes and contender."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("classes", "temporaries a chip", "over unfused", "compile"):
        table.add_column(title, justify="right")
    table.add_column("contender")
    unfused = {r.classes: r.temporary_bytes for r in records if r.contender == UNFUSED}
    for record in records:
        held, base = record.temporary_bytes, unfused.get(record.classes)
        table.add_row(
            f"{record.classes:,}",
            ""
            if held is None
            else f"{held / 1e6:,.3g} MB"
            if held < 1e9
            else f"{held / 1e9:.3g} GB",
            f"{held / base:.1%}" if held and base else "",
            f"{record.compile_seconds:.0f} s" if record.compile_seconds else "",
            "; ".join(filter(None, [record.contender, record.note, record.skipped])),
        )
    console = report_console()
    console.print(f"{records[0].case} on {records[0].devices} chips ({TOPOLOGY})")
    console.print(table)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2**20)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--classes", type=int, nargs="+", default=[2**i for i in range(16, 21)])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(words)
    if importlib.util.find_spec("libtpu") is None:
        print('pod.py: TPU\'s compiler is not installed: pip install "jax[tpu]"', file=sys.stderr)
        return 2
    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY)
    devices = np.reshape(topology.devices, (SIDE, SIDE))
    found = []
    for classes in options.classes:
        found += measure(options.rows, options.width, classes, devices)
    if options.json:
        options.json.write_text(json.dumps([record.record() for record in found], indent=1))
    print_table(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
