"""What a training run is asked to do."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Literal, get_args

import numpy as np

from jax_softmax.errors import InputError

Schedule = Literal["constant", "cosine", "warmup-cosine"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of `fit`, checked when they are made.

    Attributes:
      learning_rate: the step size of SGD, at its peak where the schedule varies.
      batch_size: examples to a step; None is all of them (full batch, no shuffling).
      epochs: passes over the training examples.
      momentum: in [0, 1); 0 is plain SGD.
      nesterov: Nesterov's momentum instead of the heavy ball's.
      weight_decay: `weight_decay * kernel` is added to the kernel's gradient, and nothing to the
        bias's (an L2 penalty of `weight_decay / 2 * sum(kernel ** 2)`).
      schedule: `"constant"`, `"cosine"` (to 0 over the run) or `"warmup-cosine"` (a linear rise
        over the first tenth of the steps, then cosine).
      seed: fixes the order of the examples.

    Raises:
      InputError: if a value is out of its range; the message says which and how.

    >>> TrainConfig(learning_rate=0.1, batch_size=None, epochs=1000).momentum
    0.0
    """

    learning_rate: float = 0.1
    batch_size: int | None = 128
    epochs: int = 10
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    seed: int = 0

    def __post_init__(self) -> None:
        _require(
            _is_number(self.learning_rate)
            and math.isfinite(self.learning_rate)
            and self.learning_rate > 0,
            "learning rate: expected a positive, finite number",
            self.learning_rate,
        )
        _require(
            self.batch_size is None or (_is_integer(self.batch_size) and self.batch_size >= 1),
            "batch size: expected an integer of at least 1, or None for the full batch",
            self.batch_size,
        )
        _require(
            _is_integer(self.epochs) and self.epochs >= 1,
            "epochs: expected an integer of at least 1",
            self.epochs,
        )
        _require(
            _is_number(self.momentum) and 0 <= self.momentum < 1,
            "momentum: expected a number in [0, 1)",
            self.momentum,
        )
        _require(
            self.momentum > 0 or not self.nesterov,
            "nesterov: expected a momentum above 0 to go with it",
            self.momentum,
        )
        _require(
            _is_number(self.weight_decay)
            and math.isfinite(self.weight_decay)
            and self.weight_decay >= 0,
            "weight decay: expected a finite number of at least 0",
            self.weight_decay,
        )
        schedules = get_args(Schedule)
        _require(
            self.schedule in schedules, f"schedule: expected one of {schedules}", self.schedule
        )
        _require(
            _is_integer(self.seed) and 0 <= self.seed < 2**32,
            "seed: expected an integer in [0, 2**32)",
            self.seed,
        )
        for name, value in vars(self).items():
            if isinstance(value, np.generic):  # a NumPy number, which JSON does not know
                object.__setattr__(self, name, value.item())


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _require(holds: bool, expected: str, got: object) -> None:
    if not holds:
        raise InputError(f"{expected}, got {got!r}.")
