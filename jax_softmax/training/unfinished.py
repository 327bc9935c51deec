"""Trainings that are not done: a folder `.RUN.training` beside the name of the run-to-be.

It says the settings and what the data were, and holds the checkpoints. It gets its name in one
step, is locked while a process trains, and goes in one step once the run folder is in place.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jax_softmax.errors import CheckpointError, InputError
from jax_softmax.training import atomic, run_files
from jax_softmax.training.config import TrainConfig
from jax_softmax.training.runs import Place, RunExistsError, parents_of

_FORMAT = "jax_softmax.training.1"
_ABOUT, _LOCK, _CHECKPOINTS = "training.json", "lock", "checkpoints"


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """A training that was started, locked by this process.

    Attributes:
      folder: where it is kept.
      config: its settings.
      data: what its data were, in the words of who started it.
      overwrite: whether it may replace a run.
    """

    folder: Path
    config: TrainConfig
    data: Mapping[str, Any]
    overwrite: bool

    @property
    def checkpoints(self) -> Path:
        """The folder for `fit`'s checkpoints."""
        return self.folder / _CHECKPOINTS

    @property
    def has_checkpoints(self) -> bool:
        """Whether one is there, be it damaged."""
        return any(self.checkpoints.glob("epoch-*"))

    def remove(self) -> None:
        """Takes the folder away: the run is in place, or can never be."""
        with atomic.work_folder(self.folder.parent) as gone:
            self.folder.rename(gone)


def folder_of(run: Path) -> Path:
    """Where the training of a run is kept while it is not done."""
    return run.with_name(f".{run.name}.training")


def is_there(run: Path) -> bool:
    """Whether a training of the run was started and is not done."""
    return (folder_of(run) / _ABOUT).exists()


@contextlib.contextmanager
def started(place: Place, config: TrainConfig, data: Mapping[str, Any]) -> Iterator[Unfinished]:
    """A training that starts now; the disk holds that it did.

    Raises:
      RunExistsError: if one of the same name is there.
      InputError: if the folder cannot be made.
    """
    folder = folder_of(place.path)
    said = {
        "format": _FORMAT,
        "config": dataclasses.asdict(config),
        "data": data,
        "overwrite": place.overwrite,
    }
    with contextlib.ExitStack() as stack:
        try:
            with parents_of(folder), atomic.work_folder(folder.parent) as new:
                new.mkdir()
                stack.enter_context(atomic.locked(new / _LOCK))
                (new / _ABOUT).write_bytes(run_files.sealed_json(said))
                atomic.sync_folder(new)
                with contextlib.suppress(OSError):
                    folder.rmdir()  # empty: of a process that was killed making it
                atomic.put_new(new, folder)
        except FileExistsError as error:
            raise RunExistsError(
                f"training of {place.given}: {folder} is there already, perhaps another's; finish "
                f"or remove it, or give another run folder."
            ) from error
        except OSError as error:
            raise InputError(f"training of {place.given}: cannot be kept ({error}).") from error
        yield Unfinished(folder, config, data, place.overwrite)


@contextlib.contextmanager
def found(run: Path) -> Iterator[Unfinished | None]:
    """The training of a run that is not done; None if there is none.

    Raises:
      InputError: if another process is at it, or what it says of itself is damaged, or of another
        version.
    """
    folder = folder_of(run)
    with contextlib.ExitStack() as stack:
        there = None
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # or done meanwhile
            try:
                data = (folder / _ABOUT).read_bytes()
                _check_free(stack.enter_context(atomic.locked(folder / _LOCK)), folder)
                there = _read(folder, data)
            except (PermissionError, IsADirectoryError) as error:
                raise CheckpointError(f"training {folder}: cannot be read ({error}).") from error
        yield there


def discard(run: Path) -> None:
    """Takes away the training of a run, damaged or not, unless a process is at it."""
    folder = folder_of(run)
    with contextlib.suppress(FileNotFoundError), atomic.locked(folder / _LOCK) as free:
        _check_free(free, folder)
        with atomic.work_folder(folder.parent) as gone:
            folder.rename(gone)


def _check_free(free: bool, folder: Path) -> None:
    if not free:
        raise CheckpointError(
            f"training {folder}: another process is at it; wait for it, or stop it first."
        )


def _read(folder: Path, data: bytes) -> Unfinished:
    name = folder / _ABOUT
    remedy = f"remove {folder} and train again"
    try:
        said = run_files.unsealed_json(data, name)
    except InputError as error:
        raise CheckpointError(
            f"{name}: is damaged: it is not as it was saved; restore it, or {remedy}."
        ) from error
    if said.get("format") != _FORMAT:
        raise CheckpointError(
            f"{name}: expected a training of this version ({_FORMAT}), got {said.get('format')}; "
            f"go on with the version that started it, or {remedy}."
        )
    return Unfinished(folder, TrainConfig(**said["config"]), said["data"], said["overwrite"])
