"""A process that times value and gradient with the rows spread over its devices.

XLA_FLAGS=--xla_force_host_platform_device_count=8 \
python -m jax_softmax.benchmark.sharded_rows ROWS CLASSES SECONDS FILE
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jax_softmax import softmax_cross_entropy_with_integer_labels
from jax_softmax.benchmark.cases import Case, Contender, Prepared, run_case
from jax_softmax.benchmark.compare import LOSS_BOUNDS
from jax_softmax.benchmark.loss_data import LossData
from jax_softmax.benchmark.results import Record
from jax_softmax.benchmark.timing import compiled

_FIELDS = (
    *("seconds_median", "seconds_q1", "seconds_q3", "repeats", "compile_seconds"),
    *("ratio", "ratio_to", "max_error", "error_bound", "compared_with"),
)
_ONE = "1 device"


def measure(rows: int, classes: int, budget_seconds: float) -> list[dict[str, Any]]:
    """Fields of a record for 1, 2, 4, ... of the devices, each checked."""
    data = LossData(rows, classes)
    counts = [2**i for i in range(jax.device_count().bit_length())]
    contenders = [
        Contender(
            _ONE if count == 1 else f"{count} devices",
            functools.partial(_prepared, count, data),
        )
        for count in counts
    ]
    about = Record(
        suite="scaling",
        case="",
        contender="",
        ratio_to=_ONE,
        error_bound=LOSS_BOUNDS["float32"],
        compared_with="NumPy in float64, largest relative error of value and gradient",
    )
    records = run_case(Case(about, contenders), budget_seconds)
    return [
        {"devices": count} | {name: getattr(record, name) for name in _FIELDS}
        for count, record in zip(counts, records, strict=True)
    ]


def _value_and_gradient(z: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    def loss(z: jax.Array) -> jax.Array:
        return softmax_cross_entropy_with_integer_labels(z, y, reduction="mean")

    return jax.value_and_grad(loss)(z)


def _prepared(count: int, data: LossData) -> Prepared:
    mesh = jax.make_mesh((count,), ("rows",), devices=jax.devices()[:count])
    z, y = (jax.device_put(array, NamedSharding(mesh, P("rows"))) for array in (data.z, data.y))
    program, seconds = compiled(_value_and_gradient, z, y)

    def error(result: tuple[jax.Array, jax.Array]) -> float:
        return data.error(jax.device_get(result))

    return Prepared(lambda: program(z, y), error, seconds)


def main(rows: str, classes: str, budget_seconds: str, file: str) -> None:
    """Measures and writes a list of fields as JSON."""
    found = measure(int(rows), int(classes), float(budget_seconds))
    Path(file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
