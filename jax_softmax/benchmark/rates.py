"""What the machine can do: how fast it copies, and how fast it multiplies matrices."""

from __future__ import annotations

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_softmax.benchmark.timing import alternate, compiled, turns_for

_SECONDS = 0.3


class Rates(NamedTuple):
    """The limits that other times are held against.

    Attributes:
      copy_bytes_per_second: read and written, of `-x` on a large float32 array.
      product_operations_per_second: of a product of bfloat16 matrices; an addition and a
        multiplication are two.
    """

    copy_bytes_per_second: float
    product_operations_per_second: float

    def pass_seconds(self, nbytes: int) -> float:
        """The time to read so many bytes once at the copy's rate.

        >>> Rates(2e9, 1e12).pass_seconds(10**9)
        0.5
        """
        return nbytes / self.copy_bytes_per_second


def measure_rates(*, quick: bool = False) -> Rates:
    """Both rates of JAX's first device; `quick` takes small sizes."""
    on_cpu = jax.default_backend() == "cpu"
    # quick: just under 32 MB; what is larger, glibc's malloc maps afresh each time.
    numbers = 2**23 - 2**10 if quick else 2**25 if on_cpu else 2**28
    width = 256 if quick else 1024 if on_cpu else 8192
    return measure(numbers, width)


def measure(numbers: int, width: int) -> Rates:
    """The rates by a copy of so many float32 and a product of `[width, width]` matrices."""
    x = jnp.arange(numbers, dtype=jnp.float32)
    key = jax.random.key(0)
    a = jax.random.normal(key, (width, width), jnp.bfloat16)  # zeros would draw less power
    copy, _ = compiled(jnp.negative, x)
    product, _ = compiled(jnp.matmul, a, a)
    calls = {"copy": lambda: copy(x), "product": lambda: product(a, a)}
    first_seconds = {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        started = time.perf_counter()
        jax.block_until_ready(call())
        first_seconds[name] = time.perf_counter() - started
    samples = alternate(
        calls, _SECONDS, first_seconds=first_seconds, turns=turns_for(jax.default_backend())
    )
    seconds = {name: float(np.median(found)) for name, found in samples.items()}
    return Rates(2 * x.nbytes / seconds["copy"], 2 * width**3 / seconds["product"])
