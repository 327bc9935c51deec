"""A picture of each suite, whatever there is to draw."""

import pytest

from jax_softmax.benchmark import SUITES, Record
from jax_softmax.benchmark.loss_suite import COPY


def records_of(suite):
    def record(case, name, **fields):
        return Record(
            suite=suite,
            case=case,
            contender=name,
            rows=8,
            seconds_median=2e-3,
            seconds_q1=1e-3,
            seconds_q3=3e-3,
            repeats=3,
            ratio=1.5,
            ratio_to=COPY,
            **fields,
        )

    return [
        record("a", "jax_softmax", classes=10, dtype="float32", exponent=1.0),
        record("a", "optax", classes=1000, dtype="float32", exponent=1.0),
        record("b", "jax_softmax", classes=10, dtype="bfloat16", devices=2),
        Record(suite=suite, case="c", contender="PyTorch", skipped="not installed"),
    ]


@pytest.mark.parametrize("suite", SUITES)
def test_a_picture_of_each_suite(suite, tmp_path):
    for records in (records_of(suite), []):
        SUITES[suite].draw(records).savefig(tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
