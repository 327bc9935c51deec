"""The scaling suite at tiny sizes, and suites by name."""

import jax
import pytest

from jax_softmax import InputError
from jax_softmax.benchmark import SUITES, run_case, run_suites
from jax_softmax.benchmark.cases import Context
from jax_softmax.benchmark.loss_suite import Size
from jax_softmax.benchmark.scaling_suite import (
    devices_case,
    fitted_exponent,
    series_case,
    sizes_of,
    steps,
)
from jax_softmax.benchmark.suites import suite_names
from tests.benchmark.shared import assert_timed


def test_the_exponent_is_that_of_the_largest_sizes():
    sizes = [2.0**i for i in range(8)]
    assert fitted_exponent([(n, 3 * n**1.5) for n in sizes]) == pytest.approx(1.5)
    bent = zip(sizes, [10.0, 10.0, 10.0, 10.0, 10.0, 32.0, 64.0, 128.0], strict=True)
    assert fitted_exponent(list(bent)) == pytest.approx(1.0)


def test_a_series_of_sizes():
    records = run_case(series_case("rows doubled", [Size(4, 33), Size(8, 33)]), 0.0)
    assert [(r.contender, r.rows, r.classes) for r in records] == [("4×33", 4, 33), ("8×33", 8, 33)]
    for record in records:
        assert_timed(record)
    assert [size for size, _ in sizes_of(records)] == [4 * 33, 8 * 33]


def test_rows_over_devices_give_what_one_gives():
    records = run_case(devices_case(16, 33), 0.0)
    assert [record.devices for record in records] == [1, 2, 4, 8]
    assert records[0].ratio == 1
    for record in records:
        assert_timed(record)
        assert record.note == "simulated, on the same cores"


def test_one_device_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    (record,) = run_case(devices_case(16, 33), 0.0)
    assert record.skipped == "JAX has one device here: cpu"


def test_the_steps():
    assert list(steps(Context())) == ["rows doubled", "classes doubled", "rows over devices"]


def test_suites_by_name():
    everyday = ["jit", "loss", "fused", "log-probs", "train", "scaling"]
    assert list(SUITES) == [*everyday[:5], "classifier", "scaling", "gpu-quick"]
    assert suite_names([]) == suite_names(["all"]) == everyday
    assert suite_names(["loss", "all"]) == ["loss", "jit", *everyday[2:]]
    assert suite_names(["all", "gpu-quick"]) == [*everyday, "gpu-quick"]
    assert suite_names(["loss", "jit", "loss"]) == ["loss", "jit"]
    with pytest.raises(InputError, match="unknown suite 'los': .* did you mean 'loss'?"):
        run_suites(["los"])
    with pytest.raises(
        InputError,
        match="'pod': expected one of jit, loss, fused, log-probs, train, .*, gpu-quick, all.",
    ):
        run_suites(["pod"])
