"""What `jax-softmax bench` prints: the answers first, then a table for each case."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jax_softmax.cli.text import device_name

if TYPE_CHECKING:
    from rich.console import Console

    from jax_softmax.benchmark import Machine, Record, Report

RATIO_NOTE = (
    "“over” is the median of the ratios within alternating rounds, which slow moments of the "
    "machine leave alone; it need not equal the quotient of the medians."
)
PASSES_NOTE = (
    "A pass is the time to read the logits once at the rate at which the machine copies; the least "
    "is 1 for a loss, and 2 with its gradient."
)


def print_report(report: Report, names: Sequence[str], closing: Sequence[str] = ()) -> None:
    """Prints the answers, the machine, the tables of the suites called `names`, and `closing`."""
    from jax_softmax.benchmark import SUITES

    console = report_console()
    _print_pairs(console, verdict(report, names))
    console.print()
    _print_pairs(console, machine_pairs(report.machine))
    for name in names:
        console.print(f"\n[bold]{name}: {SUITES[name].question}[/]", markup=True)
        print_cases(console, report.of(name))
    console.print()
    for line in (*closing, count_line(report)):
        console.print(line)


def report_console() -> Console:
    """A console as wide as the terminal, or as COLUMNS says, that prints text as it is."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def _print_pairs(console: Console, pairs: Sequence[tuple[str, str]]) -> None:
    """Names with what is to be said of each beside them, wrapped under itself."""
    width = max(len(name) for name, _ in pairs) + 2
    for name, text in pairs:
        lines = textwrap.wrap(
            text, max(20, console.width - width), break_long_words=False, break_on_hyphens=False
        )
        for i, line in enumerate(lines):
            console.print(f"{'' if i else name:{width}}{line}", no_wrap=True, overflow="ignore")


def verdict(report: Report, names: Sequence[str]) -> list[tuple[str, str]]:
    """Whether the results were right, then each suite's answer in a sentence."""
    checked = [record for record in report.records if record.max_error is not None]
    wrong = [record for record in checked if record.differs]
    right = f"all {len(checked)} right" if checked else "none checked"
    if wrong:
        whose = ", ".join(f"{r.contender} ({r.case})" for r in wrong)
        right = f"{len(wrong)} of {len(checked)} WRONG and not timed: {whose}"
    pairs = [("results", right)]
    for name in names:
        pairs += _answers(name, report.of(name))
    return pairs


def _answers(name: str, records: Sequence[Record]) -> list[tuple[str, str]]:
    from jax_softmax.benchmark import SUITES

    if name == "scaling":
        grown = [f"{case} to the power of {k:.2f}" for case, k in _exponents(records).items()]
        return [(name, f"time grows, {', '.join(grown)}")] if grown else []
    suite = SUITES[name]
    pairs = []
    for dtype in dict.fromkeys(record.dtype for record in records if record.dtype):
        of_dtype = [record for record in records if record.dtype == dtype]
        found = [
            f"{_range(ratios)} × {peer}"
            for peer in suite.beside
            if (ratios := _ratios(of_dtype, suite.main, peer))
        ]
        if found:
            found[0] = found[0].replace("×", "× the time of", 1)
            held = _memory(of_dtype, suite.main, suite.beside[0])
            times = f"{suite.main} takes {', '.join(found)}{held}"
            pairs.append(
                (f"{name}, {dtype}" if name in ("loss", "fused", "gpu-quick") else name, times)
            )
    return pairs


def _ratios(records: Sequence[Record], main: str, peer: str) -> list[float]:
    """The time of `main` over that of `peer` in each case that timed both."""
    ratios = {(r.case, r.contender): r.ratio for r in records if r.ratio}
    return [
        ratio / other
        for (case, name), ratio in ratios.items()
        if name == main and (other := ratios.get((case, peer)))
    ]


def _range(numbers: Sequence[float]) -> str:
    low, high = f"{min(numbers):.2g}", f"{max(numbers):.2g}"
    return low if low == high else f"{low} to {high}"


def _memory(records: Sequence[Record], main: str, peer: str) -> str:
    held = {
        name: [
            100 * r.temporary_fraction
            for r in records
            if r.contender == name and r.temporary_fraction is not None
        ]
        for name in (main, peer)
    }
    if not all(held.values()):
        return ""
    ours, others = (f"{max(percents):.0f}%" for percents in held.values())
    return f"; it holds {ours} of the logits' bytes, {peer} {others}"


def _exponents(records: Sequence[Record]) -> dict[str, float]:
    """The exponent of the size in the time of each series."""
    from jax_softmax.benchmark.scaling_suite import fitted_exponent, sizes_of

    cases = {
        case: sizes_of([record for record in group if record.devices is None])
        for case, group in _by_case(records)
    }
    return {case: fitted_exponent(points) for case, points in cases.items() if len(points) > 1}


def _by_case(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    return [(case, list(group)) for case, group in itertools.groupby(records, lambda r: r.case)]


def machine_pairs(machine: Machine) -> list[tuple[str, str]]:
    """What it can do, the device and the versions."""
    device = device_name(machine.platform, machine.device_kind)
    copy, product = machine.copy_bytes_per_second, machine.product_operations_per_second
    rates = (
        f"copies {_rate(copy)}B/s (read and written), multiplies bfloat16 at {_rate(product)}FLOP/s"
    )
    return [
        *([("rates", rates)] if copy and product else []),
        ("device", f"{device}; processor {machine.processor}, {machine.cpu_count} threads"),
        (
            "versions",
            f"jax_softmax {machine.jax_softmax_version}, jax {machine.jax_version}, "
            f"jaxlib {machine.jaxlib_version}, NumPy {machine.numpy_version}, "
            f"optax {machine.optax_version}, Python {machine.python_version}",
        ),
    ]


def _rate(per_second: float | None) -> str:
    """Three digits and a prefix: `2.84 T`."""
    size, prefix = (1e12, "T") if (per_second or 0) >= 1e12 else (1e9, "G")
    return f"{(per_second or 0) / size:.3g} {prefix}"


def count_line(report: Report) -> str:
    """How much was timed, what was refused, and the seconds it took."""
    differ = sum(record.differs for record in report.records)
    timed = sum(record.seconds_median is not None for record in report.records)
    skipped = sum(bool(record.skipped) for record in report.records)
    refused = f"{differ} DIFFER and were not timed, " if differ else ""
    return f"{timed} timed, {refused}{skipped} skipped, in {report.seconds:.1f} s"


def print_cases(console: Console, records: Sequence[Record]) -> None:
    """A table for each case, with what else there is to say of it below."""
    for case, group in _by_case(records):
        console.print(f"\n{case}")
        if checked := _checked(group):
            console.print(checked, style="dim")
        _print_table(console, group)
        for record in group:
            if remark := _remark(record):
                console.print(f"  {record.contender}: {remark}", style="dim")
    if any(record.ratio is not None for record in records):
        console.print(f"\n{RATIO_NOTE}", style="dim")
    if any(record.passes is not None for record in records):
        console.print(PASSES_NOTE, style="dim")


def _checked(records: Sequence[Record]) -> str:
    """How results were checked, and the largest error of those that were right."""
    right = [r for r in records if r.max_error is not None and not r.differs]
    if not right:
        return ""
    error, how = max(r.max_error or 0.0 for r in right), right[0].compared_with
    return f"checked against {how}: {error:.1e}, at most {right[0].error_bound:g}"


def _print_table(console: Console, records: Sequence[Record]) -> None:
    from rich.table import Table

    rows = [record for record in records if not record.skipped]
    if not rows:
        return
    base = next((record.ratio_to for record in rows if record.ratio is not None), "")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    shown = [column for column in _COLUMNS if any(column.text(record) for record in rows)]
    for column in shown:
        texts = [column.text(record) for record in rows]
        # Numbers stay whole; names and titles wrap between words.
        parts = texts if column.justify == "right" else [w for t in texts for w in t.split()]
        table.add_column(
            column.title.format(base=base),
            justify=column.justify,
            min_width=max(map(len, (*parts, *column.title.split()))),
        )
    for record in rows:
        table.add_row(*(column.text(record) for column in shown))
    console.print(table)


@dataclass(frozen=True)
class _Column:
    """A column of a table: shown where any of a case's records has something in it."""

    title: str
    text: Callable[[Record], str]
    justify: Literal["left", "right"] = "right"


def _seconds(seconds: float | None) -> str:
    from jax_softmax.benchmark.pictures import short_time

    return "" if seconds is None else short_time(seconds)


def _quartiles(record: Record) -> str:
    """Both in one unit: `1.2–1.4 ms`."""
    if record.repeats < 2 or record.seconds_q1 is None or record.seconds_q3 is None:
        return ""
    number, unit = _seconds(record.seconds_q3).split()
    low = record.seconds_q1 / {"s": 1.0, "ms": 1e-3, "µs": 1e-6}[unit]
    return f"{low:.3g}–{number} {unit}"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.0%}"


def _bytes(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _break_even(record: Record) -> str:
    if record.suite != "jit" or record.compile_seconds is None:
        return ""
    runs = record.break_even_runs
    return "never" if runs is None else f"{runs:,} runs"


def _remark(record: Record) -> str:
    if record.differs:
        return f"DIFFERS by {record.max_error:.2g}: not timed"
    return f"skipped: {record.skipped.splitlines()[0]}" if record.skipped else record.note


_COLUMNS = (
    _Column("contender", lambda record: record.contender, "left"),
    _Column("median", lambda record: _seconds(record.seconds_median)),
    _Column("quartiles", _quartiles),
    _Column("over {base}", lambda r: "" if r.ratio is None else f"{r.ratio:.3g}"),
    _Column("passes", lambda r: "" if r.passes is None else f"{r.passes:.3g}"),
    _Column("temporaries", lambda record: _bytes(record.temporary_bytes)),
    _Column("of the logits", lambda record: _percent(record.temporary_fraction)),
    _Column(
        "compile", lambda r: _seconds(r.compile_seconds) if r.suite in ("jit", "train") else ""
    ),
    _Column("pays after", _break_even),
)
