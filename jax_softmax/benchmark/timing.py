"""Times of several calls, taken in turns."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.stages import Compiled

from jax_softmax.benchmark.results import Record


class Turns(NamedTuple):
    """What a turn of a contender is: short calls are repeated in it.

    Attributes:
      seconds: it lasts so long at least, so that what the contender before left behind (caches,
        threads that still spin) weighs little.
      calls: it has so many at least.
      together: whether the calls are handed over one after another and waited for at the end of the
        turn, so that an accelerator never waits for Python; otherwise each is waited for.
    """

    seconds: float
    calls: int
    together: bool


ON_CPU = Turns(2e-3, 1, together=False)
ON_ACCELERATOR = Turns(20e-3, 3, together=True)

_MIN_ROUNDS, _MAX_ROUNDS = 3, 200


def turns_for(platform: str) -> Turns:
    """How turns are taken on JAX's platform of this name."""
    return ON_CPU if platform == "cpu" else ON_ACCELERATOR


def timed(record: Record, samples: np.ndarray, base: np.ndarray | None = None) -> Record:
    """The record with the quartiles of some seconds, and their ratio to those of `base`.

    The ratio is the median of the ratios within each round, so that what slows a whole round drops
    out; `samples[i]` and `base[i]` are of the same round.

    >>> record = Record(suite="loss", case="c")
    >>> timed(record, np.array([1.0, 10.0, 3.0]), np.array([2.0, 20.0, 3.0])).ratio
    0.5
    """
    q1, median, q3 = map(float, np.quantile(samples, (0.25, 0.5, 0.75)))
    return replace(
        record,
        seconds_median=median,
        seconds_q1=q1,
        seconds_q3=q3,
        repeats=len(samples),
        ratio=None if base is None else float(np.median(samples / base)),
    )


def alternate(
    calls: Mapping[str, Callable[[], Any]],
    budget_seconds: float,
    *,
    first_seconds: Mapping[str, float],
    turns: Turns = ON_CPU,
    waits: Mapping[str, Callable[[Any], Any]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Times the calls in rounds, each of which gives every call one turn, in a new random order.

    A call counts until its result is there.

    Args:
      calls: what to time, by name, each called before to warm up. Results are dropped at once, so
        that few are alive.
      budget_seconds: rounds go on so long; at least 3 and at most 200.
      first_seconds: what one call of each took, which tells how many make a turn.
      turns: how long a turn is, and when it waits.
      waits: what waits for a call's result, by name, where `jax.block_until_ready` does not.
      clock: gives seconds.

    Returns:
      For each name the seconds a call, a number a round.
    """
    waits = waits or {}
    repeats = {
        name: max(turns.calls, math.ceil(turns.seconds / max(first_seconds[name], 1e-6)))
        for name in calls
    }
    samples: dict[str, list[float]] = {name: [] for name in calls}
    shuffled = random.Random(0)
    names, rounds, started = list(calls), 0, clock()
    while calls and (
        rounds < _MIN_ROUNDS or (rounds < _MAX_ROUNDS and clock() - started < budget_seconds)
    ):
        shuffled.shuffle(names)
        for name in names:
            wait = waits.get(name, jax.block_until_ready)
            turn_started = clock()
            for _ in range(repeats[name] - 1):
                result = calls[name]()
                if not turns.together:
                    wait(result)
                del result
            wait(calls[name]())
            samples[name].append((clock() - turn_started) / repeats[name])
        rounds += 1
    return {name: np.array(found) for name, found in samples.items()}


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Compiled, float]:
    """`jax.jit(function)`, compiled for the arguments, and the seconds that tracing and that took.

    >>> double, seconds = compiled(lambda x: 2 * x, 1.5)
    >>> float(double(1.5)), seconds > 0
    (3.0, True)
    """
    started = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - started


def temporaries(program: Compiled) -> int | None:
    """What a compiled program holds beside its arguments and results, in bytes."""
    found = program.memory_analysis()
    return None if found is None else found.temp_size_in_bytes
