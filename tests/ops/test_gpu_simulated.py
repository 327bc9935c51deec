"""The tests of the GPU's kernel without a GPU, in a process of their own that simulates it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[2]
FEWEST = 90  # of tests: fewer, and the folder was not collected


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="simulated on a CPU")
@pytest.mark.skipif(jax.__version_info__ < (0, 11, 2), reason="the kernel needs jax 0.11.2")
def test_the_kernel_simulated():
    """That process's own report is what fails here."""
    dropped = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith("PYTEST_")
    }
    chosen = {
        "JAX_SOFTMAX_TEST_DEVICES": "1",
        "JAX_SOFTMAX_TEST_SIMULATED_GPU": "1",
        # Threads of XLA's: each warpgroup waits in one for the others.
        "NPROC": "16",
    }
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "tests/ops/gpu"]
    run = subprocess.run(
        command, cwd=ROOT, env=clean | chosen, capture_output=True, text=True, timeout=900
    )
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed and int(passed[1]) >= FEWEST, output
