"""Turns, orders, samples and ratios, on a clock of the test's own."""

import numpy as np
import pytest

from jax_softmax.benchmark import Record
from jax_softmax.benchmark.timing import ON_ACCELERATOR, ON_CPU, alternate, timed, turns_for


class Clock:
    """Stands still but for what the calls add."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def call(self, name, seconds, log):
        def run():
            log.append(name)
            self.now += seconds

        return run


@pytest.fixture
def clock():
    return Clock()


def alternated(clock, calls, first, budget_seconds):
    first_seconds = dict.fromkeys(calls, first) if isinstance(first, float) else first
    return alternate(calls, budget_seconds, first_seconds=first_seconds, clock=clock)


def test_every_round_gives_each_call_one_turn_in_changing_order(clock):
    log = []
    calls = {name: clock.call(name, 1.0, log) for name in "abc"}
    samples = alternated(clock, calls, 1.0, budget_seconds=30.0)
    rounds = [tuple(log[i : i + 3]) for i in range(0, len(log), 3)]
    assert len(rounds) == 10
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len(set(rounds)) > 2
    assert all(list(found) == [1.0] * 10 for found in samples.values())


def test_three_rounds_are_the_least_and_200_the_most(clock):
    log = []
    slow = alternated(clock, {"slow": clock.call("slow", 60.0, log)}, 60.0, budget_seconds=1.0)
    assert len(slow["slow"]) == 3
    fast = alternated(clock, {"fast": clock.call("fast", 0.01, log)}, 0.01, budget_seconds=1e6)
    assert len(fast["fast"]) == 200


def test_short_calls_are_repeated_within_a_turn(clock):
    log = []
    calls = {"short": clock.call("short", 0.5e-3, log), "long": clock.call("long", 5.0, log)}
    samples = alternated(clock, calls, {"short": 0.5e-3, "long": 5.0}, budget_seconds=0.0)
    assert log.count("short") == 3 * 4  # a turn of 2 ms
    assert log.count("long") == 3
    assert samples["short"] == pytest.approx([0.5e-3] * 3)


def test_an_accelerator_is_handed_several_calls_and_waited_for_once(clock):
    log = []
    calls = {"short": clock.call("short", 4e-3, log), "long": clock.call("long", 5.0, log)}
    samples = alternate(
        calls,
        0.0,
        first_seconds={"short": 4e-3, "long": 5.0},
        turns=ON_ACCELERATOR,
        waits=dict.fromkeys(calls, lambda result: log.append("waited")),
        clock=clock,
    )
    turns = {tuple(turn.split()) for turn in " ".join(log).split("waited") if turn}
    assert turns == {("short",) * 5, ("long",) * 3}  # 20 ms, and 3 calls
    assert samples["short"] == pytest.approx([4e-3] * 3)


def test_on_a_cpu_each_call_is_waited_for(clock):
    log = []
    alternate(
        {"short": clock.call("short", 1e-3, log)},
        0.0,
        first_seconds={"short": 1e-3},
        waits={"short": lambda result: log.append("waited")},
        clock=clock,
    )
    assert log == ["short", "waited"] * 2 * 3


@pytest.mark.parametrize(
    ("platform", "turns"), [("cpu", ON_CPU), ("gpu", ON_ACCELERATOR), ("tpu", ON_ACCELERATOR)]
)
def test_the_platform_decides_how_turns_are_taken(platform, turns):
    assert turns_for(platform) is turns


def test_nothing_to_time():
    assert alternate({}, 1.0, first_seconds={}) == {}


def test_quartiles_and_the_paired_ratio():
    mine, other = np.array([1.0, 10.0, 3.0]), np.array([2.0, 20.0, 3.0])
    record = timed(Record(suite="loss", case="c"), mine, other)
    quartiles = (record.seconds_q1, record.seconds_median, record.seconds_q3)
    assert (*quartiles, record.repeats) == (2.0, 3.0, 6.5, 3)
    assert record.ratio == 0.5  # of the rounds' 0.5, 0.5 and 1, not 3 / 3
    assert timed(Record(suite="loss", case="c"), mine).ratio is None
