"""Flags that several commands share, and the files and notes they lead to."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import tyro

from jax_softmax.errors import TrainingWarning

if TYPE_CHECKING:
    from tqdm import tqdm

    from jax_softmax.training.mesh import MeshShape

# Fields by which the records of each command are known.
_RECORDS = (
    {"dataset", "source", "run_dir", "test_loss"},  # train, evaluate
    {"row", "class_index", "class_name", "probability"},  # predict
    {"op", "rule", "regime", "error_eps"},  # verify
    {"suite", "case", "contender", "jax_softmax_version"},  # bench
    {"run_dir", "format", "file"},  # export
    {"run_dir", "dataset", "class_name", "taken_for"},  # report
)

# What `--json` calls standard output, and that, where reports are printed elsewhere.
_STANDARD = Path("-")
_output: ContextVar[TextIO | None] = ContextVar("output", default=None)

_File = tyro.conf.arg(metavar="FILE", help_behavior_hint="")

Mesh = Annotated[
    str | None,
    tyro.conf.arg(metavar="data=N,model=N", help_behavior_hint="(default: all devices on data)"),
]


def mesh_given(words: str | None) -> MeshShape | None:
    """What `--mesh` says; raises InputError if there are not so many devices."""
    from jax_softmax.training.mesh import mesh_of, parse_mesh

    if words is None:
        return None
    shape = parse_mesh(words)
    mesh_of(shape)
    return shape


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Flags of every command."""

    json: Annotated[Path | None, _File] = None
    """Write the results there too, as a list of flat records; - is standard output."""
    no_compilation_cache: bool = False
    """Keep no compiled programs in the user's cache folder (JAX_COMPILATION_CACHE_DIR moves it)."""
    debug: bool = False
    """On a mistake, show Python's traceback."""

    def check_json(self) -> None:
        """Raises InputError if `--json` cannot be written, before any work is lost to it."""
        from jax_softmax.training.files import check_file

        if self.json not in (None, _STANDARD):
            check_file(self.json, overwrite=_is_ours, flag="--json")

    def write_json(self, records: Sequence[dict[str, Any]]) -> None:
        """Writes the records to `--json`, whole or not at all."""
        if self.json == _STANDARD:
            print(_as_text(records), end="", file=_output.get(), flush=True)
        elif self.json is not None:
            write_file("--json", self.json, _as_text(records).encode())


@contextlib.contextmanager
def report_beside_json(command: Any) -> Iterator[None]:
    """Inside, the report is printed on standard error where `--json -` has standard output."""
    if command.json != _STANDARD:
        yield
        return
    before = _output.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _output.reset(before)


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


def write_file(flag: str, path: Path, data: bytes) -> None:
    """Writes a file that a flag asked for, whole or not at all."""
    from jax_softmax.training import files

    files.write_file(path, data, overwrite=True, flag=flag)


def _is_ours(path: Path) -> bool:
    """Whether a file holds what `write_json` writes, or nothing."""
    try:
        records = json.loads(path.read_bytes() or b"[]")
    except (ValueError, RecursionError):
        return False
    return isinstance(records, list) and all(
        isinstance(record, dict) and any(names <= record.keys() for names in _RECORDS)
        for record in records
    )


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


class Lines:
    """A line a minute on standard error where it is no terminal: a log of hours must not be empty.

    >>> Lines(seconds=60)("epoch 1 of 3, loss 0.5")  # nothing yet
    """

    def __init__(self, seconds: float = 60) -> None:
        """One in so many seconds."""
        self._seconds, self._last = seconds, time.monotonic()

    def __call__(self, words: str) -> None:
        """Says the words if it is time."""
        now = time.monotonic()
        if now - self._last >= self._seconds and not sys.stderr.isatty():
            self._last = now
            print(f"jax-softmax: {words}", file=sys.stderr, flush=True)


def beside(run_dir: Path, ending: str) -> Path:
    """The file of a run's name with that ending, beside it, by a path such as the run's.

    >>> beside(Path("runs/iris"), "-report.html").as_posix()
    'runs/iris-report.html'
    """
    whole = Path(os.path.abspath(run_dir))  # as "." has no name
    found = whole.with_name(f"{whole.name}{ending}")
    return found if run_dir.is_absolute() else Path(os.path.relpath(found))


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
        try:
            yield
        except KeyboardInterrupt:
            _say(caught)
            raise
    _say(caught)


def _say(caught: list[warnings.WarningMessage]) -> None:
    for warning in caught:
        if issubclass(warning.category, TrainingWarning):
            print(f"jax-softmax: {warning.message}", file=sys.stderr)
        else:
            warnings.showwarning(
                warning.message, warning.category, warning.filename, warning.lineno
            )
