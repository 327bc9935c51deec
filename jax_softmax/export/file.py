"""`export_model`: checks what it is given, and writes one of the formats."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jax_softmax._checks import require, shown
from jax_softmax._extras import needs_train_extra
from jax_softmax.errors import InputError
from jax_softmax.export.onnx_graph import onnx_bytes
from jax_softmax.export.program import stablehlo_bytes
from jax_softmax.training import FitResult, SoftmaxModel
from jax_softmax.training.files import check_file, write_file

DTYPES = ("uint8", "float32")
_SAFETENSORS_FORMAT = "jax_softmax.export.1"


def export_model(
    model: SoftmaxModel,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - as the command has it
    dtype: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a model as a file that runs without this package.

    `stablehlo` is a program of `jax.export` for CPU, CUDA and TPU, and `onnx` a graph: both take
    features `[N, ...]` as the dataset stores them, for any N, scale them, and give probabilities
    `[N, V]`. Of a table's columns the graph takes each, `[N, 1]`: numbers as float64 (NaN where
    one is missing) and words as strings (empty where one is missing); the program takes the
    features that `model.columns` makes of them. `safetensors` has `kernel [D, V]`, `bias [V]` and
    one entry of metadata, `jax_softmax`: JSON with `feature_shape`, `feature_scale`, `class_names`
    and, of a table, `columns`.

    Args:
      model: what `fit` or `load_run` returned.
      path: the file to write.
      format: `"stablehlo"`, `"onnx"` or `"safetensors"`; None goes by the file's ending.
      dtype: what the program takes features in: `"uint8"` or `"float32"`. None is uint8 for images
        that the model scales (pixels), else float32. Not of `safetensors`, which is no program, nor
        of a table's columns.
      overwrite: replace a file that is there.

    Returns:
      The file's path.

    Raises:
      InputError: if an argument cannot be used, the file cannot be written or is there and
        `overwrite` is False, the parameters are more than the format holds, or an extra
        (`[export]`, for safetensors `[train]`) is not installed.

    See Also:
      `save_run` for a folder that `load_run` reads back.

    >>> import tempfile
    >>> from jax_softmax import Split, TrainConfig, fit
    >>> split = Split(np.array([[0.0], [1.0]]), np.array([0, 1]), ("no", "yes"))
    >>> model = fit(split, TrainConfig(epochs=5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_model(model, f"{folder}/model.safetensors").stat().st_size > 100
    True
    """
    if not isinstance(model, SoftmaxModel):
        raise InputError(
            f"model: expected what fit or load_run returned, got {shown(model)}; "
            f"load_run reads a run folder."
        )
    target = Path(path)
    kind = format_of(target, format)
    if kind == "safetensors" and dtype is not None:
        raise InputError("dtype: expected none for safetensors, which is no program; leave it out.")
    if dtype is not None and isinstance(model, FitResult) and model.columns is not None:
        raise InputError(
            "dtype: expected none for a model of a table's columns, which have types of their own; "
            "leave it out."
        )
    require(dtype is None or dtype in DTYPES, f"dtype: expected one of {DTYPES}", dtype)
    check_file(target, overwrite=overwrite)
    with needs_train_extra():
        data = FORMATS[kind](model, dtype or stored_dtype(model))
    write_file(target, data, overwrite=overwrite)
    return target


def format_of(path: Path, given: str | None) -> str:
    """The format that is given, or that the file's ending names.

    >>> format_of(Path("iris.onnx"), None), format_of(Path("iris"), "stablehlo")
    ('onnx', 'stablehlo')
    """
    found = path.suffix.removeprefix(".").lower() if given is None else given
    if found not in FORMATS:
        how = f"the ending of {path}" if given is None else shown(given)
        raise InputError(f"format: expected one of {', '.join(FORMATS)}, got {how}.")
    return found


def stored_dtype(model: SoftmaxModel) -> str:
    """What features are stored in: pixels are bytes that the model scales."""
    return "uint8" if model.is_image and model.feature_scale < 1 else "float32"


def _safetensors_bytes(model: SoftmaxModel, dtype: str) -> bytes:
    from safetensors.numpy import save

    about: dict[str, Any] = {
        "format": _SAFETENSORS_FORMAT,
        "feature_shape": model.feature_shape,
        "feature_scale": model.feature_scale,
        "class_names": model.class_names,
    }
    params = {name: np.ascontiguousarray(value) for name, value in model.params.items()}
    # One entry: safetensors writes several in another order every time.
    if isinstance(model, FitResult) and model.columns is not None:
        about["columns"] = model.columns.as_json()
    return save(params, metadata={"jax_softmax": json.dumps(about)})


FORMATS: dict[str, Callable[[SoftmaxModel, str], bytes]] = {
    "safetensors": _safetensors_bytes,
    "stablehlo": stablehlo_bytes,
    "onnx": onnx_bytes,
}
