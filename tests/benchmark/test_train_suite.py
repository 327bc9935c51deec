"""The train suite on digits: every trainer, and races of processes."""

import pytest

from jax_softmax import InputError, load_dataset
from jax_softmax.benchmark import run_case, train_suite
from jax_softmax.benchmark.cases import Context
from jax_softmax.benchmark.train_epochs import epoch_case
from jax_softmax.benchmark.train_race import KEPT, Race, run_race
from jax_softmax.benchmark.train_suite import task_of
from tests.benchmark.shared import MACHINE, assert_timed


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.mark.parametrize(("batch_size", "bound"), [(None, 1e-3), (64, 0.1)])
def test_an_epoch_of_every_trainer(digits, batch_size, bound, no_torch):
    records = run_case(epoch_case("digits", task_of(digits, batch_size), 3, bound), 0.0)
    names = ["jax_softmax", "NumPy tutorial", "optax scan", "PyTorch"]
    if batch_size is None:
        names.insert(2, "NumPy tutorial, float64")
    assert [record.contender for record in records] == names
    for record in records[:-1]:
        assert_timed(record)
    assert records[0].compile_seconds is not None
    assert records[-1].skipped.startswith("PyTorch is not installed")


def test_pytorch_trains_to_the_same_parameters(digits):
    pytest.importorskip("torch")
    records = run_case(epoch_case("digits", task_of(digits, None), 3, 1e-3), 0.0)
    assert_timed(records[-1])


def test_a_race_of_processes(digits):
    race = Race("digits", task_of(digits, 32), 0.8, {"NumPy tutorial": 50, "scikit-learn": 20}, 1)
    whole, sklearn_whole, warm, _ = run_race(race)
    assert (whole.case, warm.case) == (
        "digits to 0.8, whole process",
        "digits to 0.8, after compiling",
    )
    assert 0 < warm.seconds_median < whole.seconds_median
    assert whole.test_accuracy >= 0.8 and whole.epochs <= 50 and whole.batch_size == 1437
    assert sklearn_whole.test_accuracy > 0.8 and sklearn_whole.seconds_median > 0


def test_a_race_that_is_not_won_has_no_time(digits):
    race = Race("digits", task_of(digits, 32), 0.999, {"NumPy tutorial": 2}, 1)
    for record in run_race(race):
        assert record.seconds_median is None and record.ratio is None
        assert record.note.startswith("not reached in ") and record.epochs == 2


def test_a_trainer_that_is_not_installed_is_skipped(digits, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    race = Race("digits", task_of(digits, 32), 0.8, {"PyTorch": 1}, 1)
    assert {r.skipped for r in run_race(race)} == {"PyTorch is not installed: pip install torch"}


def test_mnist_that_is_nowhere_is_skipped(monkeypatch, tmp_path):
    def nowhere(name, raw_dir=None):
        if name == "mnist":
            raise InputError("mnist is not on this machine\nPlace these files in data/mnist")
        return load_dataset(name)

    monkeypatch.setattr(train_suite, "load_dataset", nowhere)
    *_, last = train_suite.steps(Context(MACHINE, quick=True))
    (record,) = last.run()
    assert "Place these files in data/mnist" in record.skipped
    with pytest.raises(InputError, match="Place these files"):
        train_suite.steps(Context(MACHINE, quick=True, raw_dir=tmp_path))


@pytest.mark.slow
def test_a_race_with_programs_that_an_earlier_process_compiled(digits):
    race = Race("digits", task_of(digits, 32), 0.8, {"jax_softmax": 50, KEPT: 50}, 1)
    whole, kept, *_ = run_race(race)
    assert (whole.contender, kept.contender) == ("jax_softmax", "jax_softmax, programs kept")
    assert kept.ours and kept.skipped == "" and kept.seconds_median > 0
    assert (kept.test_accuracy, kept.epochs) == (whole.test_accuracy, whole.epochs)
