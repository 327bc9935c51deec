from __future__ import annotations

import numpy as np
import pytest
import sklearn.datasets
from sklearn.model_selection import train_test_split

from jax_softmax.datasets import load_dataset
from jax_softmax.datasets.assemble import assemble
from jax_softmax.datasets.catalog import CATALOG
from jax_softmax.errors import InputError

IRIS = CATALOG["iris"]


def test_the_split_is_scikit_learns():
    iris = sklearn.datasets.load_iris()
    expected = train_test_split(
        iris.data, iris.target, test_size=0.2, stratify=iris.target, random_state=42
    )
    found = load_dataset("iris", seed=42)
    parts = (found.train.features, found.test.features, found.train.labels, found.test.labels)
    for part, values in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part, values.astype(part.dtype))


@pytest.mark.parametrize("name", ["iris", "digits"])
def test_the_split_is_stratified_and_seeded(name):
    first, again, other = (load_dataset(name, seed=seed) for seed in (7, 7, 8))
    total = len(first.train.labels) + len(first.test.labels)
    assert len(first.test.labels) == -(-total // 5)
    shares = [np.bincount(s.labels) / len(s.labels) for s in (first.train, first.test)]
    np.testing.assert_allclose(*shares, atol=1 / len(first.test.labels))
    np.testing.assert_array_equal(first.train.features, again.train.features)
    np.testing.assert_array_equal(first.test.labels, again.test.labels)
    assert not np.array_equal(first.test.features, other.test.features)
    assert first.train.labels.dtype == np.int32


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range(seed):
    with pytest.raises(InputError, match=r"expected a seed from 0 to 2\*\*32 - 1, got"):
        load_dataset("iris", seed=seed)


def test_counts_are_checked():
    with pytest.raises(InputError, match=r"iris, train split, from here: .*\(150, 4\).*\(149, 4\)"):
        assemble(IRIS, {"train": (np.zeros((149, 4)), np.zeros(149, int))}, "here", 0)
    with pytest.raises(InputError, match=r"got features \(150, 4\) and labels \(149,\)"):
        assemble(IRIS, {"train": (np.zeros((150, 4)), np.zeros(149, int))}, "here", 0)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_named_with_its_row(label):
    labels = np.arange(150) % 3
    labels[17] = label
    with pytest.raises(InputError, match=f"expected labels from 0 to 2, got {label} in row 17"):
        assemble(IRIS, {"train": (np.zeros((150, 4)), labels)}, "here", 0)
