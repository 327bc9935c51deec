"""Runs a folder of tests in a process of its own, with one device."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_DROPPED = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")


def run_alone(folder, fewest, **environment):
    """That process's own report is what fails here; with `fewest`, so does what it did not collect.

    Returns its last line.
    """
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in _DROPPED and not name.startswith("PYTEST_")
    }
    chosen = {"JAX_SOFTMAX_TEST_DEVICES": "1"} | environment
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", folder]
    run = subprocess.run(
        command, cwd=ROOT, env=clean | chosen, capture_output=True, text=True, timeout=900
    )
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed and int(passed[1]) >= fewest, output
    return run.stdout.splitlines()[-1]
