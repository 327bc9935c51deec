"""What the trainers are given and give. Imports NumPy only: each process loads what it times."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class TrainTask:
    """Softmax regression by plain SGD from zeros.

    Attributes:
      features: `[N, D]` uint8, the training examples.
      labels: `[N]` int32.
      test_features: `[M, D]` uint8.
      test_labels: `[M]` int32.
      classes: V.
      scale: what a stored feature is multiplied by.
      batch_size: examples to a step; None is all of them.
      learning_rate: of SGD.
      platform: what JAX computes on, "cpu", "gpu" or "tpu", for those who do not import it.
    """

    features: np.ndarray
    labels: np.ndarray
    test_features: np.ndarray
    test_labels: np.ndarray
    classes: int
    scale: float
    batch_size: int | None = None
    learning_rate: float = 0.5
    platform: str = "cpu"

    @property
    def batches(self) -> str:
        """The batch size in words."""
        return "full batch" if self.batch_size is None else f"batch {self.batch_size}"

    def scaled(self, dtype: type[np.floating] = np.float32) -> np.ndarray:
        """The training features as most loops want them: floating and scaled."""
        return self.features.astype(dtype) * dtype(self.scale)

    def scaled_test(self) -> np.ndarray:
        """The test features likewise, in float32."""
        return self.test_features.astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True, eq=False)
class Trained:
    """Parameters after so many epochs.

    Attributes:
      kernel: `[D, V]`.
      bias: `[V]`.
      compile_seconds: what compiling took before the first epoch; None where nothing is compiled.
    """

    kernel: np.ndarray
    bias: np.ndarray
    compile_seconds: float | None = None

    def accuracy(self, task: TrainTask) -> float:
        """The share of the test examples whose likeliest class is their label."""
        return accuracy(task.scaled_test() @ self.kernel + self.bias, task.test_labels)


@dataclass(frozen=True)
class Reached:
    """How far training to a target came.

    Attributes:
      accuracy: on the test examples, at the end.
      epochs: passes over the training examples (iterations of L-BFGS).
    """

    accuracy: float
    epochs: int


@dataclass(frozen=True)
class Trainer:
    """A way to train, its data in place. Every call starts from zeros.

    Attributes:
      train: trains for so many epochs.
      train_to: trains until the test accuracy, looked at after each epoch, is at a target, or for
        so many epochs at most.
      note: what else to know.
      search_seconds: what was spent on the best number of threads, which is not training.
    """

    train: Callable[[int], Trained]
    train_to: Callable[[float, int], Reached]
    note: str = ""
    search_seconds: float = 0.0


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of rows whose largest logit is their label's."""
    return float(np.mean(np.argmax(logits, axis=1) == labels))


_ARRAYS = ("features", "labels", "test_features", "test_labels")
_NUMBERS = ("classes", "scale", "batch_size", "learning_rate", "platform")


def save_task(task: TrainTask, folder: Path) -> None:
    """Writes the task into a folder, for another process."""
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", getattr(task, name))
    numbers = {name: getattr(task, name) for name in _NUMBERS}
    (folder / "task.json").write_text(json.dumps(numbers))


def load_task(folder: Path) -> TrainTask:
    """Reads what `save_task` wrote."""
    arrays = {name: np.load(folder / f"{name}.npy") for name in _ARRAYS}
    return TrainTask(**arrays, **json.loads((folder / "task.json").read_text()))
