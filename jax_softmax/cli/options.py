"""Flags that several commands share, and the files and notes they lead to."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jax_softmax.errors import InputError, TrainingWarning

if TYPE_CHECKING:
    from tqdm import tqdm

_File = tyro.conf.arg(metavar="FILE", help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Flags of every command."""

    json: Annotated[Path | None, _File] = None
    """Write the results there too, as a list of flat records."""
    no_compilation_cache: bool = False
    """Keep no compiled programs in the user's cache folder (JAX_COMPILATION_CACHE_DIR moves it)."""
    debug: bool = False
    """On a mistake, show Python's traceback."""

    def check_json(self) -> None:
        """Raises InputError if `--json` cannot be written, before any work is lost to it."""
        if self.json is None:
            return
        if self.json.is_dir() or not self.json.absolute().parent.is_dir():
            raise InputError(
                f"--json {self.json}: expected a file's path in a folder that is there."
            )
        if self.json.is_file() and not _is_json_list(self.json):
            raise InputError(
                f"--json {self.json}: holds something else than such results, which would be lost; "
                f"give another path."
            )

    def write_json(self, records: Sequence[dict[str, Any]]) -> None:
        """Writes the records to `--json`, whole or not at all."""
        if self.json is None:
            return
        target = self.json.absolute()
        try:
            if target.is_symlink() or (target.exists() and not target.is_file()):
                # A link or a device (/dev/stdout): written to, never replaced.
                target.write_text(_as_text(records))
                return
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            try:
                with os.fdopen(handle, "w") as file:
                    file.write(_as_text(records))
                os.chmod(name, 0o644)  # mkstemp's files are private; a result is not
                os.replace(name, target)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            raise InputError(f"--json {self.json}: cannot be written ({error}).") from error


@dataclass(frozen=True, kw_only=True)
class DataOptions(OutputOptions):
    """Flags of the commands that load a dataset."""

    raw_dir: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: JAX_SOFTMAX_RAW_DIR)"),
    ] = None
    """Folder with the dataset's raw files, or its parent."""
    data_dir: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: TFDS_DATA_DIR)")
    ] = None
    """Folder of prepared TFDS datasets."""


def _is_json_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) in (b"", b"[")


def _as_text(records: Sequence[dict[str, Any]]) -> str:
    return json.dumps(list(records), indent=2) + "\n"


def progress_bar(words: str, total: int, unit: str) -> tqdm:
    """A bar on a terminal that wipes itself: `training: 20 of 1000 epochs |## | 00:03`."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=words,
        bar_format=f"{{desc}}: {{n_fmt}} of {{total_fmt}} {unit} |{{bar}}| {{elapsed}}{{postfix}}",
        leave=False,
        disable=None,  # silent where standard error is no terminal
    )


@contextlib.contextmanager
def note(words: str) -> Iterator[None]:
    """Shows `words` on a terminal while something takes its time, and wipes them after."""
    shown = sys.stderr.isatty()
    if shown:
        print(f"{words} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def training_warnings_said() -> Iterator[None]:
    """Says warnings of training as commands say things, once it is done; a failure says its own."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TrainingWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, TrainingWarning):
            print(f"jax-softmax: {warning.message}", file=sys.stderr)
        else:
            warnings.showwarning(
                warning.message, warning.category, warning.filename, warning.lineno
            )
