"""The network, through TFDS's download manager, once the host is known to answer."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jax_softmax.datasets.catalog import Entry
from jax_softmax.datasets.registry import (
    RegisteredFile,
    builder_class,
    describe_difference,
    import_tfds,
    quiet_tfds,
    registered_files,
)
from jax_softmax.datasets.types import Tables
from jax_softmax.errors import InputError

PROBE_SECONDS = 1.8


class Probe:
    """One bounded question to a host, asked in the background: whether it answers.

    TFDS retries for minutes before it gives up. The question goes through `requests`, as TFDS's do,
    so proxies count; and from a daemon thread, because name resolution has no timeout of its own
    and a thread that hangs in it must delay neither the caller nor the interpreter's exit.
    """

    def __init__(self, url: str, seconds: float = PROBE_SECONDS) -> None:
        """Ask for `url`, which has `seconds` in all to answer."""
        import requests  # here and not in the thread, so that the host has all the time

        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._reply: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._ask, args=(requests.get, url), daemon=True).start()

    def failure(self) -> str:
        """Wait for the answer; return why there is none, or `""` if there is one."""
        try:
            return self._reply.get(timeout=max(0.0, self._deadline - time.monotonic()))
        except queue.Empty:
            return f"no answer within {self._seconds} s"

    def _ask(self, get: Callable[..., Any], url: str) -> None:
        try:
            with get(url, stream=True, timeout=self._seconds) as response:
                self._reply.put("" if response.ok else f"HTTP status {response.status_code}")
        except (OSError, ValueError) as error:  # all that requests raises is one of the two
            cause = getattr(next(iter(error.args), None), "reason", None) or error
            self._reply.put(f"{type(cause).__name__}: {cause}")


def is_cached(entry: Entry, data_dir: Path) -> bool:
    """Return whether TFDS has downloaded every file before, so that no host is needed."""
    folder = _cache_folder(entry, data_dir)
    if not folder.is_dir():  # before TFDS is imported for nothing
        return False
    return all(_find_intact(folder, file) for file in _files_to_fetch(entry))


def read(entry: Entry, data_dir: Path) -> tuple[Tables, str]:
    """Download a dataset into `data_dir/downloads/<dataset>`, or read it from there.

    A file that is there but damaged is downloaded anew. TFDS's progress bars are off meanwhile and
    on afterwards, as they are by default: TFDS does not tell whether they were.

    Args:
      entry: The dataset.
      data_dir: TFDS's data folder; made if it is not there.

    Returns:
      The arrays and the line that says where they came from.

    Raises:
      InputError: A download failed, or what came is not the registered file.
    """
    tfds = import_tfds()
    folder = _cache_folder(entry, data_dir)
    contents = {}
    try:
        with (
            quiet_tfds(),
            _no_progress_bars(tfds),
            tempfile.TemporaryDirectory() as scratch,
            _no_leftovers(folder),
        ):
            manager = tfds.download.DownloadManager(
                download_dir=folder,
                extract_dir=scratch,
                url_infos=builder_class(entry).url_infos,
                force_checksums_validation=True,
                force_download=True,  # it would trust a damaged file by its name
            )
            for file in _files_to_fetch(entry):
                path = _find_intact(folder, file) or os.fspath(manager.download(file.url))
                contents[file.name] = Path(path).read_bytes()
    except Exception as error:  # TFDS's errors have no common base, and its checksum error no name
        raise InputError(
            f"downloading {entry.name} to {folder} failed: {type(error).__name__}: {error}\n"
            "Try again, or place the files by hand and pass --raw-dir:\n" + describe_files(entry)
        ) from error
    return entry.parse(contents), f"downloaded by TFDS to {folder} (SHA-256 verified)"


def describe_files(entry: Entry) -> str:
    """Return a line for each file that TFDS downloads: name, SHA-256, size and address."""
    return "\n".join(f"  {file}\n    {file.url}" for file in _files_to_fetch(entry))


def _cache_folder(entry: Entry, data_dir: Path) -> Path:
    # A folder to a dataset, as TFDS has it: Fashion-MNIST's files have the same names.
    return data_dir / "downloads" / entry.name


def _files_to_fetch(entry: Entry) -> list[RegisteredFile]:
    files = registered_files(entry)
    return [files[name] for name in entry.file_sets[0]]


def _find_intact(folder: Path, file: RegisteredFile) -> Path | None:
    """Return the file in `folder` that has this content; how TFDS names it is TFDS's own affair."""
    with contextlib.suppress(OSError):  # unreadable: as good as not there
        for path in folder.iterdir():
            if path.stat().st_size == file.size and not describe_difference(path, file):
                return path
    return None


@contextlib.contextmanager
def _no_progress_bars(tfds: Any) -> Iterator[None]:
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()


@contextlib.contextmanager
def _no_leftovers(folder: Path) -> Iterator[None]:
    """Remove the temporary folders that TFDS leaves where a download fails."""
    before = set(folder.glob("*.tmp.*"))
    try:
        yield
    finally:
        for leftover in set(folder.glob("*.tmp.*")) - before:
            shutil.rmtree(leftover, ignore_errors=True)
