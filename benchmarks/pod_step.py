"""A whole step of SGD with momentum on a large head, compiled for devices that are not here.

For `python benchmarks/pod.py --step`. The kernel and the momentum are float32, features and
products bfloat16. The features' gradient is a result, as a network below the head wants it.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, use_abstract_mesh
from jax.sharding import PartitionSpec as P
from traffic import Program

from jax_softmax import linear_softmax_cross_entropy
from jax_softmax.benchmark.fused_suite import on_logits
from jax_softmax.benchmark.loss_suite import optax_loss
from jax_softmax.benchmark.results import OURS
from jax_softmax.cli.bench_report import report_console

_H200 = Path(__file__).resolve().parents[1] / "tests" / "ops" / "h200.txtpb"
UNFUSED = "optax, float32 logits"
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


class Machine(NamedTuple):
    """Devices of a kind, and what their maker publishes of one.

    Attributes:
      title: what they are.
      devices: how many there are.
      flops: dense bfloat16 operations a second.
      memory: bytes that a program may hold.
      memory_rate: bytes a second.
      link_rate: bytes a second that a device sends along a mesh axis, over all its links there.
      shape: of the devices, the hosts' first; of a TPU, of its torus.
    """

    title: str
    devices: int
    flops: float
    memory: float
    memory_rate: float
    link_rate: float
    shape: str


MACHINES = {
    # Four ports of 100 GB/s, both directions together: two of them along an axis of the torus.
    "v5e": Machine("TPU v5e chips", 256, 197e12, 15.75 * 2**30, 819e9, 100e9, "16x16"),
    # NVLink: 900 GB/s, both directions together.
    "h100": Machine("H100 SXM GPUs", 8, 989e12, 80e9, 3.35e12, 450e9, "1x1x8"),
    "h200": Machine("H200 SXM GPUs", 8, 989e12, 141e9, 4.8e12, 450e9, "1x1x8"),
}

# docs/benchmarks/h100.md: rates of products and of a copy, and what the loss took over products.
MEASURED_FLOPS, MEASURED_COPY, OVER_PRODUCTS = 753e12, 2.85e12, (1.09, 1.25)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a device holds, computes and moves in a step, in bytes, operations and seconds.

    Attributes:
      held_bytes: the most at any time: arguments, results and temporaries. The new kernel and
        momentum take the place of the old.
      flops: of the three products.
      memory_bytes: read and written, each array once an operation.
      sent_bytes: by mesh axis, around rings.
      compute_seconds: at the maker's rates; the least is the largest of the three.
      expected_seconds: on NVIDIA GPUs, from what an H100 was measured to take: from, to.
    """

    machine: str
    mesh: str
    contender: str
    rows: int
    width: int
    classes: int
    block_rows: int | None
    argument_bytes: int = 0
    temporary_bytes: int = 0
    held_bytes: int = 0
    flops: float = 0
    memory_bytes: float = 0
    sent_bytes: float = 0
    compute_seconds: float = 0
    memory_seconds: float = 0
    link_seconds: float = 0
    expected_seconds: tuple[float, float] | None = None
    compile_seconds: float = 0
    note: str = ""

    @property
    def least_seconds(self) -> float:
        """What no step of this program is faster than, at the maker's rates."""
        return max(self.compute_seconds, self.memory_seconds, self.link_seconds)


def devices_of(machine: str) -> Sequence[Any]:
    """Devices that are not here, of a kind in `MACHINES`."""
    kind = MACHINES[machine]
    if machine == "v5e":
        return topologies.get_topology_desc(
            platform="tpu", topology_name=f"v5e:{kind.shape}"
        ).devices
    config = _H200.read_text()
    if machine == "h100":
        for theirs, ours in (
            ("memory_bandwidth: 4800000000000", "memory_bandwidth: 3350000000000"),
            ("device_memory_size: 151397597184", "device_memory_size: 85520809984"),
            ("NVIDIA H200 141GB HBM3e", "NVIDIA H100 80GB HBM3"),
        ):
            assert theirs in config
            config = config.replace(theirs, ours)
    return topologies.get_topology_desc(
        machine, "cuda", target_config=config, topology=kind.shape
    ).devices


def mesh_over(devices: Sequence[Any], data: int, model: int) -> Mesh:
    """The first devices, as a mesh whose axis "data" has rows and whose "model" has classes."""
    chosen = np.reshape(np.asarray(devices[: data * model]), (data, model))
    return Mesh(chosen, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def fused(
    mesh: Mesh, block_rows: int | None, implementation: Any
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """The fused loss of a kernel, features and labels."""
    by_classes = "model" if mesh.shape["model"] > 1 else None

    def on_device(kernel: jax.Array, features: jax.Array, labels: jax.Array) -> jax.Array:
        return linear_softmax_cross_entropy(
            features,
            kernel,
            labels,
            axis_name=by_classes,
            data_axis_name="data",
            block_size=block_rows,
            implementation=implementation,
        )

    # Of the mesh that the program is traced under.
    return jax.shard_map(
        on_device, in_specs=(P(None, by_classes), P("data"), P("data")), out_specs=P()
    )


def unfused(kernel: jax.Array, features: jax.Array, labels: jax.Array) -> jax.Array:
    """optax's mean on float32 logits."""
    return on_logits(optax_loss, jnp.float32)(features, kernel, labels)


def sgd_step(loss: Callable[..., jax.Array]) -> Any:
    """A step of a float32 kernel: the new kernel and state, the loss, the features' gradient."""

    def in_half(kernel: jax.Array, features: jax.Array, labels: jax.Array) -> jax.Array:
        return loss(kernel.astype(features.dtype), features, labels)

    def step(kernel: jax.Array, state: Any, features: jax.Array, labels: jax.Array) -> Any:
        value, (by_kernel, by_features) = jax.value_and_grad(in_half, (0, 1))(
            kernel, features, labels
        )
        updates, state = OPTIMIZER.update(by_kernel, state, kernel)
        return optax.apply_updates(kernel, updates), state, value, by_features

    return jax.jit(step, donate_argnums=(0, 1))


def compile_step(
    mesh: Mesh, rows: int, width: int, classes: int, loss: Callable[..., jax.Array]
) -> tuple[Any, float]:
    """The compiled step on a mesh, and the seconds that took."""

    def array(shape: tuple[int, ...], dtype: Any, *spec: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))

    kernel = array((width, classes), jnp.float32, None, "model")
    state = jax.tree.map(
        lambda x: array(x.shape, x.dtype, None, "model"), jax.eval_shape(OPTIMIZER.init, kernel)
    )
    features = array((rows, width), jnp.bfloat16, "data")
    labels = array((rows,), jnp.int32, "data")
    platform, started = mesh.devices.flat[0].platform, time.perf_counter()
    platforms = ("cuda" if platform == "gpu" else platform,)
    with use_abstract_mesh(mesh.abstract_mesh):
        traced = sgd_step(loss).trace(kernel, state, features, labels)
        program = traced.lower(lowering_platforms=platforms).compile()
    return program, time.perf_counter() - started


def measure_step(
    machine: str,
    mesh: Mesh,
    rows: int,
    width: int,
    classes: int,
    block_rows: int | None = None,
    contender: str = OURS,
) -> Step:
    """What each device of a mesh holds, computes and moves in a step.

    Args:
      machine: of `MACHINES`, whose rates give the seconds.
      mesh: what `mesh_over` gives.
      rows: N, of features `[N, D]`; of a step, over all devices.
      width: D.
      classes: V, of a kernel `[D, V]`.
      block_rows: the most rows in a block of logits; None for the default.
      contender: `OURS` or `UNFUSED`.
    """
    about = Step(
        machine=machine,
        mesh=",".join(f"{axis}={size}" for axis, size in mesh.shape.items()),
        contender=contender,
        rows=rows,
        width=width,
        classes=classes,
        block_rows=block_rows,
    )
    # By default it would be that of the devices that are here.
    far_gpu = mesh.devices.flat[0].platform == "gpu"
    loss = unfused
    if contender == OURS:
        loss = fused(mesh, block_rows, "mosaic_gpu" if far_gpu else None)
    try:
        program, seconds = compile_step(mesh, rows, width, classes, loss)
    except jax.errors.JaxRuntimeError as error:
        lacked = what_it_lacked(str(error))
        temporaries = lacked.get("temporary_bytes", 0)
        note = lacked.get("note") or lacked["skipped"]
        return _with(about, temporary_bytes=temporaries, note=note)
    return _costs(about, program, seconds, mesh)


def what_it_lacked(message: str) -> dict[str, Any]:
    """What the compiler says of a program that does not fit, as fields of a record."""
    sizes = re.search(r"temporaries \(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)", message)
    if sizes is None:
        return {"skipped": f"does not compile: {message.splitlines()[0]}"}
    return {
        "temporary_bytes": round(float(sizes[1]) * 2**30),
        "note": f"does not fit: a chip has {sizes[2]} GiB",
    }


def _with(step: Step, **fields: Any) -> Step:
    return Step(**{**asdict(step), **fields})


def _costs(about: Step, program: Any, seconds: float, mesh: Mesh) -> Step:
    kind, memory, text = MACHINES[about.machine], program.memory_analysis(), program.as_text()
    moved = Program(text)
    sent = sum(each.sent * times for each, times in moved.collectives.items())
    flops = 6 * about.rows * about.width * about.classes / mesh.size
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    together = memory.argument_size_in_bytes + results + memory.temp_size_in_bytes
    held = getattr(memory, "peak_memory_in_bytes", 0) or together  # jax 0.10 has no peak
    links = sent / kind.link_rate
    step = _with(
        about,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        held_bytes=held,
        flops=flops,
        memory_bytes=moved.memory_bytes,
        sent_bytes=sent,
        compute_seconds=flops / kind.flops,
        memory_seconds=moved.memory_bytes / kind.memory_rate,
        link_seconds=links,
        compile_seconds=seconds,
        note="" if held <= kind.memory else f"does not fit {kind.memory / 1e9:.3g} GB",
    )
    return _with(step, expected_seconds=expected(step, moved.memory_bytes_once))


def expected(step: Step, update_bytes: float) -> tuple[float, float] | None:
    """From what an H100 was measured to take; None for other devices, programs and shapes.

    At the shapes that were measured memory takes under half the time of the operations.
    """
    measured = step.machine != "v5e" and step.contender == OURS
    if not measured or step.memory_seconds > step.compute_seconds / 2:
        return None
    low, high = (factor * step.flops / MEASURED_FLOPS for factor in OVER_PRODUCTS)
    update = update_bytes / MEASURED_COPY
    return low + update, high + update + step.link_seconds


def print_steps(steps: Sequence[Step], examples: float) -> None:
    """A line for each step, then how long so many examples take."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    columns = ("mesh", "rows a block", "held", "temporaries", "operations", "memory", "sent")
    for title in (*columns, "least", "of it", "expected"):
        table.add_column(title, justify="right")
    table.add_column("contender")
    for step in steps:
        table.add_row(*_row(step))
    first, console = steps[0], report_console()
    kind = MACHINES[first.machine]
    console.print(
        f"a step of {first.rows:,} rows, {first.width:,}×{first.classes:,} float32 kernel and "
        f"momentum, bfloat16 products, compiled for {kind.devices} {kind.title}; each device:"
    )
    console.print(table)
    count = math.ceil(examples / first.rows)
    ours = (step for step in steps if step.contender == OURS and not step.note)
    best = min(ours, key=_least, default=None)
    if best is not None:
        whole = f"{count:,} steps for {examples:,.0f} examples on {best.mesh}: at least "
        whole += _minutes(count * best.least_seconds)
        if best.expected_seconds is not None:
            whole += f"; expected {' to '.join(_minutes(count * s) for s in best.expected_seconds)}"
        console.print(whole)


def _least(step: Step) -> tuple[float, float]:
    return step.least_seconds, step.held_bytes


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.3g} min"


def _row(step: Step) -> tuple[str, ...]:
    who = "; ".join(filter(None, (step.contender, step.note)))
    block = str(step.block_rows or "default") if step.contender == OURS else ""
    temporaries = f"{step.temporary_bytes / 1e9:.3g} GB" if step.temporary_bytes else ""
    if not step.held_bytes:
        return (step.mesh, block, "", temporaries, *[""] * 6, who)
    parts: Mapping[str, float] = {
        "operations": step.compute_seconds,
        "memory": step.memory_seconds,
        "links": step.link_seconds,
    }
    return (
        step.mesh,
        block,
        f"{step.held_bytes / 1e9:.3g} GB",
        temporaries,
        f"{step.flops / 1e12:.4g} T",
        *(f"{n / 1e9:.3g} GB" for n in (step.memory_bytes, step.sent_bytes)),
        f"{step.least_seconds * 1e3:.3g} ms",
        " + ".join(f"{s * 1e3:.3g} {name}" for name, s in parts.items()),
        "to ".join(f"{s * 1e3:.3g} " for s in step.expected_seconds or ()).strip(),
        who,
    )
