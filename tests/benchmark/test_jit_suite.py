"""The jit suite at tiny sizes."""

from jax_softmax.benchmark import Record, run_case
from jax_softmax.benchmark.jit_ops import gradient_case, loss_case
from jax_softmax.benchmark.jit_suite import with_break_even
from jax_softmax.benchmark.jit_training import training_case
from tests.benchmark.shared import assert_timed


def test_jit_of_the_loss_and_its_gradient():
    for case in (loss_case(6, 3), gradient_case(6, 3)):
        records = with_break_even(run_case(case, 0.0))
        assert [r.contender for r in records] == ["NumPy tutorial", "JAX without jit", "jit"]
        for record in records:
            assert_timed(record)
        assert records[2].compile_seconds > 0
        assert records[2].break_even_runs_no_jit >= 1
        assert records[0].break_even_runs_no_jit is None


def test_jit_of_a_training_run():
    records = run_case(training_case(200), 0.0)
    assert len(records) == 5
    for record in records:
        assert_timed(record)
    assert records[1].note == "5 of 200 steps, scaled"


def test_runs_that_pay_for_compiling():
    def record(name, seconds, compile_seconds=None):
        return Record(
            suite="jit",
            case="c",
            contender=name,
            seconds_median=seconds,
            compile_seconds=compile_seconds,
        )

    slower, faster = record("slower", 2.0, 5.0), record("faster", 0.5, 1.2)
    records = [record("NumPy tutorial", 1.0), record("JAX without jit", 3.0), slower, faster]
    found = [(r.break_even_runs_numpy, r.break_even_runs_no_jit) for r in with_break_even(records)]
    assert found == [(None, None), (None, None), (None, 5), (3, 1)]
