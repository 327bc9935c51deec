"""The pictures that only the page has; those of the run folder are in `training/pictures.py`."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jax_softmax.report.examined import Examined
from jax_softmax.training import SoftmaxModel
from jax_softmax.training.pictures import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_FEATURES, _MOST_CLASSES = 20, 12
_LONGEST_NAME = 32
_FEW = 10  # examples, of which a share says little


def reliability(examined: Examined) -> Figure:
    """The share of right predictions against their probability, and how many there are of each."""
    from matplotlib.figure import Figure

    counts, right, _ = examined.bins.T
    figure = Figure(figsize=(7.6, 5.2), dpi=120, layout="constrained")
    shares, numbers = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, len(counts) + 1)
    bar = {"width": edges[1], "align": "edge", "edgecolor": "white"}
    few = counts < _FEW
    for which, alpha, label in ((~few, 0.7, "right"), (few, 0.25, f"right, of fewer than {_FEW}")):
        if (which & (counts > 0)).any():
            places, heights = edges[:-1][which], right[which]
            shares.bar(places, heights, color="tab:blue", alpha=alpha, label=label, **bar)
    shares.plot([0, 1], [0, 1], color="black", linewidth=1.4, linestyle="--", label="calibrated")
    shares.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    shares.set_title(f"Expected calibration error {examined.calibration_error:.4f}")
    # Beside the bars: within, one that is as high as it may be is under it.
    shares.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    numbers.bar(edges[:-1], counts, color="0.6", **bar)
    numbers.set(xlabel="probability of the predicted class", ylabel="examples")
    for axes in (shares, numbers):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def coefficients(model: SoftmaxModel, spreads: np.ndarray, feature_names: Sequence[str]) -> Figure:
    """The features that move the logits most: their coefficients times their standard deviation.

    Args:
      model: of features that are no images.
      spreads: `[D]` the standard deviations.
      feature_names: `D` names; none are numbered from 0.
    """
    from matplotlib.figure import Figure

    # As much as one standard deviation moves each logit, of the mean of all logits.
    kernel = np.asarray(model.params["kernel"], np.float64)
    moved = (kernel - kernel.mean(axis=1, keepdims=True)) * spreads[:, None]
    rows = np.argsort(-np.abs(moved).max(axis=1), kind="stable")[:_MOST_FEATURES]
    columns = np.sort(np.argsort(-np.abs(moved[rows]).max(axis=0), kind="stable")[:_MOST_CLASSES])
    shown = moved[np.ix_(rows, columns)]
    names = list(feature_names) or [f"feature {i}" for i in range(len(moved))]
    classes = [plain(model.class_names[i], 20) for i in columns]
    width, height = 3.5 + 0.75 * len(columns), 2.2 + 0.32 * len(rows)
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    limit = float(np.abs(shown).max()) or 1.0
    image = axes.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_yticks(range(len(rows)), [plain(names[i], _LONGEST_NAME) for i in rows])
    axes.set_xticks(range(len(columns)), classes, rotation=90 if max(map(len, classes)) > 3 else 0)
    for (row, column), value in np.ndenumerate(shown):
        color = "white" if abs(value) > 0.6 * limit else "black"
        axes.text(column, row, f"{value:.2g}", ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, label="coefficient × standard deviation", fraction=0.08)
    return figure


def as_uri(png: bytes) -> str:
    """A picture as part of a page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def drawn(figure: Figure) -> str:
    """A figure as part of a page: the same bytes for the same figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return as_uri(file.getvalue())


def is_picture(shape: Sequence[int]) -> bool:
    """Whether an example is `[height, width]`, grey (`[..., 1]`) or in colour (`[..., 3]`)."""
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def photograph(features: np.ndarray, scale: float) -> str:
    """An example that is a picture, as part of a page; stored numbers run from 0 to 1 / scale."""
    from PIL import Image

    pixels = np.clip(np.asarray(features, np.float64) * scale * 255, 0, 255).round()
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, format="PNG")
    return as_uri(file.getvalue())
