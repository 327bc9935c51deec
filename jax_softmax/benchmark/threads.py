"""How many threads a library that does not share XLA's is best given."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

Limit = Callable[[], AbstractContextManager[Any]]
"""Makes a context in which a library uses so many threads."""

_CALLS, _ENOUGH_SECONDS = 9, 0.1
_ONE, _DEFAULT = "1 thread", "its own number of threads"


@dataclass(frozen=True)
class Fastest:
    """What a library is fastest with.

    Attributes:
      name: in words.
      limit: makes the context.
      seconds: that finding out took.
    """

    name: str
    limit: Limit
    seconds: float


def fastest(call: Callable[[], Any], limits: dict[str, Limit]) -> Fastest:
    """The limit within which `call` is fastest: so a library is shown at its best.

    Threads of PyTorch and BLAS wait for each other by spinning: where steps are short, or other
    processes want the cores, two can take many times as long as one.
    """
    started = time.perf_counter()
    call()  # warms up
    seconds = {}
    for name, limit in limits.items():
        with limit():
            seconds[name] = _median_seconds(call)
    best = min(seconds, key=lambda name: seconds[name])
    return Fastest(best, limits[best], time.perf_counter() - started)


def _median_seconds(call: Callable[[], Any]) -> float:
    samples: list[float] = []
    while len(samples) < _CALLS and sum(samples) < _ENOUGH_SECONDS:
        started = time.perf_counter()
        call()
        samples.append(time.perf_counter() - started)
    return statistics.median(samples)


def blas_limits() -> dict[str, Limit]:
    """NumPy's products on one thread, and on its own choice."""
    from threadpoolctl import ThreadpoolController  # scikit-learn depends on it

    controller = ThreadpoolController()
    return {_ONE: lambda: controller.limit(limits=1, user_api="blas"), _DEFAULT: nullcontext}


def torch_limits(torch: Any) -> dict[str, Limit]:
    """PyTorch on one thread, and on its own choice."""

    @contextmanager
    def one_thread() -> Iterator[None]:
        default = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(default)

    return {_ONE: one_thread, _DEFAULT: nullcontext}
