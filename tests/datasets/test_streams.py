"""Streams: rows of files by number, and what is said of files that cannot be read."""

from __future__ import annotations

import os
import shutil

import numpy as np
import polars as pl
import pytest

from jax_softmax import InputError, Stream, load_dataset, stream_npy, stream_parquet, stream_tfds
from jax_softmax.datasets.load_stream import divide, load_stream

TABLE = {
    "long": [1.5, 2.5, 3.5, 4.5, 5.5],
    "wide": [0.5, 0.25, 0.5, 0.75, 1.0],
    "kind": ["b", "a", "b", "c", "a"],
}
EMPTY = np.empty(0, int)
FEATURES = np.arange(60, dtype=np.int16).reshape(5, 4, 3)


@pytest.fixture
def pair(tmp_path):
    np.save(tmp_path / "features.npy", FEATURES)
    np.save(tmp_path / "labels.npy", [0, 1, 1, 0, 2])
    return tmp_path / "features.npy", tmp_path / "labels.npy"


@pytest.fixture
def parquet(tmp_path):
    """Writes columns to a Parquet file, two rows to a group."""

    def write(columns, name="table.parquet"):
        path = tmp_path / name
        pl.DataFrame(columns).write_parquet(path, row_group_size=2)
        return path

    return write


def test_rows_of_npy_files_by_number_slice_and_numbers(pair):
    stream = stream_npy(*pair, class_names=("x", "y", "z"), feature_scale=0.5)
    assert (len(stream), stream.feature_shape, stream.dtype) == (5, (4, 3), np.int16)
    for rows in (3, np.int64(0), slice(1, 4), slice(None, None, -2), [4, 0, 0, 3], EMPTY):
        features, labels = stream[rows]
        assert features.dtype == np.int16
        assert (features == FEATURES[rows]).all()
        assert (labels == np.array([0, 1, 1, 0, 2])[rows]).all()


def test_rows_are_read_without_preadv_too(pair, monkeypatch):
    monkeypatch.delattr(os, "preadv", raising=False)
    assert (stream_npy(*pair)[[4, 0, 3]][0] == FEATURES[[4, 0, 3]]).all()


def test_a_subset_of_a_subset(pair):
    stream = stream_npy(*pair).subset(np.array([4, 2, 0])).subset(np.array([2, 0]))
    features, labels = stream[:]
    assert (features == FEATURES[[0, 4]]).all()
    assert labels.tolist() == [0, 2]
    assert stream.place(1).endswith("features.npy, row 4")


@pytest.mark.parametrize("row", [-1, 5, [0, 7]])
def test_a_row_that_is_not_there(row, pair):
    with pytest.raises(InputError, match=r"rows: expected numbers in \[0, 5\), got"):
        stream_npy(*pair)[row]


@pytest.mark.parametrize("rows", [[True] * 5, [0.5], "a", [[0], [1]]])
def test_rows_that_are_no_numbers(rows, pair):
    with pytest.raises(InputError, match=r"rows: expected integers, a slice of them or one, got"):
        stream_npy(*pair)[rows]


def test_parquet_is_a_table_with_names_for_labels(parquet):
    stream = stream_parquet(parquet(TABLE), "kind")
    features, labels = stream[[4, 0, 3]]
    assert features.tolist() == [[5.5, 1.0], [1.5, 0.5], [4.5, 0.75]]
    assert stream.class_names == ("a", "b", "c")
    assert labels.tolist() == [0, 1, 2]
    assert stream.column(1) == "column 'wide'"


def test_class_names_give_the_order(parquet):
    stream = stream_parquet(parquet(TABLE), "kind", class_names=("c", "d", "b", "a"))
    assert stream.labels.tolist() == [2, 3, 2, 0, 3]
    with pytest.raises(InputError, match=r"row 3: expected a label that class_names has, got 'c'"):
        stream_parquet(parquet(TABLE), "kind", class_names=("a", "b"))


@pytest.mark.parametrize(
    ("column", "labels", "names"),
    [
        (pl.Series([True, False, True]), [1, 0, 1], ()),
        (pl.Series([3, 0, 1], dtype=pl.UInt8), [3, 0, 1], ()),
        (pl.Series(["x", "y", "x"], dtype=pl.Categorical), [0, 1, 0], ("x", "y")),
        (pl.Series(["x", "y", "x"], dtype=pl.Enum(["y", "x", "z"])), [0, 1, 0], ("x", "y")),
    ],
)
def test_labels_of_parquet(column, labels, names, parquet):
    stream = stream_parquet(parquet({"x": [1.0, 2.0, 3.0], "y": column}), "y")
    assert stream.labels.tolist() == labels
    assert stream.class_names == names


@pytest.mark.parametrize("kind", [pl.Array(pl.UInt8, 3), pl.List(pl.UInt8)])
def test_a_column_of_lists_is_an_example_a_row(kind, parquet):
    rows = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    path = parquet({"x": pl.Series(rows, dtype=kind), "y": [0, 1, 0]})
    stream = stream_parquet(path, "y")
    assert stream.dtype == np.uint8
    assert stream[:][0].tolist() == rows


def test_a_folder_of_parquet_files_is_one_table(parquet, tmp_path):
    parquet({"x": [1.0, 2.0, 3.0], "y": ["b", "a", "b"]}, "1.parquet")
    parquet({"x": [4.0], "y": ["c"]}, "2.parquet")
    stream = stream_parquet(tmp_path, "y")
    assert stream[:][0].ravel().tolist() == [1, 2, 3, 4]
    assert stream.labels.tolist() == [1, 0, 1, 2]
    assert stream.place(3) == f"{tmp_path / '2.parquet'}, row 0"


def test_columns_of_several_dtypes_become_one_that_holds_all(parquet):
    columns = {"x": pl.Series([1, 2], dtype=pl.UInt8), "y": [0, 1], "z": [True, False]}
    assert stream_parquet(parquet(columns), "y").dtype == np.uint8
    columns["w"] = pl.Series([1.5, 2.5], dtype=pl.Float32)
    stream = stream_parquet(parquet(columns), "y")
    assert stream.dtype == np.float32
    assert stream[:][0].tolist() == [[1, 1, 1.5], [2, 0, 2.5]]


@pytest.mark.parametrize(
    ("columns", "label", "words"),
    [
        (TABLE, "knd", r"expected a column 'knd' of labels, found none; did you mean 'kind'\?"),
        (TABLE, "q", r"found none; there are long double, wide double, kind"),
        (TABLE, "wide", r"column 'kind': expected real numbers, got .*string.*; encode or drop it"),
        ({"y": [0, 1]}, "y", "expected columns of features beside the labels"),
        (
            {"x": [1, 2], "y": [0.5, 1.0]},
            "y",
            "expected integers, booleans or strings in column 'y'",
        ),
        (
            {"x": [1, 2, 3], "y": ["a", None, "b"]},
            "y",
            "row 1: expected a label in column 'y', got no",
        ),
        (
            {"x": [[1], [2]], "z": [1, 2], "y": [0, 1]},
            "y",
            "expected columns of numbers, or a single column of lists beside the labels, got both",
        ),
        ({"x": [[], [1]], "y": [0, 1]}, "y", "expected numbers in the first row of column 'x'"),
    ],
)
def test_tables_that_are_none(columns, label, words, parquet):
    with pytest.raises(InputError, match=words):
        stream_parquet(parquet(columns), label)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"x": [1, 2, None]}, "row 2: expected a number in column 'x', got no value; drop or fill"),
        ({"x": [[1, 2], [3, 4], [5]]}, "row 2: expected 2 numbers in column 'x', as in its first"),
        ({"x": [[1, 2], [3, None]]}, "row 1: expected 2 numbers in column 'x', got no value for"),
        ({"x": [[1, 2], None]}, "row 1: expected a number in column 'x', got no value"),
    ],
)
def test_values_that_are_missing(columns, words, parquet):
    labels = [0, 1, 0][: len(columns["x"])]
    stream = stream_parquet(parquet(columns | {"y": labels}), "y")
    with pytest.raises(InputError, match=words):
        stream[:]


def test_files_of_a_folder_that_differ(parquet, tmp_path):
    parquet({"x": [1.0], "y": [0]}, "1.parquet")
    parquet({"z": [1.0], "y": [0]}, "2.parquet")
    words = r"2\.parquet: expected the columns of .*1\.parquet \(x double, y int64\), got z double"
    with pytest.raises(InputError, match=words):
        stream_parquet(tmp_path, "y")


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_parquet_file_that_is_cut_off(share, parquet):
    path = parquet(TABLE)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"table\.parquet: expected an intact Parquet file \("):
        stream_parquet(path, "kind")


def test_a_parquet_file_that_is_damaged_within(parquet):
    path = parquet({"x": np.random.default_rng(0).random(5000), "y": np.arange(5000) % 2})
    stream = stream_parquet(path, "y")
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"table\.parquet: expected an intact Parquet file \("):
        stream[:]


def test_a_footer_with_a_bit_that_is_wrong(tmp_path):
    """Parquet has no digest of it: numbers may be others, rows never fewer or more."""
    path = tmp_path / "table.parquet"
    columns = {"x": np.arange(4.0), "y": [0, 1, 1, 0]}
    pl.DataFrame(columns).write_parquet(path, row_group_size=2, statistics=False)
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    said = set()
    for i in range(len(whole) - 8 - footer, len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[i] ^= 1 << bit
            path.write_bytes(data)
            try:
                features, labels = stream_parquet(path, "y")[:]
            except InputError as error:
                said.add(str(error))
            else:
                assert (features.shape, labels.shape) == ((4, 1), (4,)), (i, bit)
    expected = f"{path}: expected an intact Parquet file ("
    assert expected + "its footer says 6 rows where 4 are); replace it with one." in said
    assert any(words.startswith(expected + "'utf-8' codec can't decode") for words in said)


def test_a_row_group_larger_than_any_should_be(parquet, monkeypatch):
    monkeypatch.setattr("jax_softmax.datasets.parquet_stream._LARGEST", 31)
    words = "row groups of at most 31 bytes once decoded, got 32 in row group 0; write it again"
    with pytest.raises(InputError, match=words):
        stream_parquet(parquet(TABLE), "kind")


def test_an_empty_folder_and_an_empty_table(parquet, tmp_path):
    with pytest.raises(InputError, match=r"expected files ending in \.parquet in it, found none"):
        stream_parquet(tmp_path, "y")
    path = parquet({"x": pl.Series([], dtype=pl.Float32), "y": pl.Series([], dtype=pl.Int8)})
    with pytest.raises(InputError, match="expected at least one example, got none"):
        stream_parquet(path, "y")


@pytest.mark.parametrize("path", ["nowhere.parquet", 7, "a\0b"])
def test_a_parquet_path_that_is_none(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"path.*: expected a file"):
        stream_parquet(path, "y")


def test_a_label_that_is_no_name(parquet):
    with pytest.raises(InputError, match="label: expected the name of a column, got 3"):
        stream_parquet(parquet(TABLE), 3)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.arange(3), r"expected shape \[examples, width\], got \(3,\)"),
        (np.zeros((3, 0)), "expected at least one number an example"),
        (np.zeros((0, 2)), "expected at least one example, got none"),
        (np.asfortranarray(np.zeros((3, 2))), r"expected rows one after another, got columns"),
        (np.array([["a"]]), "expected real numbers, got dtype <U1"),
        (np.zeros((3, 1), complex), "expected real numbers, got dtype complex128"),
        (np.array([[None]]), "expected real numbers, got dtype object"),
    ],
)
def test_arrays_that_are_no_features(array, words, tmp_path):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=words):
        stream_npy(tmp_path / "x.npy", np.zeros(len(array), int))


@pytest.mark.parametrize("data", [b"", b"no array", b"\x93NUMPY\x01\x00\x10\x00{'shape': (2"])
def test_a_file_that_is_no_array(data, tmp_path, pair):
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.npy: expected a NumPy array file \("):
        stream_npy(tmp_path / "x.npy", [0])
    with pytest.raises(InputError, match=r"x\.npy: expected a NumPy array file \("):
        stream_npy(pair[0], tmp_path / "x.npy")


def test_a_npy_file_that_is_cut_off(pair):
    pair[0].write_bytes(pair[0].read_bytes()[:-3])
    words = r"expected 248 bytes for shape \(5, 4, 3\), got 245: it is cut off, or still being"
    with pytest.raises(InputError, match=words):
        stream_npy(*pair)


def test_a_header_of_a_negative_length(pair):
    header = pair[0].read_bytes().replace(b"(5, 4, 3)", b"(-5, 4,3)")
    pair[0].write_bytes(header)
    with pytest.raises(InputError, match=r"expected a NumPy array file \(.*-5"):
        stream_npy(*pair)


@pytest.mark.parametrize("labels", [[0, 1], np.zeros((4, 3)), 7])
def test_labels_of_another_length(labels, pair):
    with pytest.raises(InputError, match="labels: expected one for each of 5 rows of .*features"):
        stream_npy(pair[0], labels)


def test_labels_that_are_objects(pair):
    with pytest.raises(InputError, match="labels: expected integers, booleans or strings, got Py"):
        stream_npy(pair[0], [None] * 5)


def test_labels_with_a_mask(pair):
    with pytest.raises(InputError, match="labels: expected an array without a mask, which would"):
        stream_npy(pair[0], np.ma.array([0, 1, 1, 0, 2], mask=[1, 0, 0, 0, 0]))


def test_labels_of_several_lengths(pair):
    with pytest.raises(InputError, match=r"labels: expected an array, or rows of one length \("):
        stream_npy(pair[0], [[1], [1, 2]])


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(InputError, match="expected a file, found no file there"):
        stream_npy(tmp_path / "x.npy", [0])


def test_a_digest_is_of_the_examples_not_of_their_place(pair, tmp_path):
    there = stream_npy(*pair)
    (tmp_path / "other").mkdir()
    copies = [shutil.copy(path, tmp_path / "other") for path in pair]
    assert stream_npy(*copies).sha256 == there.sha256
    assert there.subset(np.arange(4)).sha256 != there.sha256
    assert stream_npy(pair[0], [0, 1, 1, 0, 0]).sha256 != there.sha256
    np.save(copies[0], FEATURES + 1)
    assert stream_npy(*copies).sha256 != there.sha256


def test_a_prepared_folder_is_what_load_dataset_reads(prepared_data, prepared_mnist):
    stream, dataset = stream_tfds("mnist", prepared_data), prepared_mnist
    assert isinstance(stream, Stream)
    assert (len(stream), stream.feature_shape, stream.dtype) == (60_000, (28, 28), np.uint8)
    assert stream.feature_scale == dataset.train.feature_scale
    assert stream.class_names == dataset.class_names
    rows = np.random.default_rng(0).integers(0, 60_000, 100)
    features, labels = stream[rows]
    assert (features == dataset.train.features[rows]).all()
    assert (labels == dataset.train.labels[rows]).all()


def test_a_division_is_that_of_load_dataset(prepared_data):
    dataset = load_dataset("iris", data_dir=prepared_data, seed=3)
    streams = load_stream("iris", data_dir=prepared_data, seed=3)
    for stream, split in ((streams.train, dataset.train), (streams.test, dataset.test)):
        features, labels = stream[:]
        assert (features == split.features).all()
        assert (labels == split.labels).all()
        assert stream.class_names == split.class_names


def test_a_class_of_one_example_cannot_be_divided(pair):
    with pytest.raises(InputError, match=r"no 20% of each class can be split off the 5 examples"):
        divide(stream_npy(*pair), 0.2, 0)


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("mnist", "valid", r"expected a split 'valid', found train, test\."),
        ("mnst", "train", "expected a prepared TFDS folder, .*mnst"),
        ("../mnist", "train", "name: expected a dataset's name as TFDS has it, got"),
        ("mnist", 3, "split: expected a split's name, got 3"),
    ],
)
def test_prepared_folders_that_are_not_there(name, split, words, prepared_data):
    with pytest.raises(InputError, match=words):
        stream_tfds(name, prepared_data, split=split)


def test_a_prepared_folder_that_is_damaged(prepared_data, tmp_path):
    shutil.copytree(prepared_data / "iris", tmp_path / "iris")
    for path in (tmp_path / "iris").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (file,) = (tmp_path / "iris").rglob("*.array_record-*")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot read the prepared TFDS folder .*prepare it again"):
        stream_tfds("iris", tmp_path)[:]
