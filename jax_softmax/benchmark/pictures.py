"""A picture to a suite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jax_softmax.benchmark.results import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def jit_figure(records: Sequence[Record]) -> Figure:
    """Bars."""
    raise NotImplementedError


loss_figure = train_figure = scaling_figure = jit_figure
