"""`jax-softmax bench`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jax_softmax.cli.bench_report import print_report
from jax_softmax.cli.options import OutputOptions, note
from jax_softmax.cli.stopping import signals
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    from jax_softmax.benchmark import Report


@dataclass(frozen=True, kw_only=True)
class Bench(OutputOptions):
    """Time the losses and training on this device, beside optax, jax.nn, NumPy and a bare copy.

    Results are checked before they are timed; who gives other results gets no time. Exit code 1 if
    a result of jax_softmax's own is wrong.
    """

    # What compiling takes is measured: nothing may come from a cache.
    no_compilation_cache: tyro.conf.Suppress[bool] = True
    suite: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(metavar="NAME", help_behavior_hint="(repeatable; default: all)"),
    ] = ()
    """What to time: jit, loss, fused, log-probs, train, scaling or all, or classifier (minutes,
    beside scikit-learn) or gpu-quick (4 minutes of a GPU)."""
    quick: bool = False
    """Small sizes: a minute on two cores for everything."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Draw a picture to a suite there, SUITE.png."""
    raw_dir: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: JAX_SOFTMAX_RAW_DIR)"),
    ] = None
    """Folder with MNIST's raw files, or its parent."""

    def run(self) -> int:
        """Times, prints the report and returns the exit code."""
        self.check_json()
        self._check_output()
        with note("starting JAX"):
            from jax_softmax.benchmark.suites import suite_names

            names = suite_names(self.suite)
        report = self._run_with_progress(names)
        self.write_json(report.flat())
        print_report(report, names, self._draw(report, names))
        return 1 if report.ours_differ else 0

    def _check_output(self) -> None:
        if self.output is None:
            return
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--output {self.output}: expected a folder, or a path where one can be made "
                f"({error})."
            ) from error
        if not os.access(self.output, os.W_OK):
            raise InputError(f"--output {self.output}: expected a folder that can be written to.")

    def _run_with_progress(self, names: list[str]) -> Report:
        from tqdm import tqdm

        from jax_softmax.benchmark import run_suites

        # disable=None: silent where standard error is no terminal.
        with tqdm(desc="starting", unit="case", leave=False, disable=None) as bar:

            def on_progress(done: int, steps: int, name: str) -> None:
                bar.total = steps
                bar.set_description(name)
                bar.update(done - bar.n)
                signals.check()

            return run_suites(
                names, quick=self.quick, raw_dir=self.raw_dir, on_progress=on_progress
            )

    def _draw(self, report: Report, names: list[str]) -> list[str]:
        """Draws the suites' pictures, and says where they are or why there is none."""
        if self.output is None:
            return []
        from jax_softmax.benchmark import SUITES
        from jax_softmax.benchmark.pictures import NothingToDrawError

        said = []
        for name in names:
            path = self.output / f"{name}.png"
            try:
                with note(f"drawing {path.name}"):
                    SUITES[name].draw(report.of(name)).savefig(path)
            except NothingToDrawError as reason:
                said.append(f"{path} not drawn: {reason}")
            else:
                said.append(f"{path} drawn")
        return said
