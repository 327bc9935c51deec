"""The loss suite at tiny sizes: right contenders are timed, wrong ones refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax.benchmark import Contender, peers, run_case, tutorial
from jax_softmax.benchmark.loss_data import LossData
from jax_softmax.benchmark.loss_suite import COPY, Size, loss_case, with_bandwidth
from tests.benchmark.shared import MACHINE, assert_timed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_contender_gives_the_right_loss(dtype, no_torch):
    some = (("mean", "vjp"), ("sum", "vjp"), ("none", "jvp"))
    size = Size(7, 33, dtype, variants=some if dtype == "float32" else some[:1])
    *others, torch = with_bandwidth(run_case(loss_case(size), 0.0), MACHINE)
    assert len(others) == 4 + len(size.variants) and others[0].contender == COPY
    for record in others:
        assert_timed(record)
        assert record.bytes_moved == 2 * 7 * 33 * (4 if dtype == "float32" else 2)
        rate = record.bytes_moved / record.seconds_median
        assert record.bandwidth_fraction == pytest.approx(rate / 1e10)
    assert torch.skipped == "PyTorch is not installed: pip install torch"


def test_pytorch_gives_the_right_loss_where_it_is_installed():
    pytest.importorskip("torch")
    *_, record = run_case(loss_case(Size(7, 33, "bfloat16", variants=())), 0.0)
    assert record.contender == "PyTorch"
    assert_timed(record)


def wrong_gradient(z, y):
    return jnp.mean(jax.nn.logsumexp(z, -1)) - jnp.mean(jax.lax.stop_gradient(z)[:, 0])


def half_smoothed(z, y):
    return peers.optax_loss(z, y) * 0.9999 + 0.0001 * jnp.mean(jax.nn.logsumexp(z, -1))


@pytest.mark.parametrize("loss", [wrong_gradient, half_smoothed])
def test_a_wrong_loss_is_refused(loss, no_torch):
    data = LossData(7, 33)
    injected = Contender("wrong", lambda: data.jax_loss(loss))
    *_, record = run_case(loss_case(Size(7, 33, variants=()), [injected]), 0.0)
    assert record.contender == "wrong" and record.differs
    assert record.seconds_median is None and record.ratio is None


def test_the_repaired_tutorial_survives_what_broke_it():
    x, labels = np.array([[1000.0, 0.0], [0.0, 1000.0]]), np.array([0, 0])
    p = tutorial.softmax(x)
    np.testing.assert_array_equal(p, [[1, 0], [0, 1]])
    assert tutorial.cross_entropy(x, labels) == 500
    np.testing.assert_array_equal(tutorial.softmax_backward(p, labels), [[0, 0], [-0.5, 0.5]])
    np.testing.assert_array_equal(p, [[1, 0], [0, 1]])  # not overwritten
