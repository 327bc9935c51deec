"""The suite for an accelerator, at tiny sizes on a CPU; what a card would run; what is skipped."""

import contextlib
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import InputError, load_dataset
from jax_softmax.benchmark import (
    Case,
    Contender,
    Prepared,
    Record,
    UnavailableError,
    gpu_suite,
    peers,
    run_case,
    run_suites,
    suites,
    train_suite,
)
from jax_softmax.benchmark.cases import Context
from jax_softmax.benchmark.compare import relative_error
from jax_softmax.benchmark.fused_suite import PRODUCTS, LinearData
from jax_softmax.benchmark.fused_suite import Size as LinearSize
from jax_softmax.benchmark.loss_suite import COPY, LossData, Size, optax_loss, repeated
from tests.benchmark.shared import assert_timed


@pytest.fixture
def digits_for_mnist(monkeypatch):
    digits = load_dataset("digits")
    monkeypatch.setattr(train_suite, "load_dataset", lambda name, raw_dir: digits)


def test_a_cpu_is_refused_its_sizes():
    with pytest.raises(InputError, match="suite 'gpu-quick': expected a GPU .*; --quick runs it"):
        gpu_suite.steps(Context())


def test_on_a_card_the_most_telling_come_first(monkeypatch, digits_for_mnist):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    names = list(gpu_suite.steps(Context()))
    assert [name.split(",")[0] for name in names] == (
        ["gradient"] * 5 + ["layer"] * 3 + ["digits epoch"] * 2 + ["value"] * 5
    )
    assert names[0] == "gradient, 8,192×128,256 bfloat16"
    assert names[7] == "layer, 16,384×2,048×50,257 bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loss_in_passes(dtype, monkeypatch, no_peers):
    monkeypatch.setattr(gpu_suite, "_DISTINCT_ROWS", 4)
    case = gpu_suite.logits_case(Size(12, 33, dtype), 1e-6, gradient=True)
    copy, ours, optax, jax_nn, *others = run_case(case, 0.0)
    assert [r.contender for r in (copy, ours, optax, jax_nn)] == [
        COPY, "jax_softmax", "optax", "jax.nn",
    ]  # fmt: skip
    for record in (copy, ours, optax, jax_nn):
        assert_timed(record)
        assert record.suite == "gpu-quick" and record.passes == record.seconds_median / 1e-6
    assert ours.ours and not optax.ours
    assert {r.contender: bool(r.skipped) for r in others} == {
        "PyTorch": True, "PyTorch, compiled": True, "Liger": True,
    }  # fmt: skip


def test_a_loss_alone(monkeypatch):
    monkeypatch.setattr(gpu_suite, "_DISTINCT_ROWS", 4)
    records = run_case(gpu_suite.logits_case(Size(12, 33), 1e-6, gradient=False), 0.0)
    assert [(r.contender, r.case) for r in records] == [
        ("jax_softmax", "value, 12×33 float32"),
        ("optax", "value, 12×33 float32"),
    ]
    for record in records:
        assert_timed(record)
        assert record.passes > 0 and record.ratio_to == "optax"


def test_a_layer_over_products_of_classes_filled_up(monkeypatch, no_peers):
    monkeypatch.setattr(gpu_suite, "_DISTINCT_ROWS", 4)
    products, *others = run_case(gpu_suite.layer_case(LinearSize(12, 8, 200), with_peers=True), 0.0)
    assert (products.contender, products.note) == (PRODUCTS, "with 256 classes")
    timed = [record for record in others if not record.skipped]
    assert [r.contender for r in timed] == ["jax_softmax", "optax", "optax, float32 logits"]
    for record in (products, *timed):
        assert_timed(record)
    assert {r.contender for r in others if r.skipped} >= {"tokamax xla", "jax-cce", "Liger"}
    assert len(gpu_suite.layer_case(LinearSize(12, 8, 200), with_peers=False).contenders) == 3


def test_ours_and_optax_train(digits_for_mnist):
    steps = gpu_suite.steps(Context(quick=True))
    records = run_case(steps["digits epoch, full batch"](), 0.0)
    assert [(r.suite, r.contender) for r in records] == [
        ("gpu-quick", "jax_softmax"),
        ("gpu-quick", "optax scan"),
    ]
    for record in records:
        assert_timed(record)


def test_rows_that_repeat_are_right_as_if_each_were_looked_at():
    data, all_rows = LossData(Size(12, 33), 4), LossData(Size(12, 33), 4)
    np.testing.assert_array_equal(data.z[4:8], data.z[:4])
    np.testing.assert_array_equal(data.labels, np.tile(data.labels[:4], 3))
    all_rows.distinct = 12
    np.testing.assert_allclose(data.right[0], all_rows.right[0], rtol=1e-14)
    np.testing.assert_allclose(data.right[1], all_rows.right[1], rtol=1e-14)
    layer, all_rows = LinearData(LinearSize(12, 8, 200), 4), LinearData(LinearSize(12, 8, 200), 4)
    all_rows.distinct = 12
    for mine, right in zip(
        jax.tree.leaves(layer.right), jax.tree.leaves(all_rows.right), strict=True
    ):
        assert relative_error(mine, right, 1e-6) < 1e-8
    with pytest.raises(ValueError, match="12 rows cannot repeat 5"):
        repeated(np.zeros(5), 12)


def test_a_mistake_in_a_repeated_row_is_found():
    data = LossData(Size(12, 33), 4)
    prepared = data.jax_loss(lambda z, y: optax_loss(z.at[-1].set(jax.lax.stop_gradient(z[-1])), y))
    assert prepared.error(prepared.run()) > 0.9


def test_after_the_limit_no_case_starts(monkeypatch):
    ran = []

    def case(name):
        ran.append(name)
        return Case(Record(suite="gpu-quick", case=name), [])

    steps = {name: lambda name=name: case(name) for name in ("first", "second", "third")}
    suite = suites.replace(
        suites.SUITES["gpu-quick"], steps=lambda context: steps, limit_seconds=10
    )
    monkeypatch.setitem(suites.SUITES, "gpu-quick", suite)
    monkeypatch.setattr(suites, "run_case", lambda case, budget: [])
    now = iter([0, 0, 0, 8, 13, 13])  # started, the suite, and the time at each case
    report = run_suites(["gpu-quick"], quick=True, clock=lambda: next(now, 13))
    assert ran == ["first", "second"]
    (late,) = report.records
    assert (late.case, late.skipped) == ("third", "not run: 10 s had passed")


def _fails(error):
    def run():
        raise error

    return lambda: Prepared(run, lambda result: 0.0)


def test_who_does_not_fit_is_skipped_and_so_is_a_peer_that_fails():
    about = Record(suite="loss", case="c", error_bound=1.0)
    too_large = Contender("optax", _fails(RuntimeError("RESOURCE_EXHAUSTED: 9 GB")))
    broken = Contender("tokamax", _fails(TypeError("no such argument")), optional=True)
    records = run_case(Case(about, [too_large, broken]), 0.0)
    assert [r.skipped for r in records] == [
        "it does not fit in the device's memory",
        "it fails here: TypeError: no such argument",
    ]
    with pytest.raises(TypeError, match="no such argument"):
        run_case(Case(about, [Contender("ours", _fails(TypeError("no such argument")))]), 0.0)


def skipped(prepare):
    with pytest.raises(UnavailableError, match=".") as caught:
        prepare()
    return str(caught.value)


def test_peers_without_their_package_or_device_say_so(monkeypatch):
    data = LossData(Size(4, 10))
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", torch)
    said = skipped(lambda: peers.torch_loss(data, compiled=True))
    assert said == "it runs on a GPU here, and JAX's device is a cpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    said = skipped(lambda: peers.torch_loss(data))
    assert said == "PyTorch sees no GPU, and JAX has one"
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.setitem(sys.modules, "jax_cce", None)
    assert "pip install liger-kernel" in skipped(lambda: peers.liger_loss(data))
    layer = LinearData(LinearSize(12, 8, 200))
    assert "pip install jax-cce" in skipped(lambda: peers.jax_cce_linear_loss(layer))


def test_jax_cce_gives_the_right_loss():
    pytest.importorskip("jax_cce")
    prepared = peers.jax_cce_linear_loss(LinearData(LinearSize(12, 8, 200)))
    assert prepared.error(prepared.run()) < 2e-5


@pytest.fixture
def torch_as_on_a_gpu(monkeypatch):
    """PyTorch on the CPU, not compiled, and its own losses in the place of Liger's."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    liger = SimpleNamespace(
        liger_cross_entropy=functional.cross_entropy,
        liger_fused_linear_cross_entropy=lambda x, w, y: functional.cross_entropy(x @ w.T, y),
    )
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", liger)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    monkeypatch.setattr(peers, "_torch_beside_jax", lambda needs_gpu: torch)
    return torch


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peers_of_pytorch_are_given_the_same_numbers(dtype, torch_as_on_a_gpu):
    data, bound = LossData(Size(12, 33, dtype), 4), 2e-5 if dtype == "float32" else 0.2
    before = np.asarray(data.z)
    for prepare in (
        lambda: peers.torch_loss(data),
        lambda: peers.torch_loss(data, compiled=True),
        lambda: peers.liger_loss(data),
    ):
        prepared = prepare()
        result = prepared.run()
        prepared.wait(result)
        assert prepared.error(result) < bound
    layer = LinearData(LinearSize(12, 8, 200, dtype), 4)
    for prepare in (peers.torch_linear_loss, peers.liger_linear_loss):
        prepared = prepare(layer)
        assert prepared.error(prepared.run()) < bound
    np.testing.assert_array_equal(before, np.asarray(data.z))


def test_liger_may_write_over_its_logits_and_not_over_ours(torch_as_on_a_gpu, monkeypatch):
    def over(z, y):
        loss = torch_as_on_a_gpu.nn.functional.cross_entropy(z, y)
        with torch_as_on_a_gpu.no_grad():
            z.add_(1.0)
        return loss * 1.0

    functional = sys.modules["liger_kernel.transformers.functional"]
    monkeypatch.setattr(functional, "liger_cross_entropy", over)
    data = LossData(Size(4, 10))
    before = np.array(data.z)
    prepared = peers.liger_loss(data)
    with contextlib.suppress(RuntimeError):  # PyTorch's own loss wants the logits again
        prepared.run()
    np.testing.assert_array_equal(before, np.asarray(data.z))
    assert jnp.isfinite(data.z).all()
