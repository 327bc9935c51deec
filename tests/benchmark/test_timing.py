"""Turns, orders, samples and ratios, on a clock of the test's own."""

import pytest

from jax_softmax.benchmark.timing import Timing, alternate


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


def test_every_round_gives_each_call_one_turn_in_changing_order(clock):
    log = []
    calls = {name: clock.call(name, 1.0, log) for name in "abc"}
    timings = alternate(calls, budget_seconds=30.0, clock=clock)
    assert log[:3] == ["a", "b", "c"]  # warming up, not counted
    rounds = [tuple(log[i : i + 3]) for i in range(3, len(log), 3)]
    assert len(rounds) == 10
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len(set(rounds)) > 2
    assert all(timing == Timing((1.0,) * 10) for timing in timings.values())


def test_three_rounds_are_the_least_and_200_the_most(clock):
    log = []
    slow = alternate({"slow": clock.call("slow", 60.0, log)}, budget_seconds=1.0, clock=clock)
    assert slow["slow"].repeats == 3
    fast = alternate({"fast": clock.call("fast", 0.01, log)}, budget_seconds=1e6, clock=clock)
    assert fast["fast"].repeats == 200


def test_short_calls_are_repeated_within_a_turn(clock):
    log = []
    calls = {
        "short": clock.call("short", 0.5e-3, log),
        "long": clock.call("long", 5.0, log),
    }
    timings = alternate(calls, budget_seconds=0.0, clock=clock)
    assert log.count("short") == 1 + 3 * 4  # a turn of 2 ms
    assert log.count("long") == 1 + 3
    assert timings["short"].median == pytest.approx(0.5e-3)


def test_a_call_that_was_timed_before_is_not_warmed_up_again(clock):
    log = []
    calls = {"a": clock.call("a", 1.0, log)}
    alternate(calls, budget_seconds=0.0, first_seconds={"a": 1.0}, clock=clock)
    assert len(log) == 3


def test_nothing_to_time():
    assert alternate({}, budget_seconds=1.0) == {}


def test_quartiles_and_the_paired_ratio():
    mine, other = Timing((1.0, 10.0, 3.0)), Timing((2.0, 20.0, 3.0))
    assert (mine.q1, mine.median, mine.q3, mine.repeats) == (2.0, 3.0, 6.5, 3)
    assert mine.ratio(other) == 0.5  # of the rounds' 0.5, 0.5 and 1
    assert mine.scaled(0.1).median == pytest.approx(0.3)
