"""What the machine can do, and times in passes over the logits."""

import math

import jax

from jax_softmax.benchmark import Report, rates, run_suites, suites
from jax_softmax.benchmark.cases import Context
from jax_softmax.benchmark.jit_suite import gradient_case
from jax_softmax.benchmark.loss_suite import Size, loss_case, steps
from jax_softmax.benchmark.rates import Rates


def test_bytes_and_operations_over_the_median_second(monkeypatch):
    seconds = {"copy": [0.5, 2.0, 9.0], "product": [4.0, 4.0, 4.0]}
    monkeypatch.setattr(rates, "alternate", lambda calls, *_, **__: {k: seconds[k] for k in calls})
    found = rates.measure(1000, 8)
    assert found.copy_bytes_per_second == 2 * 4000 / 2.0  # read and written
    assert found.product_operations_per_second == 2 * 8**3 / 4.0


def test_rates_of_this_machine():
    assert all(rate > 0 and math.isfinite(rate) for rate in rates.measure(1000, 8))


def test_sizes_are_those_of_the_device(monkeypatch):
    sizes = []
    monkeypatch.setattr(rates, "measure", lambda *size: sizes.append(size))
    for platform, quick in (("cpu", True), ("cpu", False), ("gpu", False)):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        rates.measure_rates(quick=quick)
    numbers, widths = zip(*sizes, strict=True)
    assert sorted(numbers) == list(numbers) and widths == (256, 1024, 8192)
    assert numbers[0] * 4 < 2**25


def test_a_pass_reads_the_logits_once():
    size = Size(4, 10, "bfloat16")
    case = loss_case(size, pass_seconds=Rates(160.0, 1.0).pass_seconds(size.nbytes))
    assert case.about.pass_seconds == 0.5


def test_the_loss_suite_counts_passes_at_the_measured_rate(monkeypatch):
    monkeypatch.setattr(
        "jax_softmax.benchmark.cases.measure_rates", lambda *, quick: Rates(2.0, 3.0)
    )
    context = Context(quick=True)
    size = 32 * 262144 * 4
    assert steps(context)["32×262,144 float32"]().about.pass_seconds == size / 2.0


def test_rates_are_in_every_record(monkeypatch):
    monkeypatch.setattr(
        "jax_softmax.benchmark.cases.measure_rates", lambda *, quick: Rates(2.0, 3.0)
    )
    suite = suites.SUITES["jit"]
    small = suites.replace(suite, steps=lambda context: {"gradient": lambda: gradient_case(6, 3)})
    monkeypatch.setitem(suites.SUITES, "jit", small)
    said = []
    report = run_suites(["jit"], quick=True, on_progress=lambda *what: said.append(what))
    assert isinstance(report, Report)
    for record in report.flat():
        assert record["copy_bytes_per_second"] == 2.0
        assert record["product_operations_per_second"] == 3.0
    assert said == [(0, 1, "the machine's rates"), (0, 1, "gradient")]
