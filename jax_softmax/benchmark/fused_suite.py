"""What a loss without its logits costs: value and gradients by features and kernel.

The limit is the time of the three matrix products that no such loss can do without, and what it
saves is the memory of the logits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp

from jax_softmax.benchmark import linear_peers
from jax_softmax.benchmark.cases import Case, Contender, Context, Prepared, Step, run_case
from jax_softmax.benchmark.compare import LINEAR_BOUNDS
from jax_softmax.benchmark.linear_data import LinearData
from jax_softmax.benchmark.results import OURS, Record
from jax_softmax.benchmark.scaling_suite import fitted_exponent

PRODUCTS = "three products"
_LARGE_SECONDS = 100.0  # a round of the large case takes about 30 on two cores
_AGAINST = "NumPy in float64, largest error of value and gradients over the row's largest"


@dataclass(frozen=True)
class Size:
    """Features `[rows, width]` and a kernel `[width, classes]`."""

    rows: int
    width: int
    classes: int
    dtype: str = "float32"

    @property
    def logits_bytes(self) -> int:
        """What all logits would take, in the dtype of the arrays."""
        return self.rows * self.classes * jnp.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.rows:,}×{self.width:,}×{self.classes:,} {self.dtype}"

    def doubled(self, axis: str, times: int) -> Size:
        """The size with `rows`, `width` or `classes` doubled so often."""
        return replace(self, **{axis: getattr(self, axis) * 2**times})


def steps(context: Context) -> list[Step]:
    """A case a size; then rows, classes and width doubled in turn."""
    seconds = context.budget_seconds

    def case(size: Size) -> list[Record]:
        large = size.rows * size.width * size.classes >= 2**34
        budget = _LARGE_SECONDS if large and not context.quick else seconds
        return run_case_with_fractions(fused_case(size, quick=context.quick), budget)

    # On accelerators float32 products are rounded to fewer digits, by default.
    dtype = "float32" if context.machine.platform == "cpu" else "bfloat16"
    sizes = _quick_sizes(dtype) if context.quick else _full_sizes(dtype)
    found = [Step(str(size), functools.partial(case, size)) for size in sizes]
    if context.quick:
        return found
    return found + [
        Step(name, functools.partial(run_series, name, series, seconds))
        for name, series in _series(dtype).items()
    ]


def _quick_sizes(dtype: str) -> list[Size]:
    return [Size(512, 128, 8192, dtype)]


def _full_sizes(dtype: str) -> list[Size]:
    if dtype == "float32":
        return [Size(2048, 512, 32768), Size(1024, 256, 16384, "bfloat16")]
    return [Size(2048, 512, 32768, dtype), Size(8192, 4096, 128256, dtype)]


def _series(dtype: str) -> dict[str, list[Size]]:
    # Blocks of 64 MiB of float32 logits throughout: the smallest is one, the largest are four.
    start = {"rows": (1024, 128, 16384), "classes": (2048, 128, 8192), "width": (2048, 128, 16384)}
    return {
        f"{axis} doubled": [Size(*size, dtype).doubled(axis, i) for i in range(3)]
        for axis, size in start.items()
    }


def fused_case(
    size: Size, others: Sequence[Contender] = (), *, small_block: int = 128, quick: bool = False
) -> Case:
    """The contenders on one size, and `others`; `quick` leaves out what takes seconds to start."""
    data = LinearData(size.rows, size.width, size.classes, size.dtype)
    losses = {
        "reference, autodiff": linear_peers.textbook_loss,
        "optax": linear_peers.optax_loss,
    }
    if size.dtype != "float32":
        losses["optax, float32 logits"] = linear_peers.optax_float32_loss
    contenders = [
        Contender(PRODUCTS, data.three_products),
        Contender(OURS, data.ours, ours=True),
        Contender(
            f"{OURS}, blocks of {small_block}",
            functools.partial(data.ours, "mean", small_block),
            ours=True,
        ),
        Contender(f"{OURS}, none", functools.partial(data.ours, "none"), ours=True),
        *(Contender(name, functools.partial(data.jax_loss, loss)) for name, loss in losses.items()),
        *(
            Contender(f"tokamax {name}", functools.partial(data.tokamax, name))
            for name in linear_peers.TOKAMAX
        ),
        Contender("PyTorch", functools.partial(data.torch, chunked=False)),
    ]
    if not quick:
        chunked = functools.partial(data.torch, chunked=True)
        contenders.append(Contender("PyTorch, chunked", chunked))
    about = _about(size, f"value and gradients, {size}")
    return Case(replace(about, ratio_to=PRODUCTS), (*contenders, *others))


def run_series(name: str, sizes: Sequence[Size], budget_seconds: float) -> list[Record]:
    """Times value and gradients at every size, in turns, and fits the exponent of the size."""

    def prepare(size: Size) -> Prepared:
        return LinearData(size.rows, size.width, size.classes, size.dtype).ours()

    contenders = [
        Contender(str(size), functools.partial(prepare, size), ours=True) for size in sizes
    ]
    about = Record(
        suite="fused",
        case=name,
        contender="",
        error_bound=max(LINEAR_BOUNDS[size.dtype] for size in sizes),
        compared_with=_AGAINST,
    )
    records = run_case(Case(about, contenders), budget_seconds)
    timed = [
        (math.prod((size.rows, size.width, size.classes)), record.seconds_median)
        for size, record in zip(sizes, records, strict=True)
        if record.seconds_median is not None
    ]
    exponent = fitted_exponent(*zip(*timed, strict=True)) if len(timed) > 1 else None
    found = [
        replace(
            record,
            contender=OURS,
            rows=size.rows,
            width=size.width,
            classes=size.classes,
            dtype=size.dtype,
            logits_bytes=size.logits_bytes,
            exponent=exponent,
        )
        for size, record in zip(sizes, records, strict=True)
    ]
    return with_fractions(found)


def run_case_with_fractions(case: Case, budget_seconds: float) -> list[Record]:
    """`run_case`, with temporaries over the logits."""
    return with_fractions(run_case(case, budget_seconds))


def with_fractions(records: Sequence[Record]) -> list[Record]:
    """The records with their temporaries over the logits' bytes."""
    return [
        record
        if record.temporary_bytes is None or not record.logits_bytes
        else replace(record, temporary_fraction=record.temporary_bytes / record.logits_bytes)
        for record in records
    ]


def _about(size: Size, case: str) -> Record:
    return Record(
        suite="fused",
        case=case,
        contender="",
        rows=size.rows,
        width=size.width,
        classes=size.classes,
        dtype=size.dtype,
        logits_bytes=size.logits_bytes,
        error_bound=LINEAR_BOUNDS[size.dtype],
        compared_with=_AGAINST,
    )
