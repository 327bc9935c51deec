"""The order of the sources, and what beats what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jax_softmax.datasets import load_dataset
from jax_softmax.datasets.catalog import CATALOG
from jax_softmax.datasets.iris_table import parse_iris
from jax_softmax.errors import InputError


@pytest.fixture
def raw_variable(real_data, monkeypatch):
    monkeypatch.setenv("JAX_SOFTMAX_RAW_DIR", str(real_data))


@pytest.fixture
def data_variable(prepared_data, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_data))


@pytest.mark.usefixtures("raw_variable", "data_variable")
def test_raw_files_come_before_a_prepared_folder(asked):
    assert load_dataset("iris").source.startswith("raw files in")
    assert not asked


@pytest.mark.usefixtures("data_variable")
def test_a_prepared_folder_comes_before_the_network(asked):
    assert load_dataset("iris").source.startswith("prepared TFDS folder")
    assert not asked


def test_the_default_prepared_folder(prepared_data):
    (Path.home() / "tensorflow_datasets").symlink_to(prepared_data)
    assert load_dataset("iris").source.startswith(f"prepared TFDS folder {Path.home()}")


def test_tfds_data_dir_beats_the_default_folder(prepared_data, tmp_path, monkeypatch):
    (Path.home() / "tensorflow_datasets").symlink_to(prepared_data)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "empty"))
    assert "bundled" in load_dataset("iris").source


@pytest.mark.usefixtures("raw_variable")
def test_the_data_flag_beats_the_raw_variable(prepared_data, tmp_path):
    assert load_dataset("iris", data_dir=prepared_data).source.startswith("prepared")
    with pytest.raises(InputError, match="expected a prepared TFDS folder"):
        load_dataset("iris", data_dir=tmp_path)


@pytest.mark.usefixtures("data_variable")
def test_the_raw_flag_beats_both_variables(placed, real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_SOFTMAX_RAW_DIR", str(real_data))
    assert str(placed) in load_dataset("iris", raw_dir=placed).source
    with pytest.raises(InputError, match="missing"):
        load_dataset("iris", raw_dir=tmp_path)


def test_the_raw_flag_comes_before_the_data_flag(placed, prepared_data):
    dataset = load_dataset("iris", raw_dir=placed, data_dir=prepared_data)
    assert dataset.source.startswith("raw files in")


def test_a_raw_variable_without_this_dataset_is_passed_over(placed, monkeypatch):
    (placed / "iris" / "iris.zip").unlink()
    monkeypatch.setenv("JAX_SOFTMAX_RAW_DIR", str(placed))
    assert "bundled" in load_dataset("iris").source
    assert load_dataset("mnist").source.startswith("raw files")


def test_a_raw_variable_with_some_of_the_files_is_not(placed, monkeypatch):
    (placed / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("JAX_SOFTMAX_RAW_DIR", str(placed))
    with pytest.raises(InputError, match="missing:\n  t10k-labels-idx1-ubyte.gz  SHA-256 f7ae60"):
        load_dataset("mnist")


def test_a_raw_variable_that_leads_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_SOFTMAX_RAW_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="found nothing; .* or JAX_SOFTMAX_RAW_DIR"):
        load_dataset("iris")


def test_empty_variables_are_no_variables(monkeypatch):
    monkeypatch.setenv("JAX_SOFTMAX_RAW_DIR", "")
    monkeypatch.setenv("TFDS_DATA_DIR", "")
    assert "bundled" in load_dataset("iris").source


def test_a_tilde_is_the_home_folder(placed):
    (Path.home() / "raw").symlink_to(placed)
    assert str(Path.home() / "raw" / "iris") in load_dataset("iris", raw_dir="~/raw").source


@pytest.mark.usefixtures("raw_variable", "data_variable")
def test_digits_come_with_scikit_learn(asked):
    digits = load_dataset("digits")
    assert digits.source == "scikit-learn's bundled copy"
    assert digits.train.features.dtype == np.uint8
    assert digits.train.features.shape[1:] == (8, 8)
    assert digits.train.features.max() == 16 and digits.train.feature_scale == 1 / 16
    assert not asked


@pytest.mark.parametrize("flag", ["raw_dir", "data_dir"])
def test_digits_cannot_come_from_a_folder(flag, tmp_path):
    with pytest.raises(InputError, match="digits comes only with scikit-learn.*drop --raw-dir"):
        load_dataset("digits", **{flag: tmp_path})


def test_the_bundled_iris_differs_in_the_rows_that_it_says(real_data):
    from jax_softmax.datasets import bundled

    uci = parse_iris({"iris.data": (real_data / "iris" / "iris.data").read_bytes()})["train"]
    tables, source = bundled.read(CATALOG["iris"])
    differ = np.flatnonzero((tables["train"][0] != uci[0]).any(axis=1))
    assert [f"{row + 1}" for row in differ] == ["35", "38"] and "(35 and 38," in source
    np.testing.assert_array_equal(tables["train"][1], uci[1])


def test_the_import_is_light():
    heavy = ("tensorflow_datasets", "sklearn", "jax", "matplotlib", "requests", "PIL")
    script = f"import sys, jax_softmax.datasets; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout == "[]\n"
