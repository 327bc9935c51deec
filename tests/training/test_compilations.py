"""What is compiled, and how often: once for a shape."""

from __future__ import annotations

import dataclasses

import numpy as np
import optax
import pytest

from jax_softmax import Split, TrainConfig, evaluate, fit, predict

_OWN_PROGRAM = "jit(run_epochs)"


def _split(examples):
    """Each test takes a number of examples of its own, that no other test has compiled for."""
    rng = np.random.default_rng(examples)
    return Split(rng.normal(size=(examples, 4)).astype(np.float32), np.arange(examples) % 3)


CONFIG = TrainConfig(batch_size=8, epochs=6)


def test_epochs_and_calls_compile_once(programs, lay_out):
    lay_out(numbers_per_call=1)
    fit(_split(41), CONFIG)
    assert programs.count(_OWN_PROGRAM) == 1


def test_a_last_shorter_call_compiles_nothing_more(programs, lay_out):
    lay_out(numbers_per_call=4 * 42 * 4)
    fit(_split(42), CONFIG)
    assert programs.count(_OWN_PROGRAM) == 1


@pytest.mark.parametrize(
    "change",
    [{}, {"learning_rate": 0.7}, {"seed": 9}],
    ids=["the same", "learning rate", "seed"],
)
def test_another_fit_of_these_shapes_compiles_nothing(change, programs):
    fit(_split(43), CONFIG)
    programs.clear()
    fit(_split(43), dataclasses.replace(CONFIG, **change))
    assert programs == []


def test_with_a_schedule_another_rate_compiles_nothing(programs):
    config = dataclasses.replace(CONFIG, schedule="cosine", momentum=0.9, weight_decay=0.01)
    fit(_split(44), config)
    assert programs.count(_OWN_PROGRAM) == 1
    programs.clear()
    fit(_split(44), dataclasses.replace(config, learning_rate=0.7))
    assert programs == []


def test_the_same_optimizer_object_compiles_once(programs):
    optimizer = optax.adam(0.01)
    fit(_split(45), CONFIG, optimizer=optimizer)
    programs.clear()
    fit(_split(45), CONFIG, optimizer=optimizer)
    assert programs == []


def test_evaluation_and_prediction_of_these_shapes_compile_once(programs):
    split = _split(46)
    result = fit(split, CONFIG)
    evaluate(result, split)
    predict(result, split.features)
    programs.clear()
    evaluate(result, split)
    predict(result, split.features)
    assert programs == []
