"""What a dataset is once it has been read: two splits of arrays and where they came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jax_softmax._checks import check_class_names, check_feature_scale, classes_shown, shown
from jax_softmax._columns import Columns
from jax_softmax.errors import InputError

Tables = dict[str, tuple[np.ndarray, np.ndarray]]
"""Split name to `(features [N, ...], labels [N])`, as a source delivers them."""


@dataclass(frozen=True, eq=False)
class Split:
    """Examples and their labels.

    Attributes:
      features: `[N, ...]` as stored: uint8 pixels, or float32 measurements. One's own may be a data
        frame of numbers.
      labels: `[N]` int32 from `load_dataset`, each in `[0, number of classes)`; one's own may be of
        any integer dtype, one-hot `[N, V]`, or names: strings, booleans, categories.
      class_names: The name of each class, in the order of the labels; may be empty. Integers among
        them are turned into strings.
      feature_scale: What to multiply the stored features by: 1/255 for 8-bit pixels.
      standardize: Whether `fit` trains on features of mean 0 and deviation 1 (of these examples).
        The model that it returns is one of the features as they are here.
      columns: What made the features of a table's columns (`load_table`); else None.

    Raises:
      InputError: The class names are no sequence of different names, or the scale is no finite
        number above 0. `fit` and `evaluate` check features and labels.

    See Also:
      `Stream` for files larger than memory; `load_dataset`; `fit`.

    >>> Split(np.zeros((2, 3)), np.array(["no", "yes"]), class_names=["no", "yes"]).class_names
    ('no', 'yes')
    """

    features: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    feature_scale: float = 1.0
    columns: Columns | None = None
    standardize: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", check_class_names(self.class_names))
        if not isinstance(self.standardize, bool):
            raise InputError(f"standardize: expected True or False, got {shown(self.standardize)}.")
        object.__setattr__(self, "feature_scale", check_feature_scale(self.feature_scale))

    def __repr__(self) -> str:
        """A line: shape and dtype, classes and scale, and no number of the arrays."""
        scaled = "" if self.feature_scale == 1 else f", feature_scale {self.feature_scale:.6g}"
        return f"<Split: {_shape(self)}, {classes_shown(self.class_names)}{scaled}>"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training split, a test split, and where both came from.

    Attributes:
      name: The name it was loaded by, in lower case.
      train: The examples to train on.
      test: The examples to test on.
      source: One line for people: `"raw files in /data/mnist (SHA-256 verified)"`.

    Raises:
      InputError: One of them is of another type.

    See Also:
      `load_dataset`; `Split`.

    >>> import numpy as np
    >>> half = Split(np.zeros((2, 3)), np.array([0, 1]))
    >>> Dataset("mine", train=half, test=half, source="made here").name
    'mine'
    """

    name: str
    train: Split
    test: Split
    source: str

    def __post_init__(self) -> None:
        for field, kind in (("name", str), ("train", Split), ("test", Split), ("source", str)):
            value = getattr(self, field)
            if not isinstance(value, kind):
                raise InputError(
                    f"{field}: expected a {kind.__name__}, got {type(value).__name__}."
                )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, in the order of the labels."""
        return self.train.class_names

    def __repr__(self) -> str:
        """A few lines: what its splits are, and where they came from."""
        return "\n".join(
            [
                f"<Dataset {self.name}: {classes_shown(self.class_names)}",
                f"  train   {_shape(self.train)}",
                f"  test    {_shape(self.test)}",
                f"  source  {self.source}>",
            ]
        )


def _shape(split: Split) -> str:
    """`120 examples of [4] float32`; of what has no shape, its type."""
    shape = getattr(split.features, "shape", None)
    if not isinstance(shape, tuple) or not shape:
        return f"features in a {type(split.features).__name__}"
    dtype = getattr(split.features, "dtype", "")  # a data frame has one for each column
    return f"{shape[0]:,} examples of {list(shape[1:])} {dtype}".rstrip()
