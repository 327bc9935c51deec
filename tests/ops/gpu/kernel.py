"""The kernel where there is a GPU for it, or else simulated, a few programs of it.

On a GPU these tests run what users run: one device, default options. Without one they are for a
process of their own, which `tests/ops/test_gpu_simulated.py` starts: Pallas simulates each
warpgroup by a thread, and looks for races between them.
"""

import contextlib
import os

import jax
import pytest

from jax_softmax.ops._backends import dispatch, gpu

SIMULATED = os.environ.get("JAX_SOFTMAX_TEST_SIMULATED_GPU") == "1"
REAL = jax.default_backend() == "gpu" and gpu.available()
needs_kernel = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (REAL or SIMULATED),
        reason="needs an NVIDIA GPU that has the kernel, and jax from 0.11.2 to 0.12",
    ),
]
# What the losses are called with.
IMPLEMENTATION = None if REAL else "mosaic_gpu"


@contextlib.contextmanager
def simulated():
    """In place of the kernel: two programs of it, watched for races."""
    if not SIMULATED:
        yield
        return
    from jax.experimental.pallas import mosaic_gpu as plgpu

    backend = gpu.MosaicGpu(plgpu.InterpretGPUParams(detect_races=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "_multiprocessors", lambda: 2)
        patch.setattr(gpu, "available", lambda: True)
        patch.setattr(dispatch, "available", lambda: True)
        patch.setattr(dispatch, "compiled_for_a_gpu", lambda: True)
        patch.setitem(dispatch._NAMED, "mosaic_gpu", backend)
        yield


def uses_kernel(f, *args):
    """Whether the program of `f` has the kernel in it."""
    return "mpmd_map" in str(jax.make_jaxpr(f)(*args))
