"""Compiled programs are freed: however many shapes are trained on, a process holds the same.

`JAX_SOFTMAX_LONG_FAULTS=1` has the long version run, 500 fits as users have them: ten minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jax_softmax.training import programs
from tests.compiler import UNOPTIMISED

HERE = Path(__file__).parent
LONG = "JAX_SOFTMAX_LONG_FAULTS" in os.environ

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="only Linux tells what a process has mapped"
)


def memory_of_fits(fits, most, flags=""):
    """`[fits, 2]`: maps and KB after each fit, with `most` programs kept of each function."""
    environment = {n: v for n, v in os.environ.items() if n != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XLA_FLAGS": flags, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [sys.executable, str(HERE / "program_memory.py"), str(fits), str(most)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return np.array([list(map(int, line.split())) for line in done.stdout.splitlines()])


def test_programs_beyond_the_latest_leave_no_maps():
    flags = " ".join(f"--{name}={value}" for name, value in UNOPTIMISED.items())
    maps = memory_of_fits(15, 3, flags)[:, 0]
    a_fit = maps[2] - maps[1]
    assert a_fit > 25  # or the test measures nothing
    assert maps[9:].max() < maps[4:9].max() + a_fit


@pytest.mark.skipif(not LONG, reason="takes ten minutes: JAX_SOFTMAX_LONG_FAULTS=1")
def test_500_fits_hold_what_100_do():
    held = memory_of_fits(500, programs.MOST)
    for name, values in zip(("maps", "KB"), held.T, strict=True):
        early, late = np.median(values[95:105]), np.median(values[-10:])
        assert late < 1.05 * early, f"{name}: {early} after 100 fits, {late} after 500"


def test_no_more_than_the_latest_programs_are_kept(monkeypatch):
    monkeypatch.setattr(programs, "MOST", 3)
    traced = []

    @programs.latest_programs("times")
    def scaled(x, *, times):
        traced.append((x.shape, times))
        return times * x

    for size in (1, 2, 3, 1, 4, 1, 2):  # 4 drops 2, the longest unused
        scaled(np.ones(size, np.float32), times=2)
    assert [shape for shape, _ in traced] == [(1,), (2,), (3,), (4,), (2,)]
    scaled(np.ones(2, np.float32), times=3)
    assert traced[-1] == ((2,), 3)
