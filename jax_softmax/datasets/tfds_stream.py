"""Rows of a folder that TFDS has prepared."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_softmax._checks import require
from jax_softmax._extras import needs_train_extra
from jax_softmax.datasets import prepared
from jax_softmax.datasets.catalog import CATALOG, Entry
from jax_softmax.datasets.registry import import_tfds, quiet_tfds
from jax_softmax.datasets.streams import RowFiles, Stream, check_numbers
from jax_softmax.errors import InputError

DATA_DIR_VARIABLE = "TFDS_DATA_DIR"
_HOME = "~/tensorflow_datasets"


@needs_train_extra()
def stream_tfds(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    split: str = "train",
    feature_scale: float | None = None,
) -> Stream:
    """Examples of a split that TFDS has prepared as ArrayRecord files; they need not fit in memory.

    Args:
      name: of the dataset: any whose `supervised_keys` are an image or a tensor of one shape, and a
        class label. The newest version that is there is taken.
      data_dir: TFDS's data folder, the one with a folder for each dataset; None takes
        `TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
      split: the name of the split.
      feature_scale: what to multiply the stored features by; None takes 1/255 for images of 8 bits,
        and 1 for others.

    Returns:
      The stream.

    Raises:
      InputError: if nothing is prepared there, or it is damaged, or not of that kind. Or the extra
        `[train]` is not installed.

    See Also:
      `stream_npy`, `stream_parquet`; `load_dataset` for data in memory.

    >>> stream_tfds("mnist", data_dir="/no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    jax_softmax.errors.InputError: ...
    """
    is_name = isinstance(name, str) and prepared.is_name(name)
    require(is_name, "name: expected a dataset's name as TFDS has it", name)
    require(isinstance(split, str), "split: expected a split's name", split)
    version = prepared.require(name, data_dir_of(data_dir))
    return open_version(version, split, CATALOG.get(name), feature_scale)


def open_version(
    version: Path, split: str, entry: Entry | None = None, feature_scale: float | None = None
) -> Stream:
    """A split of a prepared version; arguments and errors as those of `stream_tfds`."""
    rows = _TfdsRows(version, split)
    if feature_scale is None:
        feature_scale = 1 / 255 if rows.is_image and rows.dtype == np.uint8 else 1.0
        feature_scale = entry.feature_scale if entry is not None else feature_scale
    names = entry.class_names if entry is not None else rows.class_names
    return Stream(rows, names, feature_scale)


def data_dir_of(data_dir: str | os.PathLike[str] | None) -> Path:
    """TFDS's data folder: the one that is given, or that of the surroundings."""
    return Path(data_dir or os.environ.get(DATA_DIR_VARIABLE) or _HOME).expanduser()


def splits(name: str, data_dir: Path) -> list[str]:
    """The names of the splits that are prepared."""
    return list(opened(prepared.require(name, data_dir)).splits)


def opened(folder: Path) -> Any:
    """What TFDS says of a prepared version: its `info`."""
    try:
        with quiet_tfds():
            return import_tfds().builder_from_directory(folder).info
    except Exception as error:  # TFDS raises a dozen unrelated types here
        raise _damaged(folder, error) from error


def examples(folder: Path, split: str) -> Any:
    """All examples of a split, as TFDS decodes them."""
    try:
        with quiet_tfds():
            source = import_tfds().builder_from_directory(folder).as_data_source(split=split)
            return source.__getitems__(range(len(source)))
    except Exception as error:  # and ArrayRecord
        raise _damaged(folder, error) from error


class _TfdsRows(RowFiles):
    class_names: Sequence[str]
    is_image: bool
    _key: str
    _label_key: str

    def __init__(self, folder: Path, split: str) -> None:
        self.split = split
        tfds = import_tfds()
        try:
            with quiet_tfds():
                builder = tfds.builder_from_directory(folder)
                info = builder.info
                keys = info.supervised_keys
        except Exception as error:  # TFDS raises a dozen unrelated types here
            raise _damaged(folder, error) from error
        if split not in info.splits:
            raise InputError(
                f"{folder}: expected a split {split!r}, found {', '.join(info.splits) or 'none'}."
            )
        self._key, self._label_key = keys or ("", "")
        features = dict(info.features.items())
        feature, label = features.get(self._key), features.get(self._label_key)
        if feature is None or not isinstance(label, tfds.features.ClassLabel):
            raise InputError(
                f"{folder}: expected a classification set, whose supervised keys are its features "
                f"and a class label, got {keys}."
            )
        self.class_names = label.names
        self.is_image = isinstance(feature, tfds.features.Image)
        shape = tuple(feature.shape)
        # Grey images come without TFDS's last axis, as from `load_dataset`.
        shape = shape[:-1] if self.is_image and shape[-1:] == (1,) else shape
        if not shape or None in shape:
            raise InputError(
                f"{folder}: expected examples of one shape, got {feature.shape} of "
                f"{self._key!r}; resize them first."
            )
        self.feature_shape = shape
        self.dtype = check_numbers(f"{folder}, {self._key}", np.dtype(feature.np_dtype))
        decoders = {self._key: tfds.decode.SkipDecoding()} if self.is_image else None
        try:
            with quiet_tfds():
                self._source = builder.as_data_source(split=split, decoders=decoders)
            self.length = len(self._source)
        except Exception as error:  # and ArrayRecord
            raise _damaged(folder, error) from error
        self.files = tuple(sorted(folder.glob(f"*-{split}.array_record-*")))
        self.remember()

    def place(self, row: int) -> str:
        return f"{self.files[0].parent}, split {self.split}, row {row}"

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            examples = self._source.__getitems__(rows.tolist())
            stored = [example[self._key] for example in examples]
            features = np.stack([_decoded(image) for image in stored] if self.is_image else stored)
            labels = np.array([example[self._label_key] for example in examples], np.int64)
        except Exception as error:  # ArrayRecord, protobuf and Pillow
            raise _damaged(self.files[0].parent, error) from error
        if features.shape[1:] != self.feature_shape:
            raise InputError(
                f"{self.files[0].parent}: expected examples of shape {self.feature_shape}, got "
                f"{features.shape[1:]}; prepare it again."
            )
        return features.astype(self.dtype, copy=False), labels


def _decoded(image: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(image)))


def _damaged(folder: Path, error: Exception) -> InputError:
    why = f"{type(error).__name__}: {error}".partition("\n")[0]
    return InputError(f"cannot read the prepared TFDS folder {folder} ({why}); prepare it again.")
