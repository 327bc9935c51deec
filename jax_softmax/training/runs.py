"""Run folders: a trained model, its settings, history and pictures, written whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jax_softmax._extras import needs_train_extra
from jax_softmax.errors import InputError
from jax_softmax.training.config import TrainConfig
from jax_softmax.training.metrics import Evaluation
from jax_softmax.training.model import FitResult

_MODEL = "model.safetensors"
_CONFIG = "config.json"
_METRICS = "metrics.json"
_HISTORY = "history.jsonl"
_CURVE, _CONFUSION, _WEIGHTS = "learning_curve.png", "confusion_matrix.png", "class_weights.png"
_FILES = (_MODEL, _CONFIG, _METRICS, _HISTORY, _CURVE, _CONFUSION, _WEIGHTS)
_MEASURED = ("compile_seconds", "train_seconds", "device")
_FORMAT = "jax_softmax.classifier.1"


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
    (`kernel [D, V]`, `bias [V]` and, as metadata, the preprocessing), `learning_curve.png`, for
    images `class_weights.png`, and with an evaluation `confusion_matrix.png`. No pickle.

    Args:
      result: what `fit` returned.
      run_dir: the folder to make; its parents are made too.
      metrics: what `metrics.json` says beside times, device and versions, e.g. `test_accuracy`.
      evaluation: draws the confusion matrix.
      overwrite: replace a run that is there.

    Returns:
      The folder's path.

    Raises:
      InputError: if the folder is there and `overwrite` is False, or it is not a run, or it cannot
        be written, or the extra `[train]` is not installed.
    """
    target = Path(run_dir)
    check_run_dir(target, overwrite=overwrite)
    try:
        with _parents_of(target), _work_folder(target) as work:
            written = work / "run"
            written.mkdir()
            _write(written, result, metrics or {}, evaluation)
            _put_in_place(written, target, aside=work / "replaced")
    except OSError as error:
        raise InputError(f"run folder {target}: cannot be written ({error}).") from error
    return target


@needs_train_extra()
def load_run(run_dir: str | os.PathLike[str]) -> FitResult:
    """Reads a run folder back: the model, its settings and its history.

    Raises:
      InputError: if the folder or one of its files is missing, damaged, or another program's, or
        the extra `[train]` is not installed.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(run_dir)
    path = _file(folder, _MODEL)
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a safetensors file ({error}).") from error
    if about.get("format") != _FORMAT:
        raise InputError(
            f"{path}: expected a model that `jax-softmax train` saved ({_FORMAT}), got "
            f"{about.get('format', 'a file without that mark')}; give another run folder."
        )
    try:
        class_names = tuple(json.loads(about["class_names"]))
        feature_shape = tuple(json.loads(about["feature_shape"]))
        feature_scale = float(about["feature_scale"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its metadata are damaged ({error!r}).") from error
    expected = {
        "kernel": (math.prod(feature_shape), len(class_names)),
        "bias": (len(class_names),),
    }
    shapes = {name: value.shape for name, value in params.items()}
    if shapes != expected:
        raise InputError(f"{path}: expected arrays of shapes {expected}, got {shapes}.")
    metrics = read_metrics(folder)
    settings, lines = _file(folder, _CONFIG), _file(folder, _HISTORY)
    try:
        config = TrainConfig(**json.loads(settings.read_text()))
        history = tuple(map(json.loads, lines.read_text().splitlines()))
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder}: {_CONFIG} or {_HISTORY} is damaged ({error}).") from error
    return FitResult(
        params=params,
        feature_shape=feature_shape,
        feature_scale=feature_scale,
        class_names=class_names,
        config=config,
        history=history,
        **{name: metrics[name] for name in _MEASURED},
    )


def read_metrics(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """What `metrics.json` of a run folder says.

    Raises:
      InputError: if it is missing or damaged.
    """
    path = _file(Path(run_dir), _METRICS)
    try:
        metrics = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}).") from error
    if not isinstance(metrics, dict) or not metrics.keys() >= {*_MEASURED}:
        raise InputError(f"{path}: is damaged (expected {', '.join(_MEASURED)} in it).")
    return metrics


def check_run_dir(run_dir: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raises InputError if `save_run` would refuse the folder: asked first, no training is lost."""
    target = Path(run_dir)
    if target.name in ("", ".."):
        raise InputError(f"run folder {target}: expected the path of a folder that can be made.")
    if not os.path.lexists(target):
        above = next(path for path in target.absolute().parents if os.path.lexists(path))
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise InputError(
                f"run folder {target}: cannot be made, for {above} is no folder that can be "
                f"written to."
            )
        return
    if not target.is_dir():
        raise InputError(f"run folder {target}: expected a folder or nothing, got a file.")
    if not any(target.iterdir()):
        return
    if not (target / _MODEL).is_file():
        raise InputError(
            f"run folder {target}: holds files but no {_MODEL}, so it is no run and will not be "
            f"replaced; give another folder."
        )
    others = sorted(path.name for path in target.iterdir() if path.name not in _FILES)
    if others:
        raise InputError(
            f"run folder {target}: holds files of others ({', '.join(others[:5])}), which would be "
            f"lost; give another folder."
        )
    if not overwrite:
        raise InputError(
            f"run folder {target}: a run is there already; give another folder, or --overwrite "
            f"(overwrite=True)."
        )


@contextlib.contextmanager
def _parents_of(target: Path) -> Iterator[None]:
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


@contextlib.contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, so that what is made there can be renamed to it; then removed."""
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _put_in_place(written: Path, target: Path, aside: Path) -> None:
    try:
        if os.path.lexists(target):
            target.rename(aside)
        written.rename(target)
    finally:
        if os.path.lexists(aside) and not os.path.lexists(target):
            aside.rename(target)


def _write(
    folder: Path, result: FitResult, metrics: Mapping[str, Any], evaluation: Evaluation | None
) -> None:
    from safetensors.numpy import save_file

    from jax_softmax.training import pictures

    about = {
        "format": _FORMAT,
        "feature_shape": json.dumps(result.feature_shape),
        "feature_scale": repr(result.feature_scale),
        "class_names": json.dumps(result.class_names),
    }
    params = {name: np.ascontiguousarray(value) for name, value in result.params.items()}
    save_file(params, folder / _MODEL, metadata=about)
    (folder / _MODEL).chmod(0o644)  # safetensors makes private files; the others are not
    _write_json(folder / _CONFIG, dataclasses.asdict(result.config))
    own = {name: getattr(result, name) for name in _MEASURED} | {"versions": versions()}
    _write_json(folder / _METRICS, own | dict(metrics))
    lines = "".join(json.dumps(record) + "\n" for record in result.history)
    (folder / _HISTORY).write_text(lines)
    pictures.learning_curve(result.history).savefig(folder / _CURVE)
    if evaluation is not None:
        pictures.confusion_matrix(evaluation).savefig(folder / _CONFUSION)
    if result.is_image:
        pictures.class_weights(result).savefig(folder / _WEIGHTS)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a result."""
    names = ("jax-softmax", "jax", "jaxlib", "optax", "numpy")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


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
