"""How many threads a library that does not share XLA's is best given."""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

Limit = Callable[[], AbstractContextManager[Any]]
"""Makes a context in which a library uses so many threads."""

ONE, DEFAULT = "1 thread", "its own number of threads"
_CALLS = 5


class Fastest(NamedTuple):
    """The name of a limit, and the seconds that finding it took."""

    name: str
    search_seconds: float


def fastest(call: Callable[[], Any], limits: dict[str, Limit]) -> Fastest:
    """The limit within which `call` is fastest, so that a library is shown at its best.

    Threads of PyTorch and BLAS wait for each other by spinning: where steps are short, or other
    processes want the cores, two can take many times as long as one.
    """
    started = time.perf_counter()
    seconds = {}
    for name, limit in limits.items():
        with limit():
            seconds[name] = min(timeit.repeat(call, number=1, repeat=_CALLS))
    best = min(seconds, key=lambda name: seconds[name])
    return Fastest(best, time.perf_counter() - started)


def blas_limits() -> dict[str, Limit]:
    """NumPy's products on one thread, and on its own choice."""
    from threadpoolctl import ThreadpoolController  # scikit-learn depends on it

    controller = ThreadpoolController()
    return {ONE: lambda: controller.limit(limits=1, user_api="blas"), DEFAULT: nullcontext}
