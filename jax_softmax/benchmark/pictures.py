"""A picture of a suite's records: a row for each contender, or lines against the size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jax_softmax.benchmark.results import OURS, Record
from jax_softmax.benchmark.scaling_suite import fitted_exponent, sizes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_OURS_COLOR, _OTHERS_COLOR = "tab:blue", "0.55"
_COLORS = ("tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink")
_SMALL = 8  # points
_BESIDE: dict[str, Any] = {
    "xytext": (7, 0),
    "textcoords": "offset points",
    "va": "center",
    "fontsize": _SMALL,
}


class NothingToDrawError(Exception):
    """The records leave nothing that a picture would show; the message says why."""


@dataclass(frozen=True)
class _Quantity:
    """What a panel shows of each contender; `unit` is that of its ticks, `line` a mark."""

    title: str
    value: Callable[[Record], float | None]
    text: Callable[[float], str]
    unit: str = ""
    line: float | None = None


def short_time(seconds: float) -> str:
    """Three digits and a unit.

    >>> short_time(0.00123456), short_time(12.3456)
    ('1.23 ms', '12.3 s')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


_TIME = _Quantity(
    "median time; the line spans the quartiles", lambda r: r.seconds_median, short_time, "s"
)


def times_figure(records: Sequence[Record]) -> Figure:
    """A panel for each case: the median times, with lines that span the quartiles."""
    return _rows_figure(records, lambda case: [_TIME])


def fused_figure(records: Sequence[Record]) -> Figure:
    """For each case the time over that of the base, and beside it the memory."""
    shown = [r for r in records if r.ratio is not None and r.contender != r.ratio_to]
    base = shown[0].ratio_to if shown else ""
    time = _Quantity(f"time over that of {base}", lambda r: r.ratio, lambda x: f"{x:.2f}", line=1)
    memory = _Quantity(
        "temporaries, % of the logits",
        lambda r: None if r.temporary_fraction is None else 100 * r.temporary_fraction,
        lambda x: f"{x:.0f}%",
        line=100,
    )
    return _rows_figure(shown, lambda case: [time, memory])


def gpu_figure(records: Sequence[Record]) -> Figure:
    """For each case what tells most: passes over the logits, time over products, or the time."""
    passes = _Quantity(
        "passes over the logits, at the rate of a copy", lambda r: r.passes, lambda x: f"{x:.3g}"
    )

    def quantities(case: Sequence[Record]) -> Sequence[_Quantity]:
        if any(record.passes for record in case):
            return [passes]
        base = case[0].ratio_to
        over = _Quantity(
            f"time over that of {base}", lambda r: r.ratio, lambda x: f"{x:.2f}", line=1
        )
        return [over] if any(record.width for record in case) else [_TIME]

    return _rows_figure(records, quantities)


def _rows_figure(
    records: Sequence[Record], quantities: Callable[[Sequence[Record]], Sequence[_Quantity]]
) -> Figure:
    """For each case a panel for each of its quantities that tells two contenders apart."""
    from matplotlib.figure import Figure

    timed = [record for record in records if record.seconds_median is not None]
    if not timed:
        raise NothingToDrawError("nothing was timed")
    cases = {case: list(group) for case, group in itertools.groupby(timed, key=lambda r: r.case)}
    wanted = [
        (case, i, quantity)
        for case, found in cases.items()
        for i, quantity in enumerate(_compared(found, quantities(found)))
    ]
    if not wanted:
        raise NothingToDrawError(
            "no case has two contenders that can be told apart; the table has their times"
        )
    columns = min(2, len(wanted))
    lengths = [len(cases[case]) for case, *_ in wanted]
    heights = [1 + 0.24 * max(lengths[i : i + columns]) for i in range(0, len(wanted), columns)]
    figure = Figure(figsize=(6.0 * columns, sum(heights)), dpi=120, layout="constrained")
    panels = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights).ravel()
    for axes in panels[len(wanted) :]:
        axes.set_visible(False)
    for axes, (case, i, quantity) in zip(panels, wanted, strict=False):
        _rows(axes, cases[case], quantity)
        if i == 0:
            axes.set_title(case, fontsize=9, loc="left", weight="bold")
        else:
            axes.tick_params(axis="y", labelleft=False)
    return figure


def _compared(records: Sequence[Record], quantities: Sequence[_Quantity]) -> list[_Quantity]:
    """The quantities that tell two records apart: one point is a number, and noise is nothing."""
    spans = [(r.seconds_q1, r.seconds_q3) for r in records if r.seconds_q1 and r.seconds_q3]
    noise = len(spans) == len(records) and max(a for a, _ in spans) <= min(b for _, b in spans)
    return [
        q
        for q in quantities
        if sum(bool(q.value(record)) for record in records) > 1 and not (noise and q is _TIME)
    ]


def _rows(axes: Axes, records: Sequence[Record], quantity: _Quantity) -> None:
    """A row for each record, so that no label can cover another."""
    known = [quantity.line] if quantity.line else []
    for place, record in enumerate(records):
        axes.axhline(place, color="0.93", linewidth=0.8, zorder=0)
        value = quantity.value(record)
        if not value:
            where = axes.get_yaxis_transform()
            axes.annotate("not known", (0, place), xycoords=where, color="gray", **_BESIDE)
            continue
        known.append(value)
        color, right = _OURS_COLOR if record.ours else _OTHERS_COLOR, value
        if quantity.unit == "s" and record.seconds_q1 and record.seconds_q3:
            right = record.seconds_q3
            axes.plot([record.seconds_q1, right], [place] * 2, color=color, linewidth=3, alpha=0.5)
        axes.plot(value, place, "o", color=color, markersize=7)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.annotate(quantity.text(value), (right, place), bbox=box, **_BESIDE)
    axes.set_yticks(range(len(records)), [r.contender for r in records], fontsize=_SMALL)
    axes.set_ylim(len(records) - 0.4, -0.6)  # the first on top
    if quantity.line:
        axes.axvline(quantity.line, color="gray", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xscale("log")
    axes.set_xlim(min(known, default=1) / 2, max(known, default=1) * 6)
    axes.set_xlabel(quantity.title, fontsize=_SMALL)
    axes.tick_params(axis="x", labelsize=_SMALL)
    axes.tick_params(axis="y", length=0)
    narrow = max(known, default=1) < 30 * min(known, default=1)
    _round_ticks(axes.xaxis, quantity.unit, (1, 2, 5) if narrow else (1,))
    axes.spines[["top", "right", "left"]].set_visible(False)


@dataclass(frozen=True)
class _Lines:
    """A panel of lines; `even` draws where the other axis grows as this one, or a level of 1."""

    xlabel: str
    ylabel: str
    lines: dict[str, list[tuple[float, float]]]
    title: str = ""
    even: bool = False


def loss_figure(records: Sequence[Record]) -> Figure:
    """A panel for each dtype: time over that of a copy, against the number of classes."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for r in records:
        variant = r.ours and r.contender != OURS
        if r.ratio is not None and r.contender != r.ratio_to and not variant:
            lines = panels.setdefault(r.dtype or "", {})
            lines.setdefault(r.contender, []).append((r.classes or 0, r.ratio))
    ylabel = "time of value and gradient\nover that of a copy (dotted)"
    lengths = {
        dtype: {name: sorted(line) for name, line in lines.items() if len(dict(line)) > 1}
        for dtype, lines in panels.items()
    }
    drawn = [_Lines("classes", ylabel, lines, dtype) for dtype, lines in lengths.items() if lines]
    if not drawn:
        raise NothingToDrawError("a line needs two numbers of classes, timed in the same dtype")
    return _lines_figure(drawn)


def scaling_figure(records: Sequence[Record]) -> Figure:
    """Time against the size, with the fitted exponents."""
    series = {}
    for case, group in itertools.groupby(records, key=lambda record: record.case):
        found = [record for record in group if record.devices is None]
        points = sizes_of(found)
        if len(points) > 1 and _apart(found):
            first_size, first_seconds = points[0]
            label = f"{case}: size$^{{{fitted_exponent(points):.2f}}}$"
            series[label] = [(size / first_size, s / first_seconds) for size, s in points]
    if not series:
        raise NothingToDrawError(
            "the quartiles of neighbouring sizes overlap, so that their times cannot be told apart"
        )
    labels = "size, over the smallest's", "time, over the smallest's (dotted: as the size)"
    return _lines_figure([_Lines(*labels, series, even=True)])


def _apart(records: Sequence[Record]) -> bool:
    """Whether no size's quartiles reach those of the next."""
    spans = [(r.seconds_q1, r.seconds_q3) for r in records if r.seconds_q1 and r.seconds_q3]
    return all(before[1] < after[0] for before, after in itertools.pairwise(spans))


def _lines_figure(panels: Sequence[_Lines]) -> Figure:
    """Panels side by side, their legends below, where they cover no line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.5, 5.0 * len(panels)), 4.6), dpi=120, layout="constrained")
    places = figure.subplots(1, len(panels), squeeze=False).ravel()
    colors: dict[str, str] = {OURS: _OURS_COLOR}
    for axes, panel in zip(places, panels, strict=True):
        for name, points in panel.lines.items():
            color = colors.setdefault(name, _COLORS[(len(colors) - 1) % len(_COLORS)])
            width = 2.2 if name == OURS else 1.4
            axes.plot(*zip(*points, strict=True), "o-", ms=4, lw=width, color=color, label=name)
        right = max(x for points in panel.lines.values() for x, _ in points)
        even = ([1, right], [1, right]) if panel.even else ([0, 1], [1, 1])
        where = axes.transData if panel.even else axes.get_yaxis_transform()
        axes.plot(*even, color="gray", lw=0.8, ls=":", zorder=0, transform=where)
        axes.set(xscale="log", yscale="log", xlabel=panel.xlabel)
        axes.set_title(panel.title, fontsize=9, loc="left", weight="bold")
        if panel.ylabel != panels[0].ylabel or panel is panels[0]:
            axes.set_ylabel(panel.ylabel)
        if panel.even:
            _round_ticks(axes.xaxis, steps=(1, 2, 4))
        _round_ticks(axes.yaxis, steps=(1, 2, 5))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    found = {
        label: handle
        for axes in places
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=min(5, len(found)),
        frameon=False,
        fontsize=_SMALL,
    )
    return figure


def _round_ticks(axis: Axis, unit: str = "", steps: Sequence[float] = (1,)) -> None:
    """Ticks at round numbers of a log scale, written as 10 ms or 0.5."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(EngFormatter(unit) if unit else StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())
