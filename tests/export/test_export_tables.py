"""Models of a table's columns: an ONNX graph has the columns' preprocessing in it."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from jax_softmax import InputError, TrainConfig, export_model, fit, predict_proba
from jax_softmax.datasets import load_table

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    rows = 60
    ages = rng.integers(18, 80, rows).astype(float)
    ages[::9] = np.nan
    plans = rng.choice(["S", "M", "L"], rows).astype(object)
    plans[::7] = None
    return pl.DataFrame(
        {
            "age": pl.Series(ages).fill_nan(None),
            "plan": pl.Series(plans.tolist(), dtype=pl.String),
            "member": rng.choice(["True", "False"], rows),
            "income": 1e6 + 1e5 * rng.normal(size=rows),
            "churned": rng.choice(["yes", "no", "maybe"], rows),
        }
    )


@pytest.fixture(scope="module")
def model(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "customers.csv"
    frame.write_csv(path)
    return fit(load_table(path, label="churned", impute="median").train, TrainConfig(epochs=9))


def inputs_of(model, frame):
    """What the graph takes of a data frame."""
    return {
        column.name: (
            frame[column.name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            if hasattr(column, "mean")
            else np.array(frame[column.name].fill_null("").to_list(), object)
        )[:, None]
        for column in model.columns.used
    }


def strange(frame):
    """Rows of which some hold words that training did not see."""
    return frame.with_columns(plan=pl.Series(["XL", "s", *frame["plan"][2:]]))


@pytest.mark.filterwarnings("ignore:.*training did not see")
@pytest.mark.parametrize("runtime", ["onnx", "onnxruntime"])
def test_a_graph_takes_the_columns_as_the_table_has_them(runtime, model, frame, tmp_path):
    path = str(export_model(model, tmp_path / "customers.onnx"))
    if runtime == "onnx":
        from onnx.reference import ReferenceEvaluator

        session = ReferenceEvaluator(path)
    else:
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
    assert [column.name for column in model.columns.used] == ["age", "plan", "member", "income"]
    for rows in (frame, strange(frame), frame[:1]):
        (found,) = session.run(None, inputs_of(model, rows))
        expected = predict_proba(model, rows)
        assert expected.std() > 0.01
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_program_takes_the_features_of_the_columns(model, frame, tmp_path):
    pytest.importorskip("flatbuffers")
    from jax import export

    path = export_model(model, tmp_path / "customers.stablehlo")
    features = model.columns.encode(frame).features
    found = export.deserialize(bytearray(path.read_bytes())).call(features)
    np.testing.assert_allclose(found, predict_proba(model, frame), atol=1e-6)


def test_the_columns_go_with_the_parameters(model, tmp_path):
    from safetensors import safe_open

    path = export_model(model, tmp_path / "customers.safetensors")
    with safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["jax_softmax"])
    assert about["columns"] == model.columns.as_json()
    assert about["class_names"] == ["maybe", "no", "yes"]


def test_what_does_not_go_with_columns_is_said(model, frame, tmp_path):
    with pytest.raises(InputError, match="dtype: expected none for a model of a table's columns"):
        export_model(model, tmp_path / "x.onnx", dtype="float32")
    path = tmp_path / "odd.csv"
    frame.rename({"age": "probabilities"}).write_csv(path)
    odd = fit(load_table(path, label="churned", impute="mean").train, TrainConfig(epochs=1))
    words = "onnx: expected another name for column 'probabilities'.*rename it in the table"
    with pytest.raises(InputError, match=words):
        export_model(odd, tmp_path / "x.onnx")


def test_the_graph_takes_booleans_however_they_are_written(model, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(export_model(model, tmp_path / "model.onnx")))
    table = pl.DataFrame({"age": [40.0] * 3, "plan": ["S"] * 3, "income": [1e6] * 3})
    table = table.with_columns(member=pl.Series(["true", "True", "TRUE"]))
    (found,) = session.run(None, inputs_of(model, table))
    np.testing.assert_allclose(found, predict_proba(model, table), atol=1e-6)
