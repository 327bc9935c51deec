"""The extras: their packages are imported where they are used, and named where missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from jax_softmax.errors import InputError

# The module of each package to the name it is installed by. pyproject.toml has the same names.
TRAIN = {
    "importlib_resources": "importlib_resources",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "PIL": "pillow",
    "polars": "polars",
    "requests": "requests",
    "rich": "rich",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
    "tqdm": "tqdm",
    "tyro": "tyro",
}
CHECKPOINT = {"orbax": "orbax-checkpoint"}
STREAM = {"grain": "grain", "pyarrow": "pyarrow"}
EXPORT = {"flatbuffers": "flatbuffers", "onnx": "onnx"}
PREPARE = {"tensorflow": "tensorflow-cpu"}
_EXTRAS = {
    "train": TRAIN,
    "checkpoint": CHECKPOINT,
    "stream": STREAM,
    "export": EXPORT,
    "prepare": PREPARE,
}


@contextlib.contextmanager
def needs_train_extra() -> Iterator[None]:
    """Say what to install where a package of an extra is missing; also a decorator.

    Raises:
      InputError: An import inside found no such package; other missing modules pass.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        for extra, packages in _EXTRAS.items():
            if package := packages.get(error.name or ""):
                raise InputError(
                    f"{package} is not installed; it comes with the extra [{extra}]: "
                    f"pip install 'jax-softmax[{extra}]'"
                ) from error
        raise
