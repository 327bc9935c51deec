"""The suite of log-probabilities at tiny sizes: right contenders are timed, wrong ones refused."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax.benchmark import Contender, UnavailableError, peers, run_case
from jax_softmax.benchmark.cases import Context
from jax_softmax.benchmark.fused_suite import Size
from jax_softmax.benchmark.log_probs_suite import (
    PLAIN,
    TRL,
    TUNIX,
    LogProbData,
    as_trl,
    as_tunix,
    log_probs_case,
    ours,
    plain,
    steps,
)
from tests.benchmark.shared import assert_timed

SIZE = Size(12, 8, 200)
WAYS = [PLAIN, "jax_softmax", "jax_softmax, blocks of 5", TUNIX, TRL]


@pytest.mark.parametrize(
    ("dtype", "entropy", "gradients"),
    [("float32", False, False), ("float32", True, True), ("bfloat16", True, True)],
)
def test_every_contender_gives_the_right_rows(dtype, entropy, gradients, no_peers):
    data = LogProbData(replace(SIZE, dtype=dtype), 2)
    case = log_probs_case(data, entropy=entropy, gradients=gradients, small_block=5)
    *records, pytorch, liger = run_case(case, 0.0)
    assert [record.contender for record in records] == WAYS
    for record in records:
        assert_timed(record)
        assert record.ours == record.contender.startswith("jax_softmax")
        assert (record.rows, record.width, record.classes) == (12, 8, 200)
        assert record.temporary_fraction == record.temporary_bytes / record.logits_bytes
        assert record.ratio > 0 and record.ratio_to == PLAIN
        assert record.note or record.ours
    assert "pip install torch" in pytorch.skipped
    assert "pip install liger-kernel" in liger.skipped


def test_without_the_logits_less_is_held():
    data = LogProbData(Size(64, 4, 4096), 4)
    held = {
        name: data.way(way, entropy=True, gradients=True).temporary_bytes
        for name, way in {
            "plain": plain,
            "TRL": as_trl,
            "ours": lambda *a: ours(*a, block_size=4),
        }.items()
    }
    assert held["ours"] < held["plain"] / 10 and held["ours"] < held["TRL"] / 10


def of_another_label(x, k, y, entropy):
    return plain(x, k, y.at[0, 0].add(1), entropy)


def no_entropy(x, k, y, entropy):
    return plain(x, k, y, False)


def entropy_without_a_gradient(x, k, y, entropy):
    chosen, entropies = plain(x, k, y, True)
    return chosen, jax.lax.stop_gradient(entropies)


def rounded(x, k, y, entropy):
    return tuple(each.astype(jnp.bfloat16).astype(each.dtype) for each in as_tunix(x, k, y, True))


@pytest.mark.parametrize("way", [of_another_label, no_entropy, entropy_without_a_gradient, rounded])
def test_a_wrong_way_is_refused(way):
    data = LogProbData(SIZE, 2)
    wanted = {"entropy": True, "gradients": way is not no_entropy}
    wrong = Contender("wrong", lambda: data.way(way, **wanted))
    case = log_probs_case(data, [wrong], **wanted)
    case = replace(case, contenders=[case.contenders[0], case.contenders[-1]])
    base, record = run_case(case, 0.0)
    assert_timed(base)
    assert record.contender == "wrong" and record.differs and record.seconds_median is None


def test_rows_that_repeat_have_the_same_answer():
    size = Size(24, 8, 200)
    found = LogProbData(size, 2, distinct=6)
    log_probs, entropies, gradients = found.right_rows
    assert log_probs.shape == entropies.shape == (24,)
    np.testing.assert_array_equal(log_probs[:6], log_probs[6:12])
    prepared = found.way(plain, entropy=True, gradients=True)
    assert prepared.error(prepared.run()) < 2e-5
    assert gradients[True][1].shape == gradients[False][1].shape


def test_pytorch_and_liger_are_given_the_same_numbers(monkeypatch):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    liger = SimpleNamespace(
        liger_fused_linear_cross_entropy=lambda x, w, y, reduction: functional.cross_entropy(
            x @ w.T, y, reduction=reduction
        )
    )
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", liger)
    monkeypatch.setattr(peers, "_torch_beside_jax", lambda needs_gpu: torch)
    data = LogProbData(SIZE, 2)
    for entropy, gradients in ((False, False), (True, False), (True, True)):
        prepared = peers.torch_log_probs(data, entropy=entropy, gradients=gradients)
        assert prepared.error(prepared.run()) < 2e-5
    values = {"entropy": False, "gradients": False}
    prepared = peers.liger_log_probs(data, **values)
    assert prepared.error(prepared.run()) < 2e-5
    for wanted in ("entropy", "gradients"):
        with pytest.raises(UnavailableError, match="without an entropy, and without gradients"):
            peers.liger_log_probs(data, **values | {wanted: True})


def test_the_steps():
    assert list(steps(Context(quick=True))) == [
        "log-probabilities and entropy, 512×128×8,192 float32",
        "log-probabilities and entropy, with gradients, 512×128×8,192 float32",
    ]
    assert list(steps(Context())) == [
        "log-probabilities, 4,096×512×32,768 float32",
        "log-probabilities and entropy, 4,096×512×32,768 float32",
        "log-probabilities, with gradients, 4,096×512×32,768 float32",
        "log-probabilities and entropy, with gradients, 4,096×512×32,768 float32",
    ]
