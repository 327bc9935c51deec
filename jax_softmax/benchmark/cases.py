"""A case: contenders that do the same work, checked first, then timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from jax_softmax.benchmark.machine import Machine
from jax_softmax.benchmark.results import Record
from jax_softmax.benchmark.timing import Timing, alternate


class UnavailableError(Exception):
    """A contender cannot run here; the message says why and what would let it."""


@dataclass(frozen=True)
class Prepared:
    """A contender that is ready: its data in place, its program compiled.

    Attributes:
      run: does the work; the time counts until what it returns is there.
      error: of what `run` returned, against the case's reference.
      compile_seconds: what compiling took, None where nothing was compiled.
      share: how much of the case's work one call of `run` does; its seconds are divided by it.
      temporary_bytes: what the compiled program holds beside arguments and results.
      block_rows: rows of a block of logits, where they are made in blocks.
      note: for the record.
      dtype: what it computes in, where that is not the case's.
    """

    run: Callable[[], Any]
    error: Callable[[Any], float]
    compile_seconds: float | None = None
    share: float = 1.0
    temporary_bytes: int | None = None
    block_rows: int | None = None
    note: str = ""
    dtype: str | None = None


@dataclass(frozen=True)
class Contender:
    """Who takes part.

    Attributes:
      name: unique in its case.
      prepare: gets it ready; raises `UnavailableError` where that cannot be.
      ours: whether it is a function of this package.
    """

    name: str
    prepare: Callable[[], Prepared]
    ours: bool = False


@dataclass(frozen=True)
class Case:
    """What is compared.

    Attributes:
      about: a record of what all contenders share: suite, case, rows, classes, dtype, `ratio_to`,
        `error_bound`, `compared_with`. Its contender does not matter.
      contenders: who takes part.
    """

    about: Record
    contenders: Sequence[Contender]


@dataclass(frozen=True)
class Context:
    """What every suite is given.

    Attributes:
      machine: its limits, measured before.
      quick: small sizes, and a minute for everything on two cores.
      raw_dir: the folder with MNIST's raw files, or its parent.
    """

    machine: Machine
    quick: bool = False
    raw_dir: Path | None = None

    @property
    def budget_seconds(self) -> float:
        """How long the contenders of a case are timed, together."""
        return 0.2 if self.quick else 3.0


@dataclass(frozen=True)
class Step:
    """A part of a suite that can be waited for: `run` gives its records."""

    name: str
    run: Callable[[], list[Record]]


def run_case(case: Case, budget_seconds: float) -> list[Record]:
    """Checks every contender's results, then times those that are right.

    Args:
      case: what is compared.
      budget_seconds: how long to time all contenders together.

    Returns:
      A record a contender, in their order: timed, or differing (with its error, without a time),
      or skipped with the reason.
    """
    records: dict[str, Record] = {}
    right: dict[str, Prepared] = {}
    first_seconds: dict[str, float] = {}
    for contender in case.contenders:
        found = replace(case.about, contender=contender.name, ours=contender.ours)
        try:
            prepared = contender.prepare()
        except UnavailableError as reason:
            records[contender.name] = replace(
                found, skipped=str(reason), ratio_to=None, error_bound=None, compared_with=None
            )
            continue
        started = time.perf_counter()
        result = jax.block_until_ready(prepared.run())
        first_seconds[contender.name] = time.perf_counter() - started
        error = prepared.error(result)
        del result  # it may be large
        found = replace(
            found,
            max_error=error,
            note=prepared.note,
            dtype=prepared.dtype or found.dtype,
            compile_seconds=prepared.compile_seconds,
            temporary_bytes=prepared.temporary_bytes,
            block_rows=prepared.block_rows,
        )
        records[contender.name] = found
        if not found.differs:
            right[contender.name] = prepared
    calls = {name: prepared.run for name, prepared in right.items()}
    timings = alternate(calls, budget_seconds, first_seconds=first_seconds)
    timings = {name: timing.scaled(1 / right[name].share) for name, timing in timings.items()}
    base = timings.get(case.about.ratio_to or "")
    for name, timing in timings.items():
        records[name] = timed(records[name], timing, base)
    return list(records.values())


def timed(record: Record, timing: Timing, base: Timing | None = None) -> Record:
    """The record with its times, and the ratio where there is a `base`."""
    return replace(
        record,
        seconds_median=timing.median,
        seconds_q1=timing.q1,
        seconds_q3=timing.q3,
        repeats=timing.repeats,
        ratio=None if base is None else timing.ratio(base),
    )
