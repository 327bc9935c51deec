"""Reads the examples that `predict` is given: arrays, tables and pictures."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jax_softmax.cli.csv_file import read_csv
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    from jax_softmax.training import SoftmaxModel

_IMAGES = (".png", ".jpg", ".jpeg")


def read_features(path: Path, model: SoftmaxModel) -> np.ndarray:
    """The examples of a file, `[N, ...]`, in the units of the model's dataset.

    Args:
      path: `.npy` (an array `[N, ...]`, or one example), `.csv` (an example a row) or, for an image
        model, `.png`, `.jpg` or `.jpeg` (one example, read as grey where the model is).
      model: tells the shape of an example.

    Raises:
      InputError: if the file is missing, of another kind, damaged, or of another width.
    """
    readers = {".npy": _read_npy, ".csv": _read_csv} | dict.fromkeys(_IMAGES, _read_image)
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: expected a file ending in {', '.join(readers)}.")
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise InputError(f"{path}: expected a file, found {found} there.")
    try:
        return reader(path, model)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error


def _read_npy(path: Path, model: SoftmaxModel) -> np.ndarray:
    try:
        _check_npy_shape(path)
        array = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a header may have np.load raise a dozen unrelated types
        # NumPy takes what it does not know for pickled objects, and says how to run them.
        why = "of numbers" if "pickle" in str(error) else str(error)
        raise InputError(f"{path}: expected a NumPy array file ({why}).") from error
    if not isinstance(array, np.ndarray):  # a .npz by another name
        array.close()
        raise InputError(f"{path}: expected a NumPy array file, found an archive of several.")
    _warn_of_scale(path, array, model)
    single = array.shape == model.feature_shape
    return array[None] if single else array


def _check_npy_shape(path: Path) -> None:
    """Raises ValueError where a header has a negative length, which NumPy 2.0 takes for any."""
    headers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    with path.open("rb") as file:
        start = file.read(len(np.lib.format.MAGIC_PREFIX) + 1)
        if start[:-1] == np.lib.format.MAGIC_PREFIX and start[-1] in headers:
            file.seek(np.lib.format.MAGIC_LEN)
            shape, _, _ = headers[start[-1]](file)
            if any(length < 0 for length in shape):
                raise ValueError(f"its header says a shape of {shape}")


def _warn_of_scale(path: Path, array: np.ndarray, model: SoftmaxModel) -> None:
    """Says so where pixels seem to be scaled otherwise than those that the model was trained on."""
    if not (model.is_image and model.feature_scale < 1 and array.size):
        return
    if array.dtype.kind not in "iuf":
        return
    least, most, whole = np.min(array), np.max(array), 1 / model.feature_scale
    scaled_before = np.issubdtype(array.dtype, np.floating) and most <= 1
    if scaled_before or least < 0 or most > whole:
        print(
            f"jax-softmax: {path}: values from {least:g} to {most:g}, where the model was trained "
            f"on pixels from 0 to {whole:g}; are these scaled otherwise?",
            file=sys.stderr,
        )


def _read_csv(path: Path, model: SoftmaxModel) -> np.ndarray:
    return read_csv(path, math.prod(model.feature_shape))


def _read_image(path: Path, model: SoftmaxModel) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    if not model.is_image:
        raise InputError(
            f"{path}: this model was trained on {math.prod(model.feature_shape)} numbers an "
            f"example, not on images; give a .csv or .npy file."
        )
    height, width, *channels = model.feature_shape
    if channels not in ([], [1], [3]):
        raise InputError(
            f"{path}: this model's examples have shape {list(model.feature_shape)}, which no image "
            f"file holds; give a .npy file."
        )
    try:
        with Image.open(path) as image:
            if image.size != (width, height):
                raise InputError(
                    f"{path}: expected an image of {width}x{height} pixels, as the model was "
                    f"trained on, got {image.width}x{image.height}; resize it first."
                )
            if image.mode[0] in "IF":
                raise InputError(
                    f"{path}: expected an image of 8 bits a channel, got mode {image.mode}; "
                    f"convert it first."
                )
            pixels = np.asarray(image.convert("RGB" if channels == [3] else "L"), np.float32)
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: expected an image, found something else.") from error
    except InputError:
        raise
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:  # as Pillow has them
        raise InputError(f"{path}: expected an image, found a damaged one ({error}).") from error
    # A picture's pixels run from 0 to 255, a dataset's to 1 / feature_scale.
    stored = pixels / 255 / model.feature_scale
    return stored.reshape(1, *model.feature_shape)
