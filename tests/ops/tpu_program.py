"""`python -m tests.ops.tpu_program v6e:2x2`: a line of JSON on what is compiled for that TPU."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from jax_softmax import ops
from tests.ops.test_sharding import collectives

ROWS, CLASSES = 8192, 128256


def compiled(by_logits, by_labels, rule):
    def mean(logits, labels):
        return ops.softmax_cross_entropy_with_integer_labels(
            logits, labels, rule=rule, reduction="mean"
        )

    logits = jax.ShapeDtypeStruct((ROWS, CLASSES), jnp.bfloat16, sharding=by_logits)
    labels = jax.ShapeDtypeStruct((ROWS,), jnp.int32, sharding=by_labels)
    return jax.jit(jax.value_and_grad(mean)).lower(logits, labels).compile()


def main(topology):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    alone = SingleDeviceSharding(devices[0])
    passes, temporaries = {}, {}
    for rule in ("vjp", "jvp"):
        program = compiled(alone, alone, rule)
        moved = program.cost_analysis()["bytes accessed"]
        passes[rule] = moved / (ROWS * CLASSES * 2)
        temporaries[rule] = program.memory_analysis().temp_size_in_bytes
    mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P("data"))
    sharded = compiled(rows, rows, "vjp")
    return {
        "topology": topology,
        "rows": ROWS,
        "passes": passes,
        "temporary_bytes": temporaries,
        "collectives": list(collectives(sharded.as_text())),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1])) + "\n")
