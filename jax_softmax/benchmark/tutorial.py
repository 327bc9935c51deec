"""The NumPy tutorial that this package comes from, repaired: a contender and the reference.

Repaired are what overflows (`exp` of large logits, `log(0)`), the gradient that overwrote the
probabilities in place, and one-hot labels used as indices. It computes in the dtype it is given:
float32 as a contender, so that NumPy moves as many bytes as the others; float64 as the reference.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

NUMPY = "NumPy tutorial"
"""Its name among the contenders."""

Params = tuple[np.ndarray, np.ndarray]
"""Kernel `[D, V]` and bias `[V]`."""


def softmax(x: np.ndarray) -> np.ndarray:
    """`exp(x_j) / sum_k exp(x_k)`, `[N, V]`."""
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def cross_entropy_losses(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`-log softmax(x)_y`, `[N]`."""
    x = x - x.max(axis=1, keepdims=True)
    return np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(labels)), labels]


def cross_entropy(x: np.ndarray, labels: np.ndarray) -> np.floating:
    """The mean of `-log softmax(x)_y` over the rows."""
    return cross_entropy_losses(x, labels).mean()


def softmax_backward(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The gradient of the mean loss by the logits, from `p = softmax(x)`: `(p - onehot(y)) / N`."""
    gradient = p.copy()
    gradient[np.arange(len(labels)), labels] -= 1
    gradient /= len(labels)
    return gradient


def train(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    learning_rate: float,
    epochs: int,
    batch_size: int | None = None,
) -> Params:
    """The parameters after so many epochs of `train_epochs`."""
    loop = train_epochs(features, labels, classes, learning_rate, batch_size)
    return next(itertools.islice(loop, epochs - 1, None))


def train_epochs(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    learning_rate: float,
    batch_size: int | None = None,
) -> Iterator[Params]:
    """The tutorial's loop, from zeros, without end: gives the parameters after each epoch.

    Args:
      features: `[N, D]` floating, whose dtype is computed in.
      labels: `[N]` integers in `[0, classes)`.
      classes: V.
      learning_rate: of plain gradient descent.
      batch_size: None is the full batch, as in the tutorial; else examples are shuffled.
    """
    examples, width = features.shape
    kernel, bias = np.zeros((width, classes), features.dtype), np.zeros(classes, features.dtype)
    rng = np.random.default_rng(0)
    losses = []
    while True:
        for x, y in _batches(features, labels, batch_size or examples, rng):
            p = softmax(x @ kernel + bias)
            # Of p, as in the tutorial: the logits would have to go through exp once more.
            at_label = p[np.arange(len(y)), y]
            losses.append(-np.log(np.maximum(at_label, np.finfo(p.dtype).tiny)).mean())
            gradient = softmax_backward(p, y)
            kernel -= learning_rate * (x.T @ gradient)
            bias -= learning_rate * gradient.sum(axis=0)
        yield kernel, bias


def _batches(
    features: np.ndarray, labels: np.ndarray, size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if size >= len(labels):
        yield features, labels
        return
    order = rng.permutation(len(labels))
    for first in range(0, len(labels), size):
        rows = order[first : first + size]
        yield features[rows], labels[rows]
