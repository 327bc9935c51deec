"""`jax-softmax export`: the file that is asked for, and what is said of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from jax_softmax import load_dataset, load_run, predict_proba


def test_a_program_takes_pixels_as_they_are_stored(digits, command):
    pytest.importorskip("flatbuffers")
    from jax import export

    outcome = command("export", digits.run, "--format", "stablehlo", "--output", "digits.bin")
    size = Path("digits.bin").stat().st_size
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        f"model       digits.bin (stablehlo, {size:,} bytes)",
        "takes       features [N, 8, 8] uint8, as the dataset stores them",
        "gives       probabilities [N, 10]",
    ]
    program = export.deserialize(bytearray(Path("digits.bin").read_bytes()))
    images = load_dataset("digits").test.features
    assert images.dtype == np.uint8
    expected = predict_proba(load_run(digits.run), images)
    np.testing.assert_allclose(program.call(images), expected, atol=1e-6)


def test_a_graph_takes_what_is_asked_for(iris, digits, command):
    onnx = pytest.importorskip("onnx")
    for run, dtype in ((iris.run, "uint8"), (digits.run, "float32")):
        outcome = command(
            "export", run, "--output", "x.onnx", "--dtype", dtype, "--overwrite", "--json", "x.json"
        )
        assert outcome.code == 0 and f"] {dtype}, as" in outcome.out
        taken = onnx.load("x.onnx").graph.input[0].type.tensor_type.elem_type
        assert onnx.helper.tensor_dtype_to_np_dtype(taken) == dtype
    (record,) = json.loads(Path("x.json").read_text())
    assert record == {"run_dir": str(digits.run), "format": "onnx", "file": "x.onnx"}


def test_without_an_output_it_is_beside_the_run(iris, command):
    expected = iris.run.with_name(f"{iris.run.name}.safetensors")
    try:
        outcome = command("export", iris.run, "--format", "safetensors")
        again = command("export", iris.run, "--format", "safetensors")
    finally:
        expected.unlink(missing_ok=True)
    assert outcome.code == 0 and str(expected) in outcome.out.replace("\n", "")
    assert "holds       kernel [4, 3], bias [3]" in outcome.out
    assert again.code == 2 and "is there already; give another path" in again.err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            "",
            "stablehlo, onnx; add it, or --output FILE with such an ending.",
        ),
        (
            "--output x.pt",
            "format: expected one of safetensors, stablehlo, onnx, got the ending of x.pt",
        ),
        ("--output nowhere/x.onnx", "nowhere/x.onnx: expected a file's path in a folder"),
        ("--output x.safetensors --dtype uint8", "dtype: expected none for safetensors"),
    ],
)
def test_a_mistake_is_said_and_leaves_nothing(words, error, iris, command):
    outcome = command("export", iris.run, *words.split())
    assert outcome.code == 2 and outcome.out == ""
    said = " ".join(outcome.err.split())
    start, _, end = error.partition(".*")
    assert start in said and end in said and "Traceback" not in said
    assert os.listdir() == []


def test_what_is_no_run_is_said(command):
    outcome = command("export", "nowhere", "--output", "x.onnx")
    assert (outcome.code, outcome.out) == (2, "")
    assert "run folder nowhere: no such folder" in outcome.err


def test_what_a_graph_of_a_table_takes_is_said(table_run, command):
    pytest.importorskip("onnx")
    outcome = command("export", table_run, "--format", "onnx")
    assert (outcome.code, outcome.err) == (0, "")
    said = " ".join(outcome.out.split())
    assert "numbers (float64): 'age'; words (strings): 'plan'" in said
