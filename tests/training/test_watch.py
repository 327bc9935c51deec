"""How long one process waits for the others."""

import pytest

from jax_softmax.training import processes


@pytest.fixture
def limits(monkeypatch):
    """The seconds of each alarm that is set, as if there were two processes."""
    found = []
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "_alarm", lambda stack, seconds, f, words: found.append(seconds))
    return found


def test_what_was_done_before_is_waited_for_no_longer_than_usual(limits, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    watch = processes.Watch(processes.Watchdog(7.0, pytest.fail))
    for seconds in (3.0, 2.0, 1.0):
        with watch("the checkpoint", "checkpoint"):
            now[0] += seconds
    with watch("the checkpoint", "another kind"):
        pass
    assert limits == [20 * 7.0, 7.0 + 2 * 3.0, 7.0 + 2 * 3.0, 20 * 7.0]


def test_what_was_broken_off_says_nothing_of_the_usual(limits):
    watch = processes.Watch(processes.Watchdog(7.0, pytest.fail))
    with pytest.raises(KeyboardInterrupt), watch("the epochs"):
        raise KeyboardInterrupt
    with watch("the epochs"):
        pass
    assert limits == [20 * 7.0] * 2
