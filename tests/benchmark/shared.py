"""What the tests of several suites share."""

from __future__ import annotations

import math

from jax_softmax.benchmark import Machine

MACHINE = Machine(
    platform="cpu",
    device_kind="cpu",
    processor="a CPU",
    cpu_count=2,
    python_version="3.11",
    jax_version="0.10.2",
    jaxlib_version="0.10.2",
    numpy_version="2.4",
    optax_version="0.2.8",
    jax_softmax_version="0.1.0",
)


def assert_timed(record):
    assert not record.differs and record.skipped == ""
    numbers = (record.seconds_median, record.seconds_q1, record.seconds_q3)
    assert all(number > 0 and math.isfinite(number) for number in numbers)
    assert record.repeats >= 3
