"""Who differs gets no time; who cannot run is skipped; records are whole and flat."""

import json
import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax.benchmark import (
    Case,
    Contender,
    Prepared,
    Record,
    UnavailableError,
    cases,
    run_case,
)
from jax_softmax.benchmark.compare import params_error, relative_error
from jax_softmax.benchmark.fused_suite import Size as LinearSize
from jax_softmax.benchmark.fused_suite import fused_case
from jax_softmax.benchmark.jit_suite import gradient_case
from jax_softmax.benchmark.loss_suite import Size, loss_case
from jax_softmax.benchmark.rates import Rates
from jax_softmax.benchmark.timing import ON_ACCELERATOR

ABOUT = Record(
    suite="loss",
    case="a case",
    contender="",
    ratio_to="base",
    error_bound=0.01,
    compared_with="the truth",
)


def contender(name, value, *, share=1.0):
    def prepare():
        return Prepared(lambda: jnp.float32(value), lambda x: abs(float(x) - 1), 0.5, share)

    return Contender(name, prepare)


def unavailable():
    raise UnavailableError("PyTorch is not installed: pip install torch")


def test_who_is_right_is_timed():
    base, close = run_case(Case(ABOUT, [contender("base", 1.0), contender("close", 1.005)]), 0.01)
    assert (base.ratio, base.max_error, base.differs) == (1.0, 0.0, False)
    assert close.max_error == pytest.approx(0.005, rel=1e-3)
    for record in (base, close):
        assert record.seconds_q1 <= record.seconds_median <= record.seconds_q3
        assert record.seconds_q1 > 0 and record.ratio > 0 and record.repeats >= 3
        assert record.compile_seconds == 0.5


@pytest.mark.parametrize("wrong", [1.02, math.nan, math.inf])
def test_who_differs_is_not_timed_and_has_no_ratio(wrong):
    _, record = run_case(Case(ABOUT, [contender("base", 1.0), contender("wrong", wrong)]), 0.0)
    assert record.differs
    assert (record.seconds_median, record.ratio, record.repeats) == (None, None, 0)
    assert record.compared_with == "the truth"


def test_without_its_base_a_ratio_is_left_out():
    wrong, right = run_case(Case(ABOUT, [contender("base", 2.0), contender("right", 1.0)]), 0.0)
    assert wrong.differs and right.seconds_median > 0 and right.ratio is None


def test_who_is_not_installed_is_skipped():
    base, record = run_case(
        Case(ABOUT, [contender("base", 1.0), Contender("PyTorch", unavailable)]), 0.0
    )
    assert record.skipped == "PyTorch is not installed: pip install torch"
    assert (record.seconds_median, record.max_error, record.differs) == (None, None, False)
    assert base.skipped == ""


def test_a_part_of_the_work_is_scaled_to_the_whole(monkeypatch):
    samples = np.array([1.0, 2.0, 3.0])
    monkeypatch.setattr(cases, "alternate", lambda calls, *_, **__: dict.fromkeys(calls, samples))
    whole, part = run_case(
        Case(ABOUT, [contender("base", 1.0), contender("a quarter", 1.0, share=0.25)]), 0.0
    )
    assert (whole.seconds_median, part.seconds_median, part.ratio) == (2.0, 8.0, 4.0)


def test_a_contenders_own_fields_are_in_its_record():
    about = replace(ABOUT, rows=8)
    own = replace(contender("large", 1.0), fields={"rows": 16})
    base, large = run_case(Case(about, [contender("base", 1.0), own]), 0.0)
    assert (base.rows, large.rows) == (8, 16)


def test_results_are_checked_before_anything_is_timed():
    log = []

    def make(name):
        def prepare():
            return Prepared(lambda: log.append(name), lambda _: log.append("checked") or 0.0)

        return Contender(name, prepare)

    run_case(Case(ABOUT, [make("base"), make("b")]), 0.0)
    assert log[:4] == ["base", "checked", "b", "checked"]
    assert "checked" not in log[4:] and {"base", "b"} <= set(log[4:])


def test_turns_are_those_of_jaxs_platform(monkeypatch):
    turns = []
    monkeypatch.setattr(cases.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(cases, "alternate", lambda *_, **options: turns.append(options) or {})
    log = []

    def prepare():
        return Prepared(
            lambda: log.append("run"), lambda _: log.append("checked") or 0.0, wait=log.append
        )

    run_case(Case(ABOUT, [Contender("base", prepare)]), 0.0)
    # The first call of an accelerator loads the program: a second one is timed.
    assert log == ["run", None, "checked", "run", None]
    assert turns[0]["turns"] is ON_ACCELERATOR and turns[0]["waits"]["base"] == log.append


def test_the_machines_rates_are_measured_once_and_only_if_asked_for(monkeypatch):
    asked = []
    rates = Rates(2.0, 3.0)
    monkeypatch.setattr(cases, "measure_rates", lambda *, quick: asked.append(quick) or rates)
    context = cases.Context(quick=True)
    assert asked == []
    assert context.rates is context.rates is rates
    assert asked == [True]


def test_records_are_flat_json():
    wrong = Record(suite="loss", case="c", contender="x", max_error=math.inf, error_bound=1.0)
    fields = json.loads(json.dumps(wrong.record(), allow_nan=False))
    assert fields["max_error"] == "inf" and fields["differs"] is True
    assert not any(isinstance(value, dict | list) for value in fields.values())


def test_relative_errors():
    assert relative_error([1.0, 0.0], [1.0, 0.0], smallest=1e-3) == 0
    assert relative_error([1.0, 1e-4], [1.0, 0.0], smallest=1e-3) == pytest.approx(0.1)
    assert relative_error(np.ones(2), np.ones(3)) == math.inf
    assert math.isnan(relative_error([math.nan], [1.0]))
    kernel, bias = np.array([[2.0, 1.0]]), np.array([4.0])
    assert params_error((kernel + 0.02, bias), (kernel, bias)) == pytest.approx(0.01)


def test_contenders_of_this_package_are_marked():
    theirs = {"optax", "NumPy tutorial", "jax.nn", "copy (z * c)", "reference, autodiff"}
    theirs |= {"three products", "optax, float32 logits"}
    for case in (gradient_case(6, 3), loss_case(Size(4, 10)), fused_case(LinearSize(12, 8, 200))):
        names = {c.name for c in case.contenders if not c.ours}
        assert names <= theirs, case.about.suite
        assert any(c.ours for c in case.contenders)
        assert not any(c.ours for c in case.contenders if c.name in theirs)


def test_records_say_whose_they_are():
    case = gradient_case(6, 3)
    records = run_case(replace(case, contenders=case.contenders[-1:]), 0.0)
    assert [record.ours for record in records] == [True]
