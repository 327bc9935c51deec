"""Any classification set of TFDS by name: from a prepared folder, or prepared on the spot."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import math
import re
from collections.abc import Mapping
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np

from jax_softmax.datasets import network, prepared, tfds_stream
from jax_softmax.datasets.assemble import divide
from jax_softmax.datasets.catalog import DATASET_NAMES
from jax_softmax.datasets.load_table import dataset_of
from jax_softmax.datasets.registry import import_tfds, quiet_tfds
from jax_softmax.datasets.streams import Stream
from jax_softmax.datasets.tables import Table, is_table
from jax_softmax.datasets.types import Dataset, Split
from jax_softmax.errors import InputError

_EXAMPLES = "fashion_mnist, kmnist, emnist/balanced, cifar10, wine_quality"
# Bytes of features that are held in memory; more is what --stream is for.
_MOST_BYTES = 2**33
# How TFDS calls examples to test on, best first.
_HELD = ("test", "validation")


def load_named(name: str, data_dir: Path, seed: int, *, binding: bool) -> Dataset:
    """A set of TFDS's, prepared in `data_dir` or prepared there now.

    Args:
      name: as TFDS has it, with its configuration where there are several: "emnist/balanced".
      data_dir: TFDS's data folder.
      seed: divides it where it has no split to test on.
      binding: whether the folder was asked for: then nothing is prepared.

    Raises:
      InputError: if there is no such set, or it is not prepared and cannot be, or is no
        classification of examples of one shape or of columns.
    """
    folder = prepared.find(name, data_dir) if prepared.is_name(name) else None
    if folder is None:
        check_known(name)
        if binding:
            prepared.require(name, data_dir)
        folder = _prepared_now(name, data_dir)
    about = tfds_stream.opened(folder)
    if "train" not in about.splits:
        raise InputError(
            f"{folder}: expected a split 'train', found {', '.join(about.splits) or 'none'}."
        )
    held = next((split for split in _HELD if split in about.splits), None)
    source = f"prepared TFDS folder {folder}"
    columns = _columns_of(about)
    if columns:
        return _of_columns(name, folder, columns, held, seed, source)
    train = _in_memory(tfds_stream.open_version(folder, "train"))
    if held is not None:
        return Dataset(name, train, _in_memory(tfds_stream.open_version(folder, held)), source)
    parts = divide(train.features, train.labels, seed)
    train, test = (
        Split(*parts[split], train.class_names, train.feature_scale) for split in ("train", "test")
    )
    return Dataset(name, train, test, source)


def _in_memory(stream: Stream) -> Split:
    size = len(stream) * math.prod(stream.feature_shape) * stream.dtype.itemsize
    if size > _MOST_BYTES:
        raise InputError(
            f"{stream.files[0].parent}: its features are {size / 2**30:,.0f} GB, too many to hold "
            f"in memory; add --stream."
        )
    features, labels = stream[:]
    return Split(features, labels.astype(np.int32), stream.class_names, stream.feature_scale)


def _columns_of(about: Any) -> dict[str, tuple[str, ...]]:
    """Where each column is in an example, where examples are columns; else nothing."""
    keys = about.supervised_keys or ("", "")
    if isinstance(keys[0], Mapping):  # names of features
        return {name: (name,) for name in sorted(keys[0].values())}
    feature = dict(about.features.items()).get(keys[0])
    if feature is None or not hasattr(feature, "items"):
        return {}
    # Sorted, for TFDS's order changes from process to process.
    return {name: (keys[0], name) for name in sorted(dict(feature.items()))}


def _of_columns(
    name: str,
    folder: Path,
    columns: Mapping[str, tuple[str, ...]],
    held: str | None,
    seed: int,
    source: str,
) -> Dataset:
    label = tfds_stream.opened(folder).supervised_keys[1]
    paths = {**columns, label: (label,)}
    tables = [_table(folder, split, paths) for split in ("train", *([held] if held else []))]
    # Missing cells are filled in: there is no file to mend.
    made = dataset_of(
        tables[0],
        label,
        test=tables[1] if held else None,
        seed=seed,
        stratify=held is None,
        impute="mean",
    )
    return made.called(name, source)


def _table(folder: Path, split: str, paths: Mapping[str, tuple[str, ...]]) -> Table:
    import polars as pl

    about = tfds_stream.opened(folder)
    features = {
        name: functools.reduce(getitem, path, about.features) for name, path in paths.items()
    }
    for name, feature in features.items():
        if tuple(feature.shape):
            raise InputError(
                f"{folder}: expected columns of one value each, got {name!r} of shape "
                f"{tuple(feature.shape)}."
            )
    examples = tfds_stream.examples(folder, split)
    columns = {
        name: [
            _cell(functools.reduce(getitem, path, example), features[name]) for example in examples
        ]
        for name, path in paths.items()
    }
    return Table(pl.DataFrame(columns, strict=False), folder)


def _cell(stored: Any, feature: Any) -> Any:
    value = np.asarray(stored).item()
    if hasattr(feature, "names"):  # a class label; -1 is none
        return feature.names[value] if value >= 0 else None
    return value.decode() if isinstance(value, bytes) else value


def check_known(name: str) -> None:
    """Raises InputError if TFDS has no set of that name, with the nearest."""
    known = import_tfds().list_builders(with_community_datasets=False)
    if prepared.is_name(name) and name.partition("/")[0] in known:
        return
    if is_table(name):
        raise InputError(
            f"{name}: expected the name of a dataset, got a table; "
            f"jax_softmax.datasets.load_table(path, label) reads it."
        )
    near = difflib.get_close_matches(name, DATASET_NAMES, n=1) or difflib.get_close_matches(
        name, known, n=1
    )
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"unknown dataset {name!r}: expected one of {', '.join(DATASET_NAMES)}, a classification "
        f"set of TFDS ({_EXAMPLES}, ...), or the path of a table (customers.csv).{hint}"
    )


def _prepared_now(name: str, data_dir: Path) -> Path:
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"{name} is not prepared in {data_dir}, which takes TensorFlow: "
            f"pip install 'jax-softmax[prepare]', and give the command again. Or prepare it "
            f"elsewhere with tfds.builder({name!r}, file_format='array_record')"
            f".download_and_prepare(), and give its folder with --data-dir (data_dir=)."
        )
    tfds = import_tfds()
    builder_class = tfds.builder_cls(name.partition("/")[0])
    addresses = sorted(builder_class.url_infos)
    if re.match("https?://", (addresses or [""])[0]):
        # TFDS tries for minutes before it gives up.
        failure = network.Probe(addresses[0]).failure()
        if failure:
            raise InputError(
                f"{name} is not prepared in {data_dir}, and {addresses[0]} cannot be reached "
                f"({failure}); prepare it elsewhere, and give its folder with --data-dir."
            )
    try:
        with quiet_tfds():
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
            builder.download_and_prepare()
    except Exception as error:  # TFDS raises a dozen unrelated types here
        why = str(error).partition("\n")[0]
        raise InputError(
            f"{name} cannot be prepared in {data_dir} ({type(error).__name__}: {why})."
        ) from error
    return prepared.require(name, data_dir)
