"""What `jit` buys, what the hand-written rule does, and how near both are to a copy and a product.

Names load on first use, so that a process that times PyTorch does not import JAX as well.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax_softmax.benchmark.cases import Case, Contender, Prepared, UnavailableError, run_case
    from jax_softmax.benchmark.machine import Machine
    from jax_softmax.benchmark.results import Record
    from jax_softmax.benchmark.suites import SUITES, Report, run_suites

_HOMES = {
    "cases": ("Case", "Contender", "Prepared", "UnavailableError", "run_case"),
    "machine": ("Machine",),
    "results": ("Record",),
    "suites": ("SUITES", "Report", "run_suites"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "SUITES",
    "Case",
    "Contender",
    "Machine",
    "Prepared",
    "Record",
    "Report",
    "UnavailableError",
    "run_case",
    "run_suites",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
