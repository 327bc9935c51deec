"""Writes folders as TFDS prepares them, without TensorFlow: a few examples of any features."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

_FEATURES = "tensorflow_datasets.core.features"
# The fields of a `tf.train.Feature` by the kind of its numbers.
_BYTES, _FLOATS, _INTEGERS = 1, 2, 3


def image(shape: tuple[int, int, int]) -> dict[str, Any]:
    dimensions = {"dimensions": [str(n) for n in shape]}
    kind = f"{_FEATURES}.image_feature.Image"
    return {"image": {"dtype": "uint8", "shape": dimensions}, "pythonClassName": kind}


def label(classes: int) -> dict[str, Any]:
    kind = f"{_FEATURES}.class_label_feature.ClassLabel"
    return {"classLabel": {"numClasses": str(classes)}, "pythonClassName": kind}


def number(dtype: str) -> dict[str, Any]:
    tensor = {"dtype": dtype, "encoding": "none", "shape": {}}
    return {"pythonClassName": f"{_FEATURES}.tensor_feature.Tensor", "tensor": tensor}


def several(features: dict[str, Any]) -> dict[str, Any]:
    kind = f"{_FEATURES}.features_dict.FeaturesDict"
    return {"featuresDict": {"features": features}, "pythonClassName": kind}


def write(
    data_dir: Path,
    name: str,
    features: dict[str, Any],
    keys: tuple[str, str],
    splits: dict[str, list[dict[str, Any]]],
    names: dict[str, list[str]] | None = None,
) -> Path:
    """The folder of version 1.0.0; examples are flat, of `features/alcohol` and the like."""
    folder = data_dir / name / "1.0.0"
    folder.mkdir(parents=True)
    base, _, configuration = name.partition("/")
    (folder / "features.json").write_text(json.dumps(several(features)))
    items = [{"featureKey": key} for key in keys]
    said = {
        "fileFormat": "array_record",
        "name": base,
        "splits": [_split(folder, base, split, rows) for split, rows in splits.items()],
        "supervisedKeys": {"tuple": {"items": items}},
        "version": "1.0.0",
    }
    if configuration:
        said["configName"] = configuration
    (folder / "dataset_info.json").write_text(json.dumps(said))
    for key, lines in (names or {}).items():
        (folder / f"{key}.labels.txt").write_text("\n".join(lines) + "\n")
    return folder


def wines(data_dir: Path, **more: Any) -> Path:
    """The data folder, with 60 wines of the columns alcohol and colour, or more; quality 5 or 6."""
    columns = {"alcohol": number("float32"), "colour": label(2), **more}
    features = {"features": several(columns), "quality": number("int32")}
    rows = [
        {
            "features/alcohol": 8 + i % 7 / 2,
            "features/colour": i % 2,
            "quality": 5 + (i % 7 > 3),
        }
        for i in range(60)
    ]
    names = {"features-colour": ["red", "white"]}
    write(data_dir, "wine_quality/white", features, ("features", "quality"), {"train": rows}, names)
    return data_dir


def _split(folder: Path, base: str, split: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    path = folder / f"{base}-{split}.array_record-00000-of-00001"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for row in rows:
        writer.write(_example(row))
    writer.close()
    return {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": split,
        "numBytes": str(path.stat().st_size),
        "shardLengths": [str(len(rows))],
    }


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _example(row: dict[str, Any]) -> bytes:
    """A `tf.train.Example`, written by hand: a map of names to features."""
    entries = [_field(1, name.encode()) + _field(2, _feature(v)) for name, v in row.items()]
    return _field(1, b"".join(_field(1, entry) for entry in entries))


def _feature(value: Any) -> bytes:
    if isinstance(value, bytes):
        return _field(_BYTES, _field(1, value))
    if isinstance(value, float):
        return _field(_FLOATS, _field(1, np.array([value], "<f4").tobytes()))
    return _field(_INTEGERS, _field(1, _varint(value)))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])
