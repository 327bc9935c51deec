"""What the page on looking and exporting says of reading files, where this package is not."""

import os
import subprocess
import sys

import numpy as np
import pytest

from jax_softmax import SoftmaxModel, export_model, predict_proba
from tests.docs.test_pages import blocks

PAGE = "docs/looking.md"
NEEDS = {"onnx": ("onnx", "onnxruntime"), "stablehlo": ("flatbuffers",), "safetensors": ()}


@pytest.mark.parametrize("number", range(len(blocks(PAGE, "py"))))
def test_exported_files_are_read_as_the_page_says(number, tmp_path):
    kind, packages = list(NEEDS.items())[number]
    for package in packages:
        pytest.importorskip(package)
    program = blocks(PAGE, "py")[number]
    assert f"mnist.{kind}" in program
    rng = np.random.default_rng(0)
    kernel = 0.1 * rng.normal(size=(784, 10)).astype(np.float32)
    params = {"kernel": kernel, "bias": np.ones(10, np.float32)}
    model = SoftmaxModel(params, (28, 28), 1 / 255, tuple("0123456789"))
    images = rng.integers(0, 256, (9, 28, 28), dtype=np.uint8)
    export_model(model, tmp_path / f"mnist.{kind}")
    np.save(tmp_path / "images.npy", images)
    before = (
        "import sys, numpy\nsys.modules['jax_softmax'] = None\nimages = numpy.load('images.npy')\n"
    )
    after = "\nnumpy.save('found.npy', globals().get('probabilities', globals().get('logits')))"
    done = subprocess.run(
        [sys.executable, "-c", before + program + after],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npy")
    if kind == "safetensors":
        found = np.exp(found - found.max(axis=1, keepdims=True))
        found /= found.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, predict_proba(model, images), atol=2e-6)
