"""Meshes as people give them: what they may be, what is said of others, and where arrays go."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re

import jax
import numpy as np
import pytest

from jax_softmax import InputError, Split, TrainConfig, evaluate, fit, predict, predict_proba
from jax_softmax.training import mesh as meshes
from jax_softmax.training.mesh import (
    MeshShape,
    default_devices,
    mesh_of,
    mesh_shape,
    parse_mesh,
    place,
)
from jax_softmax.training.run_files import decode, encode

# Read before tests/conftest.py has it give one device.
_DEFAULT_DEVICES = default_devices
SPLIT = Split(np.eye(3), np.arange(3))


@pytest.fixture
def all_devices(monkeypatch):
    monkeypatch.setattr(meshes, "default_devices", _DEFAULT_DEVICES)


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ({"data": 4, "model": 2}, MeshShape(4, 2)),
        ({"model": np.int64(8)}, MeshShape(1, 8)),
        ({"data": 3}, MeshShape(3, 1)),
        (MeshShape(2, 2), MeshShape(2, 2)),
        (None, None),
    ],
)
def test_a_config_keeps_a_mesh_that_json_knows(given, shape):
    config = TrainConfig(mesh=given)
    assert config.mesh == shape and config == TrainConfig(mesh=shape)
    assert hash(config) == hash(TrainConfig(mesh=shape))
    said = json.loads(json.dumps(dataclasses.asdict(config)))
    assert TrainConfig(**said) == config
    assert dataclasses.replace(config, epochs=3).mesh == shape
    assert pickle.loads(pickle.dumps(config)) == config  # as between processes; nothing is stored


def test_a_mesh_that_a_config_keeps_cannot_be_changed():
    sizes = {"data": 4}
    config = TrainConfig(mesh=sizes)
    sizes["data"] = 8
    assert config.mesh.data == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.mesh.data = 8


def test_a_run_of_more_devices_than_there_are_can_be_read():
    result = fit(SPLIT, TrainConfig(epochs=1))
    result = dataclasses.replace(result, config=TrainConfig(epochs=1, mesh={"data": 1000}))
    again, _ = decode(encode(result, {}), str)
    assert again.config == result.config
    assert evaluate(again, SPLIT).labels.tolist() == [0, 1, 2]


NO_MESHES = {
    "words": ("data=4", "mesh: expected sizes of the axes data and model, such as"),
    "number": (8, "or None for all devices on data, got 8."),
    "list": ([4, 2], "or None for all devices on data, got [4, 2]."),
    "another axis": (
        {"data": 2, "rows": 2},
        "such as {'data': 4, 'model': 2}, got an axis 'rows'.",
    ),
    "an axis that is no word": ({0: 2}, "such as {'data': 4, 'model': 2}, got an axis 0."),
    "no axis": (
        {},
        "mesh: expected the axes data and model, such as {'data': 4, 'model': 2}, got none",
    ),
    "zero": (
        {"data": 0},
        "mesh: expected an integer of at least 1 for the axis data, got 0; leave it out for 1.",
    ),
    "negative": (
        {"model": -1},
        "of at least 1 for the axis model, got -1; leave it out for 1.",
    ),
    "half": ({"model": 1.5}, "for the axis model, got 1.5;"),
    "bool": ({"data": True}, "for the axis data, got True;"),
    "None": ({"data": None}, "for the axis data, got None;"),
    "string": ({"data": "4"}, "for the axis data, got '4';"),
}


@pytest.mark.parametrize("name", NO_MESHES)
def test_what_is_no_mesh_is_refused(name):
    given, words = NO_MESHES[name]
    calls = [
        lambda: TrainConfig(mesh=given),
        lambda: predict(MODEL, SPLIT.features, mesh=given),
    ]
    for call in calls:
        with pytest.raises(InputError, match=re.escape(words)):
            call()


MODEL = None


@pytest.fixture(autouse=True, scope="module")
def _model():
    global MODEL
    MODEL = fit(SPLIT, TrainConfig(epochs=1))


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        ("data=4,model=2", MeshShape(4, 2)),
        (" model = 8 ", MeshShape(1, 8)),
        ("data=1", MeshShape()),
    ],
)
def test_words_that_say_a_mesh(words, shape):
    assert parse_mesh(words) == shape
    assert parse_mesh(str(shape)) == shape


@pytest.mark.parametrize(
    "words", ["", "8", "data", "data=", "data=x", "data=-1", "data=1.5", "data=4;model=2", "data=²"]
)
def test_words_that_say_none(words):
    expected = (
        f"--mesh: expected sizes of the axes data and model, each once, such as data=4,model=2, "
        f"got {words!r}."
    )
    with pytest.raises(InputError, match=re.escape(expected)):
        parse_mesh(words)


def test_an_axis_twice_says_none():
    with pytest.raises(InputError, match="each once"):
        parse_mesh("data=4,data=2")


def test_words_with_another_axis_name_it():
    with pytest.raises(InputError, match="got an axis 'rows'"):
        parse_mesh("rows=4")


@pytest.mark.parametrize("sizes", [{"data": 9}, {"data": 4, "model": 4}])
def test_more_devices_than_there_are(sizes):
    shape = mesh_shape(sizes)
    words = (
        f"mesh: expected at most the 8 devices that JAX finds here, got {shape}, which takes "
        f"{shape.size}; make it smaller, or leave it out"
    )
    calls = [
        lambda: fit(SPLIT, TrainConfig(mesh=sizes)),
        lambda: evaluate(MODEL, SPLIT, mesh=sizes),
        lambda: predict(MODEL, SPLIT.features, mesh=sizes),
        lambda: predict_proba(MODEL, SPLIT.features, mesh=sizes),
    ]
    for call in calls:
        with pytest.raises(InputError, match=re.escape(words)):
            call()


def test_more_devices_than_one(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: [object()])
    with pytest.raises(InputError, match="expected at most the 1 device that JAX finds here"):
        mesh_of({"data": 2})


@pytest.mark.parametrize(
    ("sizes", "shape", "first"),
    [({"data": 4, "model": 2}, (4, 2), 8), ({"data": 3}, (3, 1), 3), ({"model": 2}, (1, 2), 2)],
)
def test_a_mesh_takes_the_first_devices(sizes, shape, first):
    mesh = mesh_of(sizes)
    assert mesh.axis_names == ("data", "model") and mesh.devices.shape == shape
    assert mesh.devices.ravel().tolist() == jax.devices()[:first]


def test_one_device_is_no_mesh():
    assert mesh_of({"data": 1, "model": 1}) is None


def test_the_default_is_all_devices(all_devices):
    assert mesh_of(None).devices.shape == (8, 1)
    assert fit(SPLIT, TrainConfig(epochs=1)).device == "8 x cpu"


def test_the_default_is_the_device_that_jax_was_told_of(all_devices):
    with jax.default_device(jax.devices()[3]):
        assert mesh_of(None) is None
        result = fit(SPLIT, TrainConfig(epochs=1))
    assert result.params["bias"].devices() == {jax.devices()[3]}
    with jax.default_device("cpu"):
        assert mesh_of(None).size == 8


@pytest.mark.parametrize("rows", [1, 3, 8, 9])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_arrays_go_to_their_devices_in_parts(rows, dtype):
    mesh = mesh_of({"data": 4, "model": 2})
    array = np.arange(1, 2 * rows + 1, dtype=dtype).reshape(rows, 2)
    placed = place(mesh, "data", array, fill=7)
    part = -(-rows // 4)
    assert placed.dtype == jax.dtypes.canonicalize_dtype(dtype)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(part, 2)}
    np.testing.assert_array_equal(placed[:rows], array)
    assert (np.asarray(placed[rows:]) == 7).all() and len(placed) == 4 * part
    np.testing.assert_array_equal(place(mesh, None, array), array)


def test_rows_of_a_process_are_put_where_they_belong():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]).reshape(4, 1), ("data", "model"))
    rows = np.arange(10)
    whole = place(mesh, "data", rows, fill=-1)
    assert np.asarray(whole).tolist() == [*range(10), -1, -1]
    shards = {shard.index[0].start: shard.data.tolist() for shard in whole.addressable_shards}
    assert shards == {0: [0, 1, 2], 3: [3, 4, 5], 6: [6, 7, 8], 9: [9, -1, -1]}
