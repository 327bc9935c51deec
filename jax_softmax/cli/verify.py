"""`jax-softmax verify`."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jax_softmax.cli.options import OutputOptions, note, progress_bar
from jax_softmax.cli.stopping import signals
from jax_softmax.cli.verify_report import (
    closing_line,
    failure_lines,
    header_lines,
    json_records,
    worst_lines,
)
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    from jax_softmax.verification import CheckResult, Selection

_NAMES = tyro.conf.arg(metavar="NAME", help_behavior_hint="(repeatable; default: all)")


@dataclass(frozen=True, kw_only=True)
class Verify(OutputOptions):
    """Check every derivative on this device against exact values.

    Exit code 1 if anything is off by more than its bound.
    """

    quick: bool = False
    """A few dozen compiled programs."""
    full: bool = False
    """Every combination, up to 262,144 classes."""
    op: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], _NAMES] = ()
    """Only this function, e.g. softmax."""
    dtype: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], _NAMES] = ()
    """Only this dtype, e.g. bfloat16."""
    figure: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Draw errors against how far the label leads there, as .png, .svg or .pdf."""

    def run(self) -> int:
        """Verifies, prints the report and returns the exit code."""
        self.check_json()
        self._check_figure()
        selection = self._selection()
        started = time.perf_counter()
        with note("starting JAX"):
            header = header_lines(selection)
        print("\n".join(header), flush=True)
        results = _verify_with_progress(selection)
        seconds = time.perf_counter() - started
        self.write_json(json_records(results))
        self._draw()
        verdict = closing_line(results, seconds)
        print("\n".join(["", verdict, *failure_lines(results), "", *worst_lines(results)]))
        print(f"\n{verdict}")  # again, where a long report ends
        return 0 if all(result.passed for result in results) else 1

    def _selection(self) -> Selection:
        from jax_softmax.verification.selection import GridName, Selection

        if self.quick and self.full:
            raise InputError("--quick and --full: expected one of them at most, got both.")
        grid: GridName = "quick" if self.quick else "full" if self.full else "default"
        return Selection(grid, self.op, self.dtype)

    def _check_figure(self) -> None:
        if self.figure is None:
            return
        if self.figure.suffix not in (".png", ".svg", ".pdf"):
            raise InputError(f"--figure {self.figure}: expected a name in .png, .svg or .pdf.")
        if self.figure.is_dir() or not self.figure.absolute().parent.is_dir():
            raise InputError(
                f"--figure {self.figure}: expected a file's path in a folder that is there."
            )
        there = self.figure if self.figure.exists() else self.figure.absolute().parent
        if not os.access(there, os.W_OK):
            raise InputError(f"--figure {self.figure}: {there} may not be written to.")

    def _draw(self) -> None:
        if self.figure is None:
            return
        from jax_softmax.verification.pictures import lead_figure

        with note(f"drawing {self.figure}"):
            lead_figure().savefig(self.figure)


def _verify_with_progress(selection: Selection) -> list[CheckResult]:
    from jax_softmax.verification import verify

    with progress_bar("verifying", len(selection.groups()), "programs") as bar:

        def on_progress(done: int, _groups: int) -> None:
            bar.update(done - bar.n)
            signals.check()

        return verify(selection, on_progress=on_progress)
