"""What the benchmark found: a flat record for each contender of each case."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

OURS = "jax_softmax"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One contender in one case. What does not apply, or was not measured, is None.

    Attributes:
      suite: "jit", "loss", ...
      case: what was done.
      contender: who did it.
      ours: whether that is a function of this package: one that differs is a defect of it.
      rows: examples.
      classes: V.
      width: D, of the features, where the logits are their product with a kernel `[D, V]`.
      dtype: of the logits, or of the features and the kernel.
      batch_size: examples to a step.
      devices: the rows (and classes) were spread over so many.
      seconds_median: of one run of the case, compiling left out.
      seconds_q1: a quarter of the runs took less.
      seconds_q3: a quarter of the runs took more.
      repeats: how many runs (or turns of several short ones) were timed.
      compile_seconds: time to trace and compile, where there is something to compile.
      ratio: the time over that of `ratio_to`, the median of ratios within a round.
      ratio_to: the contender whose ratio is 1.
      max_error: the largest error of the results, measured before any time was.
      error_bound: what it may be. A contender beyond it differs, and is not timed.
      compared_with: what the results are held against, and how.
      bytes_moved: the least that has to be read and written, in bytes.
      bandwidth_fraction: `bytes_moved / seconds_median` over the machine's copy bandwidth.
      temporary_bytes: what the compiled program holds (on a device) beside arguments, results.
      logits_bytes: what all logits would take there, in `dtype`.
      temporary_fraction: `temporary_bytes / logits_bytes`.
      temporary_ratio: `temporary_bytes` over those of `ratio_to`.
      block_rows: rows of a block of logits (on a device).
      break_even_runs_numpy: so many runs pay for compiling, against the NumPy tutorial; None where
        none do.
      break_even_runs_no_jit: the same against JAX without jit.
      test_accuracy: after the run, in [0, 1].
      epochs: passes over the examples that it took.
      exponent: of the size in the time, fitted to the largest sizes of the series.
      skipped: why it was not run; empty if it was.
      note: what else to know.
    """

    suite: str
    case: str
    contender: str
    ours: bool = False
    rows: int | None = None
    classes: int | None = None
    width: int | None = None
    dtype: str | None = None
    batch_size: int | None = None
    devices: int | None = None
    seconds_median: float | None = None
    seconds_q1: float | None = None
    seconds_q3: float | None = None
    repeats: int = 0
    compile_seconds: float | None = None
    ratio: float | None = None
    ratio_to: str | None = None
    max_error: float | None = None
    error_bound: float | None = None
    compared_with: str | None = None
    bytes_moved: int | None = None
    bandwidth_fraction: float | None = None
    temporary_bytes: int | None = None
    logits_bytes: int | None = None
    temporary_fraction: float | None = None
    temporary_ratio: float | None = None
    block_rows: int | None = None
    break_even_runs_numpy: int | None = None
    break_even_runs_no_jit: int | None = None
    test_accuracy: float | None = None
    epochs: int | None = None
    exponent: float | None = None
    skipped: str = ""
    note: str = ""

    @property
    def differs(self) -> bool:
        """Whether the results were off by more than the bound, so that no time was taken."""
        if self.max_error is None or self.error_bound is None:
            return False
        return not self.max_error <= self.error_bound  # NaN differs

    def record(self) -> dict[str, Any]:
        """The fields and `differs`, flat; what is not finite as text, for JSON has no such numbers.

        >>> wrong = Record(suite="loss", case="c", contender="x", max_error=math.nan, error_bound=1)
        >>> wrong.record()["max_error"], wrong.record()["differs"]
        ('nan', True)
        """
        fields = dataclasses.asdict(self) | {"differs": self.differs}
        return {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in fields.items()
        }
