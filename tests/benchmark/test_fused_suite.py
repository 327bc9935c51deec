"""The fused suite at tiny sizes: right contenders are timed, with their memory; wrong ones not."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from jax_softmax.benchmark import Contender, run_case
from jax_softmax.benchmark.cases import Context
from jax_softmax.benchmark.fused_suite import (
    PRODUCTS,
    LinearData,
    Size,
    fused_case,
    on_logits,
    steps,
)
from jax_softmax.benchmark.loss_suite import optax_loss
from tests.benchmark.shared import assert_timed

SIZE = Size(12, 8, 200)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_contender_gives_the_right_loss(dtype):
    records = run_case(fused_case(replace(SIZE, dtype=dtype), small_block=5), 0.0)
    assert [record.contender for record in records] == [
        PRODUCTS,
        "jax_softmax",
        "jax_softmax, blocks of 5",
        "jax_softmax, none",
        "optax",
        "reference, autodiff",
        *["optax, float32 logits"] * (dtype == "bfloat16"),
    ]
    for record in records:
        assert_timed(record)
        assert (record.rows, record.width, record.classes) == (12, 8, 200)
        assert record.logits_bytes == 12 * 200 * (4 if dtype == "float32" else 2)
        assert record.temporary_fraction == record.temporary_bytes / record.logits_bytes
        assert record.ratio > 0 and record.compile_seconds > 0


def test_a_smaller_block_holds_less():
    data = LinearData(Size(64, 4, 4096))
    assert data.ours(block_size=8).temporary_bytes < data.ours().temporary_bytes / 4
    assert data.ours().note == "blocks of 64 rows" and not data.ours(block_size=8).note


def no_feature_gradient(x, k, y):
    return optax_loss(jax.lax.stop_gradient(x) @ k, y)


def a_class_left_out(x, k, y):
    return optax_loss(x @ k.at[:, -1].multiply(0.99), y)


def rounded_logits(x, k, y):
    z = (x @ k).astype(jnp.bfloat16).astype(jnp.float32)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1))


@pytest.mark.parametrize("loss", [no_feature_gradient, a_class_left_out, rounded_logits])
def test_a_wrong_loss_is_refused(loss):
    data = LinearData(SIZE)
    case = fused_case(SIZE, [Contender("wrong", lambda: data.jax_loss(loss))])
    case = replace(case, contenders=[case.contenders[0], case.contenders[-1]])
    base, record = run_case(case, 0.0)
    assert_timed(base)
    assert record.contender == "wrong" and record.differs
    assert record.seconds_median is None and record.ratio is None


def test_logits_of_another_dtype():
    x, k = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 4), jnp.bfloat16)
    dtypes = []
    for dtype in (None, jnp.float32):
        on_logits(lambda z, y: dtypes.append(z.dtype), dtype)(x, k, None)
    assert dtypes == [jnp.bfloat16, jnp.float32]


def test_the_steps():
    assert list(steps(Context(quick=True))) == ["512×128×8,192 float32"]
    assert list(steps(Context())) == ["2,048×512×32,768 float32", "1,024×256×16,384 bfloat16"]
