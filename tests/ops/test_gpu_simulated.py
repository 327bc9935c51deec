"""The tests of the GPU's kernel without a GPU, in a process of their own that simulates it."""

import jax
import pytest

from tests.alone import run_alone


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="simulated on a CPU")
@pytest.mark.skipif(jax.__version_info__ < (0, 11, 2), reason="the kernel needs jax 0.11.2")
def test_the_kernel_simulated():
    # Threads of XLA's: each warpgroup waits in one for the others.
    run_alone("tests/ops/gpu", 90, JAX_SOFTMAX_TEST_SIMULATED_GPU="1", NPROC="16")
