"""What the hand-written rule buys: value and gradient on logits, beside others and a bare copy.

All arrays take the same number of bytes, so that a copy takes the same time for each size: the
same number of logits for each number of classes, twice as many in half precision.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp

from jax_softmax.benchmark import peers
from jax_softmax.benchmark.cases import Case, Contender, Context, Step, run_case
from jax_softmax.benchmark.compare import LOSS_BOUNDS
from jax_softmax.benchmark.loss_data import LossData, Reduction, Rule
from jax_softmax.benchmark.machine import Machine
from jax_softmax.benchmark.results import OURS, Record

COPY = "copy (z * c)"


Variants = Sequence[tuple[Reduction, Rule]]
_REDUCTIONS: Sequence[Reduction] = ("mean", "sum", "none")
_RULES: Sequence[Rule] = ("vjp", "jvp")
_ONE: Variants = (("mean", "vjp"),)
_SOME: Variants = (*_ONE, ("mean", "jvp"))
_ALL: Variants = tuple((reduction, rule) for rule in _RULES for reduction in _REDUCTIONS)


@dataclass(frozen=True)
class Size:
    """One case: what is computed, and which of our variants take part."""

    rows: int
    classes: int
    dtype: str = "float32"
    variants: Variants = _ALL


def steps(context: Context) -> list[Step]:
    """A case a size."""

    def run(size: Size) -> list[Record]:
        return with_bandwidth(run_case(loss_case(size), context.budget_seconds), context.machine)

    return [
        Step(f"{size.rows:,}×{size.classes:,} {size.dtype}", functools.partial(run, size))
        for size in (_quick_sizes() if context.quick else _full_sizes())
    ]


def _quick_sizes() -> list[Size]:
    # 32 MB: what is larger, glibc's malloc maps afresh each time, and so does the machine's copy.
    of = functools.partial(_size, 2**25)
    return [
        of(10, variants=_ONE),
        of(1024, variants=_SOME),
        of(1024, "bfloat16", variants=_ONE),
        of(262144, variants=_ONE),
    ]


def _full_sizes() -> list[Size]:
    sizes = [
        _size(2**27, classes, dtype)
        for dtype in ("float32", "bfloat16", "float16")
        for classes in (10, 100, 1000, 8192, 50257, 262144)
    ]
    return [*sizes, Size(4096, 32768)]


def _size(nbytes: int, classes: int, dtype: str = "float32", variants: Variants = _ALL) -> Size:
    return Size(nbytes // jnp.dtype(dtype).itemsize // classes, classes, dtype, variants)


def loss_case(size: Size, others: Sequence[Contender] = ()) -> Case:
    """The contenders on N(0, 1) logits of one size; `others` take part as well."""
    data = LossData(size.rows, size.classes, size.dtype)
    contenders = [
        Contender(COPY, data.copy),
        *(
            Contender(variant_name(*variant), functools.partial(data.ours, *variant), ours=True)
            for variant in size.variants
        ),
        *(
            Contender(name, functools.partial(data.jax_loss, loss))
            for name, loss in peers.LOSSES.items()
        ),
        Contender("PyTorch", data.torch),
    ]
    about = Record(
        suite="loss",
        case=f"value and gradient, {size.rows:,}×{size.classes:,} {size.dtype}",
        contender="",
        rows=size.rows,
        classes=size.classes,
        dtype=size.dtype,
        ratio_to=COPY,
        error_bound=LOSS_BOUNDS[size.dtype],
        compared_with="NumPy in float64, largest relative error of value and gradient",
        bytes_moved=2 * data.z.nbytes,
    )
    return Case(about, (*contenders, *others))


def variant_name(reduction: Reduction, rule: Rule) -> str:
    """`jax_softmax`, and how it departs from what is usual.

    >>> variant_name("mean", "vjp"), variant_name("sum", "jvp")
    ('jax_softmax', 'jax_softmax, sum, rule="jvp"')
    """
    departures = [reduction] * (reduction != "mean") + [f'rule="{rule}"'] * (rule != "vjp")
    return ", ".join([OURS, *departures])


def with_bandwidth(records: Sequence[Record], machine: Machine) -> list[Record]:
    """The records with their fraction of the machine's copy bandwidth."""
    return [
        record
        if record.seconds_median is None or record.bytes_moved is None
        else replace(
            record,
            bandwidth_fraction=record.bytes_moved
            / record.seconds_median
            / machine.copy_bytes_per_second,
        )
        for record in records
    ]
