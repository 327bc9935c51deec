"""What `jit` buys: the loss, its gradient and a training run, from NumPy to one program."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from jax_softmax.benchmark.cases import Case, Context, Step, run_case
from jax_softmax.benchmark.jit_ops import NO_JIT, gradient_case, loss_case
from jax_softmax.benchmark.jit_training import training_case
from jax_softmax.benchmark.results import Record
from jax_softmax.benchmark.trainers import NUMPY


def steps(context: Context) -> list[Step]:
    """The loss and its gradient, and the training run."""
    budget = context.budget_seconds
    found = [
        Step(name, functools.partial(_run, case, budget))
        for rows, classes in (((120, 3),) if context.quick else ((120, 3), (1024, 1000)))
        for name, case in {
            f"loss {rows}×{classes}": functools.partial(loss_case, rows, classes),
            f"gradient {rows}×{classes}": functools.partial(gradient_case, rows, classes),
        }.items()
    ]
    return [*found, Step("training run", functools.partial(_run, training_case, budget))]


def _run(case: Callable[[], Case], budget_seconds: float) -> list[Record]:
    return with_break_even(run_case(case(), budget_seconds))


def with_break_even(records: Sequence[Record]) -> list[Record]:
    """The records with how many runs pay for what compiling took."""
    seconds = {record.contender: record.seconds_median for record in records}
    return [
        replace(
            record,
            break_even_runs_numpy=_break_even(record, seconds.get(NUMPY)),
            break_even_runs_no_jit=_break_even(record, seconds.get(NO_JIT)),
        )
        for record in records
    ]


def _break_even(record: Record, other_seconds: float | None) -> int | None:
    compile_seconds, seconds = record.compile_seconds, record.seconds_median
    if compile_seconds is None or seconds is None or other_seconds is None:
        return None
    return (
        math.ceil(compile_seconds / (other_seconds - seconds)) if other_seconds > seconds else None
    )
