"""Pictures of what the fused loss costs and saves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jax_softmax.benchmark.pictures import (
    COLORS,
    OTHERS_COLOR,
    OURS_COLOR,
    line,
    round_ticks,
)
from jax_softmax.benchmark.results import OURS, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP, _CHARACTER = 0.042, 0.0125  # of a panel's height and width: a line of text, and a letter
_FAR = 5  # times the base, above which the times have a log scale
_CHIP_BYTES = 16 * 2**30


def fused_figure(records: Sequence[Record]) -> Figure:
    """Time against memory, a panel a case; and how both grow with the size."""
    from matplotlib.figure import Figure

    cases = _groups([record for record in records if record.ratio is not None])
    series = _groups(
        [r for r in records if r.exponent is not None and r.temporary_bytes is not None]
    )
    panels = len(cases) + bool(series)
    figure = Figure(figsize=(max(1, panels) * 5.6, 4.8), dpi=120, layout="constrained")
    axes = figure.subplots(1, max(1, panels), squeeze=False).ravel()
    for place, (case, found) in zip(axes, cases.items(), strict=False):
        _time_against_memory(place, case, found)
    if series:
        _growth(axes[-1], series)
    return figure


def _groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    return {case: list(group) for case, group in itertools.groupby(records, key=lambda r: r.case)}


def _time_against_memory(axes: Axes, case: str, records: Sequence[Record]) -> None:
    """A dot a contender, those whose memory is not known in a strip at the right."""
    base = records[0].ratio_to or ""
    shown = [record for record in records if record.contender != base]
    known = [100 * r.temporary_fraction for r in shown if r.temporary_fraction]
    left, strip = min(known, default=50) / 1.6, max(known, default=200) * 1.5
    unknown = len(known) < len(shown)
    right = strip * 5 if unknown else strip
    ratios = [record.ratio or 1.0 for record in shown]
    bottom, most = min(0.9, 0.95 * min(ratios, default=1.0)), max(1.1, *ratios, 1.1)
    far = most > _FAR
    top = 1.3 * most if far else most + 0.12 * (most - bottom)
    yscale = "log" if far else "linear"
    axes.set(xscale="log", xlim=(left, right), yscale=yscale, ylim=(bottom, top))
    axes.axhline(1, color="gray", linewidth=0.8, linestyle=":")
    _note(axes, f" {base} (100 % of the logits)", (0, 1), xycoords=("axes fraction", "data"))
    if unknown:
        axes.axvspan(strip, right, color="0.95", linewidth=0)
        _note(axes, " memory not known", (strip, bottom))
    marks = [
        (100 * r.temporary_fraction if r.temporary_fraction else strip * 1.2, r.ratio or 0.0)
        for r in shown
    ]
    names = [record.contender for record in shown]
    for record, mark, text in zip(shown, marks, _label_places(axes, marks, names), strict=True):
        color = OURS_COLOR if record.ours else OTHERS_COLOR
        axes.plot(*mark, "o", color=color, markersize=7)
        moved = abs(
            axes.transAxes.inverted().transform(axes.transData.transform(mark))[1] - text[1]
        )
        axes.annotate(
            record.contender,
            mark,
            xytext=text,
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=OURS_COLOR if record.ours else "0.25",
            arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.6}
            if moved > _GAP / 2
            else None,
        )
    axes.set_xlabel("temporaries, % of the logits")
    axes.set_ylabel(f"time over that of {base}")
    axes.set_title(case, fontsize=9, loc="left", weight="bold")
    round_numbers = [n * 10**i for i in range(-2, 4) for n in (1, 2, 5)]
    ticks = [n for n in round_numbers if left < n < strip]
    axes.set_xticks(ticks, [f"{n:g}" for n in ticks])
    if far:
        ticks = [n for n in round_numbers if bottom < n < top]
        axes.set_yticks(ticks, [f"{n:g}" for n in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _note(axes: Axes, text: str, at: tuple[float, float], **where: Any) -> None:
    axes.annotate(
        text, at, xytext=(0, 3), textcoords="offset points", color="gray", fontsize=8, **where
    )


def _label_places(
    axes: Axes, marks: Sequence[tuple[float, float]], names: Sequence[str]
) -> list[tuple[float, float]]:
    """Where the labels begin, in fractions of the panel: beside their marks, none over another.

    To the right of the mark, or to its left where there is no room; higher where another label is.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    places: list[tuple[float, float]] = [(0.0, 0.0)] * len(marks)
    taken: list[tuple[float, float, float]] = []
    for i in sorted(range(len(marks)), key=lambda i: marks[i][1]):
        x, y = to_axes.transform(marks[i])
        width = _CHARACTER * len(names[i])
        start = x + 0.02 if x + 0.02 + width < 1.02 else x - 0.02 - width
        for other, end, height in sorted(taken, key=lambda label: label[2]):
            if start < end and other < start + width and abs(y - height) < _GAP:
                y = height + _GAP
        taken.append((start, start + width, y))
        places[i] = (start, y)
    return places


def _growth(axes: Axes, series: dict[str, list[Record]]) -> None:
    """Time against the size, both over the smallest's."""
    for (case, found), color in zip(series.items(), (OURS_COLOR, *COLORS), strict=False):
        sizes, seconds = [_size(r) for r in found], [r.seconds_median or 0.0 for r in found]
        held = [f"{(r.temporary_bytes or 0) / 1e6:.0f}" for r in (found[0], found[-1])]
        label = (
            f"{case}: time as size$^{{{found[0].exponent:.2f}}}$, "
            f"temporaries {held[0]} → {held[1]} MB"
        )
        points = [(n / sizes[0], s / seconds[0]) for n, s in zip(sizes, seconds, strict=True)]
        line(axes, label, points, color)
    most = max(_size(found[-1]) / _size(found[0]) for found in series.values())
    axes.plot([1, most], [1, most], color="gray", linewidth=0.8, linestyle=":", zorder=0)
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("size, over the smallest's")
    axes.set_ylabel("time, over the smallest's")
    axes.set_title("Doubling the size", fontsize=9, loc="left", weight="bold")
    for axis in (axes.xaxis, axes.yaxis):
        round_ticks(axis)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _size(record: Record) -> int:
    return (record.rows or 1) * (record.width or 1) * (record.classes or 1)


def pod_figure(records: Sequence[Record]) -> Figure:
    """Temporaries a chip against the number of classes, beside what a chip has."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    held = [r for r in records if r.temporary_bytes is not None]
    for name in dict.fromkeys(record.contender for record in held):
        points = [(r.classes or 0, r.temporary_bytes or 0) for r in held if r.contender == name]
        color = OURS_COLOR if name == OURS else "0.35"
        line(axes, "", points, color)
        _beside(axes, f" {name}", points[-1], color)
    if held:
        axes.axhline(_CHIP_BYTES, color="tab:red", linewidth=0.8, linestyle=":")
        _note(axes, " all memory of a chip", (0, _CHIP_BYTES), xycoords=axes.get_yaxis_transform())
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.margins(x=0.05)
        axes.set_xlim(None, 3.2 * max(record.classes or 0 for record in held))
        axes.set_xticks(ticks := sorted({r.classes or 0 for r in held}), [f"{n:,}" for n in ticks])
        round_ticks(axes.yaxis, "B", steps=(1, 2, 5))
        first = held[0]
        axes.set_title(
            f"{first.rows:,} rows × {first.width:,}, {first.dtype}, on {first.devices} chips",
            fontsize=9,
            loc="left",
            weight="bold",
        )
    axes.set_xlabel("classes")
    axes.set_ylabel("temporaries a chip")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _beside(axes: Axes, text: str, at: tuple[float, float], color: str) -> None:
    axes.annotate(
        text, at, xytext=(5, 0), textcoords="offset points", va="center", color=color, fontsize=8
    )
