"""The machine, its versions, and its limits: how fast it copies and multiplies."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_softmax
from jax_softmax.benchmark.timing import alternate, compiled


@dataclass(frozen=True)
class Machine:
    """What the times were measured on.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      device_kind: of JAX's first device.
      processor: the CPU's name.
      cpu_count: cores this process may run on, which is how many threads XLA, PyTorch and NumPy
        start where nothing else is set.
      python_version: of Python; the other versions likewise, None for what is not installed.
      copy_bytes_per_second: read plus written by `z * c` into a fresh float32 array that no cache
        holds.
      matmul_flop_per_second: of a float32 product of square matrices, at JAX's default precision.
    """

    platform: str
    device_kind: str
    processor: str
    cpu_count: int
    python_version: str
    jax_version: str
    jaxlib_version: str
    numpy_version: str
    jax_softmax_version: str
    optax_version: str | None
    scikit_learn_version: str | None
    torch_version: str | None
    tokamax_version: str | None
    copy_bytes_per_second: float
    matmul_flop_per_second: float

    def record(self) -> dict[str, Any]:
        """The fields, for a flat record."""
        return asdict(self)


def measure_machine(*, quick: bool = False) -> Machine:
    """Measures JAX's first device; about 1 s with `quick`, a few seconds without."""
    import jaxlib

    device = jax.devices()[0]
    on_cpu = device.platform == "cpu"
    numbers = 2**24 if quick and on_cpu else 2**26
    side = (1024 if quick else 2048) if on_cpu else 8192
    seconds = 0.3 if quick else 2.0
    return Machine(
        platform=device.platform,
        device_kind=device.device_kind,
        processor=_processor(),
        cpu_count=_cpu_count(),
        python_version=platform.python_version(),
        jax_version=jax.__version__,
        jaxlib_version=jaxlib.__version__,
        numpy_version=np.__version__,
        jax_softmax_version=jax_softmax.__version__,
        optax_version=_version("optax"),
        scikit_learn_version=_version("scikit-learn"),
        torch_version=_version("torch"),
        tokamax_version=_version("tokamax"),
        copy_bytes_per_second=copy_bandwidth(numbers, seconds),
        matmul_flop_per_second=matmul_rate(side, seconds),
    )


def copy_bandwidth(numbers: int, budget_seconds: float) -> float:
    """Bytes read plus bytes written a second by `z * c`, `z` of so many float32 numbers."""
    z, c = jnp.ones(numbers, jnp.float32), jnp.float32(1.5)
    copy, _ = compiled(jnp.multiply, z, c)
    (timing,) = alternate({"copy": lambda: copy(z, c)}, budget_seconds).values()
    return 2 * z.nbytes / timing.median


def matmul_rate(side: int, budget_seconds: float) -> float:
    """Floating-point operations a second, `2 side^3` to a product of float32 matrices."""
    a = jnp.ones((side, side), jnp.float32)
    product, _ = compiled(jnp.matmul, a, a)
    (timing,) = alternate({"product": lambda: product(a, a)}, budget_seconds).values()
    return 2 * side**3 / timing.median


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    # platform.processor() is empty or "x86_64" on Linux.
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
