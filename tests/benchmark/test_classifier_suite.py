"""The suite of the classifier: all contenders end where the gradient is small."""

import numpy as np
import pytest

from jax_softmax.benchmark import classifier_suite, run_case
from jax_softmax.benchmark.cases import Context
from jax_softmax.benchmark.classifier_suite import SCIKIT_LEARN, case_of, probe
from jax_softmax.benchmark.results import OURS
from jax_softmax.errors import InputError


def test_the_steps():
    assert list(classifier_suite.steps(Context(quick=True))) == ["iris", "probe"]
    assert list(classifier_suite.steps(Context())) == ["iris", "mnist", "probe"]


def test_fits_are_checked_before_they_are_timed():
    records = {r.contender: r for r in run_case(case_of("probe", lambda: probe(200, 5, 3)), 0.0)}
    assert records[OURS].compile_seconds > 0
    for name in (OURS, SCIKIT_LEARN):
        assert 0 < records[name].max_error <= 1.2e-4
        assert records[name].seconds_median > 0
    assert records["cuML"].skipped.startswith("cuML is not installed")


def test_a_fit_that_ends_early_gets_no_time(monkeypatch):
    monkeypatch.setattr(classifier_suite, "_TOL", 1.0)
    records = run_case(case_of("probe", lambda: probe(200, 5, 3)), 0.0)
    assert records[0].differs and records[0].seconds_median is None


def test_the_gradient_is_that_of_the_objective():
    rows = probe(50, 3, 4)
    both = np.random.default_rng(1).normal(size=(4, 4))  # the intercepts last

    def objective(both):
        coef, intercept = both[:, :3], both[:, 3]
        logits = rows.features.astype(np.float64) @ coef.T + intercept
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(50), rows.labels]
        return losses.mean() + (coef**2).sum() / (2 * 50)

    found = []
    for i in np.ndindex(4, 4):
        step = np.zeros((4, 4))
        step[i] = 1e-6
        found.append((objective(both + step) - objective(both - step)) / 2e-6)
    np.testing.assert_allclose(rows.gradient(both[:, :3], both[:, 3]), np.abs(found).max(), 1e-6)


def test_mnist_that_is_missing_is_said(monkeypatch):
    def nowhere(name, raw_dir):
        raise InputError("no files")

    monkeypatch.setattr(classifier_suite, "load_dataset", nowhere)
    (record,) = run_case(classifier_suite.steps(Context())["mnist"](), 0.0)
    assert record.skipped == "no files"
    with pytest.raises(InputError, match="no files"):
        classifier_suite._mnist(raw_dir="somewhere")
