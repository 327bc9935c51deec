"""`fit`: every example counts, the same seed gives the same bits, and the history says it all."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from plain_loops import (
    assert_params_close,
    assert_params_equal,
    epoch_batches,
    tutorial_step,
    tutorial_train,
)

from jax_softmax import InputError, Split, TrainConfig, evaluate, fit
from jax_softmax.training import memory_run
from jax_softmax.training.step import epoch_orders

MINI = TrainConfig(learning_rate=0.3, batch_size=8, epochs=4, seed=1)
FAR_FROM_UNIT_SCALE = pytest.mark.filterwarnings("ignore:features. numbers up to")


def test_the_same_arguments_give_the_same_bits(table):
    first, second = fit(table, MINI), fit(table, MINI)
    assert_params_equal(first.params, second.params)
    assert first.history == second.history


def test_another_seed_gives_another_order(table):
    first, second = fit(table, MINI), fit(table, dataclasses.replace(MINI, seed=2))
    assert (np.asarray(first.params["kernel"]) != np.asarray(second.params["kernel"])).any()


def test_the_largest_seed_is_a_seed_of_its_own(table):
    results = [fit(table, dataclasses.replace(MINI, seed=seed)) for seed in (2**32 - 1, 2**31 - 1)]
    first, second = (np.asarray(result.params["kernel"]) for result in results)
    assert (first != second).any()


@pytest.mark.parametrize("batch_size", [1, 8, 22])
def test_batches_equal_a_plain_loop_the_last_partial_one_included(table, start, batch_size, x64):
    config = dataclasses.replace(MINI, batch_size=batch_size, epochs=2)
    result = fit(table, config, params=start)
    kernel, bias = start["kernel"].copy(), start["bias"].copy()
    mean_losses = []
    rng = np.random.default_rng(config.seed)
    for _ in range(config.epochs):
        losses = 0.0
        for rows in epoch_batches(rng, 23, batch_size):
            loss = tutorial_step(table.features[rows], table.labels[rows], kernel, bias, 0.3)
            losses += loss * len(rows)
        mean_losses.append(losses / 23)
    # The same float64 sums in another order: some eps a step.
    assert_params_close(result.params, {"kernel": kernel, "bias": bias}, rtol=1e-12, atol=1e-12)
    got = [record["train_loss"] for record in result.history]
    np.testing.assert_allclose(got, mean_losses, rtol=1e-12)


@pytest.mark.parametrize("examples", [1, 2, 23, 1000])
def test_every_epoch_takes_every_example_once_in_another_order(examples):
    orders = epoch_orders(np.random.default_rng(0), examples, count=3, calls_epochs=4)
    assert orders.shape == (4, examples) and orders.dtype == np.int32
    for order in orders[:3]:
        np.testing.assert_array_equal(np.sort(order), np.arange(examples))
    np.testing.assert_array_equal(orders[3], 0)  # of an epoch that is not run
    if examples > 2:
        assert len({order.tobytes() for order in orders[:3]}) == 3


def test_orders_too_many_for_one_call_change_nothing(table, monkeypatch):
    expected = fit(table, MINI)
    monkeypatch.setattr(memory_run, "_ORDERS_PER_CALL", 2 * 23)
    seen = _spy_on_data(monkeypatch)
    assert_params_equal(fit(table, MINI).params, expected.params)
    assert len(seen) == 3  # one that compiles, and two epochs a call


@pytest.mark.parametrize("batch_size", [23, 10**9])
def test_a_batch_of_all_examples_or_more_is_the_full_batch(table, batch_size):
    full = fit(table, dataclasses.replace(MINI, batch_size=None))
    assert_params_equal(
        fit(table, dataclasses.replace(MINI, batch_size=batch_size)).params, full.params
    )


@pytest.mark.parametrize("numbers_per_call", [1, 3 * 23 * 5])
def test_the_number_of_epochs_in_a_call_changes_no_bit(table, numbers_per_call, lay_out):
    expected = fit(table, dataclasses.replace(MINI, epochs=7))
    calls = []
    lay_out(numbers_per_call=numbers_per_call)
    got = fit(table, dataclasses.replace(MINI, epochs=7), on_progress=calls.append)
    epochs_per_call = max(1, numbers_per_call // (23 * 5))
    assert len(calls) == -(-7 // epochs_per_call)
    assert_params_equal(got.params, expected.params)
    assert got.history == expected.history


def test_bytes_equal_the_same_floats_divided_by_255(images):
    divided = Split(images.features / 255, images.labels, images.class_names)
    config = dataclasses.replace(MINI, epochs=20)
    from_bytes, from_floats = fit(images, config), fit(divided, config)
    # One rounding a feature apart in float32, over 80 steps.
    assert_params_close(from_bytes.params, from_floats.params, rtol=1e-4, atol=1e-5)


def _spy_on_data(monkeypatch):
    seen = []

    def spy(state, data, *arguments, **options):
        seen.append(data)
        return run_epochs(state, data, *arguments, **options)

    run_epochs = memory_run.run_epochs
    monkeypatch.setattr(memory_run, "run_epochs", spy)
    return seen


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_integers_stay_what_they_are_on_the_device(images, dtype, monkeypatch):
    seen = _spy_on_data(monkeypatch)
    fit(dataclasses.replace(images, features=images.features.astype(dtype)), MINI)
    assert {data.features.dtype for data in seen} == {np.dtype(dtype)}
    assert len({data.features.unsafe_buffer_pointer() for data in seen}) == 1  # carried there once


def test_examples_may_change_while_it_trains(images, lay_out):
    lay_out(numbers_per_call=1)  # an epoch a call
    expected = fit(images, MINI)
    # Where 64 bytes divide its address, JAX would take an array for its own.
    size = images.features.size
    buffer = np.empty(size + 64, np.uint8)
    first = -buffer.ctypes.data % 64
    pixels = buffer[first : first + size].reshape(images.features.shape)
    pixels[:] = images.features
    changing = dataclasses.replace(images, features=pixels)
    result = fit(changing, MINI, on_progress=lambda record: pixels.fill(0))
    assert_params_equal(result.params, expected.params)


def test_integers_wider_than_the_device_holds_do_not_wrap(table):
    shift = 2**33
    split = Split(np.array([[0], [shift]]), np.array([0, 1]), feature_scale=1 / shift)
    result = fit(split, TrainConfig(learning_rate=1.0, batch_size=None, epochs=100))
    plain = fit(
        Split(np.array([[0.0], [1.0]]), np.array([0, 1])),
        TrainConfig(learning_rate=1.0, batch_size=None, epochs=100),
    )
    assert_params_equal(result.params, plain.params)
    assert evaluate(result, split).accuracy == 1.0


def test_features_are_multiplied_by_their_scale(table, x64):
    scaled = dataclasses.replace(table, features=table.features * 50, feature_scale=1 / 50)
    expected, got = fit(table, MINI), fit(scaled, MINI)
    assert got.feature_scale == 1 / 50
    # features · 50 / 50 is a rounding or two from features, in float64.
    assert_params_close(got.params, expected.params, rtol=1e-12, atol=1e-12)


def test_features_of_any_shape_are_one_row_an_example(images):
    flat = dataclasses.replace(images, features=images.features.reshape(30, 30))
    shaped, flattened = fit(images, MINI), fit(flat, MINI)
    assert shaped.feature_shape == (6, 5)
    assert flattened.feature_shape == (30,)
    assert_params_equal(shaped.params, flattened.params)


def test_given_params_are_the_start_and_stay_as_they_are(table, start, x64):
    kept = {name: value.copy() for name, value in start.items()}
    config = TrainConfig(learning_rate=0.1, batch_size=None, epochs=3)
    result = fit(table, config, params=start)
    expected = tutorial_train(table.features, table.labels, **start, learning_rate=0.1, epochs=3)
    assert_params_close(result.params, expected, rtol=1e-12, atol=1e-12)
    assert_params_equal(start, kept)


def test_training_goes_on_from_a_results_params(table, x64):
    config = TrainConfig(learning_rate=0.1, batch_size=None, epochs=5)
    whole = fit(table, dataclasses.replace(config, epochs=10))
    halves = fit(table, config, params=fit(table, config).params)
    assert_params_equal(halves.params, whole.params)


def test_params_may_be_lists(table):
    lists = {"kernel": [[0.0] * 3] * 5, "bias": [0.0] * 3}
    assert_params_equal(fit(table, MINI, params=lists).params, fit(table, MINI).params)


@pytest.mark.parametrize("params_dtype", [np.float16, np.float32, np.float64])
def test_without_x64_everything_is_float32(table, start, params_dtype):
    params = {name: value.astype(params_dtype) for name, value in start.items()}
    result = fit(table, MINI, params=params)
    assert result.params["kernel"].dtype == result.params["bias"].dtype == np.float32


def test_with_x64_features_decide_the_dtype(table, x64):
    assert fit(table, MINI).params["kernel"].dtype == np.float64
    narrow = dataclasses.replace(table, features=table.features.astype(np.float32))
    assert fit(narrow, MINI).params["kernel"].dtype == np.float32


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"kernel": np.zeros((3, 5)), "bias": np.zeros(3)}, r"\(5, 3\).*got.*\(3, 5\)"),
        ({"kernel": np.zeros((5, 3)), "bias": np.zeros((1, 3))}, r"\(3,\).*got.*\(1, 3\)"),
        ({"kernel": np.zeros((5, 3))}, "'bias'.*got"),
        ({"W": np.zeros((5, 3)), "b": np.zeros(3)}, "'kernel'.*got.*'W'"),
    ],
)
def test_params_of_another_shape_are_refused(table, params, words):
    with pytest.raises(InputError, match=f"params: expected arrays of shapes .*{words}"):
        fit(table, MINI, params=params)


def test_history_has_a_record_an_epoch(table):
    result = fit(table, dataclasses.replace(MINI, epochs=9))
    assert [record["epoch"] for record in result.history] == list(range(1, 10))
    assert all(record.keys() == {"epoch", "train_loss"} for record in result.history)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


def test_the_first_full_batch_loss_from_zeros_is_the_logarithm_of_the_classes(table):
    result = fit(table, dataclasses.replace(MINI, batch_size=None))
    assert result.history[0]["train_loss"] == pytest.approx(np.log(3), rel=1e-6)


def test_validation_is_looked_at_every_epoch_of_a_short_run(table, images):
    result = fit(table, MINI, validation=table)
    assert all({"validation_loss", "validation_accuracy"} < r.keys() for r in result.history)
    seen = evaluate(result, table)
    assert result.history[-1]["validation_loss"] == seen.loss
    assert result.history[-1]["validation_accuracy"] == seen.accuracy


def test_validation_is_looked_at_50_times_at_most_and_at_the_end(table):
    result = fit(table, dataclasses.replace(MINI, epochs=120), validation=table)
    epochs = [record["epoch"] for record in result.history if "validation_loss" in record]
    assert len(epochs) == 40
    assert epochs == list(range(3, 121, 3))


def test_validation_changes_no_bit_of_the_training(table):
    assert_params_equal(fit(table, MINI, validation=table).params, fit(table, MINI).params)


def test_progress_is_told_the_latest_record_of_each_call(table, lay_out):
    lay_out(numbers_per_call=3 * 23 * 5)
    records = []
    result = fit(table, dataclasses.replace(MINI, epochs=8), on_progress=records.append)
    assert records == [result.history[2], result.history[5], result.history[7]]


def test_the_result_says_how_it_came_about(table):
    result = fit(table, MINI)
    assert result.config == MINI
    assert result.class_names == ("cat", "dog", "eel")
    assert result.device == jax.devices()[0].device_kind
    assert result.compile_seconds >= 0
    assert result.train_seconds > 0


def test_classes_without_names_are_numbered(table):
    assert fit(Split(table.features, table.labels), MINI).class_names == ("0", "1", "2")


def test_a_named_class_without_examples_is_kept(table):
    split = dataclasses.replace(table, class_names=("cat", "dog", "eel", "fox"))
    result = fit(split, dataclasses.replace(MINI, epochs=50))
    assert result.params["kernel"].shape == (5, 4)
    assert evaluate(result, split).accuracy > 0.5


@FAR_FROM_UNIT_SCALE
@pytest.mark.parametrize("epochs", [1, 30])
def test_a_run_that_diverges_stops_with_its_epoch_and_rate(table, epochs):
    huge = dataclasses.replace(table, features=table.features.astype(np.float32) * 1e30)
    config = TrainConfig(learning_rate=1e30, batch_size=None, epochs=epochs)
    # One epoch: its loss is taken before the only step, so the parameters tell.
    words = "parameters became infinite or NaN in epoch 1" if epochs == 1 else "loss became .* 2"
    with pytest.raises(InputError, match=rf"{words} at learning rate 1e\+30; try a smaller one"):
        fit(huge, config)


def test_a_run_that_diverges_later_names_that_epoch(table, lay_out):
    lay_out(numbers_per_call=2 * 23 * 5)
    seen = []
    config = TrainConfig(learning_rate=2e37, momentum=0.99, batch_size=None, epochs=100)
    with pytest.raises(InputError, match=r"the loss became .* in epoch") as caught:
        fit(table, config, on_progress=seen.append)
    epoch = int(str(caught.value).split("epoch ")[1].split()[0])
    assert 2 < epoch <= 100
    assert [record["epoch"] for record in seen] == list(range(2, epoch, 2))


@FAR_FROM_UNIT_SCALE
def test_a_given_optimizer_that_diverges_is_not_blamed_on_the_rate(table):
    import optax

    huge = dataclasses.replace(table, features=table.features.astype(np.float32) * 1e30)
    with pytest.raises(InputError, match=r"with the optimizer that was passed; try a smaller step"):
        fit(huge, MINI, optimizer=optax.sgd(1e30))


def test_the_next_orders_are_there_before_the_losses_are_waited_for(table, lay_out, monkeypatch):
    lay_out(numbers_per_call=2 * 23 * 5)
    log = []
    run_epochs, orders = memory_run.run_epochs, memory_run.epoch_orders

    class Losses:
        def __init__(self, losses):
            self.losses = losses

        def __array__(self, dtype=None, copy=None):
            log.append("waited")
            return np.asarray(self.losses, dtype)

    def spy(*arguments, **options):
        log.append("started")
        state, losses = run_epochs(*arguments, **options)
        return state, Losses(losses)

    def shuffle(rng, examples, count, calls_epochs):
        log.append(count)
        return orders(rng, examples, count, calls_epochs)

    monkeypatch.setattr(memory_run, "run_epochs", spy)
    monkeypatch.setattr(memory_run, "epoch_orders", shuffle)
    fit(table, dataclasses.replace(MINI, epochs=5))
    compiling = [0, "started", 2, "waited"]
    assert log == [*compiling, "started", 2, "waited", "started", 1, "waited", "started", "waited"]
