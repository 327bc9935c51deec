"""The table of datasets: all that tells one from another, a row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jax_softmax.datasets.idx import parse_mnist
from jax_softmax.datasets.iris_table import IRIS_CLASSES, parse_iris
from jax_softmax.datasets.types import Tables

_DIGIT_NAMES = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True)
class Entry:
    """One dataset.

    Attributes:
      name: Its name here, in TFDS and as a folder.
      class_names: TFDS's names of the classes.
      feature_shape: The shape of one example.
      feature_scale: What to multiply stored features by.
      rows: Split name to number of examples. A dataset with no test split of its own has one
        split, `"train"`, which is divided when it is loaded.
      feature_key: What TFDS calls the features.
      file_sets: The raw files by the names TFDS registers them under. Each set is complete by
        itself; the first is the one that TFDS downloads today. Empty: not in TFDS.
      base_url: The address the first set lies under. TFDS has it too, but is imported only once
        this address has answered.
      parse: Turns one set, file name to content, into arrays.
      bundled: The function of `sklearn.datasets` that returns scikit-learn's copy, if it has one.
      bundled_source: What to say of that copy.
    """

    name: str
    class_names: tuple[str, ...]
    feature_shape: tuple[int, ...]
    feature_scale: float
    rows: Mapping[str, int]
    feature_key: str = "image"
    file_sets: tuple[tuple[str, ...], ...] = ()
    base_url: str = ""
    parse: Callable[[Mapping[str, bytes]], Tables] = field(default=lambda files: {})
    bundled: str = ""
    bundled_source: str = ""


CATALOG: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="iris",
            class_names=IRIS_CLASSES,
            feature_shape=(4,),
            feature_scale=1.0,
            rows={"train": 150},
            feature_key="features",
            file_sets=(("iris.zip",), ("iris.data",)),
            base_url="https://archive.ics.uci.edu/static/public/53/",
            parse=parse_iris,
            bundled="load_iris",
            bundled_source="scikit-learn's bundled copy (no network, nothing placed); "
            "it differs from UCI's in two rows (35 and 38, counted from 1)",
        ),
        Entry(
            name="mnist",
            class_names=_DIGIT_NAMES,
            feature_shape=(28, 28),
            feature_scale=1 / 255,
            rows={"train": 60_000, "test": 10_000},
            file_sets=(
                (
                    "train-images-idx3-ubyte.gz",
                    "train-labels-idx1-ubyte.gz",
                    "t10k-images-idx3-ubyte.gz",
                    "t10k-labels-idx1-ubyte.gz",
                ),
            ),
            base_url="https://storage.googleapis.com/cvdf-datasets/mnist/",
            parse=parse_mnist,
        ),
        Entry(
            name="digits",
            class_names=_DIGIT_NAMES,
            feature_shape=(8, 8),
            feature_scale=1 / 16,
            rows={"train": 1_797},
            bundled="load_digits",
            bundled_source="scikit-learn's bundled copy",
        ),
    )
}

DATASET_NAMES: tuple[str, ...] = tuple(CATALOG)
