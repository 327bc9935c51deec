"""Other classification sets of TFDS by name: from prepared folders, or prepared on the spot."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from jax_softmax import InputError, evaluate, fit, load_dataset
from jax_softmax.datasets import named, network, stream_tfds
from jax_softmax.datasets.load_stream import load_stream
from tests.datasets import prepare

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 4, 5, 3), dtype=np.uint8)
CLASSES = ["shirt", "shoe"]


def _pictures(rows):
    return [{"image": prepare.png(PIXELS[i]), "label": i % 2} for i in rows]


@pytest.fixture
def pictures(tmp_path):
    """Writes a set of pictures of two classes under a name."""

    def write(name="fashion_mnist", splits=("train", "test"), folder=tmp_path / "tfds"):
        features = {"image": prepare.image((4, 5, 3)), "label": prepare.label(2)}
        rows = {split: _pictures(range(i, 40, 2 + i)) for i, split in enumerate(splits)}
        if len(splits) == 1:
            rows = {splits[0]: _pictures(range(40))}
        prepare.write(folder, name, features, ("image", "label"), rows, {"label": CLASSES})
        return folder

    return write


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("fashion_mnist", "fashion_mnist"),
        ("fashion_mnist", " Fashion_MNIST "),
        ("emnist/balanced", "emnist/balanced"),
        ("emnist/balanced", "emnist"),
        ("my_own_pictures", "my_own_pictures"),
    ],
)
def test_pictures_are_read_by_name(pictures, name, asked):
    dataset = load_dataset(asked, data_dir=pictures(name))
    assert dataset.name == asked.strip().lower()
    assert dataset.class_names == ("shirt", "shoe")
    np.testing.assert_array_equal(dataset.train.features, PIXELS[::2])
    np.testing.assert_array_equal(dataset.test.features, PIXELS[1::3])
    assert dataset.test.labels.tolist() == [i % 2 for i in range(1, 40, 3)]
    assert dataset.train.feature_scale == 1 / 255
    assert f"{name}/1.0.0" in dataset.source


def test_the_folder_of_the_surroundings_is_looked_in(pictures, surroundings, monkeypatch):
    folder = pictures("kmnist", folder=surroundings / "home" / "tensorflow_datasets")
    assert len(load_dataset("kmnist").train.labels) == 20
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder / "nowhere"))
    with pytest.raises(InputError, match="kmnist is not prepared in .*nowhere"):
        load_dataset("kmnist")


def test_validation_examples_stand_for_test_examples(pictures):
    folder = pictures(splits=("train", "validation"))
    assert len(load_dataset("fashion_mnist", data_dir=folder).test.labels) == 13


def test_without_such_a_split_a_fifth_of_each_class_is_split_off(pictures):
    folder = pictures(splits=("train",))
    one, same, other = (
        load_dataset("fashion_mnist", data_dir=folder, seed=seed) for seed in (0, 0, 1)
    )
    assert np.bincount(one.test.labels).tolist() == [4, 4]
    np.testing.assert_array_equal(one.test.features, same.test.features)
    assert (one.test.features != other.test.features).any()


def test_a_set_without_training_examples_is_refused(pictures):
    with pytest.raises(InputError, match="expected a split 'train', found test, validation"):
        load_dataset("fashion_mnist", data_dir=pictures(splits=("test", "validation")))


def test_several_configurations_are_named(pictures):
    folder = pictures("emnist/balanced")
    pictures("emnist/letters", folder=folder)
    with pytest.raises(InputError, match="one of the config.*: emnist/balanced, emnist/letters"):
        load_dataset("emnist", data_dir=folder)
    assert len(load_dataset("emnist/letters", data_dir=folder).train.labels) == 20


def test_a_configuration_is_streamed_as_well(pictures):
    folder = pictures("emnist/balanced")
    stream = load_stream("emnist/balanced", data_dir=folder).train
    np.testing.assert_array_equal(stream[:][0], PIXELS[::2])
    assert len(stream_tfds("emnist/balanced", folder, split="test")) == 13


def test_what_memory_does_not_hold_is_refused(pictures, monkeypatch):
    monkeypatch.setattr(named, "_MOST_BYTES", 1000)
    with pytest.raises(InputError, match="too many to hold in memory; add --stream"):
        load_dataset("fashion_mnist", data_dir=pictures())


def test_columns_are_those_of_a_table(tmp_path):
    dataset = load_dataset("wine_quality", data_dir=prepare.wines(tmp_path))
    assert dataset.name == "wine_quality" and dataset.class_names == ("5", "6")
    assert dataset.columns.features[0] == "alcohol" and len(dataset.columns.features) == 3
    assert evaluate(fit(dataset.train), dataset.test).accuracy > 0.6


def test_columns_of_several_values_are_refused(tmp_path):
    vector = prepare.number("float32")
    vector["tensor"]["shape"] = {"dimensions": ["2"]}
    with pytest.raises(InputError, match=r"one value each, got 'colour' of shape \(2,\)"):
        load_dataset("wine_quality", data_dir=prepare.wines(tmp_path, colour=vector))


@pytest.mark.parametrize(
    ("name", "near"),
    [("fashion_mnits", "fashion_mnist"), ("cifr10", "cifar10"), ("wine_qality", "wine_quality")],
)
def test_near_names_of_tfds_are_suggested(name, near):
    with pytest.raises(InputError, match=f"unknown dataset .* Did you mean '{near}'"):
        load_dataset(name)


def test_a_folder_that_was_asked_for_is_binding(tmp_path):
    with pytest.raises(InputError, match=r"expected a prepared TFDS folder, .*/kmnist/<version>/"):
        load_dataset("kmnist", data_dir=tmp_path)
    with pytest.raises(InputError, match=r"kmnist: expected no --raw-dir \(raw_dir= from Python\)"):
        load_dataset("kmnist", raw_dir=tmp_path)


def test_without_tensorflow_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"takes TensorFlow: pip install 'jax-softmax\[prepare\]'"):
        load_dataset("kmnist")


class _Tfds:
    """Stands for TFDS where TensorFlow is installed: preparing writes a folder, or fails."""

    def __init__(self, real, prepare):
        self.real, self.prepare = real, prepare

    def __getattr__(self, name):
        return getattr(self.real, name)

    def builder(self, name, data_dir, file_format):
        assert file_format == "array_record"
        return SimpleNamespace(download_and_prepare=lambda: self.prepare(name, folder=data_dir))


@pytest.fixture
def with_tensorflow(monkeypatch):
    """Lets TFDS prepare a set by a function of its name and folder."""

    def use(prepare):
        stand_in = _Tfds(named.import_tfds(), prepare)
        monkeypatch.setattr(named, "import_tfds", lambda: stand_in)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    return use


def test_with_tensorflow_it_is_prepared_on_the_spot(pictures, with_tensorflow, online):
    with_tensorflow(pictures)
    assert len(load_dataset("kmnist").train.labels) == 20


def test_a_host_that_does_not_answer_is_not_waited_for(pictures, with_tensorflow, asked):
    with_tensorflow(pictures)
    with pytest.raises(
        InputError, match="kmnist is not prepared .*http.* cannot be reached .the te"
    ):
        load_dataset("kmnist")
    assert len(asked) == 1 and network.Probe.asked == asked


def test_what_tfds_says_of_a_failure_is_said(with_tensorflow, online):
    def fails(name, folder):
        raise RuntimeError("no space")

    with_tensorflow(fails)
    with pytest.raises(InputError, match="kmnist cannot be prepared in .*RuntimeError: no space"):
        load_dataset("kmnist")
