"""optax's own tests of its losses, from its wheel, run on ours."""

import functools
import importlib
import importlib.util
import unittest

import numpy as np
import pytest

from tests.ops.options import integer_loss, soft_loss

MODULE = "optax.losses._classification_test"
OURS = {
    "softmax_cross_entropy": soft_loss,
    "softmax_cross_entropy_with_integer_labels": integer_loss,
}


@pytest.fixture
def optax_tests(monkeypatch):
    if importlib.util.find_spec(MODULE) is None:
        pytest.skip(f"this optax does not ship {MODULE}")
    from optax.losses import _classification

    for name, ours in OURS.items():
        monkeypatch.setattr(_classification, name, functools.partial(ours, rule="jvp"))
    return importlib.import_module(MODULE)


@pytest.mark.parametrize(
    "name",
    ["SoftmaxCrossEntropyTest", "SoftmaxCrossEntropyWithIntegerLabelsTest", "PolyLossTest"],
)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_optax_tests_pass_with_our_losses(optax_tests, name):
    np.random.seed(0)  # its tests draw from NumPy's global numbers
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(getattr(optax_tests, name))
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun > 0
    problems = [f"{test.id()}\n{trace}" for test, trace in result.errors + result.failures]
    assert not problems, "\n".join(problems)
