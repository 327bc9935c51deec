"""The network: whether a host answers, and files from it, each question in a process with an end.

Not TFDS's download manager: it waits for a stalled or dripping answer for ever, takes an endless
one, and repeats a question for minutes (docs/performance.md).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jax_softmax.datasets.catalog import Entry
from jax_softmax.datasets.registry import RegisteredFile, describe_difference, registered_files
from jax_softmax.datasets.types import Tables
from jax_softmax.errors import InputError

PROBE_SECONDS = 3.0
_REASON_LONGEST = 500


@dataclass(frozen=True)
class Limits:
    """How long a download of one file may take, all tries together.

    Attributes:
      seconds: with nothing received.
      bytes_per_second: each such many bytes received allow a second more.
      tries: questions to the host; those after the first go on where the last one ended.
      pause: seconds between tries.
    """

    seconds: float = 15.0
    bytes_per_second: float = 10_000.0
    tries: int = 3
    pause: float = 0.5


LIMITS = Limits()


class Probe:
    """One bounded question to a host, asked in the background: whether it answers.

    It goes through `requests`, so proxies count.
    """

    def __init__(self, url: str, seconds: float = PROBE_SECONDS) -> None:
        """Ask for `url`, which has `seconds` in all to answer."""
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._process = _ask(url, seconds)

    def failure(self) -> str:
        """Wait for the answer; return why there is none, or `""` if there is one."""
        left = max(0.0, self._deadline - time.monotonic())
        with _ended(self._process), contextlib.suppress(subprocess.TimeoutExpired):
            said, _ = self._process.communicate(timeout=left)
            return _reason(self._process, said)
        return f"no answer within {self._seconds} s"


def is_cached(entry: Entry, data_dir: Path) -> bool:
    """Return whether every file was downloaded before, so that no host is needed."""
    folder = _cache_folder(entry, data_dir)
    if not folder.is_dir():  # before TFDS is imported for nothing
        return False
    return all(_find_intact(folder, file) for file in _files_to_fetch(entry))


def read(entry: Entry, data_dir: Path) -> tuple[Tables, str]:
    """Download a dataset into `data_dir/downloads/<dataset>`, or read it from there.

    A file that is there but damaged is downloaded anew.

    Args:
      entry: The dataset.
      data_dir: TFDS's data folder; made if it is not there.

    Returns:
      The arrays and the line that says where they came from.

    Raises:
      InputError: A download failed, or what came is not the registered file.
    """
    folder = _cache_folder(entry, data_dir)
    contents = {}
    try:
        for file in _files_to_fetch(entry):
            path = _find_intact(folder, file) or _download(file, folder)
            contents[file.name] = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"downloading {entry.name} to {folder} failed: {type(error).__name__}: {error}\n"
            "Try again, or place the files by hand and pass --raw-dir:\n" + describe_files(entry)
        ) from error
    return entry.parse(contents), f"downloaded to {folder} (SHA-256 verified)"


def describe_files(entry: Entry) -> str:
    """Return a line for each file that is downloaded: name, SHA-256, size and address."""
    return "\n".join(f"  {file}\n    {file.url}" for file in _files_to_fetch(entry))


def _cache_folder(entry: Entry, data_dir: Path) -> Path:
    # A folder to a dataset, as TFDS has it: Fashion-MNIST's files have the same names.
    return data_dir / "downloads" / entry.name


def _files_to_fetch(entry: Entry) -> list[RegisteredFile]:
    files = registered_files(entry)
    return [files[name] for name in entry.file_sets[0]]


def _find_intact(folder: Path, file: RegisteredFile) -> Path | None:
    """Return the file in `folder` that has this content, whatever its name: TFDS has others."""
    with contextlib.suppress(OSError):  # unreadable: as good as not there
        for path in folder.iterdir():
            if path.stat().st_size == file.size and not describe_difference(path, file):
                return path
    return None


def _download(file: RegisteredFile, folder: Path) -> Path:
    """Download a file, whole and verified or not at all.

    Raises:
      OSError: It did not come within the limits, or is another file, or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".part", dir=folder)
    os.close(handle)
    part = Path(name)
    try:
        _fetch(file, part)
        part.chmod(0o644)  # mkstemp's files are private
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _fetch(file: RegisteredFile, part: Path) -> None:
    clock, why = _Clock(LIMITS), ""
    for left in reversed(range(LIMITS.tries)):
        why = _try(file, part, clock) or describe_difference(part, file)
        if not why:
            return
        if part.stat().st_size >= file.size:
            os.truncate(part, 0)  # another file: nothing to go on from
        if clock.left() <= 0 or why.startswith("HTTP status 4"):
            break
        if left:
            time.sleep(LIMITS.pause)
    raise OSError(f"{file.url}: {why}")


def _try(file: RegisteredFile, part: Path, clock: _Clock) -> str:
    """Ask once, and wait as long as the clock allows; return why there is no answer, or `""`."""
    process = _ask(file.url, LIMITS.seconds, part, file.size)
    with _ended(process):
        clock.see(part.stat().st_size, a_new_try=True)
        while clock.left() > 0:
            try:
                said, _ = process.communicate(timeout=min(0.1, clock.left()))
            except subprocess.TimeoutExpired:
                clock.see(part.stat().st_size)
            else:
                clock.see(part.stat().st_size)
                return _reason(process, said)
    return (
        f"too slow: {clock.received:,} bytes in {clock.passed():.0f} s, of {file.size:,}; "
        f"the connection stalls"
    )


class _Clock:
    """The time that a download has, which grows with what is received."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._started = time.monotonic()
        self._size = 0
        self.received = 0

    def see(self, size: int, *, a_new_try: bool = False) -> None:
        """Take note of the size of what is there; a server may have begun anew."""
        if not a_new_try:
            self.received += size - self._size if size >= self._size else size
        self._size = size

    def passed(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    def left(self) -> float:
        """Seconds that are left."""
        allowed = self._limits.seconds + self.received / self._limits.bytes_per_second
        return allowed - self.passed()


def _ask(url: str, seconds: float, path: Path | None = None, most: int = 0) -> subprocess.Popen:
    """Start `jax_softmax._fetch`, with the modules that this process has."""
    target = [] if path is None else [os.fspath(path), str(most)]
    modules = [*filter(None, sys.path), os.fspath(Path(__file__).parents[2])]
    return subprocess.Popen(
        # -P: not what lies in the current folder under a module's name.
        [sys.executable, "-P", "-m", "jax_softmax._fetch", url, str(seconds), *target],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(modules)},
    )


@contextlib.contextmanager
def _ended(process: subprocess.Popen) -> Iterator[None]:
    """Leaves no process behind."""
    with process:
        try:
            yield
        finally:
            process.kill()


def _reason(process: subprocess.Popen, said: bytes) -> str:
    """What the process wrote; one that died without a word has failed too."""
    words = said.decode(errors="replace")[:_REASON_LONGEST]
    if not words and process.returncode:
        return f"the process that asked ended with code {process.returncode}"
    return words
