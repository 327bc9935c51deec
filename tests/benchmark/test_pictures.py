"""A picture of each suite; no label over another; nothing drawn where nothing would be seen."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import redraw

from jax_softmax.benchmark import SUITES, Record
from jax_softmax.benchmark.pictures import NothingToDrawError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"


def record(suite, case, name, seconds=2e-3, **fields):
    spread = {"seconds_q1": 0.9 * seconds, "seconds_q3": 1.1 * seconds, "repeats": 3}
    return Record(
        suite=suite, case=case, contender=name, seconds_median=seconds, **spread, **fields
    )


def crowded_layer():
    """Contenders whose times and memory are nearly the same, with long names."""
    return [
        record(
            "fused",
            case,
            f"a contender with a long name, number {i}",
            ratio=1 + 0.001 * i,
            ratio_to="three products",
            temporary_bytes=None if i == 3 else 1000 + i,
            logits_bytes=1000,
        )
        for case in ("value and gradients, float32", "value and gradients, bfloat16")
        for i in range(9)
    ]


def drawn_texts(figure):
    figure.draw_without_rendering()
    for axes in figure.axes:
        if axes.get_visible():
            yield from (text for text in axes.texts if text.get_text())
            yield axes.title
            yield from (axes.xaxis.label, axes.yaxis.label)
            low, high = sorted(axes.get_ylim())
            ticks = [t for t in axes.get_yticklabels() if t.get_visible() and t.get_text()]
            yield from (t for t in ticks if low <= t.get_position()[1] <= high)


def boxes_of(figure):
    return [
        (text.get_text(), text.get_window_extent())
        for text in dict.fromkeys(drawn_texts(figure))
        if text.get_text()
    ]


@pytest.mark.parametrize("suite", ["fused", "train"])
def test_no_label_covers_another(suite):
    records = crowded_layer()
    if suite == "train":
        records = [
            record("train", f"case {i // 9}", f"a long name, {i}", 2e-3 + i % 2 * 1e-3)
            for i in range(36)
        ]
    boxes = boxes_of(SUITES[suite].draw(records))
    assert len(boxes) > len(records)
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), f"{one!r} and {other!r}"


def test_labels_stay_inside_the_picture():
    figure = SUITES["fused"].draw(crowded_layer())
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in boxes_of(figure):
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text


def test_a_line_of_one_point_is_not_drawn():
    copy = {"ratio": 1.5, "ratio_to": "copy", "dtype": "float32"}
    one = [record("loss", "a", "jax_softmax", classes=10, **copy)]
    with pytest.raises(NothingToDrawError, match="a line needs two numbers of classes"):
        SUITES["loss"].draw(one)
    two = [*one, record("loss", "b", "jax_softmax", classes=100, **copy)]
    half = record("loss", "c", "optax", classes=10, **(copy | {"dtype": "bfloat16"}))
    figure = SUITES["loss"].draw([*two, half])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["float32"]


def test_a_contender_timed_once_has_no_line():
    copy = {"ratio": 1.5, "ratio_to": "copy", "dtype": "float32"}
    apart = [
        record("loss", "a", "jax_softmax", classes=10, **copy),
        record("loss", "b", "optax", classes=100, **copy),
    ]
    with pytest.raises(NothingToDrawError, match="a line needs two numbers of classes"):
        SUITES["loss"].draw(apart)
    (axes,) = SUITES["loss"].draw([*apart, record("loss", "c", "optax", classes=10, **copy)]).axes
    assert axes.get_legend_handles_labels()[1] == ["optax"]


@pytest.mark.parametrize("suite", ["jit", "train", "fused", "gpu-quick"])
def test_one_point_is_not_drawn(suite):
    ratio = {"ratio": 1.5, "ratio_to": "three products"}
    alone = [record(suite, case, "optax", **ratio) for case in "ab"]
    with pytest.raises(NothingToDrawError, match="no case has two contenders that can be told"):
        SUITES[suite].draw(alone)
    figure = SUITES[suite].draw([*alone, record(suite, "b", "jax_softmax", 1e-3, **ratio)])
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles == ["b"]


@pytest.mark.parametrize("suite", ["jit", "train"])
def test_times_whose_quartiles_overlap_are_not_drawn(suite):
    same = [record(suite, "a", name, s) for name, s in (("optax", 1.0), ("jax_softmax", 1.1))]
    with pytest.raises(NothingToDrawError, match="no case has two contenders that can be told"):
        SUITES[suite].draw(same)
    figure = SUITES[suite].draw([*same, record(suite, "a", "NumPy", 1.4)])
    assert len(figure.axes[0].get_yticklabels()) == 3


def test_memory_that_nobody_knows_has_no_panel():
    layer = [record for record in crowded_layer() if "float32" in record.case]
    unknown = [dataclasses.replace(record, temporary_bytes=None) for record in layer]
    shown = [
        [axes.get_xlabel() for axes in SUITES["fused"].draw(records).axes if axes.get_visible()]
        for records in (layer, unknown)
    ]
    time, memory = "time over that of three products", "temporaries, % of the logits"
    assert shown == [[time, memory], [time]]


def test_noise_is_not_drawn():
    def series(*seconds):
        return [
            record("scaling", "rows doubled", f"{i}", s, rows=2**i, classes=8)
            for i, s in enumerate(seconds)
        ]

    with pytest.raises(NothingToDrawError, match="quartiles of neighbouring sizes overlap"):
        SUITES["scaling"].draw(series(1e-3, 1.1e-3, 1.2e-3))
    (axes,) = SUITES["scaling"].draw(series(1e-3, 2e-3, 4e-3)).axes
    line = axes.get_lines()[0]
    assert list(line.get_xdata()) == [1, 2, 4] and list(line.get_ydata()) == [1, 2, 4]


def test_a_case_of_an_accelerator_shows_what_tells_most():
    names = ("jax_softmax", "optax")
    figure = SUITES["gpu-quick"].draw(
        [
            *(record("gpu-quick", "logits", name, pass_seconds=1e-3) for name in names),
            *(record("gpu-quick", "layer", name, ratio=1.2, width=8) for name in names),
            *(record("gpu-quick", "epoch", name, len(name) * 1e-3) for name in names),
        ]
    )
    shown = [axes.get_xlabel() for axes in figure.axes if axes.get_visible()]
    assert [label.split()[0] for label in shown] == ["passes", "time", "median"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["2", "2"]


@pytest.mark.parametrize("suite", SUITES)
def test_nothing_timed_is_no_picture(suite):
    skipped = Record(suite=suite, case="c", contender="PyTorch", skipped="not installed")
    for records in ([skipped], []):
        with pytest.raises(NothingToDrawError):
            SUITES[suite].draw(records)


@pytest.mark.parametrize("file", sorted(DOCS.rglob("*.json")), ids=lambda path: path.stem)
def test_recorded_results_draw_the_pictures_beside_them(file, tmp_path):
    redraw.main(str(file), str(tmp_path))
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn and drawn <= {path.name for path in file.parent.glob("*.png")}


def test_recorded_results_have_a_line_each():
    for file in DOCS.rglob("*.json"):
        lines = file.read_text().splitlines()
        assert lines[0] == "[" and lines[-1] == "]"
        assert len(lines) == len(json.loads(file.read_text())) + 2, file
