"""The jit suite at tiny sizes."""

import pytest

from jax_softmax.benchmark import Record, run_case
from jax_softmax.benchmark.jit_suite import gradient_case, loss_case, training_case
from tests.benchmark.shared import assert_timed


def test_jit_of_the_loss_and_its_gradient():
    for case in (loss_case(6, 3), gradient_case(6, 3)):
        records = run_case(case, 0.0)
        assert [r.contender for r in records] == ["NumPy tutorial", "JAX without jit", "jit"]
        for record in records:
            assert_timed(record)
        assert records[2].compile_seconds > 0


def test_jit_of_a_training_run():
    records = run_case(training_case(200), 0.0)
    assert len(records) == 5
    for record in records:
        assert_timed(record)
    assert records[1].note == "5 of 200 steps, scaled"


@pytest.mark.parametrize(("ratio", "runs"), [(0.25, 1), (0.9, 22), (1.0, None), (2.0, None)])
def test_runs_that_pay_for_compiling(ratio, runs):
    record = Record(suite="jit", case="c", seconds_median=0.5, compile_seconds=1.2, ratio=ratio)
    assert record.break_even_runs == runs


def test_what_was_not_compiled_pays_for_nothing():
    assert Record(suite="jit", case="c", seconds_median=0.5, ratio=0.5).break_even_runs is None
