"""From a source's arrays to a `Dataset`: checked, and split where there is no test split."""

from __future__ import annotations

import numpy as np

from jax_softmax.datasets.catalog import Entry
from jax_softmax.datasets.types import Dataset, Split, Tables
from jax_softmax.errors import InputError

TEST_SHARE = 0.2


def assemble(entry: Entry, tables: Tables, source: str, seed: int) -> Dataset:
    """Check the arrays of a source against the catalog and make a dataset of them.

    A dataset without a test split of its own is shuffled and divided 80/20, each class in the
    same proportion, with scikit-learn's `train_test_split(random_state=seed)`.

    Raises:
      InputError: The arrays do not have the catalog's counts or shapes, or a label is no class.
    """
    for split in entry.rows:
        _check(entry, split, *tables[split], source)
    if "test" not in entry.rows:
        tables = divide(*tables["train"], seed)
    train, test = (
        Split(features, labels.astype(np.int32), entry.class_names, entry.feature_scale)
        for features, labels in (tables["train"], tables["test"])
    )
    return Dataset(entry.name, train, test, source)


def _check(entry: Entry, split: str, features: np.ndarray, labels: np.ndarray, source: str) -> None:
    where = f"{entry.name}, {split} split, from {source}"
    expected = (entry.rows[split], *entry.feature_shape)
    if features.shape != expected or labels.shape != expected[:1]:
        raise InputError(
            f"{where}: expected features of shape {expected} and a label for each, got features "
            f"{features.shape} and labels {labels.shape}; replace the source or choose another."
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= len(entry.class_names)))
    if wrong.size:
        row = wrong[0]
        raise InputError(
            f"{where}: expected labels from 0 to {len(entry.class_names) - 1}, got {labels[row]} "
            f"in row {row}; replace the source or choose another."
        )


def divide(features: np.ndarray, labels: np.ndarray, seed: int) -> Tables:
    """A fifth of each class split off, by the seed."""
    from sklearn.model_selection import train_test_split

    train_features, test_features, train_labels, test_labels = train_test_split(
        features, labels, test_size=TEST_SHARE, stratify=labels, random_state=seed
    )
    return {"train": (train_features, train_labels), "test": (test_features, test_labels)}
