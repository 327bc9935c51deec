"""What the tests of `ops` share: no silent rank promotion, x64 off and on, fixed random numbers."""

import jax
import numpy as np
import pytest
from hypothesis import settings

settings.register_profile(
    "deterministic", derandomize=True, deadline=None, max_examples=25, database=None
)
settings.load_profile("deterministic")


@pytest.fixture(autouse=True, scope="module")
def no_rank_promotion():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """A dtype of logits: float32 with x64 off, as users have it, float64 with x64 on."""
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)
