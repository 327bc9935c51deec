"""Compiled for an H200 that is not here: the kernel in each of its forms, and what is left to XLA.

Opt-in: JAX_SOFTMAX_GPU_TESTS=1, and the compiler of `pip install "jax[cuda13]"` (4.4 GB).
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("gpu_program.py")

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("JAX_SOFTMAX_GPU_TESTS") != "1", reason="opt-in: JAX_SOFTMAX_GPU_TESTS=1"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda13_plugin") is None,
        reason='needs the compiler: pip install "jax[cuda13]"',
    ),
]


@pytest.fixture(scope="module")
def seen():
    """In a process of its own, with one device."""
    unwanted = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    finished = subprocess.run(
        [sys.executable, "-m", "tests.ops.gpu_program"],
        cwd=PROGRAM.parents[2],
        env={k: v for k, v in os.environ.items() if k not in unwanted} | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(finished.stdout.splitlines()[-1])


def test_the_kernel_alone_reads_the_logits(seen):
    """But for the gradient of rows, which one more operation reads them for and writes."""
    assert len(seen["losses"]) == 42
    for found in seen["losses"]:
        assert found["kernels"] == 1, found
        assert found["others"] == (found["name"] == "rows"), found
        assert found["temporary_bytes"] < 2e-3 * found["result_bytes"] + 4e6, found


def test_passes(seen):
    """Over the logits: the kernel's reads and writes, what is read again included."""
    most = {"value": 1.0, "rows": 3.0, "total": 2.7}
    for found in seen["losses"]:
        assert found["passes"] <= most[found["name"]], found
        if found["name"] == "total" and found["resident"]:
            assert found["passes"] == 2.0, found


def test_layers(seen):
    """One kernel a block; classes padded; less than half the memory of the half-precision logits
    and their gradient, where there are many rows.
    """
    for found in seen["layers"]:
        assert found["kernels"] == 1 and found["padded"], found
    many = seen["layers"][1]
    assert many["temporary_bytes"] < many["logits_bytes"]


def test_transforms(seen):
    for found in seen["transforms"]:
        # Second derivatives are plain XLA's.
        assert found["kernel"] == (found["name"] != "second"), found
