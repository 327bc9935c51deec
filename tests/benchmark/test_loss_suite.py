"""The loss suite at tiny sizes: right contenders are timed, wrong ones refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax.benchmark import Contender, run_case, tutorial
from jax_softmax.benchmark.cases import Context
from jax_softmax.benchmark.loss_suite import COPY, LossData, Size, loss_case, optax_loss, steps
from tests.benchmark.shared import assert_timed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_contender_gives_the_right_loss(dtype):
    records = run_case(loss_case(Size(7, 33, dtype)), 0.0)
    assert [record.contender for record in records] == [
        COPY,
        "jax_softmax",
        "jax_softmax, none",
        'jax_softmax, rule="jvp"',
        "optax",
        "jax.nn",
        "reference, autodiff",
    ]
    for record in records:
        assert_timed(record)
        assert record.ratio > 0 and (record.rows, record.classes) == (7, 33)


def wrong_gradient(z, y):
    return jnp.mean(jax.nn.logsumexp(z, -1)) - jnp.mean(jax.lax.stop_gradient(z)[:, 0])


def half_smoothed(z, y):
    return optax_loss(z, y) * 0.9999 + 0.0001 * jnp.mean(jax.nn.logsumexp(z, -1))


@pytest.mark.parametrize("loss", [wrong_gradient, half_smoothed])
def test_a_wrong_loss_is_refused(loss):
    data = LossData(Size(7, 33))
    injected = Contender("wrong", lambda: data.jax_loss(loss))
    *_, record = run_case(loss_case(data.size, [injected]), 0.0)
    assert record.contender == "wrong" and record.differs
    assert record.seconds_median is None and record.ratio is None


def test_the_steps():
    assert list(steps(Context(quick=True))) == [
        "838,860×10 float32",
        "8,192×1,024 float32",
        "32×262,144 float32",
        "16,384×1,024 bfloat16",
    ]


def test_the_repaired_tutorial_survives_what_broke_it():
    x, labels = np.array([[1000.0, 0.0], [0.0, 1000.0]]), np.array([0, 0])
    p = tutorial.softmax(x)
    np.testing.assert_array_equal(p, [[1, 0], [0, 1]])
    assert tutorial.cross_entropy(x, labels) == 500
    np.testing.assert_array_equal(tutorial.softmax_backward(p, labels), [[0, 0], [-0.5, 0.5]])
    np.testing.assert_array_equal(p, [[1, 0], [0, 1]])  # not overwritten
