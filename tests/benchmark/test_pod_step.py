"""A step on devices that are not here, at a tiny size on simulated ones, and what it moves."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pod
import pod_step
import pytest
from traffic import Collective, Program

needs_8 = pytest.mark.skipif(
    jax.device_count() < 8, reason="needs 8 devices: tests/conftest.py simulates them on a CPU"
)
SIZE = {"rows": 64, "width": 16, "classes": 256}


@pytest.fixture
def here(monkeypatch):
    """The devices of this process stand for a machine's."""
    monkeypatch.setattr(pod, "devices_of", lambda machine: jax.devices())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())


def program(f, *arrays):
    return Program(jax.jit(f).lower(*arrays).compile().as_text())


def test_an_operation_reads_its_operands_and_writes_its_result():
    x = jnp.zeros((64, 64))
    assert program(lambda x: 2 * x + 1, x).memory_bytes == 2 * x.nbytes
    assert program(jnp.matmul, x, x).memory_bytes == 3 * x.nbytes


def test_a_loop_counts_as_often_as_it_runs_and_a_slice_by_its_own_size():
    x, rows = jnp.zeros((16, 256)), 16

    def f(x):
        def body(i, y):
            row = jax.lax.dynamic_slice(x, (i, 0), (1, 256))
            return jax.lax.dynamic_update_slice(y, jnp.sin(row), (i, 0))

        return jax.lax.fori_loop(0, rows, body, x)

    moved = program(f, x).memory_bytes
    # The copy of x that is written over; then a row read and a row written, and the counter.
    assert 4 * x.nbytes <= moved <= 4 * x.nbytes + 32 * rows


def test_what_is_written_by_hand_is_read():
    text = """
%fused (p: bf16[8,128], q: s32[]) -> bf16[1,128] {
  %p = bf16[8,128]{1,0} parameter(0)
  %q = s32[] parameter(1)
  %b = bf16[8,128]{1,0} bitcast(%p)
  ROOT %d = bf16[1,128]{1,0} dynamic-slice(%b, %q, %q), dynamic_slice_sizes={1,128}
}

%body (t: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %t = (s32[], bf16[8,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = bf16[8,128]{1,0} get-tuple-element(%t), index=1
  %f = bf16[1,128]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused
  %s = bf16[1,128]{1,0:T(8,128)S(1)} all-reduce(%f), replica_groups=[4,2]<=[8], to_apply=%add
  %a = ((f32[4]{0}), f32[4]{0}) all-reduce-start(%i), replica_groups={{0,1,2,3}}, to_apply=%add
  %e = f32[4]{0} all-reduce-done(%a)
  ROOT %r = (s32[], bf16[8,128]{1,0}) tuple(%i, %x)
}

%condition (t: (s32[], bf16[8,128])) -> pred[] {
  %t = (s32[], bf16[8,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %n = s32[] constant(5)
  ROOT %l = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: bf16[8,128]) -> bf16[64,128] {
  %x = bf16[8,128]{1,0} parameter(0)
  %z = s32[] constant(0)
  %t = (s32[], bf16[8,128]{1,0}) tuple(%z, %x)
  %w = (s32[], bf16[8,128]{1,0}) while(%t), condition=%condition, body=%body
  %x2 = bf16[8,128]{1,0} get-tuple-element(%w), index=1
  ROOT %g = bf16[64,128]{1,0} all-gather(%x2), replica_groups=mesh['a'=2,'b'=8] {'b'}
}
"""
    found = Program(text)
    assert found.collectives == {
        Collective("all-reduce", 2, 2 * 256 / 2): 5,
        Collective("all-reduce", 4, 2 * 4 * 3 / 4): 5,
        Collective("all-gather", 8, 8 * 2048 * 7 / 8): 1,
    }
    # The fusion reads a row and the number and writes a row; the sum's result is not in the memory.
    assert found.memory_bytes_once == 2048 + 64 * 256
    start = 4 * 4 * 2 + 4
    assert found.memory_bytes - found.memory_bytes_once == 5 * (256 + 4 + 256 + 256 + start)


def test_a_loop_without_one_bound_is_an_error():
    text = "ENTRY %m (x: s32[]) -> s32[] {\n  ROOT %w = s32[] while(%x), condition=%c, body=%b\n}\n"
    text = "%c (x: s32[]) -> pred[] {\n  ROOT %p = pred[] compare(%x, %x)\n}\n" + text
    with pytest.raises(ValueError, match=r"w: expected one bound of the loop, got \[\]\."):
        _ = Program(text).memory_bytes


@needs_8
@pytest.mark.parametrize(("data", "model"), [(4, 2), (1, 8), (8, 1)])
def test_devices_of_a_step_send_what_the_page_says(data, model):
    """The features' gradient over the classes' axis, the kernel's over the rows'."""
    mesh = pod_step.mesh_over(jax.devices(), data, model)
    found = pod_step.measure_step("v5e", mesh, **SIZE, block_rows=4)
    rows, width, classes = SIZE.values()
    by_features, by_kernel = rows // data * width * 4, width * classes // model * 4
    sent = 2 * by_features * (model - 1) / model + 2 * by_kernel * (data - 1) / data
    few = 2 * 4 * (4 * rows // data + 8)  # some numbers a row, and the mean's
    assert sent <= found.sent_bytes <= sent + few
    assert found.flops == 6 * rows * width * classes / 8
    # Both float32 arrays, the features and the labels.
    assert found.argument_bytes == 8 * width * classes // model + rows // data * (2 * width + 4)
    assert found.held_bytes >= found.argument_bytes and found.memory_bytes > found.argument_bytes


@needs_8
def test_the_step_trains():
    """What is compiled for machines not here, run: it agrees with optax's step on whole logits."""
    mesh = pod_step.mesh_over(jax.devices(), 4, 2)
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.standard_normal((64, 16)), jnp.bfloat16)
    labels = jnp.asarray(rng.integers(0, 256, 64), jnp.int32)
    results = []
    for loss in (pod_step.fused(mesh, 4, None), pod_step.unfused):
        compiled, _ = pod_step.compile_step(mesh, 64, 16, 256, loss)
        kernel = jnp.asarray(np.random.default_rng(1).standard_normal((16, 256)), jnp.float32)
        state = jax.tree.map(jnp.zeros_like, pod_step.OPTIMIZER.init(kernel))
        arguments = jax.device_put((kernel, state, features, labels), compiled.input_shardings[0])
        new, _, value, by_features = compiled(*arguments)
        results.append(jax.device_get((new - kernel, value, by_features.astype(jnp.float32))))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=0.02 * np.abs(theirs).max())


@needs_8
def test_the_program_prints_steps_and_writes_them(here, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    words = "--step --on h100 --mesh data=4,model=2 --rows 64 --width 16 --classes 256"
    words += f" --block-rows 4 8 --examples 640 --json {tmp_path / 's.json'}"
    assert pod.main(words.split()) == 0
    printed = capsys.readouterr().out
    assert "a step of 64 rows, 16×256 float32 kernel" in printed
    assert "10 steps for 640 examples on data=4,model=2: at least" in printed
    found = json.loads((tmp_path / "s.json").read_text())
    assert [(f["contender"], f["block_rows"]) for f in found] == [
        ("jax_softmax", 4),
        ("jax_softmax", 8),
        (pod.UNFUSED, None),
    ]
    assert found[0]["expected_seconds"] is None  # so small a step is nothing that was measured


def step_of(**fields):
    about = {"mesh": "data=1,model=8", "contender": "jax_softmax", "block_rows": None, **SIZE}
    return pod_step.Step(**{"machine": "h100", **about, **fields})


def test_what_is_expected_of_an_h100(capsys, monkeypatch):
    """1.09 to 1.25 of the products at 753 TFLOP/s, the update, and at most the links on top."""
    monkeypatch.setenv("COLUMNS", "250")
    times = {"flops": 753e12, "compute_seconds": 0.8, "memory_seconds": 0.4, "link_seconds": 0.05}
    found = pod_step.expected(step_of(**times), 0.1 * 2.85e12)
    assert found == pytest.approx((1.09 + 0.1, 1.25 + 0.1 + 0.05))
    for other in ({"memory_seconds": 0.41}, {"machine": "v5e"}, {"contender": pod_step.UNFUSED}):
        assert pod_step.expected(step_of(**{**times, **other}), 1.0) is None
    pod_step.print_steps([step_of(**times, held_bytes=1, expected_seconds=found)], 6400)
    printed = capsys.readouterr().out
    assert "100 steps for 6,400 examples on data=1,model=8: at least 1.33 min" in printed
    assert "; expected 1.98 min to 2.33 min" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--on h100 --mesh data=4,model=4", "--mesh: expected 8 devices, got 16."),
        ("--mesh data=8,model=1", "--mesh: expected 256 devices, got 8."),
        (
            "--on h100 --mesh data=1,model=8 --classes 9",
            "--mesh: expected rows that 1 divides and classes that 8 divides, got 65,536 and 9.",
        ),
    ],
)
def test_meshes_that_cannot_be(here, words, message, capsys):
    assert pod.main(["--step", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_what_is_no_mesh(here, capsys):
    with pytest.raises(SystemExit):
        pod.main(["--step", "--mesh", "4x2"])
    assert "expected data=4,model=2 or the like, got '4x2'" in capsys.readouterr().err


def test_gpus_need_their_compiler(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert pod.main(["--step", "--on", "h100"]) == 2
    assert 'CUDA\'s compiler is not installed: pip install "jax[cuda13]"' in capsys.readouterr().err


def test_a_step_that_does_not_fit_says_so(monkeypatch):
    def compile_step(*arguments):
        raise jax.errors.JaxRuntimeError("temporaries (19.17G) exceeds available HBM (15.75G).")

    monkeypatch.setattr(pod_step, "compile_step", compile_step)
    mesh = pod_step.mesh_over(jax.devices(), 1, 1)
    found = pod_step.measure_step("v5e", mesh, **SIZE)
    assert found.note == "does not fit: a chip has 15.75 GiB"
    assert found.temporary_bytes == round(19.17 * 2**30) and found.held_bytes == 0
