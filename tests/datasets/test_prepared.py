from __future__ import annotations

import shutil

import numpy as np
import pytest

from jax_softmax.datasets import load_dataset, prepared
from jax_softmax.datasets.catalog import CATALOG
from jax_softmax.errors import InputError


def rows(*splits):
    """Every example and its label as bytes, sorted: the same whatever order they came in."""
    return sorted(
        image.tobytes() + label.tobytes()
        for split in splits
        for image, label in zip(split.features, split.labels, strict=True)
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_is_the_same_by_either_route(split, raw_mnist, prepared_mnist):
    raw, from_folder = getattr(raw_mnist, split), getattr(prepared_mnist, split)
    for field in ("features", "labels"):
        assert getattr(raw, field).shape == getattr(from_folder, field).shape
        assert getattr(raw, field).dtype == getattr(from_folder, field).dtype
    assert raw.feature_scale == from_folder.feature_scale
    assert raw.class_names == from_folder.class_names
    assert rows(raw) == rows(from_folder)


def test_prepared_mnist_has_an_order_of_its_own(raw_mnist, prepared_mnist, prepared_data):
    np.testing.assert_array_equal(
        prepared_mnist.train.features[0], raw_mnist.train.features[16_399]
    )
    assert prepared_mnist.source == f"prepared TFDS folder {prepared_data / 'mnist' / '3.0.1'}"


def test_iris_is_the_same_by_either_route(real_data, prepared_data):
    raw = load_dataset("iris", raw_dir=real_data)
    from_folder = load_dataset("iris", data_dir=str(prepared_data))
    assert raw.class_names == from_folder.class_names
    assert from_folder.train.features.dtype == np.float32
    assert rows(raw.train, raw.test) == rows(from_folder.train, from_folder.test)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda folder: None, "no folder .*/data"),
        (lambda folder: folder.mkdir(), "no folder mnist in .*/data"),
        (lambda folder: (folder / "mnist").mkdir(parents=True), "neither of them there"),
    ],
)
def test_an_explicit_folder_without_the_dataset_is_an_error(make, found, tmp_path, asked):
    make(tmp_path / "data")
    with pytest.raises(InputError, match=f"expected a prepared TFDS folder, .*; found {found}"):
        load_dataset("mnist", data_dir=tmp_path / "data")
    assert not asked


def test_tfrecords_are_told_apart(tmp_path):
    version = tmp_path / "iris" / "2.1.0"
    version.mkdir(parents=True)
    (version / "dataset_info.json").touch()
    (version / "iris-train.tfrecord-00000-of-00001").touch()
    with pytest.raises(InputError, match="TFRecord files, which need .*\n.*file_format='array_rec"):
        load_dataset("iris", data_dir=tmp_path)


def test_the_newest_version_is_taken(tmp_path):
    for version in ("2.1.0", "10.0.0", "9.0.0", "scratch"):
        folder = tmp_path / "iris" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").touch()
        (folder / "iris-train.array_record-00000-of-00001").touch()
    (tmp_path / "iris" / "11.0.0").mkdir()
    assert prepared.find("iris", tmp_path) == tmp_path / "iris" / "10.0.0"


def truncate(path):
    path.write_bytes(path.read_bytes()[:100_000])


def corrupt(path):
    content = bytearray(path.read_bytes())
    content[100_000:100_100] = b"x" * 100
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("mnist-test.array_record-00000-of-00001", truncate),
        ("mnist-test.array_record-00000-of-00001", corrupt),
        ("mnist-test.array_record-00000-of-00001", empty),
        ("mnist-test.array_record-00000-of-00001", lambda path: path.unlink()),
        ("dataset_info.json", empty),
        ("features.json", lambda path: path.unlink()),
    ],
)
def test_a_damaged_folder_is_refused(name, damage, prepared_data, tmp_path, monkeypatch):
    # The training split would take seconds to read and is not what is damaged.
    monkeypatch.setitem(CATALOG["mnist"].__dict__, "rows", {"test": 10_000})
    source, version = prepared_data / "mnist" / "3.0.1", tmp_path / "data" / "mnist" / "3.0.1"
    shutil.copytree(source, version)
    damage(version / name)
    with pytest.raises(
        InputError, match=f"(?s)cannot read the prepared TFDS folder {version}.*got"
    ):
        load_dataset("mnist", data_dir=tmp_path / "data")


def test_nothing_is_printed(prepared_data, capfd, monkeypatch):
    monkeypatch.setitem(CATALOG["mnist"].__dict__, "rows", {"test": 10_000})
    prepared.read(CATALOG["mnist"], prepared_data / "mnist" / "3.0.1")
    assert capfd.readouterr() == ("", "")
