"""What the pictures of a run show, and that it can be read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jax_softmax import Evaluation
from jax_softmax.training import pictures


def history(losses):
    return [{"epoch": i, "train_loss": float(loss)} for i, loss in enumerate(losses, start=1)]


def evaluation(names, of="examples"):
    labels = np.arange(len(names), dtype=np.int32)
    return Evaluation(0.5, 1.0, labels, labels, tuple(names), of)


def test_a_curve_of_one_epoch_has_its_point():
    """A line needs two."""
    (axes,) = pictures.learning_curve(history([0.5])).axes
    (line,) = axes.lines
    assert line.get_marker() == "o"
    assert [tick for tick in axes.get_xticks() if tick % 1] == []


def test_a_loss_that_swings_from_step_to_step_is_a_line_in_a_band():
    trend = np.linspace(1.0, 0.5, 1000)
    swing = 0.1 * (-1.0) ** np.arange(1000)
    (axes,) = pictures.learning_curve(history(trend + swing)).axes
    (line,), (band,) = axes.lines, axes.collections
    inside = slice(5, -5)
    np.testing.assert_allclose(line.get_ydata()[inside], trend[inside], atol=1e-3)
    edges = band.get_paths()[0].vertices[:, 1]
    assert edges.min() == pytest.approx(0.4, abs=1e-3)
    assert edges.max() == pytest.approx(1.1, abs=1e-3)
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == [
        "training, mean over the epoch's steps\n(median of 10 epochs)",
        "least to largest of those 10",
    ]


def test_a_few_epochs_are_drawn_as_they_are():
    losses = [1.0, 0.5, 0.75, 0.25]
    (axes,) = pictures.learning_curve(history(losses)).axes
    assert list(axes.lines[0].get_ydata()) == losses
    assert axes.get_legend().get_texts()[0].get_text() == "training, mean over the epoch's steps"


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 23, 100, 1000, 4999])
def test_the_first_and_the_last_epoch_have_a_tick(epochs):
    (axes,) = pictures.learning_curve(history(np.ones(epochs))).axes
    ticks = [int(tick) for tick in axes.get_xticks()]
    assert ticks[0] == 1 and ticks[-1] == epochs
    assert len(ticks) <= 9
    gaps = np.diff(ticks)
    assert len(gaps) < 2 or gaps.min() >= gaps.max() / 3


def test_the_confusion_matrix_says_what_was_counted():
    for of, title in (("examples", "3 examples: "), ("test examples", "3 test examples: ")):
        axes = pictures.confusion_matrix(evaluation("abc", of)).axes[0]
        assert axes.get_title() == title + "100.00% right"


@pytest.mark.parametrize("classes", [3, 20, 30, 72, 73, 200])
def test_names_of_classes_stand_apart_and_are_names(classes):
    names = [f"{kind} number {i}" for i, kind in enumerate(["oak", "heron"] * (classes // 2 + 1))][
        :classes
    ]
    figure = pictures.confusion_matrix(evaluation(names))
    axes = figure.axes[0]
    figure.draw_without_rendering()
    for ticks, label in (
        (axes.get_xticklabels(), axes.get_xlabel()),
        (axes.get_yticklabels(), axes.get_ylabel()),
    ):
        said = [tick.get_text() for tick in ticks]
        every = names.index(said[1])
        assert said == names[::every] and len(said) >= min(classes, 36)
        assert (f"(1 of {every} is named)" in label) == (every > 1)
        boxes = [tick.get_window_extent() for tick in ticks]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_a_long_name_keeps_both_ends_and_a_dollar_is_no_formula():
    names = ["the long name of class 1", "the very long name of some class 2", "$5", "a $b$ c"]
    figure = pictures.confusion_matrix(evaluation(names))
    figure.draw_without_rendering()  # a formula that is none would raise
    said = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert said == [names[0], "the very lon…ome class 2", r"\$5", r"a \$b\$ c"]


def test_iterations_are_drawn_one_by_one_and_called_so():
    losses = np.geomspace(2.0, 0.5, 400)
    (axes,) = pictures.learning_curve(history(losses), "iteration").axes
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_ydata(), losses)
    assert axes.get_xlabel() == "iteration"
    assert line.get_label() == "training, with the penalty"
