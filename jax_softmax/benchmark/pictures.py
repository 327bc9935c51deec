"""A picture to a suite, of its records."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jax_softmax.benchmark.results import OURS, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

OURS_COLOR, OTHERS_COLOR = "tab:blue", "0.55"
COLORS = ("tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:gray")


def dots_figure(records: Sequence[Record]) -> Figure:
    """A panel a case, a dot a contender: the median time, log scale, with a line for quartiles."""
    from matplotlib.figure import Figure

    cases = [
        (case, [record for record in group if record.seconds_median is not None])
        for case, group in itertools.groupby(records, key=lambda record: record.case)
    ]
    cases = [(case, group) for case, group in cases if group]
    columns = 1 if len(cases) < 4 else 2
    lines = max(1, -(-len(cases) // columns))
    dots = max((len(group) for _, group in cases), default=1)
    size = (6.5 * columns, 0.3 + lines * (0.6 + 0.24 * dots))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    figure.supxlabel("median time (log scale); the line spans the quartiles", fontsize=8)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (case, group) in zip(panels, cases, strict=False):
        _dots(axes, case, group)
    for axes in panels[len(cases) :]:
        axes.set_visible(False)
    return figure


def _dots(axes: Axes, case: str, records: Sequence[Record]) -> None:
    for place, record in enumerate(records):
        median = record.seconds_median or 0.0
        quartiles = [record.seconds_q1 or median, record.seconds_q3 or median]
        color = OURS_COLOR if record.ours else OTHERS_COLOR
        axes.axhline(place, color="0.93", linewidth=0.8, zorder=0)
        axes.plot(quartiles, [place, place], color=color, linewidth=3, solid_capstyle="butt")
        axes.plot(median, place, "o", color=color, markersize=7)
        axes.annotate(
            _short_time(median),
            (quartiles[1], place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    medians = [record.seconds_median or 0.0 for record in records]
    axes.set_yticks(range(len(records)), [record.contender for record in records], fontsize=8)
    axes.set_ylim(len(records) - 0.4, -0.6)  # the first on top
    axes.set_xscale("log")
    axes.set_xlim(min(medians) / 2, max(medians) * 6)
    axes.set_title(case, fontsize=9, loc="left", weight="bold")
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    narrow = max(medians) < 30 * min(medians)
    round_ticks(axes.xaxis, unit="s", steps=(1, 2, 5) if narrow else (1,))
    axes.spines[["top", "right", "left"]].set_visible(False)


def loss_figure(records: Sequence[Record]) -> Figure:
    """A panel a dtype: time over that of a copy, against the number of classes."""
    from matplotlib.figure import Figure

    timed = [r for r in records if r.ratio is not None and r.contender != r.ratio_to]
    dtypes = list(dict.fromkeys(record.dtype for record in timed))
    figure = Figure(figsize=(max(6.5, 5.5 * len(dtypes)), 4.2), dpi=120, layout="constrained")
    panels = figure.subplots(
        1, max(1, len(dtypes)), sharex=True, sharey=True, squeeze=False
    ).ravel()
    # Of ours the one of that name, not its variants.
    names = list(dict.fromkeys(r.contender for r in timed if not r.ours or r.contender == OURS))
    others = itertools.cycle(COLORS)
    colors = {name: OURS_COLOR if name == OURS else next(others) for name in names}
    for axes, dtype in zip(panels, dtypes, strict=False):
        for name in names:
            points = [r for r in timed if r.dtype == dtype and r.contender == name]
            points.sort(key=lambda record: record.classes or 0)
            line(axes, name, [(r.classes or 0, r.ratio or 0.0) for r in points], colors[name])
        axes.axhline(1, color="gray", linewidth=0.8, linestyle=":")
        axes.annotate(
            "a copy of the logits",
            (0.01, 1),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color="gray",
            fontsize=8,
        )
        axes.set(title=dtype, xlabel="classes", xscale="log", yscale="log")
        round_ticks(axes.yaxis, steps=(1, 2, 5))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("time of value and gradient\nover that of a copy")
    _legend(panels[0])
    return figure


def scaling_figure(records: Sequence[Record]) -> Figure:
    """Time against the number of logits, with the fitted exponents, and against devices."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), dpi=120, layout="constrained")
    growth, devices = figure.subplots(1, 2)
    series = {
        case: [r for r in group if r.seconds_median is not None and r.devices is None]
        for case, group in itertools.groupby(records, key=lambda record: record.case)
    }
    drawn = [(case, points) for case, points in series.items() if points]
    for (case, points), color in zip(drawn, (OURS_COLOR, *COLORS), strict=False):
        label = f"{case}: size$^{{{points[0].exponent or 0:.2f}}}$"
        sizes = [((r.rows or 0) * (r.classes or 0), 1e3 * (r.seconds_median or 0)) for r in points]
        line(growth, label, sizes, color)
    growth.set(xlabel="logits (rows × classes)", ylabel="value and gradient (ms)")
    growth.set(xscale="log", yscale="log", title="Growth with the size")
    round_ticks(growth.xaxis)
    round_ticks(growth.yaxis, steps=(1, 2, 5))
    _legend(growth)
    spread = [r for r in records if r.devices is not None and r.ratio is not None]
    line(devices, "", [(r.devices or 0, r.ratio or 0.0) for r in spread], OURS_COLOR)
    devices.axhline(1, color="gray", linewidth=0.8, linestyle=":")
    devices.set(xlabel="simulated devices, on the same cores", ylabel="time over one device's")
    devices.set(ylim=(0, None), title="Rows over devices")
    devices.set_xticks([r.devices or 0 for r in spread])
    for axes in (growth, devices):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def line(axes: Axes, label: str, points: Sequence[tuple[float, float]], color: str | None) -> None:
    """A line with a dot at each point; nothing where there is none."""
    if points:
        wide = 2.2 if color == OURS_COLOR else 1.2
        axes.plot(
            *zip(*points, strict=True),
            marker="o",
            markersize=4,
            linewidth=wide,
            color=color,
            label=label,
        )


def round_ticks(axis: Axis, unit: str = "", steps: Sequence[float] = (1, 2, 4)) -> None:
    """Ticks at round numbers of a log scale, written as 10 ms or 4 M."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(EngFormatter(unit))
    axis.set_minor_locator(NullLocator())


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _short_time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
