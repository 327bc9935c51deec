"""A row's loss, as two functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jax_softmax.ops._backends.interface import Backend
from jax_softmax.ops._math.row_data import DIFFERENTIABLE, Gradients, Outputs, Residuals, RowData
from jax_softmax.ops._math.slices import Slices
from jax_softmax.ops._options import Options


def _never(*_: Any) -> bool:
    return False


def _of_a_loss(options: Options) -> tuple[str, ...]:
    return DIFFERENTIABLE if options.stats else ("loss",)


class RowLoss(NamedTuple):
    """A row's loss, as the rules and the layer's sweeps use it.

    Attributes:
      forward: `forward(options, slices, data)` returns outputs and residuals.
      gradients: `gradients(backend, options, logits, data, residuals, cotangents, final)` returns a
        slice's gradients. `final` says that they go to memory, as in `Backend.put_at_label`.
      reads_once: `reads_once(backend, options, logits, data, dtype)`, whether `at_once` is faster
        than one after the other.
      at_once: `at_once(backend, options, logits, data, weights, dtype)` returns outputs, residuals,
        and the gradient of `sum(weights * loss)` by all classes' logits, rounded to `dtype`.
      outputs: `outputs(options)`, the names of the differentiable outputs.
    """

    forward: Callable[[Options, Slices, RowData], tuple[Outputs, Residuals]]
    gradients: Callable[[Backend, Options, jax.Array, RowData, Residuals, Outputs, bool], Gradients]
    reads_once: Callable[[Backend, Options, jax.Array, RowData, Any], bool] = _never
    at_once: (
        Callable[
            [Backend, Options, jax.Array, RowData, jax.Array, Any],
            tuple[Outputs, Residuals, jax.Array],
        ]
        | None
    ) = None
    outputs: Callable[[Options], tuple[str, ...]] = _of_a_loss
