"""How it grows: with the rows, with the classes, and over devices."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from jax_softmax.benchmark.cases import (
    Case,
    Contender,
    Context,
    Prepared,
    Step,
    UnavailableError,
    run_case,
)
from jax_softmax.benchmark.children import run_child
from jax_softmax.benchmark.compare import LOSS_BOUNDS
from jax_softmax.benchmark.loss_data import LossData
from jax_softmax.benchmark.results import OURS, Record

Series = Sequence[tuple[int, int]]
"""Rows and classes of each size, the largest last."""

_POINTS = 3  # of the largest sizes, to which the exponent is fitted
_DEVICES = 8


def steps(context: Context) -> list[Step]:
    """Rows doubled, classes doubled, devices doubled."""
    # From 4 to 16 MB, or from 16 to 256 MB: on a CPU the caches, and from 32 MB malloc's fresh
    # pages, are steps in the time, over which an exponent would say nothing.
    largest, count, some_rows = (12, 3, 2**6) if context.quick else (16, 5, 2**8)
    numbers = 2**largest * 1024
    series = {
        "rows doubled": [(2**largest // 2**i, 1024) for i in range(count)][::-1],
        "classes doubled": [(some_rows, numbers // some_rows // 2**i) for i in range(count)][::-1],
    }
    budget = context.budget_seconds
    return [
        *(
            Step(name, functools.partial(run_series, name, sizes, budget))
            for name, sizes in series.items()
        ),
        Step("devices doubled", functools.partial(run_devices, 2**largest, 1024, budget)),
    ]


def run_series(name: str, sizes: Series, budget_seconds: float) -> list[Record]:
    """Times value and gradient at every size, in turns, and fits the exponent of the size."""

    def prepare(rows: int, classes: int) -> Prepared:
        return LossData(rows, classes).ours("mean", "vjp")

    contenders = [
        Contender(f"{rows}×{classes}", functools.partial(prepare, rows, classes), ours=True)
        for rows, classes in sizes
    ]
    about = Record(
        suite="scaling",
        case=name,
        contender="",
        dtype="float32",
        error_bound=LOSS_BOUNDS["float32"],
        compared_with="NumPy in float64, largest relative error of value and gradient",
    )
    records = run_case(Case(about, contenders), budget_seconds)
    seconds = [record.seconds_median for record in records]
    timed = [
        (rows * classes, s)
        for (rows, classes), s in zip(sizes, seconds, strict=True)
        if s is not None
    ]
    exponent = fitted_exponent(*zip(*timed, strict=True)) if len(timed) > 1 else None
    return [
        replace(record, contender=OURS, rows=rows, classes=classes, exponent=exponent)
        for record, (rows, classes) in zip(records, sizes, strict=True)
    ]


def fitted_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """`k` of `seconds = c * size**k`, least squares of the logarithms on the three largest sizes.

    >>> round(fitted_exponent([1, 10, 100, 1000], [5.0, 0.2, 2.0, 20.0]), 6)
    1.0
    """
    x, y = (np.log(np.asarray(values[-_POINTS:], float)) for values in (sizes, seconds))
    return float(np.polyfit(x, y, 1)[0])


def run_devices(rows: int, classes: int, budget_seconds: float) -> list[Record]:
    """Value and gradient with the rows spread over 1 to 8 simulated devices of a CPU."""
    about = Record(
        suite="scaling",
        case="devices doubled",
        contender=OURS,
        ours=True,
        rows=rows,
        classes=classes,
        dtype="float32",
        note="simulated devices share the CPU's cores",
    )
    # The last of a flag counts.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={_DEVICES}"
    environment = {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    try:
        if jax.default_backend() != "cpu":
            raise UnavailableError("only a CPU's devices are simulated: set JAX_PLATFORMS=cpu")
        found = run_child(
            "jax_softmax.benchmark.sharded_rows",
            *map(str, (rows, classes, budget_seconds)),
            environment=environment,
        )
    except UnavailableError as reason:
        return [replace(about, skipped=str(reason))]
    return [replace(about, **fields) for fields in found]
