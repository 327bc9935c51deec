"""Times of several calls, taken in turns."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.stages import Compiled

# A turn lasts so long at least: short calls are repeated in it, so that what the contender before
# left behind (caches, threads that still spin) weighs little.
_TURN_SECONDS = 2e-3
_MIN_ROUNDS, _MAX_ROUNDS = 3, 200


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, measured several times.

    Attributes:
      samples: seconds a call, a sample a round; `samples[i]` of two contenders that were timed
        together are of the same round.

    >>> timing = Timing((1.0, 2.0, 3.0, 4.0, 5.0))
    >>> timing.median, timing.q1, timing.q3, timing.repeats
    (3.0, 2.0, 4.0, 5)
    >>> timing.ratio(Timing((2.0, 4.0, 6.0, 8.0, 10.0)))
    0.5
    """

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the samples are shorter."""
        return float(np.median(self.samples))

    @property
    def q1(self) -> float:
        """A quarter of the samples are shorter."""
        return float(np.quantile(self.samples, 0.25))

    @property
    def q3(self) -> float:
        """Three quarters of the samples are shorter."""
        return float(np.quantile(self.samples, 0.75))

    @property
    def repeats(self) -> int:
        """How many samples there are."""
        return len(self.samples)

    def scaled(self, factor: float) -> Timing:
        """All samples times `factor`."""
        return Timing(tuple(sample * factor for sample in self.samples))

    def ratio(self, base: Timing) -> float:
        """The median of the rounds' ratios to `base`: what slows a whole round drops out."""
        pairs = zip(self.samples, base.samples, strict=True)
        return float(np.median([mine / other for mine, other in pairs]))


def alternate(
    calls: Mapping[str, Callable[[], Any]],
    budget_seconds: float,
    *,
    first_seconds: Mapping[str, float] | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times the calls in rounds, each of which gives every call one turn, in a new random order.

    A call counts until its result is there (`jax.block_until_ready`). What each is called before
    the first round warms up, and tells how many calls make a turn of 2 ms.

    Args:
      calls: what to time, by name. Results are dropped at once, so that few are alive.
      budget_seconds: rounds go on so long, warming up left out; at least 3 and at most 200.
      first_seconds: what one call of each took that warmed it up; None makes that call here.
      seed: of the orders.
      clock: gives seconds.

    Returns:
      For each name as many samples as there were rounds.
    """
    if first_seconds is None:
        first_seconds = {name: _turn(call, 1, clock) for name, call in calls.items()}
    repeats = {name: math.ceil(_TURN_SECONDS / max(first_seconds[name], 1e-6)) for name in calls}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    shuffled = random.Random(seed)
    names, rounds, started = list(calls), 0, clock()
    while calls and (
        rounds < _MIN_ROUNDS or (rounds < _MAX_ROUNDS and clock() - started < budget_seconds)
    ):
        shuffled.shuffle(names)
        for name in names:
            samples[name].append(_turn(calls[name], repeats[name], clock))
        rounds += 1
    return {name: Timing(tuple(found)) for name, found in samples.items()}


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Compiled, float]:
    """`jax.jit(function)`, traced and compiled for the arguments, and the seconds that took.

    >>> double, seconds = compiled(lambda x: 2 * x, 1.5)
    >>> float(double(1.5)), seconds > 0
    (3.0, True)
    """
    started = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - started


def _turn(call: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    started = clock()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return (clock() - started) / repeats
