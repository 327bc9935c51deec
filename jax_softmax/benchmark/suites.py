"""The suites and how they are run. A suite is a file with `steps`, a picture, and a line here."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_softmax.benchmark import (
    classifier_suite,
    fused_suite,
    gpu_suite,
    jit_suite,
    log_probs_suite,
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

_QUICK_SECONDS = 0.2  # in place of a suite's own


@dataclass(frozen=True)
class Suite:
    """A question to the machine.

    Attributes:
      question: what the suite answers.
      steps: its cases, in order.
      draw: a picture of its records; raises `NothingToDrawError` where there is none.
      main: the contender that its answer is about.
      beside: those that its answer compares it with.
      seconds: how long the contenders of a case are timed, together.
      limit_seconds: no case starts so long after the first; None is any time.
      in_all: whether it is one of "all".
    """

    question: str
    steps: Callable[[Context], Steps]
    draw: Callable[[Sequence[Record]], Figure]
    main: str = OURS
    beside: tuple[str, ...] = ()
    seconds: float = 3.0
    limit_seconds: float | None = None
    in_all: bool = True


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
    log_probs_suite.NAME: Suite(
        "what do log-probabilities and entropies cost, without the logits?",
        log_probs_suite.steps,
        pictures.fused_figure,
        beside=(log_probs_suite.PLAIN, log_probs_suite.TUNIX, log_probs_suite.TRL),
    ),
    "train": Suite(
        "how fast does it train?",
        train_suite.steps,
        pictures.times_figure,
        beside=(train_suite.OPTAX, train_suite.NUMPY),
    ),
    "classifier": Suite(
        "how fast is the optimum reached?",
        classifier_suite.steps,
        pictures.times_figure,
        beside=(classifier_suite.SCIKIT_LEARN,),
        in_all=False,  # scikit-learn takes half a minute for MNIST, four times
    ),
    "scaling": Suite("how does it grow?", scaling_suite.steps, pictures.scaling_figure),
    gpu_suite.NAME: Suite(
        "what does it reach on an accelerator, in four minutes?",
        gpu_suite.steps,
        pictures.gpu_figure,
        beside=("optax", fused_suite.PRODUCTS),
        seconds=1.0,
        limit_seconds=gpu_suite.LIMIT_SECONDS,
        in_all=False,
    ),
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
    clock: Callable[[], float] = time.perf_counter,
) -> Report:
    """Runs the suites.

    Args:
      names: of `SUITES`, or "all".
      quick: small sizes: a minute for all of them on two cores. Without, it takes several.
      raw_dir: the folder with MNIST's raw files, or its parent; None looks where `load_dataset`
        does.
      on_progress: called with how many steps are done, how many there are, and the next one's name.
      clock: gives seconds.

    Raises:
      InputError: on a name that is not known, or a `raw_dir` that does not lead to MNIST.
    """
    started = clock()
    suites = {name: SUITES[name] for name in suite_names(names)}
    context = Context(quick, None if raw_dir is None else Path(raw_dir))
    todo = [
        (name, suite, *step)
        for name, suite in suites.items()
        for step in suite.steps(context).items()
    ]
    if on_progress is not None:
        on_progress(0, len(todo), "the machine's rates")
    machine = replace(Machine.here(), **context.rates._asdict())
    records: list[Record] = []
    suite_started: dict[str, float] = {}
    for done, (suite_name, suite, name, make_case) in enumerate(todo):
        if on_progress is not None:
            on_progress(done, len(todo), name)
        passed = clock() - suite_started.setdefault(suite_name, clock())
        if suite.limit_seconds is not None and passed > suite.limit_seconds:
            late = f"not run: {suite.limit_seconds:g} s had passed"
            records.append(Record(suite=suite_name, case=name, contender=OURS, skipped=late))
            continue
        records += run_case(make_case(), _QUICK_SECONDS if quick else suite.seconds)
    return Report(machine, tuple(records), clock() - started)


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
    wanted = names or ("all",)
    of_all = [name for name, suite in SUITES.items() if suite.in_all]
    found = [found for name in wanted for found in (of_all if name == "all" else [name])]
    return list(dict.fromkeys(found))
