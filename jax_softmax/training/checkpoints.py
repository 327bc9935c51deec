"""Checkpoints: what a training needs to go on to the same bits, whole or passed over.

Each is a folder `epoch-N`, or `epoch-N-PIECES` within an epoch, that gets its name in one step.
orbax writes and reads what it holds; `checkpoint.json` has the SHA-256 of each of orbax's files, so
that damaged ones are not given to it, and of what is to be restored from them. The last two are
kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_softmax._extras import needs_train_extra
from jax_softmax.errors import CheckpointError, InputError, TrainingWarning
from jax_softmax.training import atomic, processes, run_files
from jax_softmax.training.config import TrainConfig
from jax_softmax.training.step import Params, TrainState
from jax_softmax.training.streams import is_stream

_FORMAT = "jax_softmax.checkpoint.1"
_NAME = re.compile(r"epoch-\d{10}(-\d{10})?")
_LOCK, _ORBAX, _SEAL = "lock", "orbax", "checkpoint.json"
_CALLER_OF_FIT = 4
_SAID = ("history", "shuffle", "train_seconds", "part")

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass
class Progress:
    """A training after some epochs: all that its next epochs and its result come of.

    Attributes:
      state: parameters and the optimiser's own state.
      shuffle: the state of the generator that draws the order of the examples.
      history: a record an epoch, so far.
      best: the parameters of the smallest validation loss, where patience asks for them.
      train_seconds: time to run the epochs so far.
      part: what is done of the next epoch, in the words of who runs it; nothing in memory.
    """

    state: TrainState
    shuffle: Mapping[str, Any]
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: Params | None = None
    train_seconds: float = 0.0
    part: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)


class _DamagedError(Exception):
    """A checkpoint is not as it was written; the message says in what."""


class Checkpoints:
    """The checkpoints of one training, in a folder that one process uses at a time."""

    def __init__(self, folder: Path, training: Mapping[str, Any]) -> None:
        """In `folder`; `training` says the settings and digests of the data, by name."""
        self.folder = folder
        self._training = json.loads(json.dumps(training))
        self._last: Path | None = None  # that was read or written whole

    def newest(self, like: Progress) -> Progress | None:
        """The newest whole checkpoint; None if there is none.

        Args:
          like: of the same training, for the structure of its state.

        Raises:
          CheckpointError: if it is of another training or another version, or cannot be read.

        Warns:
          TrainingWarning: if one is damaged, which is passed over.
        """
        for path in sorted(self._all(), reverse=True):
            try:
                arrays, about = self._read(path)
                progress = _progress(arrays, about, like)
            except _DamagedError as error:
                words = f"checkpoint {path}: is damaged ({error}); it is passed over."
                warnings.warn(words, TrainingWarning, stacklevel=_CALLER_OF_FIT)
            except OSError as error:
                raise CheckpointError(f"checkpoint {path}: cannot be read ({error}).") from error
            else:
                self._last = path
                return progress
        return None

    def save(self, progress: Progress) -> None:
        """Writes a checkpoint and removes all but the one before it.

        Raises:
          CheckpointError: if it cannot be written.
        """
        part = f"-{progress.part['pieces']:010d}" if progress.part else ""
        path = self.folder / f"epoch-{progress.epoch:010d}{part}"
        if path == self._last:
            return
        arrays, about = _arrays(progress), self._about(progress)
        try:
            with atomic.work_folder(self.folder) as new:
                new.mkdir()
                _orbax_save(new.absolute() / _ORBAX, arrays, about)
                (new / _SEAL).write_bytes(_seal(new, arrays, about))
                atomic.sync_folder(new)
                atomic.replace(new, path, lambda _replaced: None)
                for old in self._all() - {path, self._last}:
                    shutil.rmtree(new, ignore_errors=True)
                    old.rename(new)  # then removed: never half of it under its name
        except OSError as error:
            last = f"the last is {self._last}" if self._last else "there is none yet"
            raise CheckpointError(
                f"checkpoint {path}: cannot be written ({error}); {last}."
            ) from error
        self._last = path

    def _all(self) -> set[Path]:
        return {path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)}

    def _about(self, progress: Progress) -> dict[str, Any]:
        return {"training": self._training, "versions": run_files.versions(), **_said(progress)}

    def _read(self, path: Path) -> tuple[Arrays, dict[str, Any]]:
        seal = _checked_seal(path)
        arrays, about = _orbax_restore(path.absolute() / _ORBAX)
        if _digest(arrays, about) != seal["restored"]:
            raise _DamagedError("what is restored has another SHA-256 than what was saved")
        self._check(path, about)
        return arrays, about

    def _check(self, path: Path, about: Mapping[str, Any]) -> None:
        there, here = about["training"], self._training
        differ = [name for name in here if there.get(name) != here[name]]
        if differ:
            said = ", ".join(
                f"{name.replace('_', ' ')}: {_short(there.get(name))} there, {_short(here[name])} "
                f"here"
                for name in differ
            )
            raise CheckpointError(
                f"checkpoint {path}: is of another training ({said}); go on with the settings and "
                f"the data it was started with, or give another folder."
            )
        versions = run_files.versions()
        others = [name for name in versions if about["versions"].get(name) != versions[name]]
        if others:
            said = ", ".join(f"{n} {about['versions'].get(n)}, now {versions[n]}" for n in others)
            words = f"checkpoint {path}: was written with {said}; results may differ by rounding."
            warnings.warn(words, TrainingWarning, stacklevel=_CALLER_OF_FIT + 2)


class OfFirstProcess:
    """The checkpoints of a training by several processes: the first reads and writes them.

    All call the same methods in the same order, and what fails in the first raises in all.
    """

    def __init__(self, own: Checkpoints | None) -> None:
        """Those of the first process; None in the others."""
        self._own = own

    def newest(self, like: Progress) -> Progress | None:
        """As of `Checkpoints`."""
        found: list[Progress] = []

        def said() -> dict[str, Any] | None:
            assert self._own is not None
            progress = self._own.newest(like)
            if progress is None:
                return None
            found.append(progress)
            return _said(progress)

        about = processes.told_by_first(said)
        if about is None:
            return None
        arrays = processes.arrays_of_first(_arrays(found[0]) if found else None)
        return _progress(arrays, about, like)

    def save(self, progress: Progress) -> None:
        """As of `Checkpoints`."""

        def saved() -> None:
            assert self._own is not None
            self._own.save(progress)

        processes.told_by_first(saved)


def check_checkpoints(config: TrainConfig, folder: object) -> None:
    """Raises InputError unless a folder and how often to write to it are given together."""
    if not (folder is None or isinstance(folder, (str, os.PathLike))):
        raise InputError(f"checkpoints: expected a folder's path, got {type(folder).__name__}.")
    if config.checkpoint_every is None and folder is not None:
        raise InputError(
            "checkpoints: expected TrainConfig(checkpoint_every=...) to go with the folder, got "
            "None."
        )
    if config.checkpoint_every is not None and folder is None:
        raise InputError("checkpoint every: expected checkpoints=FOLDER to go with it, got None.")


@contextlib.contextmanager
def checkpoints_of(
    folder: str | os.PathLike[str], training: Mapping[str, Any]
) -> Iterator[Checkpoints | OfFirstProcess]:
    """What `open_checkpoints` gives, in the first process for all that there are.

    Raises:
      InputError: as `open_checkpoints`.
    """
    with contextlib.ExitStack() as stack:

        def opened() -> Checkpoints:
            return stack.enter_context(open_checkpoints(folder, training))

        if processes.count() == 1:
            yield opened()
            return
        own: list[Checkpoints] = []
        processes.told_by_first(lambda: own.append(opened()))
        yield OfFirstProcess(own[0] if own else None)


@contextlib.contextmanager
def open_checkpoints(
    folder: str | os.PathLike[str], training: Mapping[str, Any]
) -> Iterator[Checkpoints]:
    """The `Checkpoints` of a folder, which is made if need be and locked meanwhile.

    Raises:
      InputError: if the folder cannot be used, or another process uses it, or the extra
        `[checkpoint]` is not installed.
    """
    try:
        with needs_train_extra():
            import orbax.checkpoint  # noqa: F401 - before anything is trained
    except InputError as error:
        raise CheckpointError(str(error)) from error

    path = Path(folder)
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            atomic.sweep(path)
            free = stack.enter_context(atomic.locked(path / _LOCK))
        except (OSError, ValueError) as error:  # ValueError: a null character
            raise CheckpointError(f"checkpoints {path}: cannot be used ({error}).") from error
        if not free:
            raise CheckpointError(
                f"checkpoints {path}: another process is training with them; wait for it, or give "
                f"another folder."
            )
        yield Checkpoints(path, training)


def training_of(
    config: TrainConfig,
    optimizer: object,
    features: np.ndarray,
    labels: np.ndarray,
    about: Mapping[str, Any],
    start: Mapping[str, np.ndarray],
    validation: Any,
    weights: np.ndarray | None = None,
) -> dict[str, Any]:
    """What must be the same for a training to go on: settings, and digests of all it is given.

    The mesh need not be: a checkpoint has whole arrays, which go on over other devices.
    """
    watched = None
    if is_stream(validation):
        watched = validation.sha256
    elif validation is not None:
        seen = {name: np.asarray(getattr(validation, name)) for name in ("features", "labels")}
        watched = _digest(seen, None)
    return {
        **{k: v for k, v in dataclasses.asdict(config).items() if k != "mesh"},
        "optimizer": "of the settings" if optimizer is None else "passed",
        "training_examples": _digest({"features": features, "labels": labels}, about),
        "validation_examples": watched,
        "weights_of_rows": None if weights is None else _digest({"weights": weights}, None),
        "starting_params": _digest({k: np.asarray(value) for k, value in start.items()}, None),
    }


def _short(value: object) -> str:
    return f"{value[:8]}…" if isinstance(value, str) and len(value) == 64 else f"{value}"


def _digest(arrays: Mapping[str, Any], about: Any) -> str:
    """A SHA-256 of arrays and of what JSON can say."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        if array.dtype.hasobject:  # names, whose bytes are addresses
            array = array.astype(np.str_)
        digest.update(f"{name} {array.dtype} {np.shape(arrays[name])} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _said(progress: Progress) -> dict[str, Any]:
    """What JSON can say of a training."""
    return {name: getattr(progress, name) for name in _SAID}


def _progress(arrays: Arrays, about: Mapping[str, Any], like: Progress) -> Progress:
    """The training of which these are, with the structure of another of the same."""
    best = None
    if "best_bias" in arrays:
        best = {name: jnp.asarray(arrays[f"best_{name}"]) for name in like.state.params}
    state = _state(arrays, like.state)
    said = {name: about.get(name, {}) for name in _SAID}  # those before streams have no part
    return Progress(state=state, best=best, **said)


def _arrays(progress: Progress) -> Arrays:
    """The arrays of a training, by name."""
    leaves = jax.tree.leaves(progress.state.optimizer_state)
    best = progress.best or {}
    named = {
        **progress.state.params,
        **{f"optimizer_state_{i}": leaf for i, leaf in enumerate(leaves)},
        **{f"best_{name}": value for name, value in best.items()},
    }
    return {name: _plain(value) for name, value in named.items()}


def _plain(leaf: Any) -> np.ndarray:
    is_key = jnp.issubdtype(getattr(leaf, "dtype", np.int32), jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _state(arrays: Arrays, like: TrainState) -> TrainState:
    """The state, with the structure of another of the same training."""

    def restored(name: str, leaf: Any) -> Any:
        plain, array = _plain(leaf), arrays.get(name)
        if array is None or (array.shape, array.dtype) != (plain.shape, plain.dtype):
            raise CheckpointError(
                "optimizer: expected the one that the checkpoints are of, got another; pass that, "
                "or give another folder."
            )
        if not isinstance(leaf, jax.Array):
            return array
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        device = jax.device_put(array)
        return (
            jax.random.wrap_key_data(device, impl=jax.random.key_impl(leaf)) if is_key else device
        )

    leaves, structure = jax.tree.flatten(like.optimizer_state)
    params = {name: restored(name, value) for name, value in like.params.items()}
    found = [restored(f"optimizer_state_{i}", leaf) for i, leaf in enumerate(leaves)]
    if f"optimizer_state_{len(leaves)}" in arrays:
        found.append(restored("", np.zeros(0)))  # more than there is a place for
    return TrainState(params, jax.tree.unflatten(structure, found))


def _seal(folder: Path, arrays: Arrays, about: Any) -> bytes:
    root = folder / _ORBAX
    files = {
        path.relative_to(root).as_posix(): run_files.sha256(path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
    said = {"format": _FORMAT, "restored": _digest(arrays, about), "files": files}
    return run_files.sealed_json(said)


def _checked_seal(path: Path) -> dict[str, Any]:
    """What `checkpoint.json` says, once it and all files are known to be as they were written."""
    try:
        seal = run_files.unsealed_json((path / _SEAL).read_bytes(), _SEAL)
        form = seal.get("format")
        if form != _FORMAT:
            raise CheckpointError(
                f"checkpoint {path}: expected one of this version ({_FORMAT}), got {form}; go on "
                f"with the version that wrote it, or train again in another folder."
            )
        for name, digest in seal["files"].items():
            if run_files.sha256((path / _ORBAX / name).read_bytes()) != digest:
                raise _DamagedError(f"{name} has another SHA-256 than when it was saved")
    except CheckpointError:
        raise
    except InputError as error:
        raise _DamagedError(f"{_SEAL} is not as it was saved") from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _DamagedError(f"{error}") from error
    return seal


def _checkpointer() -> Any:
    """orbax's, for this process alone: it would wait for all that train together."""
    import orbax.checkpoint as ocp

    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here})
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _orbax_save(path: Path, arrays: Arrays, about: Any) -> None:
    import orbax.checkpoint as ocp

    saved = ocp.args.Composite(
        arrays=ocp.args.PyTreeSave(arrays), about=ocp.args.JsonSave({"json": json.dumps(about)})
    )
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(path, args=saved)
    except Exception as error:  # of TensorStore, of any kind
        raise OSError(str(error).partition("\n")[0]) from error


def _orbax_restore(path: Path) -> tuple[Arrays, dict[str, Any]]:
    import orbax.checkpoint as ocp

    try:
        with _checkpointer() as checkpointer:
            wanted = ocp.args.Composite(
                arrays=ocp.args.PyTreeRestore(), about=ocp.args.JsonRestore()
            )
            found = checkpointer.restore(path, args=wanted)
        about = json.loads(found["about"]["json"])
        return {name: np.asarray(value) for name, value in found["arrays"].items()}, about
    except Exception as error:  # of TensorStore, of any kind
        raise _DamagedError(f"orbax: {str(error).partition(chr(10))[0]}") from error
