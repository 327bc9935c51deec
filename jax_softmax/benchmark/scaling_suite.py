"""How it grows: with the rows, with the classes, and over the devices that there are."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jax_softmax.benchmark.cases import Case, Contender, Context, Prepared, Steps, UnavailableError
from jax_softmax.benchmark.compare import LOSS_BOUNDS
from jax_softmax.benchmark.loss_suite import AGAINST, LossData, Size
from jax_softmax.benchmark.results import Record

_ONE = "1 device"
_POINTS = 3  # of the largest sizes, to which an exponent is fitted


def steps(context: Context) -> Steps:
    """Rows doubled, classes doubled, devices doubled."""
    # From 4 to 16 MB, or from 16 to 256 MB: on a CPU the caches, and from 32 MB malloc's fresh
    # pages, are steps in the time, over which an exponent would say nothing.
    largest, count, some_rows = (12, 3, 2**6) if context.quick else (16, 5, 2**8)
    numbers = 2**largest * 1024
    series = {
        "rows doubled": [Size(2**largest // 2**i, 1024) for i in range(count)],
        "classes doubled": [Size(some_rows, numbers // some_rows // 2**i) for i in range(count)],
    }
    found: Steps = {
        name: functools.partial(series_case, name, sizes[::-1]) for name, sizes in series.items()
    }
    return found | {"rows over devices": functools.partial(devices_case, 2**largest, 1024)}


def _about(case: str) -> Record:
    return Record(
        suite="scaling",
        case=case,
        dtype="float32",
        error_bound=LOSS_BOUNDS["float32"],
        compared_with=AGAINST,
    )


def series_case(name: str, sizes: Sequence[Size]) -> Case:
    """Value and gradient, a contender for each size."""
    contenders = [
        Contender(
            f"{size.rows:,}×{size.classes:,}",
            functools.partial(_one_size, size),
            ours=True,
            fields={"rows": size.rows, "classes": size.classes},
        )
        for size in sizes
    ]
    return Case(_about(name), contenders)


def _one_size(size: Size) -> Prepared:
    return LossData(size).ours()


def devices_case(rows: int, classes: int) -> Case:
    """Value and gradient with the rows spread over 1, 2, 4, ... of the devices."""
    data = LossData(Size(rows, classes))
    counts = [2**i for i in range(jax.device_count().bit_length())]
    contenders = [
        Contender(
            _ONE if count == 1 else f"{count} devices",
            functools.partial(_over_devices, count, data),
            ours=True,
            fields={"devices": count},
        )
        for count in counts
    ]
    if len(counts) == 1:
        contenders = [Contender("devices", _no_devices, ours=True)]
    about = replace(_about("rows over devices"), rows=rows, classes=classes, ratio_to=_ONE)
    return Case(about, contenders)


def _no_devices() -> Prepared:
    raise UnavailableError(f"JAX has one device here: {jax.devices()[0].device_kind}")


def _over_devices(count: int, data: LossData) -> Prepared:
    mesh = jax.make_mesh((count,), ("rows",), devices=jax.devices()[:count])
    data = data.placed(NamedSharding(mesh, P("rows")))
    note = "simulated, on the same cores" if jax.default_backend() == "cpu" else ""
    return replace(data.ours(), error=lambda x: data.error(jax.device_get(x)), note=note)


def sizes_of(records: Sequence[Record]) -> list[tuple[float, float]]:
    """The number of logits and the median seconds of each that was timed."""
    return [
        (float((r.rows or 1) * (r.classes or 1)), r.seconds_median)
        for r in records
        if r.seconds_median is not None
    ]


def fitted_exponent(points: Sequence[tuple[float, float]]) -> float:
    """`k` of `seconds = c * size**k`, least squares of the logarithms on the three largest sizes.

    >>> round(fitted_exponent([(1, 5.0), (10, 0.2), (100, 2.0), (1000, 20.0)]), 6)
    1.0
    """
    x, y = np.log(np.asarray(points[-_POINTS:], float)).T
    return float(np.polyfit(x, y, 1)[0])
