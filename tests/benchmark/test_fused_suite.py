"""The fused suite at tiny sizes: right contenders are timed, with their memory; wrong ones not."""

import math
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from jax_softmax.benchmark import Contender
from jax_softmax.benchmark.cases import Context
from jax_softmax.benchmark.fused_suite import (
    PRODUCTS,
    Size,
    fused_case,
    run_case_with_fractions,
    run_series,
    steps,
)
from jax_softmax.benchmark.linear_data import LinearData
from jax_softmax.benchmark.linear_peers import optax_loss
from tests.benchmark.shared import MACHINE, assert_timed

SIZE = Size(12, 8, 200)


@pytest.fixture
def no_tokamax(monkeypatch):
    """Importing tokamax fails, as where it is not installed."""
    monkeypatch.setitem(sys.modules, "tokamax", None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_contender_gives_the_right_loss(dtype, no_torch, no_tokamax):
    case = fused_case(Size(12, 8, 200, dtype), small_block=5)
    records = {record.contender: record for record in run_case_with_fractions(case, 0.0)}
    skipped = {name: record.skipped for name, record in records.items() if record.skipped}
    tokamax = "tokamax is not installed: pip install tokamax (Python 3.12 or newer)"
    torch = "PyTorch is not installed: pip install torch"
    assert skipped == {
        "tokamax xla": tokamax,
        "tokamax chunked_xla": tokamax,
        "PyTorch": torch,
        "PyTorch, chunked": torch,
    }
    timed = [record for record in records.values() if not record.skipped]
    assert [record.contender for record in timed] == [
        PRODUCTS,
        "jax_softmax",
        "jax_softmax, blocks of 5",
        "jax_softmax, none",
        "reference, autodiff",
        "optax",
        *["optax, float32 logits"] * (dtype == "bfloat16"),
    ]
    for record in timed:
        assert_timed(record)
        assert (record.rows, record.width, record.classes) == (12, 8, 200)
        assert record.logits_bytes == 12 * 200 * (4 if dtype == "float32" else 2)
        assert record.temporary_fraction == record.temporary_bytes / record.logits_bytes
        assert record.ratio > 0 and record.compile_seconds > 0
    blocks = [record.block_rows for record in timed]
    assert blocks == [None, 12, 4, 12, *[None] * (len(timed) - 4)]  # 4 divides 12, and 5 does not


def test_a_smaller_block_holds_less():
    data = LinearData(64, 4, 4096)
    large, small = data.ours(), data.ours(block_size=8)
    assert (large.block_rows, small.block_rows) == (64, 8)
    assert small.temporary_bytes < large.temporary_bytes / 4


@pytest.mark.parametrize("chunked", [False, True])
def test_pytorch_gives_the_right_loss_where_it_is_installed(chunked):
    torch = pytest.importorskip("torch")
    if chunked and not hasattr(torch.nn.functional, "linear_cross_entropy"):
        pytest.skip("this PyTorch has no linear_cross_entropy, which alone takes chunks")
    data = LinearData(12, 8, 200)
    prepared = data.torch(chunked=chunked)
    assert prepared.error(prepared.run()) < 2e-5


@pytest.mark.parametrize("implementation", ["xla", "chunked_xla"])
def test_tokamax_gives_the_right_loss_where_it_is_installed(implementation):
    pytest.importorskip("tokamax")
    data = LinearData(128, 8, 2048)  # chunked_xla counts the classes that it pads
    prepared = data.tokamax(implementation)
    assert prepared.error(prepared.run()) < 2e-5


def no_feature_gradient(x, k, y):
    return optax_loss(jax.lax.stop_gradient(x), k, y)


def a_class_left_out(x, k, y):
    return optax_loss(x, k.at[:, -1].multiply(0.99), y)


def rounded_logits(x, k, y):
    z = (x @ k).astype(jnp.bfloat16).astype(jnp.float32)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1))


@pytest.mark.parametrize("loss", [no_feature_gradient, a_class_left_out, rounded_logits])
def test_a_wrong_loss_is_refused(loss):
    data = LinearData(12, 8, 200)
    injected = Contender("wrong", lambda: data.jax_loss(loss))
    case = fused_case(SIZE, [injected])
    case = replace(case, contenders=[case.contenders[0], case.contenders[-1]])
    base, record = run_case_with_fractions(case, 0.0)
    assert_timed(base)
    assert record.contender == "wrong" and record.differs
    assert record.seconds_median is None and record.ratio is None


def test_a_series_of_sizes():
    records = run_series("width doubled", [SIZE.doubled("width", i) for i in range(2)], 0.0)
    assert [(r.rows, r.width, r.classes) for r in records] == [(12, 8, 200), (12, 16, 200)]
    for record in records:
        assert_timed(record)
        assert record.contender == "jax_softmax" and record.block_rows == 12
        assert math.isfinite(record.exponent) and record.temporary_fraction > 0


def test_the_steps():
    assert [step.name for step in steps(Context(MACHINE, quick=True))] == ["512×128×8,192 float32"]
    names = [step.name for step in steps(Context(MACHINE))]
    assert names[0] == "2,048×512×32,768 float32" and names[1].endswith("bfloat16")
    assert names[2:] == ["rows doubled", "classes doubled", "width doubled"]
