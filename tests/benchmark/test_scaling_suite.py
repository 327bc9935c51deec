"""The scaling suite at tiny sizes, the machine, and suites by name."""

import math

import pytest

from jax_softmax import InputError
from jax_softmax.benchmark import SUITES, run_suites
from jax_softmax.benchmark.machine import copy_bandwidth, matmul_rate
from jax_softmax.benchmark.scaling_suite import fitted_exponent, run_series
from jax_softmax.benchmark.sharded_rows import measure
from jax_softmax.benchmark.suites import suite_names
from tests.benchmark.shared import assert_timed


def test_the_exponent_is_that_of_the_largest_sizes():
    sizes = [2.0**i for i in range(8)]
    assert fitted_exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    bent = [10.0, 10.0, 10.0, 10.0, 10.0, 32.0, 64.0, 128.0]
    assert fitted_exponent(sizes, bent) == pytest.approx(1.0)


def test_a_series_of_sizes():
    records = run_series("rows doubled", [(4, 33), (8, 33)], 0.0)
    assert [(r.rows, r.classes) for r in records] == [(4, 33), (8, 33)]
    for record in records:
        assert_timed(record)
        assert math.isfinite(record.exponent)


def test_rows_over_devices_give_what_one_gives():
    found = measure(16, 33, 0.0)
    assert [fields["devices"] for fields in found] == [1, 2, 4, 8]
    for fields in found:
        assert fields["max_error"] <= fields["error_bound"] and fields["seconds_median"] > 0


def test_the_machines_limits():
    assert copy_bandwidth(1000, 0.0) > 0 and matmul_rate(8, 0.0) > 0


def test_suites_by_name():
    assert suite_names([]) == suite_names(["loss", "all"]) == list(SUITES)
    assert suite_names(["loss", "jit", "loss"]) == ["loss", "jit"]
    with pytest.raises(InputError, match="unknown suite 'los': .* did you mean 'loss'?"):
        run_suites(["los"])
