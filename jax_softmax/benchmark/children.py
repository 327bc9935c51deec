"""Work in a process of its own: from its start, or with other devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax_softmax
from jax_softmax.benchmark.cases import UnavailableError

_LIMIT_SECONDS = 600


def run_child(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """Runs `python -m module ARGUMENTS FILE` and returns what it wrote, as JSON, to that file.

    Args:
      module: of this package.
      arguments: for its command line.
      environment: variables to set besides this process's.

    Raises:
      UnavailableError: if it failed or took more than ten minutes; the message has its last line.
    """
    paths = [str(Path(jax_softmax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    python_path = os.pathsep.join(filter(None, paths))
    variables = os.environ | {"PYTHONPATH": python_path} | dict(environment or {})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, "-m", module, *arguments, str(file)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=variables, timeout=_LIMIT_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"{module} took more than {_LIMIT_SECONDS} s") from None
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UnavailableError(f"{module} failed: {last}")
        return json.loads(file.read_text())
