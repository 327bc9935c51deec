"""`python -m tests.ops.gpu_program`: a line of JSON on what is compiled for an absent H200."""

import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, SingleDeviceSharding

from jax_softmax import ops
from jax_softmax.ops._backends.mosaic_plan import make_plan

KERNEL = "mosaic_gpu_v2"
INTEGER = ops.softmax_cross_entropy_with_integer_labels
# The five shapes of docs/benchmarks/h100.md, one of a single chunk, and one of float16.
SHAPES = [
    (8192, 128256, "bfloat16"),
    (16384, 32000, "bfloat16"),
    (4096, 32768, "float32"),
    (65536, 1000, "float32"),
    (4096, 262144, "bfloat16"),
    (1024, 1004, "float32"),
    (4096, 50304, "float16"),
]
LAYERS = [(8192, 4096, 128256), (32768, 2560, 128256), (16384, 2048, 50257)]
EVERYTHING = {"label_smoothing": 0.1, "z_loss": 1e-4, "ignore_index": 0}


class Target:
    """Compiles for one H200."""

    def __init__(self):
        config = Path(__file__).with_name("h200.txtpb").read_text()
        devices = topologies.get_topology_desc(
            "h200", "cuda", target_config=config, topology="1x1x1"
        ).devices
        self.here = SingleDeviceSharding(devices[0])
        device = AbstractDevice(device_kind="NVIDIA H200", num_cores=None, platform="gpu")
        self.mesh = AbstractMesh(
            (1,), ("one",), axis_types=(AxisType.Auto,), abstract_device=device
        )

    def array(self, shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.here)

    def compiled(self, f, *arrays):
        with jax.sharding.use_abstract_mesh(self.mesh):
            return jax.jit(f).trace(*arrays).lower(lowering_platforms=("cuda",)).compile()


def reading(program, size):
    """How often the kernel is called, and how many other operations have arrays of `size`."""
    inside = program.as_text().split("ENTRY")[1].splitlines()
    of_size = [line for line in inside if size in line and "parameter(" not in line]
    work = [line for line in of_size if " fusion(" in line or "custom-call(" in line]
    kernels = [line for line in work if KERNEL in line]
    return len(kernels), len(work) - len(kernels)


def losses(target):
    """Of each shape, of a value alone, rows and a total, without options and with all of them."""
    for rows, classes, dtype in SHAPES:
        logits, labels = target.array((rows, classes), dtype), target.array((rows,), "int32")
        for options in ({}, EVERYTHING):
            total = {"reduction": "mean", **options}
            functions = {
                "value": lambda z, y, o=total: INTEGER(z, y, implementation="mosaic_gpu", **o),
                "rows": jax.value_and_grad(
                    lambda z, y, o=options: INTEGER(z, y, implementation="mosaic_gpu", **o).mean()
                ),
                "total": jax.value_and_grad(
                    lambda z, y, o=total: INTEGER(z, y, implementation="mosaic_gpu", **o)
                ),
            }
            for name, f in functions.items():
                program = target.compiled(f, logits, labels)
                kernels, others = reading(program, f"[{rows},{classes}]")
                gradient = dtype if name == "total" else None
                plan = make_plan(rows, classes, dtype, gradient, multiprocessors=132)
                yield {
                    "name": name,
                    "shape": (rows, classes, dtype),
                    "kernels": kernels,
                    "others": others,
                    # Another operation reads and writes the logits' bytes once.
                    "passes": plan.passes + 2 * others,
                    "resident": plan.chunks <= plan.slots * plan.parts,
                    "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
                    "result_bytes": rows * classes * jnp.dtype(dtype).itemsize,
                }


def layers(target):
    """The fused loss and its gradients."""
    for rows, width, classes in LAYERS:
        arrays = (
            target.array((rows, width), "bfloat16"),
            target.array((width, classes), "bfloat16"),
            target.array((rows,), "int32"),
        )

        def mean(x, k, y):
            return ops.linear_softmax_cross_entropy(x, k, y, implementation="mosaic_gpu")

        program = target.compiled(jax.value_and_grad(mean, (0, 1)), *arrays)
        text = program.as_text()
        yield {
            "shape": (rows, width, classes),
            "kernels": text.count(f'custom_call_target="{KERNEL}"'),
            "padded": f"{math.ceil(classes / 128) * 128}]" in text,
            "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
            "logits_bytes": rows * classes * 2,
        }


def transforms(target):
    """What needs a batch, a checkpoint, or a second derivative of the kernel compiles too."""
    batch, labels = target.array((4, 256, 1024), "float32"), target.array((4, 256), "int32")

    def total(z, y, **options):
        losses = jax.vmap(lambda z, y: INTEGER(z, y, implementation="mosaic_gpu", **options))(z, y)
        return jnp.sum(losses)

    functions = {
        "vmap": jax.grad(total),
        "vmap of a total": jax.grad(lambda z, y: total(z, y, reduction="mean")),
        "checkpoint": jax.grad(jax.checkpoint(total)),
        "jvp": lambda z, y: jax.jvp(lambda z: total(z, y, rule="jvp"), (z,), (z,)),
        "second": lambda z, y: jax.jvp(lambda z: jax.grad(total)(z, y), (z,), (z,)),
    }
    rows = jax.sharding.PartitionSpec("one")
    z, y = target.array((1024, 1024), "float32"), target.array((1024,), "int32")

    def sharded(z, y, **options):
        def mean(z, y):
            loss = INTEGER(z, y, reduction="mean", implementation="mosaic_gpu", **options)
            return jax.lax.pmean(loss, "one")

        specs = {"in_specs": (rows, rows), "out_specs": jax.sharding.PartitionSpec()}
        return jax.shard_map(mean, **specs)(z, y)

    functions["shard_map"] = jax.grad(sharded)
    for name, f in functions.items():
        arrays = (z, y) if name == "shard_map" else (batch, labels)
        yield {"name": name, "kernel": KERNEL in target.compiled(f, *arrays).as_text()}


def main():
    target = Target()
    return {
        "losses": list(losses(target)),
        "layers": list(layers(target)),
        "transforms": list(transforms(target)),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()) + "\n")
