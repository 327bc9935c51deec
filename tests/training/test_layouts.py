"""What suits a CPU and what suits an accelerator: another program, the same numbers."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_loops import assert_params_close

from jax_softmax import Split, TrainConfig, fit
from jax_softmax.training import memory_run, step
from jax_softmax.training.layout import ACCELERATOR, CPU, layout_for


@pytest.mark.parametrize(
    ("platforms", "layout"),
    [(["cpu"], CPU), (["cpu", "cpu"], CPU), (["gpu"], ACCELERATOR), (["tpu"], ACCELERATOR)],
)
def test_the_devices_that_hold_an_array_decide(platforms, layout):
    devices = [SimpleNamespace(platform=platform) for platform in platforms]
    assert layout_for(SimpleNamespace(devices=lambda: devices)) is layout


def test_fit_asks_where_its_data_are(table, monkeypatch):
    asked, passed = [], []
    run_epochs = memory_run.run_epochs

    def layout(array):
        asked.append(array)
        return ACCELERATOR

    def spy(state, data, *arguments, **options):
        passed.append((data.features, options["layout"]))
        return run_epochs(state, data, *arguments, **options)

    monkeypatch.setattr(memory_run, "layout_for", layout)
    monkeypatch.setattr(memory_run, "run_epochs", spy)
    fit(table, TrainConfig(epochs=1))
    assert [found for _, found in passed] == [ACCELERATOR] * 2
    assert asked[0] is passed[0][0]


SMALL = TrainConfig(learning_rate=0.3, batch_size=2, epochs=3, seed=1)
FULL = dataclasses.replace(
    SMALL, batch_size=None, epochs=37
)  # two loops of 16, and 5 by themselves


# Sums up to 16 numbers in a kernel, products beyond, in both loops; what the optimiser does with
# the gradients asks for no width.
@pytest.mark.parametrize(
    ("width", "config"),
    [
        *((width, SMALL) for width in (4, 5, 30)),  # 11 batches and a part of one
        (5, dataclasses.replace(SMALL, batch_size=8, momentum=0.9, weight_decay=0.01)),
        *((width, FULL) for width in (4, 5, 30)),
        (30, dataclasses.replace(FULL, schedule="cosine", momentum=0.5)),
        (4, dataclasses.replace(FULL, epochs=15)),  # fewer than make a loop
    ],
    ids=[
        *(f"batches of 2-{width}" for width in (4, 5, 30)),
        "momentum and decay",
        *(f"full-{width}" for width in (4, 5, 30)),
        "full, schedule",
        "full, few epochs",
    ],
)
def test_both_layouts_train_alike(width, config, lay_out, x64):
    rng = np.random.default_rng(width)
    labels = np.arange(23) % 3
    split = Split(rng.normal(size=(23, width)) + labels[:, None], labels, feature_scale=0.7)
    expected = fit(split, config)
    lay_out(ACCELERATOR)
    got = fit(split, config)
    # float64, whose sums differ in order: some eps a step.
    assert_params_close(got.params, expected.params, rtol=1e-11, atol=1e-12)
    losses, right = ([r["train_loss"] for r in result.history] for result in (got, expected))
    np.testing.assert_allclose(losses, right, rtol=1e-11)


def test_both_layouts_train_alike_on_bytes(images, lay_out):
    expected = fit(images, FULL)
    lay_out(ACCELERATOR, piece=64)
    assert_params_close(fit(images, FULL).params, expected.params, rtol=1e-4, atol=1e-5)


def _for_cuda(layout, batch_size):
    """What JAX traced, and what it would hand to the compiler on a machine with a GPU."""
    optimizer = step.sgd(0.0, nesterov=False, weight_decay=0.0, schedule="constant", steps=0)
    params = {"kernel": jnp.zeros((3, 30)), "bias": jnp.zeros(3)}
    state = step.TrainState(params, optimizer.init(params))
    data = step.Batches(jnp.zeros((24, 30), jnp.uint8), jnp.zeros(24, jnp.int32), np.float32(1))
    traced = step.run_epochs.fresh().trace(
        state,
        data,
        None if batch_size is None else jnp.zeros((32, 24), jnp.int32),
        np.int32(32),
        np.float32(1),
        optimizer=optimizer,
        batch_size=batch_size,
        calls_epochs=32,
        layout=layout,
    )
    return str(traced.jaxpr), traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("batch_size", [2, None])
def test_the_program_for_an_accelerator(batch_size):
    traced, text = _for_cuda(ACCELERATOR, batch_size)
    rows = batch_size or 24
    assert traced.count("unroll=4") == 1
    assert "optimization_barrier" not in text
    assert f"tensor<{rows}x3xf32>" in text and f"tensor<3x{rows}xf32>" not in text
    assert f"tensor<{rows}x30xui8>" in text  # pixels, which no scaling makes larger
    scaled = [line for line in text.splitlines() if "multiply" in line and f"{rows}x30xf32" in line]
    assert scaled == []


@pytest.mark.parametrize("batch_size", [2, None])
def test_the_program_for_a_cpu(batch_size):
    traced, text = _for_cuda(CPU, batch_size)
    assert "unroll=4" not in traced
    assert "optimization_barrier" in text
    assert f"tensor<3x{batch_size or 24}xf32>" in text


def test_a_full_batch_in_one_piece_up_to_a_gigabyte():
    assert step._rows_of_piece(60_000, 784, ACCELERATOR.piece) == 60_000
    assert step._rows_of_piece(60_000, 784, CPU.piece) < 2_000
    assert step._rows_of_piece(10_000_000, 784, ACCELERATOR.piece) < 400_000


def test_data_on_this_machine_take_the_layout_of_a_cpu():
    on_cpu = jax.device_put(np.zeros(2), jax.devices("cpu")[0])
    assert layout_for(on_cpu) is CPU


@pytest.mark.parametrize("gathered", [40, 50, 79, 109])  # of 115: 4, 5, 7 and 10 of 11 batches
def test_batches_gathered_together_train_alike(gathered, lay_out, x64, rng):
    labels = np.arange(23) % 3
    split = Split(rng.normal(size=(23, 5)) + labels[:, None], labels)
    expected = fit(split, SMALL)
    lay_out(gathered=gathered)
    got = fit(split, SMALL)
    assert_params_close(got.params, expected.params, rtol=1e-11, atol=1e-12)
    losses, right = ([r["train_loss"] for r in result.history] for result in (got, expected))
    np.testing.assert_allclose(losses, right, rtol=1e-11)
