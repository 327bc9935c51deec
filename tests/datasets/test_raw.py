from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from jax_softmax.datasets import load_dataset
from jax_softmax.errors import InputError

LABELS = "t10k-labels-idx1-ubyte.gz"
LABELS_SHA256 = "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"


def tree(folder):
    return sorted(
        (os.path.join(where, name), os.lstat(os.path.join(where, name)).st_size)
        for where, folders, files in os.walk(folder)
        for name in (*folders, *files)
    )


def replace(path, content):
    path.unlink()
    path.write_bytes(content)


def test_mnist(raw_mnist, real_data):
    assert raw_mnist.source == f"raw files in {real_data / 'mnist'} (SHA-256 verified)"
    assert raw_mnist.train.features.shape == (60_000, 28, 28)
    assert raw_mnist.test.features.shape == (10_000, 28, 28)
    assert raw_mnist.train.features.dtype == np.uint8
    assert raw_mnist.train.labels.dtype == np.int32
    assert raw_mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(raw_mnist.test.labels).tolist()[:3] == [980, 1135, 1032]
    assert raw_mnist.class_names == tuple("0123456789")
    assert raw_mnist.train.feature_scale * 255 == raw_mnist.test.feature_scale * 255 == 1.0


def test_the_folder_or_its_parent(real_data):
    parent = load_dataset("iris", raw_dir=real_data)
    folder = load_dataset("iris", raw_dir=str(real_data / "iris"))
    assert parent.source == folder.source
    np.testing.assert_array_equal(parent.train.features, folder.train.features)


def test_the_older_iris_file_will_do(placed, real_data):
    newer = load_dataset("iris", raw_dir=placed)
    (placed / "iris" / "iris.zip").unlink()
    (placed / "iris" / "iris.data").symlink_to(real_data / "iris" / "iris.data")
    older = load_dataset("iris", raw_dir=placed)
    np.testing.assert_array_equal(newer.train.features, older.train.features)
    np.testing.assert_array_equal(newer.test.labels, older.test.labels)


def test_a_complete_folder_beats_an_incomplete_one(placed):
    (placed / LABELS).write_bytes(b"a stray file in the parent")
    assert str(placed / "mnist") in load_dataset("mnist", raw_dir=placed).source


def truncated(content):
    return content[:1000]


def corrupted(content):
    return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]


def another(content):
    return b"<html>sign in to the network</html>"


@pytest.mark.parametrize("damage", [truncated, corrupted, another])
def test_a_damaged_file_is_refused_and_nothing_is_left_behind(damage, placed, surroundings):
    path = placed / "mnist" / LABELS
    content = damage(path.read_bytes())
    replace(path, content)
    before = tree(surroundings)

    with pytest.raises(InputError) as caught:
        load_dataset("mnist", raw_dir=placed)

    assert tree(surroundings) == before
    message = str(caught.value)
    assert f"{path} is not the file that TFDS registers as {LABELS}" in message
    assert f"expected: SHA-256 {LABELS_SHA256}, 4,542 bytes" in message
    digest = hashlib.sha256(content).hexdigest()
    assert f"found:    SHA-256 {digest}, {len(content):,} bytes" in message
    assert ("corrupted" if damage is corrupted else "truncated") in message
    assert "Replace it with an intact copy of https://" in message


def test_files_of_another_dataset_by_the_same_names_are_refused(placed):
    labels, images = placed / "mnist" / LABELS, placed / "mnist" / "t10k-images-idx3-ubyte.gz"
    replace(labels, images.read_bytes())
    with pytest.raises(InputError, match="corrupted, or another file"):
        load_dataset("mnist", raw_dir=placed)


def test_a_damaged_iris_is_refused(placed):
    replace(placed / "iris" / "iris.zip", b"PK")
    with pytest.raises(InputError, match=r"registers as iris.zip: it is truncated"):
        load_dataset("iris", raw_dir=placed)


def test_a_folder_in_the_place_of_a_file(placed, surroundings):
    path = placed / "mnist" / LABELS
    path.unlink()
    path.mkdir()
    before = tree(surroundings)
    with pytest.raises(InputError, match=f"cannot read {path}: .*readable file, found: a folder"):
        load_dataset("mnist", raw_dir=placed)
    assert tree(surroundings) == before


@pytest.mark.parametrize("dataset", ["mnist", "iris"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(dataset, placed, monkeypatch):
    path = placed / dataset / (LABELS if dataset == "mnist" else "iris.zip")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=f"cannot read {path}: .*readable file, found: no file"):
        load_dataset(dataset, raw_dir=placed)
    monkeypatch.setenv("JAX_SOFTMAX_RAW_DIR", str(placed))
    with pytest.raises(InputError, match=f"cannot read {path}"):
        load_dataset(dataset)


def test_a_pipe_among_downloads_is_not_waited_for(tmp_path, monkeypatch):
    folder = tmp_path / "tfds" / "downloads" / "iris"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "iris.zip")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert load_dataset("iris").source.startswith("scikit-learn's bundled copy")


def test_a_dangling_link(placed):
    path = placed / "mnist" / LABELS
    path.unlink()
    path.symlink_to(placed / "nowhere")
    with pytest.raises(InputError, match=f"cannot read {path}: .*No such file"):
        load_dataset("mnist", raw_dir=placed)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission(placed):
    path = placed / "iris" / "iris.zip"
    path.chmod(0)
    with pytest.raises(InputError, match=f"cannot read {path}: .*Permission denied"):
        load_dataset("iris", raw_dir=placed)


def test_a_missing_file_is_named_with_its_digest(placed, surroundings, asked):
    (placed / "mnist" / LABELS).unlink()
    before = tree(surroundings)
    with pytest.raises(InputError) as caught:
        load_dataset("mnist", raw_dir=placed)
    message = str(caught.value)
    assert f"expected the raw files of mnist in {placed / 'mnist'}; missing:" in message
    assert f"{LABELS}  SHA-256 {LABELS_SHA256}  (4,542 bytes)" in message
    assert "train-images" not in message
    assert tree(surroundings) == before and not asked


def test_an_explicit_folder_without_the_files_is_an_error(tmp_path):
    with pytest.raises(InputError) as caught:
        load_dataset("mnist", raw_dir=tmp_path)
    assert str(caught.value).count("SHA-256") == 4
    with pytest.raises(InputError, match=r"(?s)missing:\n  iris.zip .*\nor:\n  iris.data  SHA-256"):
        load_dataset("iris", raw_dir=tmp_path)


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="expected a folder .* found nothing; correct --raw-dir"):
        load_dataset("mnist", raw_dir=tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a folder .* found a file"):
        load_dataset("iris", raw_dir=tmp_path / "file")


def test_nothing_is_printed_and_no_setting_changed(placed):
    # In a fresh process: pytest keeps handlers of its own on the root logger.
    script = f"""
        import logging
        from jax_softmax.datasets import load_dataset
        from jax_softmax.datasets.registry import quiet_tfds

        load_dataset("iris", raw_dir={str(placed)!r})
        assert not logging.root.handlers
        logging.basicConfig()
        with quiet_tfds():
            for name in ("absl", "urllib3.connectionpool"):
                logging.getLogger(name).warning("chatter")
        assert not logging.getLogger("absl").disabled
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
