"""A case: contenders that do the same work. Each is checked, then the right ones are timed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from jax_softmax.benchmark.rates import Rates, measure_rates
from jax_softmax.benchmark.results import Record
from jax_softmax.benchmark.timing import Turns, alternate, timed, turns_for


class UnavailableError(Exception):
    """A contender cannot run here. The message says why and what would let it."""


@dataclass(frozen=True)
class Prepared:
    """A contender that is ready: its data in place, its program compiled.

    Attributes:
      run: does the work. The time counts until what it returns is there.
      error: of what `run` returned, against the case's reference.
      compile_seconds: what compiling took, None where nothing was compiled.
      share: the part of the case's work that one call of `run` does. Its seconds are divided by it.
      temporary_bytes: what the compiled program holds beside arguments and results.
      note: for the record.
      wait: returns when what `run` returned is there.
    """

    run: Callable[[], Any]
    error: Callable[[Any], float]
    compile_seconds: float | None = None
    share: float = 1.0
    temporary_bytes: int | None = None
    note: str = ""
    wait: Callable[[Any], Any] = jax.block_until_ready


@dataclass(frozen=True)
class Contender:
    """Who takes part.

    Attributes:
      name: unique in its case.
      prepare: gets it ready; raises `UnavailableError` where it cannot.
      ours: whether it is a function of this package.
      fields: of its record, where they are not the case's.
      optional: whether whatever it fails with is a reason to skip it: a package that may not suit
        this device, or these versions.
    """

    name: str
    prepare: Callable[[], Prepared]
    ours: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False


@dataclass(frozen=True)
class Case:
    """What is compared.

    Attributes:
      about: a record of what all contenders share.
      contenders: who takes part.
    """

    about: Record
    contenders: Sequence[Contender]


Steps = dict[str, Callable[[], Case]]
"""By name, cases that are still to be made: their data may be large."""


@dataclass(frozen=True)
class Context:
    """What every suite is given.

    Attributes:
      quick: small sizes: a minute on two cores for everything.
      raw_dir: the folder with MNIST's raw files, or its parent.
    """

    quick: bool = False
    raw_dir: Path | None = None

    @functools.cached_property
    def rates(self) -> Rates:
        """What the machine can do, measured when first asked for."""
        return measure_rates(quick=self.quick)


def run_case(case: Case, budget_seconds: float, turns: Turns | None = None) -> list[Record]:
    """Checks every contender's results, then times those that are right.

    Args:
      case: what is compared.
      budget_seconds: how long to time them together, warming up left out.
      turns: how; None is what suits JAX's platform.

    Returns:
      A record for each contender, in their order: timed, or differing (with its error but no time),
      or skipped with the reason.
    """
    turns = turns or turns_for(jax.default_backend())
    records: dict[str, Record] = {}
    right: dict[str, Prepared] = {}
    first_seconds: dict[str, float] = {}
    for contender in case.contenders:
        about = replace(
            case.about, contender=contender.name, ours=contender.ours, **contender.fields
        )
        try:
            prepared = contender.prepare()
            seconds, result = _once(prepared)
        except Exception as error:
            reason = _reason_to_skip(error, contender)
            if reason is None:
                raise
            records[contender.name] = replace(
                about, skipped=reason, ratio_to=None, error_bound=None, compared_with=None
            )
            continue
        record = replace(
            about,
            max_error=prepared.error(result),
            note=prepared.note,
            compile_seconds=prepared.compile_seconds,
            temporary_bytes=prepared.temporary_bytes,
        )
        del result  # it may be large
        records[contender.name] = record
        if not record.differs:
            right[contender.name] = prepared
            # An accelerator's first call loads the program.
            first_seconds[contender.name] = _once(prepared)[0] if turns.together else seconds
    samples = alternate(
        {name: prepared.run for name, prepared in right.items()},
        budget_seconds,
        first_seconds=first_seconds,
        turns=turns,
        waits={name: prepared.wait for name, prepared in right.items()},
    )
    samples = {name: found / right[name].share for name, found in samples.items()}
    base = samples.get(case.about.ratio_to or "")
    for name, found in samples.items():
        records[name] = timed(records[name], found, base)
    return list(records.values())


def _reason_to_skip(error: Exception, contender: Contender) -> str | None:
    """Why a contender that failed is left out, or None where it must not fail so."""
    said = str(error)
    if isinstance(error, UnavailableError):
        return said
    if "RESOURCE_EXHAUSTED" in said or "out of memory" in said.lower():
        return "it does not fit in the device's memory"
    if contender.optional:
        return f"it fails here: {type(error).__name__}: {said}"
    return None


def _once(prepared: Prepared) -> tuple[float, Any]:
    """The seconds of a call, and its result."""
    started = time.perf_counter()
    result = prepared.run()
    prepared.wait(result)
    return time.perf_counter() - started, result
