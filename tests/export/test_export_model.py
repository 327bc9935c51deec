"""Exported models: what each format holds, read where this package is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from jax_softmax import InputError, SoftmaxModel, export_model, predict_proba

NAMES = ("cat", "dog", "é\n🐟")
# Without this package, whatever is installed.
WITHOUT = "import sys; sys.modules['jax_softmax'] = None\n"


def model_of(shape=(4,), scale=1.0, dtype=np.float32):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(int(np.prod(shape)), 3)).astype(dtype)
    return SoftmaxModel({"kernel": kernel, "bias": np.arange(3).astype(dtype)}, shape, scale, NAMES)


TABLE, IMAGES = model_of(), model_of((6, 5), 1 / 255)
COLOURS = model_of((2, 3, 3), 1 / 255)


def features_of(model, count, dtype):
    rng = np.random.default_rng(count)
    whole = 255 if dtype == "uint8" else 3
    return (whole * rng.random((count, *model.feature_shape))).astype(dtype)


def elsewhere(script, folder):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + textwrap.dedent(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


MODELS = {
    "table": (TABLE, "float32"),
    "images": (IMAGES, "uint8"),
    "colours": (COLOURS, "uint8"),
    "images of floats": (IMAGES, "float32"),
}


@pytest.mark.parametrize("name", MODELS)
def test_onnx_gives_the_probabilities(name, tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    model, dtype = MODELS[name]
    path = export_model(model, tmp_path / "model.onnx", dtype=dtype)
    proto = onnx.load(path)
    assert [node.op_type for node in proto.graph.node][-2:] == ["Gemm", "Softmax"]
    sessions = [ReferenceEvaluator(proto)]
    for count in (1, 7, 300):
        features = features_of(model, count, dtype)
        for session in sessions:
            (found,) = session.run(None, {"features": features})
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, predict_proba(model, features), atol=1e-6)


@pytest.mark.parametrize("name", ["table", "images"])  # a process each
def test_onnxruntime_gives_the_probabilities(name, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model, dtype = MODELS[name]
    export_model(model, tmp_path / "model.onnx", dtype=dtype)
    features = features_of(model, 300, dtype)
    np.save(tmp_path / "features.npy", features)
    said = elsewhere(
        """
        import json, numpy, onnxruntime
        session = onnxruntime.InferenceSession("model.onnx")
        features = numpy.load("features.npy")
        for count in (1, 7, 300):
            (found,) = session.run(None, {"features": features[:count]})
            assert found.shape == (count, 3)
        numpy.save("found.npy", found)
        (taken,) = session.get_inputs()
        print(json.dumps([taken.type, taken.shape]))
        print(session.get_modelmeta().custom_metadata_map["class_names"])
        """,
        tmp_path,
    )
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, predict_proba(model, features), atol=1e-6)
    taken, names = map(json.loads, said.splitlines())
    kinds = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
    assert taken == [kinds[dtype], ["N", *model.feature_shape]]
    assert tuple(names) == NAMES


@pytest.mark.parametrize("name", ["table", "colours"])  # a process each
def test_stablehlo_runs_with_jax_alone(name, tmp_path):
    pytest.importorskip("flatbuffers")
    model, dtype = MODELS[name]
    export_model(model, tmp_path / "model.stablehlo", dtype=dtype)
    features = features_of(model, 33, dtype)
    np.save(tmp_path / "features.npy", features)
    said = elsewhere(
        """
        import numpy, jax
        from jax import export
        program = export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
        features = numpy.load("features.npy")
        for count in (1, 7, 33):
            found = program.call(features[:count])
            assert found.shape == (count, 3)
        numpy.save("found.npy", found)
        print(sorted(program.platforms), program.in_avals[0].str_short())
        """,
        tmp_path,
    )
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, predict_proba(model, features), atol=1e-6)
    shape = ",".join(map(str, ["N", *model.feature_shape]))
    assert said == f"['cpu', 'cuda', 'tpu'] {dtype}[{shape}]\n"


def test_safetensors_are_read_with_numpy_alone(tmp_path):
    export_model(IMAGES, tmp_path / "model.safetensors")
    said = elsewhere(
        """
        import json, numpy
        from safetensors import safe_open
        with safe_open("model.safetensors", "numpy") as file:
            kernel, bias = file.get_tensor("kernel"), file.get_tensor("bias")
            about = json.loads(file.metadata()["jax_softmax"])
        numpy.savez("found.npz", kernel=kernel, bias=bias)
        print(json.dumps(about))
        """,
        tmp_path,
    )
    found = np.load(tmp_path / "found.npz")
    for name, value in IMAGES.params.items():
        np.testing.assert_array_equal(found[name], value)
    assert json.loads(said) == {
        "format": "jax_softmax.export.1",
        "feature_shape": [6, 5],
        "feature_scale": 1 / 255,
        "class_names": list(NAMES),
    }


@pytest.mark.parametrize("kind", ["onnx", "stablehlo"])
def test_a_model_in_another_dtype_is_exported(kind, tmp_path):
    pytest.importorskip("onnx")
    half = model_of(dtype=jax.numpy.bfloat16)
    path = export_model(half, tmp_path / "half", format=kind)
    features = features_of(half, 5, "float32")
    if kind == "onnx":
        from onnx.reference import ReferenceEvaluator

        (found,) = ReferenceEvaluator(str(path)).run(None, {"features": features})
    else:
        found = jax.export.deserialize(bytearray(path.read_bytes())).call(features)
    full = SoftmaxModel(
        {name: value.astype(np.float32) for name, value in half.params.items()}, (4,), 1.0, NAMES
    )
    expected = predict_proba(full, features)
    atol = 1e-6 if kind == "onnx" else 0.05  # in full, and as it is
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=atol)


def test_float64_stays_float64(tmp_path):
    pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    with jax.enable_x64(True):
        double = model_of(dtype=np.float64)
        path = export_model(double, tmp_path / "double.onnx")
        features = features_of(double, 5, "float32")
        (found,) = ReferenceEvaluator(str(path)).run(None, {"features": features})
        np.testing.assert_allclose(found, predict_proba(double, features), rtol=1e-12)


@pytest.mark.parametrize("kind", ["onnx", "stablehlo", "safetensors"])
def test_the_same_model_gives_the_same_bytes(kind, tmp_path):
    pytest.importorskip("onnx")
    paths = [export_model(IMAGES, tmp_path / name, format=kind) for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


MISTAKES = {
    "no model": (lambda: export_model("runs/iris", "x.onnx"), "model: expected what fit or load"),
    "no format": (lambda: export_model(TABLE, "x"), "format: expected one of .* the ending of x"),
    "unknown format": (lambda: export_model(TABLE, "x.onnx", format="tf"), "onnx.*, got 'tf'"),
    "dtype": (
        lambda: export_model(TABLE, "x.onnx", dtype="int4"),
        "dtype: expected one of .*'uint8', 'float32'.*, got 'int4'",
    ),
    "no program": (
        lambda: export_model(TABLE, "x.safetensors", dtype="uint8"),
        "dtype: expected none for safetensors",
    ),
    "no folder": (
        lambda: export_model(TABLE, "nowhere/x.safetensors"),
        "nowhere/x.safetensors: expected a file's path in a folder that is there",
    ),
    "null": (lambda: export_model(TABLE, "x\0.safetensors"), "cannot be written"),
    "too long": (lambda: export_model(TABLE, 300 * "x" + ".safetensors"), "cannot be written"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mistake, words = MISTAKES[name]
    with pytest.raises(InputError, match=words):
        mistake()
    assert os.listdir() == []


def test_a_file_that_is_there_is_kept_unless_it_is_said(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("mine")
    words = r"is there already; give another path, or --overwrite \(overwrite=True\)"
    with pytest.raises(InputError, match=words):
        export_model(TABLE, path)
    assert path.read_text() == "mine"
    export_model(TABLE, path, overwrite=True)
    assert path.stat().st_size > 100
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_parameters_of_more_than_onnx_holds(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setattr("jax_softmax.export.onnx_graph._MOST_BYTES", 50)
    with pytest.raises(InputError, match="onnx: expected parameters of less than 2 GB"):
        export_model(TABLE, tmp_path / "x.onnx")


@pytest.mark.parametrize(("kind", "package"), [("onnx", "onnx"), ("stablehlo", "flatbuffers")])
def test_a_missing_package_is_named_with_its_extra(kind, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    words = rf"{package} is not installed; it comes with the extra \[export\]"
    with pytest.raises(InputError, match=words):
        export_model(TABLE, tmp_path / "x", format=kind)
    assert list(Path(tmp_path).iterdir()) == []
