"""What the trainers are given. Imports NumPy only, for processes that time something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jax_softmax.datasets import Dataset


@dataclass(frozen=True, eq=False)
class TrainTask:
    """Softmax regression by plain SGD from zeros.

    Attributes:
      dataset: what to train and test on.
      batch_size: examples to a step; None is all of them.
      learning_rate: of SGD.
    """

    dataset: Dataset
    batch_size: int | None = None
    learning_rate: float = 0.5

    @property
    def name(self) -> str:
        """Dataset and batch size in words."""
        size = "full batch" if self.batch_size is None else f"batch {self.batch_size}"
        return f"{self.dataset.name} epoch, {size}"

    @property
    def labels(self) -> np.ndarray:
        """`[N]` int32, those of the training examples."""
        return self.dataset.train.labels

    @property
    def classes(self) -> int:
        """V."""
        return len(self.dataset.class_names)

    def features(self, dtype: type[np.floating] = np.float32, *, test: bool = False) -> np.ndarray:
        """`[N, D]` features as most loops want them: floating and scaled."""
        split = self.dataset.test if test else self.dataset.train
        flat = split.features.reshape(len(split.labels), -1)
        return flat.astype(dtype) * dtype(split.feature_scale)

    def for_tutorial(self, dtype: type[np.floating], epochs: int) -> tuple[Any, ...]:
        """The arguments of `tutorial.train`."""
        features = self.features(dtype)
        return features, self.labels, self.classes, self.learning_rate, epochs, self.batch_size

    def accuracy(self, kernel: np.ndarray, bias: np.ndarray) -> float:
        """The share of the test examples whose likeliest class is their label."""
        logits = self.features(test=True) @ kernel + bias
        return float(np.mean(np.argmax(logits, axis=1) == self.dataset.test.labels))
