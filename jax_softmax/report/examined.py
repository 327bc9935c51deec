"""What examples with known labels tell of a model, beside its loss and accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jax_softmax.training import Evaluation, FitResult, SoftmaxModel, predict_proba
from jax_softmax.training.examples import Examples
from jax_softmax.training.mesh import MeshShape
from jax_softmax.training.streams import Streamed, is_stream

# Probabilities and features that are held at once.
_NUMBERS = 2**22
_BINS = 15
_MOST_MISTAKES = 24


@dataclasses.dataclass(frozen=True, eq=False)
class Mistake:
    """An example that is taken for another class.

    Attributes:
      row: which of the examples it is, from 0.
      label: its class.
      prediction: the class it is taken for.
      confidence: the probability of that class.
      label_probability: the probability of its own.
      features: as stored.
    """

    row: int
    label: int
    prediction: int
    confidence: float
    label_probability: float
    features: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Examined:
    """What the examples of an evaluation tell.

    Attributes:
      evaluation: loss, accuracy, labels and predictions.
      confidences: `[N]` the probability of each example's likeliest class.
      bins: `[15, 3]` for each fifteenth of the confidences from 0 to 1: how many examples are in
        it, the share of them that is right, and their mean confidence (0 where there are none).
      mistakes: the most confident ones, first of all the worst.
      spreads: `[D]` the standard deviation of each feature, as the kernel sees it (scaled).
    """

    evaluation: Evaluation
    confidences: np.ndarray
    bins: np.ndarray
    mistakes: tuple[Mistake, ...]
    spreads: np.ndarray

    @property
    def calibration_error(self) -> float:
        """The expected calibration error: the mean of |share right - confidence| over the bins."""
        counts, right, confidence = self.bins.T
        return float(np.sum(counts * np.abs(right - confidence)) / max(1, counts.sum()))


def examine(
    model: SoftmaxModel,
    examples: Examples | Streamed,
    evaluation: Evaluation,
    *,
    mesh: Mapping[str, int] | MeshShape | None = None,
) -> Examined:
    """Looks at each example once, a block at a time.

    Args:
      model: what `fit` or `load_run` returned.
      examples: a `Split` or a `Stream`.
      evaluation: what `evaluate` gave for these examples.
      mesh: the devices, as for `evaluate`.

    >>> import numpy as np
    >>> from jax_softmax import Split, TrainConfig, evaluate, fit
    >>> split = Split(np.array([[0.0], [1.0], [0.9]]), np.array([0, 1, 0]))
    >>> model = fit(split, TrainConfig(epochs=9))
    >>> seen = examine(model, split, evaluate(model, split))
    >>> seen.confidences.shape, len(seen.mistakes) == round(3 * (1 - seen.evaluation.accuracy))
    ((3,), True)
    """
    labels, predictions = evaluation.labels, evaluation.predictions
    if isinstance(model, FitResult):  # a table's columns have made features of it already
        model = dataclasses.replace(model, columns=None)
    confidences = np.zeros(len(labels), np.float64)
    mistakes: list[Mistake] = []
    sums = np.zeros((2, model.params["kernel"].shape[0]))
    first = None
    for rows, features in _blocks(model, examples, len(labels)):
        probabilities = predict_proba(model, features, mesh=mesh)
        among = np.arange(len(features))
        confidences[rows] = probabilities[among, predictions[rows]]
        flat = np.asarray(features, np.float64).reshape(len(features), -1) * model.feature_scale
        first = flat[0] if first is None else first
        flat = flat - first  # near 0: the squares would swallow the spread of features far from it
        sums += flat.sum(axis=0), np.square(flat).sum(axis=0)
        wrong = among[labels[rows] != predictions[rows]]
        likeliest_first = wrong[np.argsort(-confidences[rows][wrong], kind="stable")]
        for i in likeliest_first[:_MOST_MISTAKES]:
            row = rows.start + int(i)
            found = (int(labels[row]), int(predictions[row]), float(confidences[row]))
            own = float(probabilities[i, labels[row]])
            mistakes.append(Mistake(row, *found, own, np.asarray(features[i])))
        mistakes = sorted(mistakes, key=lambda m: (-m.confidence, m.row))[:_MOST_MISTAKES]
    mean, square = sums / max(1, len(labels))
    return Examined(
        evaluation,
        confidences,
        _binned(confidences, labels == predictions),
        tuple(mistakes),
        np.sqrt(np.maximum(square - mean**2, 0)),
    )


def _blocks(
    model: SoftmaxModel, examples: Examples | Streamed, count: int
) -> Iterator[tuple[slice, Any]]:
    size = max(1, _NUMBERS // max(model.params["kernel"].shape))
    whole = np.zeros(0) if is_stream(examples) else np.asarray(examples.features)
    for first in range(0, count, size):
        rows = slice(first, min(first + size, count))
        if is_stream(examples):
            yield rows, examples.read(np.arange(rows.start, rows.stop))[0]
        else:
            yield rows, whole[rows]


def _binned(confidences: np.ndarray, right: np.ndarray) -> np.ndarray:
    places = np.minimum((confidences * _BINS).astype(int), _BINS - 1)
    counts, *means = (
        np.bincount(places, weights, _BINS) for weights in (None, right.astype(float), confidences)
    )
    return np.stack([counts, *(total / np.maximum(counts, 1) for total in means)], axis=1)


def worst_confusions(confusion: np.ndarray) -> list[tuple[int, int] | None]:
    """For each class the one that its examples are most often taken for, and how many are.

    >>> worst_confusions(np.array([[5, 2, 1], [0, 9, 0], [3, 3, 0]]))
    [(1, 2), None, (0, 3)]
    """
    wrong = confusion * (1 - np.eye(len(confusion), dtype=confusion.dtype))
    worst = wrong.argmax(axis=1)
    return [
        (int(column), int(row[column])) if row[column] else None
        for row, column in zip(wrong, worst, strict=True)
    ]
