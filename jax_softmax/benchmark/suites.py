"""The suites and how they are run. A suite is a file with `steps`, a picture, and a line here."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_softmax.benchmark import (
    fused_suite,
    jit_suite,
    loss_suite,
    pictures,
    scaling_suite,
    train_suite,
)
from jax_softmax.benchmark.cases import Context, Steps, run_case
from jax_softmax.benchmark.machine import Machine
from jax_softmax.benchmark.results import OURS, Record
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How long the contenders of a case are timed, together.
_SECONDS, _QUICK_SECONDS = 3.0, 0.2


@dataclass(frozen=True)
class Suite:
    """A question to the machine.

    Attributes:
      question: what the suite answers.
      steps: its cases, in order.
      draw: a picture of its records; raises `NothingToDrawError` where there is none.
      main: the contender that its answer is about.
      beside: those that its answer compares it with.
    """

    question: str
    steps: Callable[[Context], Steps]
    draw: Callable[[Sequence[Record]], Figure]
    main: str = OURS
    beside: tuple[str, ...] = ()


SUITES = {
    "jit": Suite(
        "what does jit buy?",
        jit_suite.steps,
        pictures.times_figure,
        jit_suite.FIT,
        (jit_suite.NUMPY, jit_suite.NO_JIT),
    ),
    "loss": Suite(
        "what does the hand-written rule buy, and how near is it to a copy?",
        loss_suite.steps,
        pictures.loss_figure,
        beside=tuple(loss_suite.OTHERS),
    ),
    "fused": Suite(
        "what does a loss that never holds the logits cost, and what does it save?",
        fused_suite.steps,
        pictures.fused_figure,
        beside=("optax", fused_suite.PRODUCTS),
    ),
    "train": Suite(
        "how fast does it train?",
        train_suite.steps,
        pictures.times_figure,
        beside=(train_suite.OPTAX, train_suite.NUMPY),
    ),
    "scaling": Suite("how does it grow?", scaling_suite.steps, pictures.scaling_figure),
}


@dataclass(frozen=True)
class Report:
    """What a run of suites found.

    Attributes:
      machine: what it ran on.
      records: in the order they were measured.
      seconds: what all of it took.
    """

    machine: Machine
    records: tuple[Record, ...]
    seconds: float

    def of(self, suite: str) -> list[Record]:
        """The records of one suite."""
        return [record for record in self.records if record.suite == suite]

    @property
    def ours_differ(self) -> bool:
        """Whether any result of this package was off by more than its bound."""
        return any(record.ours and record.differs for record in self.records)

    def flat(self) -> list[dict[str, Any]]:
        """A flat record each, with the machine."""
        return [record.record() | asdict(self.machine) for record in self.records]


def run_suites(
    names: Sequence[str] = ("all",),
    *,
    quick: bool = False,
    raw_dir: str | Path | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Runs the suites.

    Args:
      names: of `SUITES`, or "all".
      quick: small sizes: a minute for all of them on two cores. Without, it takes several.
      raw_dir: the folder with MNIST's raw files, or its parent; None looks where `load_dataset`
        does.
      on_progress: called with how many steps are done, how many there are, and the next one's name.

    Raises:
      InputError: on a name that is not known, or a `raw_dir` that does not lead to MNIST.
    """
    started = time.perf_counter()
    suites = [SUITES[name] for name in suite_names(names)]
    context = Context(quick, None if raw_dir is None else Path(raw_dir))
    todo = [step for suite in suites for step in suite.steps(context).items()]
    if on_progress is not None:
        on_progress(0, len(todo), "the machine's rates")
    machine = replace(Machine.here(), **context.rates._asdict())
    records: list[Record] = []
    for done, (name, make_case) in enumerate(todo):
        if on_progress is not None:
            on_progress(done, len(todo), name)
        records += run_case(make_case(), _QUICK_SECONDS if quick else _SECONDS)
    return Report(machine, tuple(records), time.perf_counter() - started)


def suite_names(names: Sequence[str]) -> list[str]:
    """The names, each once, "all" written out.

    Raises:
      InputError: on one that is not known, suggesting the nearest.
    """
    known = (*SUITES, "all")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise InputError(f"unknown suite {name!r}: expected one of {', '.join(known)}{hint}")
    return list(SUITES) if not names or "all" in names else list(dict.fromkeys(names))
