from __future__ import annotations

import pytest

from jax_softmax.datasets import DATASET_NAMES, load_dataset
from jax_softmax.datasets.catalog import CATALOG
from jax_softmax.datasets.registry import builder_class, registered_files
from jax_softmax.errors import InputError


def test_names():
    assert DATASET_NAMES == ("iris", "mnist", "digits")


@pytest.mark.parametrize(
    ("name", "near"),
    [("minst", "mnist"), ("MNSIT", "mnist"), ("irsi", "iris"), ("digit", "digits")],
)
def test_a_name_that_is_nearly_right_is_suggested(name, near):
    with pytest.raises(
        InputError, match=f"expected one of iris, mnist, digits, .* Did .* '{near}'"
    ):
        load_dataset(name)


@pytest.mark.parametrize("name", ["", "zzz", "no/../name"])
def test_a_name_unlike_any_other_is_not(name):
    with pytest.raises(
        InputError, match=r"unknown dataset .* the path of a table \(customers.csv\)\.$"
    ):
        load_dataset(name)


def test_what_reads_a_table_is_named():
    with pytest.raises(InputError, match=r"customers.csv: .* got a table; .*load_table\(path, lab"):
        load_dataset("customers.csv")


@pytest.mark.parametrize("name", ["DIGITS", "Digits", " digits "])
def test_case_does_not_count(name):
    assert load_dataset(name).name == "digits"


@pytest.mark.parametrize(
    "entry", [e for e in CATALOG.values() if e.file_sets], ids=lambda e: e.name
)
def test_the_catalog_agrees_with_tfds(entry):
    files = registered_files(entry)
    for names in entry.file_sets:
        assert all(files[name].size > 0 and len(files[name].sha256) == 64 for name in names)
    assert {files[name].url for name in entry.file_sets[0]} == {
        entry.base_url + name for name in entry.file_sets[0]
    }
    features = builder_class(entry)(data_dir="unused").info.features
    assert tuple(features["label"].names) == entry.class_names
    shape = features[entry.feature_key].shape
    assert shape[: len(entry.feature_shape)] == entry.feature_shape
