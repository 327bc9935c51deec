"""Eight simulated devices for every test, and where compiled programs are kept.

Set before anything imports jax. Compiling is most of what the tests do: those that run again, with
programs that did not change, take a third of the time. A folder to a worker, for JAX may read what
another is still writing.
"""

import os
from pathlib import Path

# --doctest-modules would import every conftest.py once more, under one name.
collect_ignore_glob = ["*conftest.py"]

_FLAG = "--xla_force_host_platform_device_count"
_PROGRAMS = Path(__file__).parents[1] / ".pytest_cache" / "compiled"

if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_PROGRAMS / worker)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
