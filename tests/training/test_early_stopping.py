"""`patience`: training stops once the validation loss has been no smaller for so many epochs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jax_softmax import InputError, Split, TrainConfig, evaluate, fit, load_run, save_run
from jax_softmax.training import loop
from jax_softmax.training.metrics import Evaluation
from jax_softmax.training.model import best_record

RNG = np.random.default_rng(0)
TRAIN = Split(RNG.normal(size=(30, 4)), RNG.integers(0, 3, 30))
SEEN = Split(RNG.normal(size=(20, 4)), RNG.integers(0, 3, 20))
CONFIG = TrainConfig(learning_rate=0.3, epochs=60, batch_size=8, patience=4)
WITHOUT = dataclasses.replace(CONFIG, patience=None)


@pytest.fixture
def losses(monkeypatch):
    """Has the validation losses be those given; a list of the parameters that were looked at."""

    def give(values):
        looked, ahead = [], iter(values)

        def seen(model, examples, **options):
            found = evaluate(model, examples, **options)
            looked.append(np.asarray(model.params["kernel"]))
            fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
            return Evaluation(**fields | {"loss": next(ahead)})

        monkeypatch.setattr(loop, "evaluate", seen)
        return looked

    return give


@pytest.mark.parametrize(
    ("values", "epochs", "best"),
    [
        ([5, 4, 3, 3, 3, 3, 3], 7, 3),  # no smaller is no better
        ([5, 6, 7, 8, 9], 5, 1),
        ([5, 6, 7, 8, 4, 6, 6, 6, 6], 9, 5),
        ([float("inf")] * 5, 5, 1),
        ([float("nan"), 5, 6, float("nan"), 6, 6], 6, 2),
        ([60 - i for i in range(60)], 60, 60),
    ],
)
def test_it_stops_after_so_many_epochs_and_keeps_the_best(values, epochs, best, losses):
    looked = losses(values)
    result = fit(TRAIN, CONFIG, validation=SEEN)
    assert (len(result.history), result.best_epoch) == (epochs, best)
    assert [record["epoch"] for record in result.history] == list(range(1, epochs + 1))
    np.testing.assert_array_equal(result.params["kernel"], looked[best - 1])
    assert best == epochs or (looked[-1] != looked[best - 1]).any()


def test_the_best_loss_is_that_of_the_parameters():
    result = fit(TRAIN, CONFIG, validation=SEEN)
    assert len(result.history) - result.best_epoch == CONFIG.patience
    best = result.history[result.best_epoch - 1]
    assert best == best_record(result.history)
    assert evaluate(result, SEEN).loss == best["validation_loss"]
    assert all(best["validation_loss"] <= record["validation_loss"] for record in result.history)


def test_the_epochs_are_those_of_a_training_without(table):
    result = fit(TRAIN, CONFIG, validation=SEEN)
    without = fit(TRAIN, WITHOUT, validation=SEEN)
    assert len(without.history) == 60 and without.best_epoch == 60
    losses = [[r["train_loss"] for r in fitted.history] for fitted in (result, without)]
    assert losses[0] == losses[1][: len(losses[0])]


def test_a_run_says_its_best_epoch(tmp_path):
    result = fit(TRAIN, CONFIG, validation=SEEN)
    save_run(result, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    assert loaded.best_epoch == result.best_epoch < len(loaded.history)


def test_without_validation_examples_it_is_an_error():
    with pytest.raises(InputError, match="patience: expected validation examples to go with it"):
        fit(TRAIN, CONFIG)


@pytest.mark.parametrize("watched", [False, True])
def test_epochs_are_told_in_order_each_once(watched):
    told, progress = [], []
    result = fit(
        TRAIN,
        WITHOUT,
        validation=SEEN if watched else None,
        on_epoch=told.append,
        on_progress=lambda record: progress.append((record["epoch"], len(told))),
    )
    assert tuple(told) == result.history
    # Before the progress of their call is told.
    assert progress == [(epoch, epoch) for epoch, _ in progress]
    told[0]["train_loss"] = 0.0  # a copy
    assert result.history[0]["train_loss"] > 0


def test_looks_are_at_most_fifty(lay_out):
    lay_out(numbers_per_call=1)  # an epoch to a call
    config = dataclasses.replace(WITHOUT, epochs=120)
    history = fit(TRAIN, config, validation=SEEN).history
    looks = [record["epoch"] for record in history if "validation_loss" in record]
    assert looks == list(range(3, 121, 3))
