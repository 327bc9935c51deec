from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_softmax.datasets.idx import parse_idx, parse_mnist
from jax_softmax.errors import InputError


def idx(shape, data, *, magic=None):
    magic = bytes((0, 0, 8, len(shape))) if magic is None else magic
    return gzip.compress(
        magic + struct.pack(f">{len(shape)}I", *shape) + data, compresslevel=1, mtime=0
    )


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.randoms())
def test_what_is_written_is_read(shape, random):
    expected = np.frombuffer(random.randbytes(int(np.prod(shape))), np.uint8).reshape(shape)
    found = parse_idx(idx(shape, expected.tobytes()), "name", ndim=len(shape))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8 and found.flags.writeable


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the IDX magic number"),
        (b"<html>", "x.gz: expected gzip-compressed data, got .*replace it with an intact copy"),
        (idx((3,), b"abc")[:-9], "expected gzip-compressed data"),
        (idx((3,), b"abc", magic=b"\0\0\x0d\x01"), "magic number 0x00000801 .*got 0x00000d01"),
        (idx((1, 3), b"abc"), "magic number 0x00000801 .*got 0x00000802"),
        (gzip.compress(b"\0\0\x08\x01\0\0", mtime=0), "and 1 sizes, got 0x00000801 in 6 bytes"),
        (idx((3,), b"ab"), r"expected 3 bytes of data for the sizes \(3,\), got 2"),
        (idx((3,), b"abcd"), "expected 3 bytes of data .* got 4"),
    ],
)
def test_what_is_not_idx_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        parse_idx(data, "x.gz", ndim=1)


def test_images_without_labels_are_refused():
    files = {
        "train-images-idx3-ubyte.gz": idx((2, 1, 1), b"ab"),
        "train-labels-idx1-ubyte.gz": idx((3,), b"abc"),
    }
    with pytest.raises(InputError, match="one label for each image, got 2 images in train-images"):
        parse_mnist(files)
