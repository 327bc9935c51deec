"""IDX, the format of the raw MNIST files: a magic number, big-endian sizes, then the bytes.

Reference: http://yann.lecun.com/exdb/mnist/ ("the IDX file format").
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping

import numpy as np

from jax_softmax.datasets.types import Tables
from jax_softmax.errors import InputError

_UINT8 = 0x08


def parse_mnist(files: Mapping[str, bytes]) -> Tables:
    """Read the four MNIST files.

    Args:
      files: File name to content, gzip-compressed IDX.

    Returns:
      `"train"` and `"test"`: images `[N, 28, 28]` uint8 and labels `[N]` uint8, in file order.

    Raises:
      InputError: A file is not what its name says, or images and labels differ in number.
    """
    tables = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images_name = f"{prefix}-images-idx3-ubyte.gz"
        labels_name = f"{prefix}-labels-idx1-ubyte.gz"
        images = parse_idx(files[images_name], images_name, ndim=3)
        labels = parse_idx(files[labels_name], labels_name, ndim=1)
        if len(images) != len(labels):
            raise InputError(
                f"expected one label for each image, got {len(images):,} images in {images_name} "
                f"and {len(labels):,} labels in {labels_name}; "
                "replace both with intact copies of the same release."
            )
        tables[split] = images, labels
    return tables


def parse_idx(data: bytes, name: str, *, ndim: int) -> np.ndarray:
    """Read one gzip-compressed IDX file of unsigned bytes.

    Args:
      data: The compressed content.
      name: The file's name, for messages.
      ndim: The number of axes it must have.

    Returns:
      A uint8 array with `ndim` axes, writable.

    Raises:
      InputError: `data` is not gzip, has another magic number, or not the bytes its sizes promise.
    """
    remedy = "replace it with an intact copy."
    try:
        raw = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name}: expected gzip-compressed data, got {error}; {remedy}") from error

    header_bytes = 4 * (1 + ndim)
    magic = bytes((0, 0, _UINT8, ndim))
    if raw[:4] != magic or len(raw) < header_bytes:
        raise InputError(
            f"{name}: expected the IDX magic number 0x{magic.hex()} and {ndim} sizes, "
            f"got 0x{raw[:4].hex()} in {len(raw):,} bytes; {remedy}"
        )
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", count=ndim, offset=4))
    expected, found = math.prod(shape), len(raw) - header_bytes
    if found != expected:
        raise InputError(
            f"{name}: expected {expected:,} bytes of data for the sizes {shape}, "
            f"got {found:,}; {remedy}"
        )
    # A copy, because an array over `bytes` is read-only and one from a prepared folder is not.
    return np.frombuffer(raw, np.uint8, offset=header_bytes).reshape(shape).copy()
