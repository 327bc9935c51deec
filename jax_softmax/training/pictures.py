"""The pictures of a run, as matplotlib figures that need no display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jax_softmax.training.metrics import Evaluation
    from jax_softmax.training.model import SoftmaxModel

_MOST_NUMBERED_CLASSES = 20
_MOST_WEIGHT_IMAGES = 40


def learning_curve(history: Sequence[dict[str, float]]) -> Figure:
    """Loss over the epochs and, where it was measured, the accuracy on validation examples."""
    from matplotlib.ticker import MaxNLocator

    watched = [record for record in history if "validation_loss" in record]
    figure = _figure(9 if watched else 6, 4)
    losses = figure.add_subplot(1, 2 if watched else 1, 1)
    point = "o" if len(history) == 1 else None  # a line needs two
    losses.plot(*_series(history, "train_loss"), marker=point, label="training")
    losses.set(xlabel="epoch", ylabel="cross-entropy (nats)", title="Loss")
    if watched:
        marker = "o" if len(watched) == 1 else None
        losses.plot(*_series(watched, "validation_loss"), marker=marker, label="test")
        losses.legend(frameon=False)
        accuracy = figure.add_subplot(1, 2, 2)
        accuracy.plot(*_series(watched, "validation_accuracy"), marker=marker, color="tab:orange")
        accuracy.set(xlabel="epoch", ylabel="share of examples", title="Accuracy (test)")
    for axes in figure.axes:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_matrix(evaluation: Evaluation) -> Figure:
    """Counts of each true class (rows) by predicted class, shaded by the share of the row."""
    counts = evaluation.confusion()
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(12.0, 3.0 + 0.5 * classes)
    figure = _figure(side + 1, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    title = f"Test examples: {evaluation.accuracy:.2%} right"
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    figure.colorbar(image, ax=axes, label="share of the true class")
    if classes <= _MOST_NUMBERED_CLASSES:
        axes.set_xticks(range(classes), evaluation.class_names)
        if max(map(len, evaluation.class_names)) > 3:
            axes.tick_params(axis="x", rotation=45)
        axes.set_yticks(range(classes), evaluation.class_names)
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color)
    return figure


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
        axes.set_title(name)
    figure.colorbar(drawn, ax=grid.ravel().tolist(), label="weight")
    return figure


def _figure(width: float, height: float) -> Figure:
    # Not pyplot, which keeps global state and costs most of matplotlib's import.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _series(history: Sequence[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    return [record["epoch"] for record in history], [record[name] for record in history]
