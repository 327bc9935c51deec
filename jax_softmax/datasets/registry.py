"""What TFDS registers of a raw file, and its log kept quiet. Only TFDS's public names are used."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax_softmax.datasets.catalog import Entry

# absl's logger speaks of OpenCV and of skipped downloads; urllib3's, of each retry.
_CHATTY_LOGGERS = ("absl", "urllib3.connectionpool")


@dataclass(frozen=True)
class RegisteredFile:
    """A raw file as TFDS registers it."""

    name: str
    url: str
    sha256: str
    size: int

    def __str__(self) -> str:
        """Return its name, digest and size on one line, for messages."""
        return f"{self.name}  SHA-256 {self.sha256}  ({self.size:,} bytes)"


def import_tfds() -> Any:
    """Import `tensorflow_datasets` with every dataset of ours registered in it."""
    import tensorflow_datasets as tfds
    import tensorflow_datasets.structured  # TFDS does not find iris without it

    return tfds


def builder_class(entry: Entry) -> Any:
    """Return TFDS's builder class of a dataset, which prepares nothing by itself."""
    return import_tfds().builder_cls(entry.name)


def registered_files(entry: Entry) -> dict[str, RegisteredFile]:
    """Return file name to what TFDS registers, for every raw file of a dataset."""
    return {
        info.filename: RegisteredFile(info.filename, url, info.checksum, int(info.size))
        for url, info in builder_class(entry).url_infos.items()
    }


def describe_difference(path: Path, file: RegisteredFile) -> str:
    """Return how the file at `path` differs from the registered one, or `""` if it does not."""
    with path.open("rb") as stream:
        digest, size = hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()
    if digest == file.sha256:
        return ""
    damage = "truncated" if size < file.size else "corrupted"
    return (
        f"{path} is not the file that TFDS registers as {file.name}: "
        f"it is {damage}, or another file.\n"
        f"  expected: SHA-256 {file.sha256}, {file.size:,} bytes\n"
        f"  found:    SHA-256 {digest}, {size:,} bytes"
    )


@contextmanager
def quiet_tfds() -> Iterator[None]:
    """Keep the log lines of TFDS and its libraries off the terminal; then restore the loggers."""
    loggers = [logging.getLogger(name) for name in _CHATTY_LOGGERS]
    disabled = [logger.disabled for logger in loggers]
    # absl configures the root logger for good when it finds no handler there.
    stand_in = logging.NullHandler()
    logging.root.addHandler(stand_in)
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        logging.root.removeHandler(stand_in)
        for logger, was_disabled in zip(loggers, disabled, strict=True):
            logger.disabled = was_disabled
