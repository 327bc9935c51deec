"""What the times were measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import jax
import jaxlib
import numpy as np

import jax_softmax


@dataclass(frozen=True)
class Machine:
    """The machine and the versions.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      device_kind: of JAX's first device.
      processor: the CPU's name.
      cpu_count: cores this process may run on, which is how many threads XLA and NumPy start where
        nothing else is set.
      copy_bytes_per_second: read and written, None where it was not measured.
      product_operations_per_second: of a product of bfloat16 matrices, the same.
    """

    platform: str
    device_kind: str
    processor: str
    cpu_count: int
    python_version: str
    jax_version: str
    jaxlib_version: str
    numpy_version: str
    optax_version: str
    jax_softmax_version: str
    copy_bytes_per_second: float | None = None
    product_operations_per_second: float | None = None

    @classmethod
    def here(cls) -> Machine:
        """What this process runs on."""
        device = jax.devices()[0]
        return cls(
            platform=device.platform,
            device_kind=device.device_kind,
            processor=_processor(),
            cpu_count=_cpu_count(),
            python_version=platform.python_version(),
            jax_version=jax.__version__,
            jaxlib_version=jaxlib.__version__,
            numpy_version=np.__version__,
            optax_version=metadata.version("optax"),
            jax_softmax_version=jax_softmax.__version__,
        )


def _processor() -> str:
    # platform.processor() is empty or "x86_64" on Linux.
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_count() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1
