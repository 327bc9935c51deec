from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from jax_softmax.datasets.iris_table import parse_iris
from jax_softmax.errors import InputError

GOOD = b"5.1,3.5,1.4,0.2,Iris-setosa\n"


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return buffer.getvalue()


def test_rows():
    features, labels = parse_iris({"iris.data": GOOD + b"6,3,4.5,1.5,Iris-virginica\r\n\n"})[
        "train"
    ]
    np.testing.assert_array_equal(features, np.float32([[5.1, 3.5, 1.4, 0.2], [6, 3, 4.5, 1.5]]))
    assert features.dtype == np.float32 and labels.tolist() == [0, 2]


def test_zip_and_data_hold_the_same_rows(real_data):
    tables = [
        parse_iris({name: (real_data / "iris" / name).read_bytes()})["train"]
        for name in ("iris.zip", "iris.data")
    ]
    for from_zip, from_data in zip(*tables, strict=True):
        np.testing.assert_array_equal(from_zip, from_data)
        assert len(from_zip) == 150


@pytest.mark.parametrize(
    "line",
    [
        b"5.1,3.5,1.4,Iris-setosa",
        b"5.1,3.5,1.4,0.2,0.3,Iris-setosa",
        b"5.1,3.5,1.4,nan,Iris-setosa",
        b"5.1,3.5,1.4,inf,Iris-setosa",
        b"5.1,3.5,1.4,x,Iris-setosa",
        b"5.1,3.5,1.4,0.2,Iris-sativa",
        b"5.1,3.5,1.4,0.2",
        b"\xff\x00",
        b" ",
    ],
)
def test_a_line_that_is_no_row_is_named(line):
    with pytest.raises(InputError, match="iris.data, line 2: expected 4 finite numbers and one of"):
        parse_iris({"iris.data": GOOD + line + b"\n" + GOOD})


# Named, for the bytes of an archive hold the time, and workers must agree on a test's name.
@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", zipped(other="x"), zipped(iris_data=GOOD)[9:]],
    ids=["empty", "not a zip", "another table", "cut"],
)
def test_an_archive_without_the_table_is_refused(data):
    with pytest.raises(InputError, match="iris.zip: expected a zip archive that holds iris.data"):
        parse_iris({"iris.zip": data})
