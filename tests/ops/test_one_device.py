"""The contract on one device, as users have it, in a process of its own.

Every other test has eight simulated devices, and with several the losses on logits do not take
blocks of rows.
"""

import os

import jax
import pytest

from tests.alone import run_alone


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="devices are simulated on a CPU")
def test_the_contract_holds_on_one_device():
    users = os.environ["JAX_SOFTMAX_TEST_USER_FLAGS"]
    assert "skipped" not in run_alone("tests/ops/one_device", 160, XLA_FLAGS=users)
