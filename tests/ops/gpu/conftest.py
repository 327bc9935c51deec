"""The kernel, or its simulation, for each test."""

import pytest

from tests.ops.gpu.kernel import simulated


@pytest.fixture(autouse=True)
def kernel():
    with simulated():
        yield
