"""What `jax-softmax bench` prints, as lines of text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jax_softmax.cli.report import device_name

if TYPE_CHECKING:
    from jax_softmax.benchmark import Machine, Record, Report


@dataclass(frozen=True)
class _Column:
    """A column of a table: shown where any of a suite's records has something in it."""

    title: str
    text: Callable[[Record], str]


def header_lines(machine: Machine) -> list[str]:
    """The device, the versions, and the machine's limits."""
    versions = {
        "optax": machine.optax_version,
        "scikit-learn": machine.scikit_learn_version,
        "PyTorch": machine.torch_version,
        "tokamax": machine.tokamax_version,
    }
    peers = [f"{name} {version}" for name, version in versions.items() if version]
    device = device_name(machine.platform, machine.device_kind)
    return [
        f"device      {device}; processor {machine.processor}, {machine.cpu_count} threads",
        f"versions    jax {machine.jax_version}, jaxlib {machine.jaxlib_version}, "
        f"NumPy {machine.numpy_version}, Python {machine.python_version}, "
        f"jax_softmax {machine.jax_softmax_version}",
        f"peers       {', '.join(peers) or 'none'}",
        f"limits      copy {machine.copy_bytes_per_second / 1e9:.3g} GB/s (read and written), "
        f"float32 matrix product {machine.matmul_flop_per_second / 1e9:.4g} GFLOP/s",
    ]


def suite_lines(name: str, records: Sequence[Record]) -> list[str]:
    """A suite's question and a table for each run of cases that show the same."""
    from jax_softmax.benchmark import SUITES

    lines = [f"{name}: {SUITES[name].question}"]
    for case, group in itertools.groupby(records, key=lambda record: record.case):
        lines += ["", *_case_lines(case, list(group))]
    return lines


def closing_line(report: Report) -> str:
    """How much was timed, what was refused, and the seconds it took."""
    differ = sum(record.differs for record in report.records)
    timed = sum(record.seconds_median is not None for record in report.records)
    skipped = sum(bool(record.skipped) for record in report.records)
    refused = f"{differ} DIFFER and were not timed, " if differ else ""
    return f"{timed} timed, {refused}{skipped} skipped, in {report.seconds:.1f} s"


def _case_lines(case: str, records: Sequence[Record]) -> list[str]:
    heading = case
    against = {record.compared_with for record in records if record.compared_with}
    bounds = {record.error_bound for record in records if record.error_bound is not None}
    if against:
        heading += f" (checked against {'; '.join(sorted(against))}: bound {max(bounds):g})"
    exponents = {record.exponent for record in records if record.exponent is not None}
    if exponents:
        heading += f"\n  time grows as the size to the power of {exponents.pop():.2f}"
    shown = [column for column in _COLUMNS if any(column.text(record) for record in records)]
    bases = {record.ratio_to for record in records if record.ratio is not None}
    titles = {"over": f"over {bases.pop()}"} if bases else {}
    smaller = {record.ratio_to for record in records if record.temporary_ratio is not None}
    titles |= {"of": f"of {smaller.pop()}"} if smaller else {}
    rows = [[titles.get(column.title, column.title) for column in shown]]
    rows += [[column.text(record) for column in shown] for record in records]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = []
    for cells in rows:
        first, *others = (
            cell.ljust(width) if column.title in _LEFT else cell.rjust(width)
            for column, cell, width in zip(shown, cells, widths, strict=True)
        )
        lines.append("  ".join(["", first, *others]).rstrip())
    return [heading, *lines]


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("s ", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _quartiles(record: Record) -> str:
    if record.repeats < 2:
        return ""
    return f"{_seconds(record.seconds_q1).strip()} – {_seconds(record.seconds_q3)}"


def _number(field: str, form: str) -> Callable[[Record], str]:
    def text(record: Record) -> str:
        value: Any = getattr(record, field)
        return "" if value is None else format(value, form)

    return text


def _size(field: str) -> Callable[[Record], str]:
    number = _number(field, ",d")
    return lambda record: number(record) if record.exponent or record.devices else ""


def _bytes(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _ratio(record: Record) -> str:
    return "" if record.ratio is None else f"{record.ratio:.3g}"


def _remark(record: Record) -> str:
    if record.differs:
        return f"DIFFERS by {record.max_error:.2g}: not timed"
    return f"skipped: {record.skipped.splitlines()[0]}" if record.skipped else record.note


def _break_even(record: Record) -> str:
    if record.compile_seconds is None or record.suite != "jit":
        return ""
    runs = (record.break_even_runs_numpy, record.break_even_runs_no_jit)
    return " / ".join("never" if n is None else f"{n:,}" for n in runs)


_COLUMNS = (
    _Column("contender", lambda record: record.contender),
    _Column("rows", _size("rows")),
    _Column("D", _size("width")),
    _Column("classes", _size("classes")),
    _Column("devices", _number("devices", "d")),
    _Column("median", lambda record: _seconds(record.seconds_median)),
    _Column("quartiles", _quartiles),
    _Column("repeats", lambda record: str(record.repeats) if record.repeats else ""),
    _Column("over", _ratio),
    _Column("of copy GB/s", _number("bandwidth_fraction", ".0%")),
    _Column("temporaries", lambda record: _bytes(record.temporary_bytes)),
    _Column("of the logits", _number("temporary_fraction", ".1%")),
    _Column("of", _number("temporary_ratio", ".1%")),
    _Column("rows a block", _number("block_rows", ",d")),
    _Column("compile", lambda record: _seconds(record.compile_seconds)),
    _Column("pays after runs, NumPy / no jit", _break_even),
    _Column("test accuracy", _number("test_accuracy", ".4f")),
    _Column("epochs", _number("epochs", ",d")),
    _Column("error", _number("max_error", ".1e")),
    _Column("", _remark),
)
_LEFT = ("contender", "")
