"""What each of 256 TPU chips would hold of a linear layer's loss, compiled for chips not here.

python benchmarks/pod.py [--rows N] [--width D] [--classes V ...] [--json FILE]

With `--step` a whole step of SGD with momentum, on TPUs or GPUs: memory, operations, bytes moved
and sent, and the least time of a step at the rates that the makers publish.

python benchmarks/pod.py --step [--on v5e|h100|h200] [--mesh data=16,model=16 ...]
                         [--block-rows N ...] [--rows N] [--width D] [--classes V]

Needs `pip install "jax[tpu]"` (for GPUs `"jax[cuda13]"`) on a Linux machine, and no TPU or GPU. A
size takes a minute or less.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
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
from pod_step import (
    MACHINES,
    UNFUSED,
    Step,
    devices_of,
    measure_step,
    mesh_over,
    print_steps,
    what_it_lacked,
)

from jax_softmax import linear_softmax_cross_entropy
from jax_softmax.benchmark import Record
from jax_softmax.benchmark.fused_suite import on_logits
from jax_softmax.benchmark.loss_suite import optax_loss
from jax_softmax.benchmark.results import OURS
from jax_softmax.benchmark.timing import compiled, temporaries
from jax_softmax.cli.bench_report import report_console
from jax_softmax.errors import InputError

TOPOLOGY, SIDE = "v5e:16x16", 16
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


def steps(options: argparse.Namespace) -> list[Step]:
    """A step on each mesh, with each size of block, then one that holds its logits."""
    devices, found = devices_of(options.on), []
    rows = options.rows or (2**20 if options.on == "v5e" else 2**16)
    classes = (options.classes or [1_000_000])[0]
    meshes = options.mesh or [(16, 16) if options.on == "v5e" else (1, 8)]
    for data, model in meshes:
        taken, there = data * model, MACHINES[options.on].devices
        if taken > there or (options.on == "v5e" and taken != there):
            raise InputError(f"--mesh: expected {there} devices, got {taken}.")
        if rows % data or classes % model:
            raise InputError(
                f"--mesh: expected rows that {data} divides and classes that {model} divides, "
                f"got {rows:,} and {classes:,}."
            )
    for data, model in meshes:
        mesh, size = mesh_over(devices, data, model), (rows, options.width, classes)
        for block in options.block_rows or [None]:
            found.append(measure_step(options.on, mesh, *size, block))
        found.append(measure_step(options.on, mesh, *size, contender=UNFUSED))
    return found


def mesh_sizes(words: str) -> tuple[int, int]:
    """The sizes of `data=4,model=2`."""
    sizes = re.fullmatch(r"data=([1-9]\d*),model=([1-9]\d*)", words)
    if sizes is None:
        raise argparse.ArgumentTypeError(f"expected data=4,model=2 or the like, got {words!r}")
    return int(sizes[1]), int(sizes[2])


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, help="default 2**20; for GPUs 2**16")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--classes", type=int, nargs="+", help="default 2**16 to 2**20, or 10**6")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--on", choices=MACHINES, default="v5e", help="with --step")
    parser.add_argument("--mesh", type=mesh_sizes, nargs="+", help="with --step")
    parser.add_argument("--block-rows", type=int, nargs="+", help="with --step")
    parser.add_argument("--examples", type=float, default=1e9, help="with --step")
    options = parser.parse_args(words)
    compiler, extra = ("libtpu", "tpu") if options.on == "v5e" else ("jax_cuda13_plugin", "cuda13")
    if importlib.util.find_spec(compiler) is None:
        maker = "TPU" if extra == "tpu" else "CUDA"
        print(
            f'pod.py: {maker}\'s compiler is not installed: pip install "jax[{extra}]"',
            file=sys.stderr,
        )
        return 2
    if options.step:
        try:
            taken = steps(options)
        except InputError as error:
            print(f"pod.py: {error}", file=sys.stderr)
            return 2
        records = [asdict(step) for step in taken]
        print_steps(taken, options.examples)
    else:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY)
        devices = np.reshape(topology.devices, (SIDE, SIDE))
        found = []
        for classes in options.classes or [2**i for i in range(16, 21)]:
            found += measure(options.rows or 2**20, options.width, classes, devices)
        records = [record.record() for record in found]
        print_table(found)
    if options.json:
        options.json.write_text(json.dumps(records, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
