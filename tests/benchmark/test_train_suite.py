"""The train suite on digits: every trainer, and a dataset that is nowhere."""

import pytest

from jax_softmax import InputError, load_dataset
from jax_softmax.benchmark import run_case, train_suite
from jax_softmax.benchmark.cases import Context
from jax_softmax.benchmark.train_suite import epoch_case
from jax_softmax.benchmark.train_task import TrainTask
from tests.benchmark.shared import assert_timed


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.mark.parametrize(
    ("batch_size", "case", "bound"),
    [(None, "digits epoch, full batch", 1e-3), (64, "digits epoch, batch 64", 0.05)],
)
def test_an_epoch_of_every_trainer(digits, batch_size, case, bound):
    records = run_case(epoch_case(TrainTask(digits, batch_size), 10), 0.0)
    names = [record.contender for record in records]
    assert names == ["jax_softmax", "NumPy tutorial", "optax scan"]
    for record in records:
        assert_timed(record)
        assert (record.case, record.error_bound) == (case, bound)
    assert records[0].compile_seconds > 0 and records[1].compile_seconds is None


def test_a_trainer_with_another_learning_rate_differs(digits):
    def wrong(task, epochs, error):
        return train_suite.optax_trainer(TrainTask(digits, None, 0.4), epochs, error)

    *_, record = run_case(epoch_case(TrainTask(digits), 3, {"wrong": wrong}), 0.0)
    assert record.contender == "wrong" and record.differs and record.seconds_median is None


def test_mnist_that_is_nowhere_is_skipped(monkeypatch, tmp_path):
    def nowhere(name, raw_dir=None):
        if name == "mnist":
            raise InputError("mnist is not on this machine\nPlace these files in data/mnist")
        return load_dataset(name)

    monkeypatch.setattr(train_suite, "load_dataset", nowhere)
    steps = train_suite.steps(Context(quick=True))
    assert list(steps) == ["digits epoch, full batch", "mnist"]
    (record,) = run_case(steps["mnist"](), 0.0)
    assert "Place these files in data/mnist" in record.skipped
    with pytest.raises(InputError, match="Place these files"):
        train_suite.steps(Context(quick=True, raw_dir=tmp_path))
