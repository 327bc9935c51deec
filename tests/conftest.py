"""Eight simulated devices for every test, set before anything imports jax."""

import os

# --doctest-modules would import every conftest.py once more, under one name.
collect_ignore_glob = ["*conftest.py"]

_FLAG = "--xla_force_host_platform_device_count"

if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()
