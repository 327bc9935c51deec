"""What the files of a run folder say, as bytes: written from a result, read back, and checked.

`model.safetensors` carries its own SHA-256, and those of `config.json` and `history.jsonl`;
`metrics.json` carries its own and the model's. Times stand in `metrics.json` only: all else is the
same bytes for the same training.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import numbers
import platform
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax

import jax_softmax
from jax_softmax._columns import Columns
from jax_softmax.errors import InputError
from jax_softmax.training.config import LbfgsConfig, TrainConfig
from jax_softmax.training.model import FitResult

MODEL = "model.safetensors"
CONFIG = "config.json"
HISTORY = "history.jsonl"
METRICS = "metrics.json"

_FORMAT = "jax_softmax.classifier.2"
_WITHOUT_DIGEST = "jax_softmax.classifier.1"
# The one key of the metadata: safetensors writes several in another order every time.
ABOUT = "jax_softmax"
_MEASURED = ("compile_seconds", "train_seconds", "device")
# Stands where a digest will: the digest is of the bytes with this in its place.
BLANK = b"0" * 64

Contents = dict[str, bytes]
Names = Callable[[str], object]  # what a message calls a file


def encode(result: FitResult, metrics: Mapping[str, Any]) -> Contents:
    """The files that say what was trained and how, by name.

    Raises:
      InputError: if what they would say could not be read back.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save

    try:
        config = _json(dataclasses.asdict(result.config))
        history = b"".join(json.dumps(record).encode() + b"\n" for record in result.history)
        about = {
            "sha256": BLANK.decode(),
            "format": _FORMAT,
            "feature_shape": result.feature_shape,
            "feature_scale": result.feature_scale,
            "class_names": result.class_names,
            "config_sha256": sha256(config),
            "history_sha256": sha256(history),
        }
        if result.columns is not None:
            about["columns"] = result.columns.as_json()
        params = {name: np.ascontiguousarray(value) for name, value in result.params.items()}
        model = sealed(save(params, metadata={ABOUT: json.dumps(about)}))
        measured = {name: getattr(result, name) for name in _MEASURED}
        said = {"versions": versions(), **measured, **metrics}
        own = {"model_sha256": sha256(model)}
        contents = {
            MODEL: model,
            CONFIG: config,
            HISTORY: history,
            METRICS: sealed_json(own | {k: v for k, v in said.items() if k not in own}),
        }
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the result cannot be written ({error}).") from error
    decode(contents, lambda name: f"the result cannot be written: its {name}")
    return contents


def decode(contents: Contents, names: Names) -> tuple[FitResult, dict[str, Any]]:
    """The result that files say, and their metrics.

    Raises:
      InputError: if a bit of them is not as `encode` gave it, or they are not of one training.
    """
    about = _about(contents[MODEL], names(MODEL))
    for name, key in ((CONFIG, "config_sha256"), (HISTORY, "history_sha256")):
        if sha256(contents[name]) != about.get(key):
            raise _damaged(names(name), f"it is not the one that was saved with {MODEL}")
    metrics = _metrics(contents[METRICS], names(METRICS))
    if metrics["model_sha256"] != sha256(contents[MODEL]):
        raise _damaged(names(METRICS), f"it was not saved with this {MODEL}")
    result = FitResult(
        **_model(contents[MODEL], about, names(MODEL)),
        config=_config(contents[CONFIG], names(CONFIG)),
        history=_history(contents[HISTORY], names(HISTORY)),
        **{name: metrics[name] for name in _MEASURED},
    )
    return result, metrics


def sha256(data: bytes) -> str:
    """The digest in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sealed(data: bytes) -> bytes:
    """A file whose digest is not in it yet, with it."""
    return data.replace(BLANK, sha256(data).encode(), 1)


def sealed_json(said: Mapping[str, Any]) -> bytes:
    """JSON that carries its own digest."""
    own = {"sha256": BLANK.decode()}
    return sealed(_json(own | {name: value for name, value in said.items() if name not in own}))


def unsealed_json(data: bytes, name: object) -> dict[str, Any]:
    """What `sealed_json` was given, and the digest.

    Raises:
      InputError: if a bit of it has changed.
    """
    said = _loads(data, name)
    if not isinstance(said, dict):
        raise _damaged(name, "expected names with values")
    _check_seal(data, said.get("sha256"), name)
    return said


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a result."""
    # Not of the installed packages: a folder on PYTHONPATH has no metadata.
    packages = {
        "jax-softmax": jax_softmax,
        "jax": jax,
        "jaxlib": jaxlib,
        "optax": optax,
        "numpy": np,
    }
    return {"python": platform.python_version()} | {
        name: package.__version__ for name, package in packages.items()
    }


def _about(data: bytes, name: object) -> dict[str, Any]:
    """What a model's metadata say, once it is known that no bit of the file has changed."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        metadata = header.get("__metadata__", {})
        form = metadata.get("format", "a file without that mark")
        about = json.loads(metadata[ABOUT]) if ABOUT in metadata else {}
        form = about.get("format", form)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        why = f"cannot be read as a safetensors file: {error}"
        raise _damaged(name, why) from error
    if form == _WITHOUT_DIGEST:
        raise InputError(
            f"{name}: was saved by an older version ({form}), without the digest that shows damage "
            f"({_FORMAT}); train it again."
        )
    if form != _FORMAT:
        raise InputError(
            f"{name}: expected a model that `jax-softmax train` saved ({_FORMAT}), got {form}; "
            f"give another run folder."
        )
    _check_seal(data, about.get("sha256"), name)
    return about


def _model(data: bytes, about: dict[str, Any], name: object) -> dict[str, Any]:
    """The fields of a `SoftmaxModel`, and the columns."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    keys = ("feature_shape", "feature_scale", "class_names")
    shape, scale, classes = map(about.get, keys)
    if not (isinstance(shape, list) and all(_is_integer(n) and n >= 1 for n in shape)):
        raise _damaged(name, f"feature_shape: expected integers of at least 1, got {shape!r}")
    if scale is None or not (_is_finite(scale) and scale > 0):
        raise _damaged(name, f"feature_scale: expected a finite number above 0, got {scale!r}")
    if not (isinstance(classes, list) and all(isinstance(text, str) for text in classes)):
        raise _damaged(name, f"class_names: expected strings, got {classes!r}")
    if len(set(classes)) < len(classes):
        twice = next(text for text in classes if classes.count(text) > 1)
        raise _damaged(name, f"class_names: expected distinct names, got {twice!r} twice")
    try:
        columns = Columns.from_json(about["columns"]) if "columns" in about else None
    except ValueError as error:
        raise _damaged(name, str(error)) from error
    if columns is not None and [len(columns.features)] != shape:
        raise _damaged(name, f"{len(columns.features)} features of columns for a shape {shape}")
    try:
        params = load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(name, f"{error}") from error
    expected = {"kernel": (math.prod(shape), len(classes)), "bias": (len(classes),)}
    shapes = {key: value.shape for key, value in params.items()}
    if shapes != expected:
        raise _damaged(name, f"expected arrays of shapes {expected}, got {shapes}")
    for key, value in params.items():
        if not jnp.issubdtype(value.dtype, np.floating):
            raise _damaged(name, f"{key}: expected floating point numbers, got {value.dtype}")
        if not np.isfinite(value).all():
            raise _damaged(name, f"{key}: expected finite numbers, got NaN or infinity")
    return {
        "params": params,
        "feature_shape": tuple(shape),
        "feature_scale": float(scale),
        "class_names": tuple(classes),
        "columns": columns,
    }


def _config(data: bytes, name: object) -> TrainConfig | LbfgsConfig:
    settings = _loads(data, name)
    try:
        return LbfgsConfig(**settings) if "solver" in settings else TrainConfig(**settings)
    except (TypeError, ValueError) as error:
        raise _damaged(name, str(error).removesuffix(".")) from error


def _history(data: bytes, name: object) -> tuple[dict[str, float], ...]:
    records = tuple(_loads(line, name) for line in data.splitlines())
    for epoch, record in enumerate(records, start=1):
        if not (isinstance(record, dict) and all(map(_is_number, record.values()))):
            raise _damaged(name, f"line {epoch}: expected names with numbers, got {record!r}")
        if record.get("epoch") != epoch or "train_loss" not in record:
            raise _damaged(name, f"line {epoch}: expected epoch {epoch} and train_loss in it")
    return records


def _metrics(data: bytes, name: object) -> dict[str, Any]:
    metrics = unsealed_json(data, name)
    times = all(_is_finite(metrics.get(key)) and metrics[key] >= 0 for key in _MEASURED[:2])
    if not (times and isinstance(metrics.get("device"), str) and "model_sha256" in metrics):
        raise _damaged(name, f"expected {', '.join(_MEASURED)} and model_sha256 in it")
    return metrics


def _check_seal(data: bytes, digest: object, name: object) -> None:
    text = digest.encode(errors="replace") if isinstance(digest, str) else b""
    if len(text) != len(BLANK) or sha256(data.replace(text, BLANK, 1)) != digest:
        raise _damaged(name, "its SHA-256 is not the one that was saved with it")


def _loads(data: bytes, name: object) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, str(error)) from error


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _damaged(name: object, why: str) -> InputError:
    return InputError(f"{name}: is damaged ({why}); restore it, or train again.")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    try:
        return _is_number(value) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
