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
      contender: who did it; in a series of sizes, the size.
      ours: whether that is a function of this package. A wrong result is then a defect of it.
      rows: examples.
      classes: V.
      width: D of the features, where the logits are their product with a kernel `[D, V]`.
      dtype: of the logits, or of the features and the kernel.
      devices: how many devices share the rows.
      seconds_median: of one run of the case, without compiling.
      seconds_q1: the first quartile; `seconds_q3` is the third.
      repeats: how many runs (or turns of several short ones) were timed.
      compile_seconds: time to trace and compile, where something was compiled.
      ratio: the time over that of `ratio_to`: the median of the ratios within each round.
      ratio_to: the contender whose ratio is 1.
      max_error: the largest error of the results, measured before any time.
      error_bound: the largest error allowed. A contender beyond it is not timed.
      compared_with: what the results are held against, and how.
      temporary_bytes: what the compiled program holds beside its arguments and results.
      logits_bytes: what all logits would take, in `dtype`.
      pass_seconds: the time to read all logits once at the rate at which the machine copies.
      skipped: why it was not run; empty if it was.
      note: anything else worth knowing.
    """

    suite: str
    case: str
    contender: str = ""
    ours: bool = False
    rows: int | None = None
    classes: int | None = None
    width: int | None = None
    dtype: str | None = None
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
    temporary_bytes: int | None = None
    logits_bytes: int | None = None
    pass_seconds: float | None = None
    skipped: str = ""
    note: str = ""

    @property
    def differs(self) -> bool:
        """Whether the error was above the bound, so that no time was taken."""
        if self.max_error is None or self.error_bound is None:
            return False
        return not self.max_error <= self.error_bound  # NaN differs

    @property
    def temporary_fraction(self) -> float | None:
        """`temporary_bytes` over `logits_bytes`."""
        if self.temporary_bytes is None or not self.logits_bytes:
            return None
        return self.temporary_bytes / self.logits_bytes

    @property
    def passes(self) -> float | None:
        """The time in passes over the logits: at least 1 for a loss, 2 with its gradient.

        >>> Record(suite="loss", case="c", seconds_median=3.0, pass_seconds=1.5).passes
        2.0
        """
        if self.seconds_median is None or not self.pass_seconds:
            return None
        return self.seconds_median / self.pass_seconds

    @property
    def break_even_runs(self) -> int | None:
        """How many runs save what compiling took, beside `ratio_to`; None if none do."""
        if self.compile_seconds is None or self.seconds_median is None or self.ratio is None:
            return None
        saved = self.seconds_median / self.ratio - self.seconds_median
        return math.ceil(self.compile_seconds / saved) if saved > 0 else None

    def record(self) -> dict[str, Any]:
        """The fields and properties, flat. Numbers that JSON lacks become text.

        >>> wrong = Record(suite="loss", case="c", max_error=math.nan, error_bound=1)
        >>> wrong.record()["max_error"], wrong.record()["differs"]
        ('nan', True)
        """
        fields = dataclasses.asdict(self) | {
            "differs": self.differs,
            "temporary_fraction": self.temporary_fraction,
            "passes": self.passes,
            "break_even_runs": self.break_even_runs,
        }
        return {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in fields.items()
        }
