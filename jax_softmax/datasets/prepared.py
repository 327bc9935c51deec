"""A folder that TFDS has prepared, read without TensorFlow."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_softmax.datasets.catalog import Entry
from jax_softmax.datasets.registry import import_tfds, quiet_tfds
from jax_softmax.datasets.types import Tables
from jax_softmax.errors import InputError


def is_name(name: str) -> bool:
    """Whether a dataset of TFDS may be called so: `mnist`, or `emnist/balanced`."""
    return re.fullmatch(r"[A-Za-z_]\w*(/[\w.-]*\w)?", name) is not None


def find(name: str, data_dir: Path) -> Path | None:
    """Return the newest prepared version of a dataset that needs no TensorFlow to be read.

    Args:
      name: The dataset's name, with its configuration (`emnist/balanced`) unless one only is there.
      data_dir: TFDS's data folder, the one with a folder for each dataset.

    Returns:
      The folder of that version (`data_dir/mnist/3.0.1`), or None.

    Raises:
      InputError: Several configurations are there; the message names them.
    """
    versions = _versions(name, data_dir)
    if not versions and "/" not in name:
        configured = _versions(f"{name}/*", data_dir)
        names = sorted({f"{name}/{version.parent.name}" for version in configured})
        if len(names) > 1:
            raise InputError(
                f"{name}: expected one of the configurations that are prepared in {data_dir}: "
                f"{', '.join(names)}."
            )
        versions = configured
    return max(versions, key=_version, default=None)


def _versions(name: str, data_dir: Path) -> list[Path]:
    return [
        info.parent
        for info in data_dir.glob(f"{name}/*/dataset_info.json")
        if any(info.parent.glob("*.array_record-*"))
    ]


def require(name: str, data_dir: Path) -> Path:
    """Return what `find` finds.

    Raises:
      InputError: There is none; the message says what was looked for and what to do.
    """
    folder = find(name, data_dir)
    if folder is None:
        raise InputError(
            f"expected a prepared TFDS folder, {data_dir / name}/<version>/, with "
            "dataset_info.json and ArrayRecord files (*.array_record-*); found "
            f"{_what_is_there(name, data_dir)}.\n"
            f"Prepare it with tfds.builder({name!r}, data_dir=..., "
            "file_format='array_record').download_and_prepare() where TensorFlow is installed, or "
            "leave --data-dir and --stream out (data_dir= from Python) to use another source."
        )
    return folder


def read(entry: Entry, folder: Path) -> tuple[Tables, str]:
    """Read every split of a prepared version.

    Args:
      entry: The dataset.
      folder: The folder of one version, as `find` returns it.

    Returns:
      The arrays, in TFDS's own shuffled order, and the line that says where they came from.

    Raises:
      InputError: The folder is damaged, or its content is not this dataset.
    """
    tfds = import_tfds()
    try:
        with quiet_tfds():
            # Not tfds.data_source: where something is missing, that one starts to download.
            builder = tfds.builder_from_directory(folder)
            tables = {split: _read_split(tfds, builder, entry, split) for split in entry.rows}
    except Exception as error:  # TFDS and array_record raise a dozen unrelated types here
        raise InputError(
            f"cannot read the prepared TFDS folder {folder}: expected the intact splits "
            f"{', '.join(entry.rows)} of {entry.name}, got {type(error).__name__}: {error}\n"
            "Prepare it again, or choose another source with --raw-dir or --data-dir."
        ) from error
    return tables, f"prepared TFDS folder {folder}"


def _read_split(tfds: Any, builder: Any, entry: Entry, split: str) -> tuple[np.ndarray, np.ndarray]:
    is_image = isinstance(builder.info.features[entry.feature_key], tfds.features.Image)
    decoders = {entry.feature_key: tfds.decode.SkipDecoding()} if is_image else None
    source = builder.as_data_source(split=split, decoders=decoders)
    # In one batch: records asked for one by one take much longer (docs/performance.md).
    examples = source.__getitems__(range(len(source)))
    stored = [example[entry.feature_key] for example in examples]
    features = _decode_images(stored) if is_image else np.stack(stored)
    return features, np.array([example["label"] for example in examples])


def _decode_images(encoded: Sequence[bytes]) -> np.ndarray:
    """Decode images `[N, H, W]`; grey ones come without TFDS's last axis of length 1.

    Directly, because TFDS's decoder spends more time around each image than in it. A pool of
    threads is slower still: images this small leave the interpreter lock no time to be free.
    """
    from PIL import Image

    return np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in encoded])


def _version(folder: Path) -> tuple[int, ...]:
    parts = folder.name.split(".")
    return tuple(int(part) for part in parts) if all(map(str.isdecimal, parts)) else ()


def _what_is_there(name: str, data_dir: Path) -> str:
    if not data_dir.is_dir():
        return f"no folder {data_dir}"
    folder = data_dir / name
    if not folder.is_dir():
        return f"no folder {name} in {data_dir}"
    if any(folder.glob("*/*.tfrecord-*")):
        return "TFRecord files, which need TensorFlow to be read"
    return "neither of them there"
