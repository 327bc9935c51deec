"""Compiled for TPUs that are not here: what the mean loss moves, and what rows send each other.

Opt-in: JAX_SOFTMAX_TPU_TESTS=1, and libtpu, of `pip install "jax[tpu]"`.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("tpu_program.py")
PASSES = 4.01

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("JAX_SOFTMAX_TPU_TESTS") != "1", reason="opt-in: JAX_SOFTMAX_TPU_TESTS=1"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason='needs libtpu: pip install "jax[tpu]"'
    ),
]


@pytest.mark.parametrize("topology", ["v5e:2x2", "v6e:2x2"])
def test_compiled_for_a_tpu(topology):
    """In a process of its own: the compiler of TPUs is loaded once, and kept."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.ops.tpu_program", topology],
        cwd=PROGRAM.parents[2],
        env={**os.environ, "TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    seen = json.loads(finished.stdout.splitlines()[-1])
    for rule, passes in seen["passes"].items():
        assert passes <= PASSES, (rule, passes)
    for kind, size in seen["collectives"]:
        assert kind == "all-reduce"
        assert size <= seen["rows"]
