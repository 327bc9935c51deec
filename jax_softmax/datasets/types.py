"""What a dataset is once it has been read: two splits of arrays and where they came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Tables = dict[str, tuple[np.ndarray, np.ndarray]]
"""Split name to `(features [N, ...], labels [N])`, as a source delivers them."""


@dataclass(frozen=True, eq=False)
class Split:
    """Examples and their labels.

    Attributes:
      features: `[N, ...]` as stored: uint8 pixels, or float32 measurements.
      labels: `[N]` int32 from `load_dataset`, each in `[0, number of classes)`; one's own may be of
        any integer dtype, or one-hot `[N, V]`.
      class_names: The name of each class, in the order of the labels; may be empty.
      feature_scale: What to multiply the stored features by: 1/255 for 8-bit pixels.
    """

    features: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    feature_scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training split, a test split, and where both came from.

    Attributes:
      name: The name it was loaded by, in lower case.
      train: The examples to train on.
      test: The examples to test on.
      source: One line for people: `"raw files in /data/mnist (SHA-256 verified)"`.
    """

    name: str
    train: Split
    test: Split
    source: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, in the order of the labels."""
        return self.train.class_names
