"""Each setting of SGD, and any optax optimiser, equals optax's own at the real learning rate."""

from __future__ import annotations

import dataclasses

import optax
import pytest
from plain_loops import assert_params_close, assert_params_equal, optax_train

from jax_softmax import TrainConfig, fit

RATE = 0.3
BATCHES = TrainConfig(learning_rate=RATE, batch_size=8, epochs=4, seed=1)  # 3 steps an epoch
STEPS = 12
# float64; the rate multiplies the update after momentum instead of before: some eps a step.
TOLERANCE = {"rtol": 1e-12, "atol": 1e-13}
COSINE = optax.cosine_decay_schedule(RATE, STEPS)
WARMUP_COSINE = optax.warmup_cosine_decay_schedule(1.0, 1.0, 1, STEPS)


def _wide(rate):
    # optax gives this schedule in float32, x64 or not: the real rate multiplies that in float64.
    return rate.astype("float64")


SETTINGS = {
    "momentum": ({"momentum": 0.9}, optax.sgd(RATE, momentum=0.9)),
    "nesterov": (
        {"momentum": 0.9, "nesterov": True},
        optax.sgd(RATE, momentum=0.9, nesterov=True),
    ),
    "weight decay": ({"weight_decay": 0.1}, optax.sgd(RATE)),
    "cosine": ({"schedule": "cosine"}, optax.sgd(COSINE)),
    "warmup-cosine": (
        {"schedule": "warmup-cosine"},
        optax.sgd(lambda step: RATE * _wide(WARMUP_COSINE(step))),
    ),
    "all": (
        {"momentum": 0.5, "nesterov": True, "weight_decay": 0.02, "schedule": "cosine"},
        optax.sgd(COSINE, momentum=0.5, nesterov=True),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_sgd_equals_optax_at_the_real_rate(name, table, start, x64):
    settings, optimizer = SETTINGS[name]
    config = dataclasses.replace(BATCHES, **settings)
    result = fit(table, config, params=start)
    # The plain loop adds weight decay to the kernel's gradient by hand, and to no other.
    expected = optax_train(table.features, table.labels, start, optimizer, config)
    assert_params_close(result.params, expected, **TOLERANCE)


def test_a_longer_warmup_rises_over_a_tenth_of_the_steps(table, start, x64):
    config = dataclasses.replace(BATCHES, schedule="warmup-cosine", epochs=20)
    schedule = optax.warmup_cosine_decay_schedule(RATE / 6, RATE, 6, 60)
    expected = optax_train(table.features, table.labels, start, optax.sgd(schedule), config)
    # Here the schedule has the real rate inside, rounded to float32 in other places: 2 of its eps.
    result = fit(table, config, params=start)
    assert_params_close(result.params, expected, rtol=2.4e-7, atol=1e-8)


def test_any_optax_optimizer_may_be_passed(table, start, x64):
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.01))
    result = fit(table, BATCHES, params=start, optimizer=optimizer)
    expected = optax_train(table.features, table.labels, start, optimizer, BATCHES)
    assert_params_close(result.params, expected, **TOLERANCE)


def test_a_given_optimizer_is_used_instead_of_the_settings(table):
    optimizer = optax.adam(0.01)
    other = dataclasses.replace(BATCHES, learning_rate=7.0, momentum=0.5, weight_decay=1.0)
    first = fit(table, BATCHES, optimizer=optimizer)
    assert_params_equal(fit(table, other, optimizer=optimizer).params, first.params)
