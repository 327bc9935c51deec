"""The pictures of a run, as matplotlib figures that need no display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jax_softmax.training.metrics import Evaluation
    from jax_softmax.training.model import SoftmaxModel

_MOST_NUMBERED_CLASSES = 20
_MOST_NAMED_CLASSES = 72  # their names stand beside one another, and can be read
_LONGEST_NAME, _LONGEST_TITLE = 24, 14
_MOST_WEIGHT_IMAGES = 40
# Losses of more epochs are closer than pixels: what swings from one to the next would be a smear.
_MOST_EPOCHS_BY_POINT = 150


def learning_curve(history: Sequence[dict[str, float]], turn: str = "epoch") -> Figure:
    """Loss over the epochs and, where it was measured, the accuracy on held-out examples.

    Of more than 150 epochs the training loss is drawn as a running median, over a hundredth of the
    epochs, in a band from the least to the largest of those.

    Args:
      history: of a `FitResult`.
      turn: what its records are of, epochs of steps or iterations towards an optimum.
    """
    watched = [record for record in history if "validation_loss" in record]
    figure = _figure(11 if watched else 6.5, 4.2)
    losses = figure.add_subplot(1, 2 if watched else 1, 1)
    _training_loss(losses, *_series(history, "train_loss"), turn)
    losses.set(xlabel=turn, ylabel="cross-entropy (nats)", title="Loss")
    if watched:
        marker = "o" if len(watched) == 1 else None  # a line needs two
        epochs, values = _series(watched, "validation_loss")
        losses.plot(epochs, values, marker=marker, label="held-out examples, after the epoch")
        accuracy = figure.add_subplot(1, 2, 2)
        accuracy.plot(*_series(watched, "validation_accuracy"), marker=marker, color="tab:orange")
        accuracy.set(
            xlabel="epoch", ylabel="share of examples", title="Accuracy, held-out examples"
        )
    losses.legend(frameon=False, fontsize=8)
    for axes in figure.axes:
        _epoch_ticks(axes, int(history[-1]["epoch"]) if history else 1)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _training_loss(axes: Axes, epochs: Sequence[float], losses: Sequence[float], turn: str) -> None:
    steps = turn == "epoch"
    mean = "training, mean over the epoch's steps" if steps else "training, with the penalty"
    if len(epochs) <= _MOST_EPOCHS_BY_POINT or not steps:  # no iteration rises, so none is a smear
        axes.plot(epochs, losses, marker="o" if len(epochs) == 1 else None, label=mean)
        return
    # An even number: the median of an odd one would swing with a loss that rises and falls in turn.
    around = max(2, len(epochs) // 200 * 2)
    padded = np.pad(np.asarray(losses, np.float64), (around // 2, around // 2 - 1), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, around)
    (line,) = axes.plot(
        epochs, np.median(windows, axis=1), label=f"{mean}\n(median of {around} epochs)"
    )
    axes.fill_between(
        epochs,
        windows.min(axis=1),
        windows.max(axis=1),
        color=line.get_color(),
        alpha=0.25,
        linewidth=0,
        label=f"least to largest of those {around}",
    )


def _epoch_ticks(axes: Axes, last: int) -> None:
    """Ticks at round epochs, the first and the last: nobody looks for the end of a run."""
    from matplotlib.ticker import MaxNLocator

    steps = MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]).tick_values(0, last)
    apart = (steps[1] - steps[0]) / 2
    between = [tick for tick in steps if 1 + apart <= tick <= last - apart]
    axes.set_xticks(sorted({1, *map(int, between), last}))


def confusion_matrix(evaluation: Evaluation) -> Figure:
    """Counts of each true class (rows) by predicted class, shaded by the share of the row."""
    from matplotlib.colors import PowerNorm

    counts = evaluation.confusion()
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 3 + 0.5 * min(classes, 20) + 0.1 * max(0, min(classes, _MOST_NAMED_CLASSES) - 20)
    figure = _figure(side + 1, side)
    axes = figure.add_subplot()
    # By the root of the share: one mistake in fifty must be seen.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    axes.set_title(f"{len(evaluation.labels):,} {evaluation.of}: {evaluation.accuracy:.2%} right")
    ticks = [0, 0.02, 0.1, 0.25, 0.5, 1]
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.04, ticks=ticks)
    _name_classes(axes, evaluation.class_names)
    if classes <= _MOST_NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.3 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color)
    return figure


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    """Names the rows and columns, or as many of them as can be read, at equal distances."""
    every = math.ceil(len(names) / _MOST_NAMED_CLASSES)
    places = range(0, len(names), every)
    said = [plain(names[place], _LONGEST_NAME) for place in places]
    size = 10 if len(names) <= _MOST_NUMBERED_CLASSES else max(7, 10 - len(names) // 16)
    axes.set_xticks(places, said, fontsize=size)
    axes.set_yticks(places, said, fontsize=size)
    if max(map(len, said)) > 3 or len(said) > _MOST_NUMBERED_CLASSES:
        axes.tick_params(axis="x", rotation=90)
    rest = f" (1 of {every} is named)" if every > 1 else ""
    axes.set(xlabel=f"predicted class{rest}", ylabel=f"true class{rest}")


def plain(name: str, longest: int) -> str:
    """A class's name as a picture shows it: both ends of a long one, and a $ is no formula.

    >>> plain("long-legged heron number 17", 14)
    'long-le…ber 17'
    """
    half = longest // 2
    short = name if len(name) <= longest else f"{name[:half]}…{name[half + 1 - longest :]}"
    return short.replace("$", r"\$")


def class_weights(model: SoftmaxModel) -> Figure:
    """The kernel of each class as an image: red speaks for the class, blue against it."""
    shown = min(len(model.class_names), _MOST_WEIGHT_IMAGES)
    columns = math.ceil(math.sqrt(2 * shown))
    rows = math.ceil(shown / columns)
    kernel = np.asarray(model.params["kernel"], np.float32)[:, :shown]
    # The outermost weights are few: scaling by them would leave the rest pale.
    limit = float(np.quantile(np.abs(kernel), 0.995)) or 1.0
    figure = _figure(1.5 * columns + 1, 1.7 * rows)
    images = kernel.T.reshape(shown, *model.feature_shape)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, name in zip(grid.flat, images, model.class_names, strict=False):
        # Colour channels, where there are any, are summed: the sign is what is shown.
        flat = image.sum(axis=tuple(range(2, image.ndim)))
        drawn = axes.imshow(flat, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_title(plain(name, _LONGEST_TITLE), fontsize=10)
    figure.colorbar(drawn, ax=grid.ravel().tolist(), label="weight")
    return figure


def _figure(width: float, height: float) -> Figure:
    # Not pyplot, which keeps global state and costs most of matplotlib's import.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _series(history: Sequence[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    return [record["epoch"] for record in history], [record[name] for record in history]
