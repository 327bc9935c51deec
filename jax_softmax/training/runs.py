"""Run folders: a trained model, its settings, history and pictures, written whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jax_softmax._extras import needs_train_extra
from jax_softmax.errors import InputError
from jax_softmax.training import atomic, run_files
from jax_softmax.training.metrics import Evaluation
from jax_softmax.training.model import FitResult
from jax_softmax.training.model_card import model_card

_READ = (run_files.MODEL, run_files.CONFIG, run_files.HISTORY, run_files.METRICS)
_CURVE, _CONFUSION, _WEIGHTS = "learning_curve.png", "confusion_matrix.png", "class_weights.png"
_CARD = "MODEL_CARD.md"
_FILES = (*_READ, _CARD, _CURVE, _CONFUSION, _WEIGHTS)
# How often a folder is read again that is replaced while it is read.
_READINGS = 100


class RunExistsError(InputError):
    """A run is there already, or a folder that another made meanwhile, and is not replaced."""


@needs_train_extra()
def save_run(
    result: FitResult,
    run_dir: str | os.PathLike[str],
    *,
    metrics: Mapping[str, Any] | None = None,
    evaluation: Evaluation | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a run folder: all of it, or (whatever happens meanwhile) nothing.

    It holds `config.json`, `metrics.json`, `history.jsonl` (a line an epoch), `model.safetensors`
    (`kernel [D, V]`, `bias [V]` and, as metadata, the preprocessing), `MODEL_CARD.md`,
    `learning_curve.png`, for images `class_weights.png`, and with an evaluation
    `confusion_matrix.png`. No pickle. SHA-256 digests show damage to the files that are read back.
    But for the times in `metrics.json`, the same training gives the same bytes.

    The folder gets its name in one step, once the disk holds it; a run that is replaced is there
    until then. Of several that write one folder at once, one does, and the others raise. A link
    stays a link: what it leads to is written.

    Args:
      result: what `fit` returned.
      run_dir: the folder to make; its parents are made too.
      metrics: what `metrics.json` says beside times, device and versions, e.g. `test_accuracy`.
      evaluation: draws the confusion matrix, and gives the card its table of classes.
      overwrite: replace a run that is there.

    Returns:
      The folder's path.

    Raises:
      InputError: if the folder is there and `overwrite` is False, or it is not a run, or it cannot
        be written, or the result has values that cannot be read back (numbers that are not finite,
        class names that are not distinct strings), or the extra `[train]` is not installed.

    See Also:
      `load_run`; `export_model` for a file that other programs read.

    >>> import tempfile
    >>> import numpy as np
    >>> from jax_softmax import Split, TrainConfig, fit
    >>> result = fit(Split(np.array([[0.0], [1.0]]), np.array([0, 1])), TrainConfig(epochs=3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_run(save_run(result, f"{folder}/run")).config.epochs
    3
    """
    import safetensors  # noqa: F401 - before anything is said of the folder

    place = check_run_dir(run_dir, overwrite=overwrite)
    return write_run(place, result, metrics=metrics, evaluation=evaluation)


@needs_train_extra()
def load_run(run_dir: str | os.PathLike[str]) -> FitResult:
    """Reads a run folder back: the model, its settings and its history.

    Args:
      run_dir: the folder.

    Returns:
      What `save_run` wrote.

    Raises:
      InputError: if the folder or one of its files is missing, damaged, or another program's, or
        the extra `[train]` is not installed.

    See Also:
      `save_run`; `predict`, `evaluate`.

    >>> load_run("no/such/run")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    jax_softmax.errors.InputError: ...
    """
    import safetensors  # noqa: F401 - before anything is said of the folder

    return read_run(run_dir)[0]


def read_run(run_dir: str | os.PathLike[str]) -> tuple[FitResult, dict[str, Any]]:
    """What `load_run` gives, and what `metrics.json` says."""
    folder = Path(run_dir)
    return run_files.decode(_contents(folder), lambda name: folder / name)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run is to be, as `check_run_dir` found it.

    Attributes:
      given: the path that was asked for.
      path: the same, or what it leads to where it is a link.
      empty: an empty folder was there.
      overwrite: whether a run there is replaced.
    """

    given: Path
    path: Path
    empty: bool
    overwrite: bool


def check_run_dir(run_dir: str | os.PathLike[str], *, overwrite: bool) -> Place:
    """Where a run is to be: asked before a training, none is lost to a folder that cannot be made.

    Removes what processes that were killed left beside it.

    Raises:
      InputError: if a run cannot be written there.
    """
    given = Path(run_dir)
    try:
        path = path_of(given)
        atomic.sweep(path.parent)
        if path.name in ("", ".."):
            raise InputError(f"run folder {given}: expected the path of a folder that can be made.")
        _check_that_it_can_be_made(path, given)
        empty = os.path.lexists(path) and _check_what_is_there(path, given, overwrite)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise InputError(f"run folder {given}: cannot be made ({error}).") from error
    return Place(given, path, empty, overwrite)


def path_of(run_dir: Path) -> Path:
    """The path itself, or what it leads to where it is a link."""
    return Path(os.path.realpath(run_dir)) if run_dir.is_symlink() else run_dir


def write_run(
    place: Place,
    result: FitResult,
    *,
    metrics: Mapping[str, Any] | None = None,
    evaluation: Evaluation | None = None,
) -> Path:
    """Writes a run folder where `check_run_dir` found that it can be; else as `save_run`."""
    contents = run_files.encode(result, metrics or {})
    contents[_CARD] = model_card(result, metrics or {}, evaluation).encode(
        errors="backslashreplace"
    )
    try:
        with parents_of(place.path), atomic.work_folder(place.path.parent) as written:
            written.mkdir()
            for name, data in contents.items():
                (written / name).write_bytes(data)
            _draw(written, result, evaluation)
            atomic.sync_folder(written)
            _put_in_place(written, place)
    except OSError as error:
        raise InputError(f"run folder {place.given}: cannot be written ({error}).") from error
    return place.given


def _check_that_it_can_be_made(path: Path, given: Path) -> None:
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(
            f"run folder {given}: cannot be made, for {above} is no folder that can be written to."
        )
    names = path.absolute().relative_to(above).parts
    longest = atomic.longest_work_path(path.parent, max(_FILES, key=len))
    for probe in (path, longest, *(above / name for name in names)):
        # The system says of each name whether it is too long, be it there or not.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            probe.lstat()
    if os.path.ismount(path):
        raise InputError(
            f"run folder {given}: is a mount point, which cannot be replaced; give a folder in it."
        )


def _check_what_is_there(path: Path, given: Path, overwrite: bool) -> bool:
    """Whether it is an empty folder; raises if it may not become the run's."""
    if not path.is_dir():
        raise InputError(f"run folder {given}: expected a folder or nothing, got a file.")
    names = {entry.name for entry in path.iterdir()}
    if not names:
        return True
    if run_files.MODEL not in names:
        raise InputError(
            f"run folder {given}: holds files but no {run_files.MODEL}, so it is no run and will "
            f"not be replaced; give another folder."
        )
    others = sorted(names - {*_FILES})
    if others:
        raise InputError(
            f"run folder {given}: holds files of others ({', '.join(others[:5])}), which would be "
            f"lost; give another folder."
        )
    if not overwrite:
        raise RunExistsError(
            f"run folder {given}: a run is there already; give another folder, or --overwrite "
            f"(overwrite=True)."
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(
            f"run folder {given}: cannot be replaced, for it may not be written to; give another "
            f"folder, or change its permissions."
        )
    return False


@contextlib.contextmanager
def parents_of(target: Path) -> Iterator[None]:
    """Makes the folders above `target`, and takes those made away again on a failure."""
    made = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # not empty: another's
                folder.rmdir()
        raise
    for folder in made:
        atomic.sync(folder.parent)


def _put_in_place(written: Path, place: Place) -> None:
    def check(replaced: Path) -> None:
        _check_what_is_there(replaced, place.given, overwrite=True)

    if place.overwrite:
        atomic.replace(written, place.path, check)
        return
    try:
        if place.empty:
            atomic.put_in_empty(written, place.path)
        else:
            atomic.put_new(written, place.path)
    except OSError as error:
        if not os.path.lexists(place.path):
            raise
        raise RunExistsError(
            f"run folder {place.given}: another has made it meanwhile, and it is not replaced; "
            f"give another folder, or --overwrite (overwrite=True)."
        ) from error


def _draw(folder: Path, result: FitResult, evaluation: Evaluation | None) -> None:
    from jax_softmax.training import pictures

    pictures.learning_curve(result.history, result.config.turn).savefig(folder / _CURVE)
    if evaluation is not None:
        pictures.confusion_matrix(evaluation).savefig(folder / _CONFUSION)
    if result.is_image:
        pictures.class_weights(result).savefig(folder / _WEIGHTS)


def _contents(folder: Path) -> run_files.Contents:
    """The files of a run, all of one: it is read again where it is replaced meanwhile."""
    try:
        for _ in range(_READINGS):
            before = _identity(folder) or _identity_once_replaced(folder)
            try:
                contents = {name: _file(folder, name).read_bytes() for name in _READ}
            except (OSError, InputError):
                if _identity(folder) == before:
                    raise
            else:
                if _identity(folder) == before:
                    return contents
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise InputError(f"run folder {folder}: cannot be read ({error}).") from error
    raise InputError(f"run folder {folder}: cannot be read, for it is replaced all the time.")


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _identity_once_replaced(folder: Path) -> tuple[int, int] | None:
    """Where nothing is there because it is being replaced, and the system cannot swap folders."""
    path = Path(os.path.realpath(folder))
    atomic.sweep(path.parent, wait_for=path.name)
    return _identity(folder)


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        found = f"no {name} in it" if folder.is_dir() else "no such folder"
        if folder.is_file():
            found = "a file"
        raise InputError(
            f"run folder {folder}: {found}; give the folder that `jax-softmax train` wrote."
        )
    return path
