"""`load_stream`: a dataset whose examples stay in files, from a name or a path."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from jax_softmax._extras import needs_train_extra
from jax_softmax.datasets import prepared, tfds_stream
from jax_softmax.datasets.assemble import TEST_SHARE
from jax_softmax.datasets.catalog import DATASET_NAMES
from jax_softmax.datasets.npy_stream import stream_npy
from jax_softmax.datasets.parquet_stream import stream_parquet
from jax_softmax.datasets.streams import Stream
from jax_softmax.datasets.tfds_stream import stream_tfds
from jax_softmax.errors import InputError

_FEATURES, _LABELS = "features.npy", "labels.npy"
# Labels that are in the records are read so many at once.
_ROWS = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Streams:
    """A `Dataset` of streams."""

    name: str
    train: Stream
    test: Stream
    source: str


@needs_train_extra()
def load_stream(
    dataset: str,
    *,
    data_dir: Path | None = None,
    label: str | None = None,
    test: Path | None = None,
    feature_scale: float | None = None,
    seed: int = 0,
) -> Streams:
    """A dataset of two streams.

    Args:
      dataset: a name of TFDS, prepared in `data_dir`; or the path of a Parquet file, of a folder of
        them, or of a folder with `features.npy` and `labels.npy`.
      data_dir: TFDS's data folder; None takes `TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
      label: the column of the labels, of Parquet files.
      test: the path of the examples to test on, of the same kind. None: a prepared `test` split
        where there is one, else a fifth of the examples, each class alike.
      feature_scale: what to multiply the stored features by; None: what suits a prepared dataset,
        and 1 for files.
      seed: decides which fifth.

    Raises:
      InputError: if there is no such dataset, or it cannot be read, or an argument is of another
        kind of dataset.
    """
    folder = tfds_stream.data_dir_of(data_dir)
    named = dataset.strip().lower()
    if named in DATASET_NAMES or (prepared.is_name(named) and prepared.find(named, folder)):
        for flag, value in (("--label", label), ("--test", test)):
            if value is not None:
                raise InputError(
                    f"{flag}: expected it beside files of your own, and {named} is a prepared "
                    f"dataset; leave it out."
                )
        train = stream_tfds(named, folder, feature_scale=feature_scale)
        where, name = f"prepared TFDS folder {train.files[0].parent}", named
        if "test" in tfds_stream.splits(named, folder):
            held = stream_tfds(named, folder, split="test", feature_scale=feature_scale)
            return Streams(name, train, held, f"{where}, streamed")
    else:
        path = Path(dataset).expanduser()
        if not path.exists():
            raise InputError(
                f"unknown dataset {dataset!r}: expected a dataset that is prepared in {folder}, "
                f"or the path of a Parquet file, a folder of them, or a folder with {_FEATURES} "
                f"and {_LABELS}; found nothing of that name."
            )
        train = _opened(path, label, feature_scale)
        where, name = str(path.absolute()), str(path.absolute())
        if test is not None:
            held = _opened(test, label, feature_scale)
            tested = test.expanduser().absolute()
            return Streams(name, train, held, f"{where}, streamed; test examples of {tested}")
    train, held = divide(train, TEST_SHARE, seed)
    return Streams(name, train, held, f"{where}, streamed")


def divide(stream: Stream, share: float, seed: int) -> tuple[Stream, Stream]:
    """The stream without a share of each class, and that share; rows as `load_dataset` divides.

    Raises:
      InputError: if a class has too few examples.
    """
    from sklearn.model_selection import train_test_split

    labels = stream.labels
    if labels is None:
        starts = range(0, len(stream), _ROWS)
        labels = np.concatenate([stream[first : first + _ROWS][1] for first in starts])
    if labels.ndim == 2:
        labels = labels.argmax(axis=1)
    try:
        rest, held = train_test_split(
            np.arange(len(stream)), test_size=share, stratify=labels, random_state=seed
        )
    except ValueError as error:
        raise InputError(
            f"{stream.files[0]}: no {share:.0%} of each class can be split off the "
            f"{len(stream):,} examples ({error}); give more examples of each."
        ) from error
    return stream.subset(rest), stream.subset(held)


def _opened(path: Path, label: str | None, feature_scale: float | None) -> Stream:
    scale = 1.0 if feature_scale is None else feature_scale
    is_pair = path.is_dir() and any(os.path.lexists(path / n) for n in (_FEATURES, _LABELS))
    if is_pair:
        if label is not None:
            raise InputError(
                f"--label: expected it beside Parquet files, and {path} has {_LABELS}; leave it "
                f"out."
            )
        return stream_npy(path / _FEATURES, path / _LABELS, feature_scale=scale)
    if label is None and (path.is_dir() or path.suffix == ".parquet"):
        raise InputError(f"{path}: expected --label NAME, the column of the labels, got none.")
    if not path.is_dir() and path.suffix != ".parquet":
        raise InputError(
            f"{path}: expected a Parquet file (.parquet), a folder of them, or a folder with "
            f"{_FEATURES} and {_LABELS}."
        )
    assert label is not None
    return stream_parquet(path, label, feature_scale=scale)
