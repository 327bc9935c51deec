"""`load_dataset`: the sources in their order, and what to do when none of them has it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import overload

from jax_softmax._checks import is_integer, shown
from jax_softmax._extras import needs_train_extra
from jax_softmax.datasets import bundled, network, prepared, raw
from jax_softmax.datasets.assemble import assemble
from jax_softmax.datasets.catalog import CATALOG, Entry
from jax_softmax.datasets.types import Dataset, Tables
from jax_softmax.errors import InputError

RAW_DIR_VARIABLE = "JAX_SOFTMAX_RAW_DIR"
DATA_DIR_VARIABLE = "TFDS_DATA_DIR"


@needs_train_extra()
def load_dataset(
    name: str,
    *,
    raw_dir: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a dataset by name, from the first of these sources that has it.

    1. Raw files placed by hand, in `raw_dir` or `JAX_SOFTMAX_RAW_DIR`, checked against the
       SHA-256 that TFDS registers.
    2. A folder that TFDS has prepared, in `data_dir`, `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
    3. The network, at the addresses that TFDS registers, into the `downloads` folder of the latter
       two.
    4. For iris and digits, the copy bundled with scikit-learn.

    An argument beats an environment variable of either kind, and is binding: where it does not
    lead to the dataset, that is an error and no other source is tried.

    Args:
      name: "iris", "mnist" or "digits", in any case; or any other classification set of TFDS:
        "fashion_mnist", "emnist/balanced". Those are read from a prepared folder, or prepared there
        where the extra `[prepare]` is installed.
      raw_dir: The folder with the raw files, or its parent.
      data_dir: TFDS's data folder, the one with a folder for each dataset.
      seed: Decides the split of iris and digits, in `[0, 2**32)`; MNIST comes split. The split
        is of the rows in the source's order, and a prepared folder has an order of its own.

    Returns:
      The dataset; its `source` says where it came from.

    Raises:
      InputError: The name is unknown, or no source has the dataset intact; the message says what
        to place, and where. Or the extra `[train]` is not installed.

    See Also:
      `Dataset`; `stream_tfds` for sets larger than memory.

    Source: iris, Fisher (Annals of Eugenics 7, 1936); MNIST, LeCun et al. (Proc. IEEE 86,
    1998).

    >>> digits = load_dataset("digits")
    >>> digits.train.features.shape, digits.test.features.shape, digits.train.class_names[:2]
    ((1437, 8, 8), (360, 8, 8), ('0', '1'))
    """
    if not isinstance(name, str):
        raise InputError(f"name: expected a dataset's name such as 'iris', got {shown(name)}.")
    if not (is_integer(seed) and 0 <= seed < 2**32):
        raise InputError(f"expected a seed from 0 to 2**32 - 1, got {shown(seed)}; choose another.")
    entry = CATALOG.get(name.strip().lower())
    if entry is None:
        return _named(name, raw_dir, data_dir, seed)
    tables, source = _read(entry, _path("raw_dir", raw_dir), _path("data_dir", data_dir))
    return assemble(entry, tables, source, seed)


def _named(
    name: str,
    raw_dir: str | os.PathLike[str] | None,
    data_dir: str | os.PathLike[str] | None,
    seed: int,
) -> Dataset:
    """A dataset of TFDS's that is not in the catalog."""
    from jax_softmax.datasets.named import check_known, load_named

    if raw_dir is not None:
        check_known(name)
        raise InputError(
            f"{name}: expected no --raw-dir (raw_dir= from Python), for it is read from a prepared "
            f"folder (--data-dir, data_dir=); leave it out."
        )
    given = data_dir or os.environ.get(DATA_DIR_VARIABLE) or "~/tensorflow_datasets"
    folder = _path("data_dir", given)
    return load_named(name.strip().lower(), folder, seed, binding=data_dir is not None)


def _read(entry: Entry, raw_dir: Path | None, data_dir: Path | None) -> tuple[Tables, str]:
    if not entry.file_sets:
        if raw_dir is not None or data_dir is not None:
            raise InputError(
                f"{entry.name} comes only with scikit-learn, so there is no folder to read it "
                "from; drop --raw-dir and --data-dir (raw_dir=, data_dir= from Python)."
            )
        return bundled.read(entry)
    if raw_dir is not None:
        return raw.read(entry, raw_dir)
    if data_dir is not None:
        return prepared.read(entry, prepared.require(entry.name, data_dir))
    return _read_from_surroundings(entry)


def _read_from_surroundings(entry: Entry) -> tuple[Tables, str]:
    raw_dir = _path(RAW_DIR_VARIABLE, os.environ.get(RAW_DIR_VARIABLE) or None)
    if raw_dir and raw.has_any(entry, raw_dir):
        return raw.read(entry, raw_dir)
    data_dir = _path(
        DATA_DIR_VARIABLE, os.environ.get(DATA_DIR_VARIABLE) or "~/tensorflow_datasets"
    )
    folder = prepared.find(entry.name, data_dir)
    if folder:
        return prepared.read(entry, folder)
    if network.is_cached(entry, data_dir):
        return network.read(entry, data_dir)
    probe = network.Probe(entry.base_url + entry.file_sets[0][0])
    try:
        # Import scikit-learn, or read its copy, while the host is thinking.
        fallback = bundled.read(entry) if entry.bundled else None
    finally:
        failure = probe.failure()
    if not failure:
        return network.read(entry, data_dir)
    if fallback:
        return fallback
    raise _nowhere(entry, raw_dir, data_dir, failure)


def _nowhere(entry: Entry, raw_dir: Path | None, data_dir: Path, failure: str) -> InputError:
    parent = raw_dir or Path.cwd() / "data"
    return InputError(
        f"{entry.name} is not on this machine, and {entry.base_url} cannot be reached.\n"
        f"Place these files in {parent / entry.name}\n"
        f"{network.describe_files(entry)}\n"
        f"and pass --raw-dir {parent} (raw_dir= from Python) or set {RAW_DIR_VARIABLE}={parent}.\n"
        f"Looked for raw files in: {raw_dir or f'nowhere ({RAW_DIR_VARIABLE} is not set)'}; "
        f"for a prepared ArrayRecord folder in: {data_dir / entry.name}.\n"
        f"The network said: {failure}"
    )


@overload
def _path(name: str, folder: None) -> None: ...
@overload
def _path(name: str, folder: str | os.PathLike[str]) -> Path: ...
def _path(name: str, folder: str | os.PathLike[str] | None) -> Path | None:
    if folder is None:
        return None
    try:
        return Path(folder).expanduser()
    except (TypeError, RuntimeError) as error:  # RuntimeError: a home that is not known
        raise InputError(
            f"{name}: expected the path of a folder, got {shown(folder)} ({error})."
        ) from error
