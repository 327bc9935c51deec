"""`fit` and `evaluate` of a stream: as in memory, whatever stops them, and never the whole file."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import types

import numpy as np
import optax
import polars as pl
import pytest

from jax_softmax import (
    InputError,
    Split,
    TrainConfig,
    evaluate,
    fit,
    predict,
    stream_npy,
    stream_parquet,
)
from jax_softmax.errors import TrainingWarning
from jax_softmax.training import checkpoints, processes, streamed_run, streams
from jax_softmax.training.streams import Pieces, Reader

CONFIG = TrainConfig(batch_size=7, epochs=3, learning_rate=0.2, momentum=0.5, seed=4)
# Numbers to a piece: of the 60 rows of 10 in `many`, 4 pieces of 14 rows and one of 4.
PIECE = 140


@pytest.fixture(scope="module")
def many() -> Split:
    """60 float32 examples of 10 numbers, 3 classes."""
    rng = np.random.default_rng(5)
    labels = np.arange(60) % 3
    features = rng.normal(size=(60, 10)) + np.eye(3, 10)[labels]
    return Split(features.astype(np.float32), labels, ("cat", "dog", "eel"))


@pytest.fixture
def stream_of(tmp_path):
    """A `.npy` stream of a split's own features and labels."""

    def of(split, **options):
        path = tmp_path / "features.npy"
        np.save(path, split.features)
        given = {"class_names": split.class_names, "feature_scale": split.feature_scale}
        return stream_npy(path, split.labels, **(given | options))

    return of


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(streams, "_NUMBERS_PER_PIECE", PIECE)


def same(a, b):
    return all((np.asarray(a.params[name]) == b.params[name]).all() for name in a.params)


def losses(result):
    return [record["train_loss"] for record in result.history]


@pytest.mark.parametrize("batch_size", [1, 7, 30, 60, 100])
@pytest.mark.parametrize("pieces", [PIECE, 2**21])
def test_a_stream_trains_to_the_bits_of_memory(many, stream_of, pieces, batch_size, monkeypatch):
    monkeypatch.setattr(streams, "_NUMBERS_PER_PIECE", pieces)
    config = TrainConfig(batch_size=batch_size, epochs=3, momentum=0.5, schedule="cosine")
    memory, streamed = fit(many, config), fit(stream_of(many), config)
    assert same(memory, streamed)
    assert memory.class_names == streamed.class_names
    # The sum over an epoch is taken piece by piece.
    np.testing.assert_allclose(losses(streamed), losses(memory), rtol=3e-7)


@pytest.mark.parametrize("mesh", [{"data": 1}, {"data": 4}])
def test_weights_and_smoothed_labels_train_to_the_bits_of_memory(
    mesh, many, stream_of, small_pieces
):
    config = dataclasses.replace(
        CONFIG, label_smoothing=0.1, class_weight={"cat": 2, "eel": 0.5}, mesh=mesh
    )
    weights = np.arange(60) % 4
    told = []
    memory = fit(many, config, sample_weight=weights)
    streamed = fit(stream_of(many), config, sample_weight=weights, on_progress=told.append)
    assert same(memory, streamed) and not same(memory, fit(many, CONFIG))
    np.testing.assert_allclose(losses(streamed), losses(memory), rtol=3e-6)
    # Within an epoch it is the weighted mean so far.
    assert all(0.3 < record["train_loss"] < 1.5 for record in told) and len(told) == 15
    balanced = dataclasses.replace(CONFIG, class_weight="balanced")
    skewed = Split(many.features[:55], many.labels[:55] // 2, ("cat", "dog"))
    assert same(fit(skewed, balanced), fit(stream_of(skewed), balanced))


def test_weights_are_refused_where_labels_are_read_with_the_rows(many, stream_of, monkeypatch):
    given = stream_of(many)
    monkeypatch.setattr(type(given), "labels", None)
    refused = "expected None for a stream whose labels are read with its rows, which count alike;"
    with pytest.raises(InputError, match=f"^sample_weight: {refused}"):
        fit(given, CONFIG, sample_weight=np.ones(60))
    with pytest.raises(InputError, match=f"^class_weight: {refused}"):
        fit(given, dataclasses.replace(CONFIG, class_weight="balanced"))


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int16", "int64", "float16", "float64", ">f4"])
def test_every_dtype_is_that_of_memory(dtype, stream_of, small_pieces):
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"])[np.arange(40) % 3]
    features = (rng.random((40, 4, 3)) * 2 + (labels == "b")[:, None, None]).astype(dtype)
    split = Split(features, labels, feature_scale=0.5)
    memory, streamed = fit(split, CONFIG), fit(stream_of(split), CONFIG)
    assert same(memory, streamed)
    assert streamed.feature_shape == (4, 3)
    assert streamed.class_names == ("a", "b", "c")
    there, here = evaluate(memory, split), evaluate(streamed, stream_of(split))
    assert there.loss == here.loss
    assert (there.predictions == here.predictions).all()
    assert (there.labels == here.labels).all()


def test_an_optimizer_starting_parameters_and_validation_are_as_in_memory(
    many, stream_of, small_pieces
):
    start = {"kernel": np.full((10, 3), 0.1), "bias": np.zeros(3)}
    config = TrainConfig(batch_size=7, epochs=6, patience=2)
    optimizer = optax.adam(0.3)
    results = [
        fit(examples, config, params=start, optimizer=optimizer, validation=examples)
        for examples in (many, stream_of(many))
    ]
    assert same(*results)
    seen = [[r["validation_loss"] for r in result.history] for result in results]
    assert seen[0] == seen[1]


def test_evaluation_goes_by_pieces_and_by_names(many, stream_of, monkeypatch):
    monkeypatch.setattr(streams, "_NUMBERS_PER_PIECE", PIECE)
    result = fit(many, CONFIG)
    memory = evaluate(result, many)
    turned = stream_of(Split(many.features, 2 - many.labels, many.class_names[::-1]))
    assert evaluate(result, turned).loss == memory.loss


def test_orders_by_row_groups_go_through_every_row_once(many, tmp_path, monkeypatch):
    """Not the order of memory, but a training all the same: the same one again."""
    monkeypatch.setattr("jax_softmax.datasets.parquet_stream._TOGETHER", 15 * 40)
    path = tmp_path / "many.parquet"
    table = pl.DataFrame(many.features).with_columns(pl.Series("kind", many.labels))
    table.write_parquet(path, row_group_size=10)
    stream = stream_parquet(path, "kind")
    order = stream.order(np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(60))
    for first in range(0, 60, 20):  # two groups of ten together
        assert len({row // 10 for row in order[first : first + 20].tolist()}) == 2
    assert len(set(np.diff(order[:20]).tolist())) > 5
    first, second = fit(stream, CONFIG), fit(stream_parquet(path, "kind"), CONFIG)
    assert same(first, second)
    assert losses(first)[-1] < losses(first)[0]


def test_a_parquet_file_that_is_shuffled_whole_is_as_memory(many, tmp_path):
    path = tmp_path / "many.parquet"
    table = pl.DataFrame(many.features).with_columns(pl.Series("kind", many.labels))
    table.write_parquet(path, row_group_size=10)
    assert same(fit(many, CONFIG), fit(stream_parquet(path, "kind"), CONFIG))


class Stopped(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("after", [0.25, 1.7, 2, 2.5])
def test_an_interrupted_stream_goes_on_to_the_same_bits(
    after, many, stream_of, small_pieces, tmp_path
):
    config = TrainConfig(batch_size=7, epochs=4, momentum=0.5, checkpoint_every=3)
    folder = tmp_path / "kept"

    def stop(record):
        if record["epoch"] >= after:
            raise Stopped

    never = fit(stream_of(many), config, checkpoints=tmp_path / "never")
    with pytest.raises(Stopped):
        fit(stream_of(many), config, on_progress=stop, checkpoints=folder)
    (kept,) = folder.glob("epoch-*")
    assert kept.name.startswith(f"epoch-{int(after):010d}")
    assert kept.name.count("-") == (1 if after == 2 else 2)
    told = []
    again = fit(stream_of(many), config, on_epoch=told.append, checkpoints=folder)
    assert same(never, again)
    assert never.history == again.history
    assert told == list(never.history[int(after) :])


def test_a_stream_interrupted_at_its_last_piece_goes_on(many, stream_of, small_pieces, tmp_path):
    config = TrainConfig(batch_size=7, epochs=3, momentum=0.5, checkpoint_every=3)
    never = fit(stream_of(many), config, checkpoints=tmp_path / "never")
    with pytest.MonkeyPatch.context() as patch:

        def stop(*_arguments):
            raise Stopped

        patch.setattr(streamed_run, "check_several_classes", stop)  # called when all are done
        with pytest.raises(Stopped):
            fit(stream_of(many), config, checkpoints=tmp_path / "kept")
    (kept,) = (tmp_path / "kept").glob("epoch-*")
    assert kept.name == "epoch-0000000000-0000000005"
    again = fit(stream_of(many), config, checkpoints=tmp_path / "kept")
    assert same(never, again)
    assert never.history == again.history


def test_a_checkpoint_of_another_order_is_refused(
    many, stream_of, small_pieces, tmp_path, monkeypatch
):
    config = TrainConfig(batch_size=7, epochs=2, checkpoint_every=2)

    def stop(record):
        raise Stopped

    with pytest.raises(Stopped):
        fit(stream_of(many), config, on_progress=stop, checkpoints=tmp_path / "kept")
    monkeypatch.setattr(streams, "_NUMBERS_PER_PIECE", 2 * PIECE)
    words = "checkpoint within an epoch: is of another order of the rows, as another version may"
    with pytest.raises(checkpoints.CheckpointError, match=words):
        fit(stream_of(many), config, checkpoints=tmp_path / "kept")


def test_a_checkpoint_within_an_epoch_is_refused_in_memory(many, stream_of, small_pieces, tmp_path):
    """A sample of few examples is all of them: the same training, by its digests."""
    config = TrainConfig(batch_size=7, epochs=2, checkpoint_every=2)

    def stop(record):
        raise Stopped

    with pytest.raises(Stopped):
        fit(stream_of(many), config, on_progress=stop, checkpoints=tmp_path / "kept")
    words = "checkpoint within an epoch: is of examples that were streamed; go on with the stream"
    with pytest.raises(checkpoints.CheckpointError, match=words):
        fit(many, config, checkpoints=tmp_path / "kept")


def test_each_piece_has_other_processes_waited_for_anew(many, stream_of, small_pieces, monkeypatch):
    """An epoch of a stream may take longer than a process is waited for."""
    started, ended = [], []

    class Timer(threading.Thread):
        def __init__(self, seconds, *_given):
            super().__init__(target=lambda: None)
            started.append(seconds)

        def cancel(self):
            ended.append(self)

    monkeypatch.setattr(processes.threading, "Timer", Timer)
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(processes, "count", lambda: 2)
            watchdog = processes.Watchdog(7.0, pytest.fail)
            stack.enter_context(processes.watched(watchdog, "the others"))
        result = fit(stream_of(many), CONFIG)
        of_training = len(started)
        evaluate(result, stream_of(many))
    assert of_training == 1 + CONFIG.epochs * 5  # pieces
    assert len(started) == of_training + 5
    assert started == [7.0] * len(ended)


def test_predictions_want_an_array(many, stream_of):
    stream = stream_of(many)
    result = fit(stream, CONFIG)
    with pytest.raises(InputError, match=r"features: expected an array, got a stream; pass stream"):
        predict(result, stream)
    assert len(predict(result, stream[:20][0])) == 20


def test_a_killed_stream_goes_on_to_the_same_bits(many, stream_of, small_pieces, tmp_path):
    config = TrainConfig(batch_size=7, epochs=4, momentum=0.5, checkpoint_every=1)

    def kill(record):
        if record["epoch"] > 2.5:
            raise SystemExit

    never = fit(stream_of(many), config, checkpoints=tmp_path / "never")
    with pytest.raises(SystemExit):
        fit(stream_of(many), config, on_progress=kill, checkpoints=tmp_path / "kept")
    again = fit(stream_of(many), config, checkpoints=tmp_path / "kept")
    assert same(never, again)
    assert never.history == again.history


def test_a_checkpoint_of_other_data_is_refused(many, stream_of, tmp_path):
    config = TrainConfig(batch_size=7, epochs=2, checkpoint_every=1)
    fit(stream_of(many), config, checkpoints=tmp_path / "kept")
    other = Split(many.features + 1, many.labels, many.class_names)
    with pytest.raises(checkpoints.CheckpointError, match="of another training"):
        fit(stream_of(other), config, checkpoints=tmp_path / "kept")


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_parts_of_each_piece_are_the_piece_in_order(count, many, stream_of):
    """What several processes read, each for its own devices."""
    reader = Reader(
        stream_of(many), many.labels.astype(np.int32), many.class_names, np.dtype(np.float32)
    )
    order = np.random.default_rng(1).permutation(60)
    whole = Pieces(reader, order, 7, 2)

    def part(i):
        def own(rows):
            held = -(-rows // count)
            return slice(min(rows, i * held), min(rows, (i + 1) * held))

        return Pieces(reader, order, 7, 2, own)

    for piece in range(len(whole)):
        read = [part(i)[piece] for i in range(count)]
        wanted = whole[piece]
        for parts, all_rows in zip(zip(*read, strict=True), wanted, strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), all_rows)


def test_the_full_batch_is_refused(many, stream_of):
    with pytest.raises(InputError, match="batch size: expected a number of examples for a stream"):
        fit(stream_of(many), TrainConfig(batch_size=None))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none_names_file_and_row(bad, many, stream_of, small_pieces):
    features = np.tile(many.features, (200, 1))  # more rows than are sampled at the start
    features[777, 3] = bad
    broken = Split(features, np.tile(many.labels, 200), many.class_names)
    stream = stream_of(broken)
    words = rf"features.npy, row 777: expected finite numbers, got {bad} in column 3; drop or fill"
    with pytest.raises(InputError, match=words):
        fit(stream, CONFIG)
    result = fit(many, CONFIG)
    with pytest.raises(InputError, match=words):
        evaluate(result, stream)


def test_a_number_too_large_is_refused(stream_of):
    split = Split(np.array([[1.0], [1e300]] * 4), [0, 1] * 4)
    words = "row 1: expected numbers that float32 holds, got 1e.300 in column 0"
    with pytest.raises(InputError, match=words):
        fit(stream_of(split), CONFIG)


def test_a_file_that_changes_between_epochs_is_refused(many, stream_of, small_pieces):
    stream = stream_of(many)
    (path,) = stream.files

    def cut(record):
        path.write_bytes(path.read_bytes()[:-40])

    words = "features.npy: changed while it was read: 2,528 bytes at the start, 2,488 now; leave"
    with pytest.raises(InputError, match=words):
        fit(stream, CONFIG, on_epoch=cut)


def test_a_file_that_becomes_shorter_within_an_epoch_is_refused(many, stream_of, small_pieces):
    stream = stream_of(many)
    (path,) = stream.files
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InputError, match=r"features\.npy: changed while it was read: 2,528 bytes"):
        stream[:]


def test_one_class_is_refused(many, stream_of):
    one = Split(many.features, np.ones(60, int), many.class_names)
    with pytest.raises(InputError, match="at least two classes, got only class dog"):
        fit(stream_of(one), CONFIG)


def test_features_of_another_width_are_refused(many, stream_of, table_result):
    with pytest.raises(InputError, match="expected 5 numbers an example"):
        evaluate(table_result, stream_of(many))


def test_warns_of_scale_and_of_a_loss_that_rose(many, stream_of):
    large = Split(many.features * 1000, many.labels, many.class_names)
    with pytest.warns(TrainingWarning, match="far from 1, where training works best"):
        fit(stream_of(large), TrainConfig(batch_size=60, epochs=1))


def test_a_run_that_diverges_says_so(many, stream_of, small_pieces):
    with pytest.raises(InputError, match=r"loss became (nan|inf) in epoch \d"):
        fit(stream_of(many), TrainConfig(batch_size=7, epochs=40, learning_rate=1e38))


@pytest.mark.parametrize("package", ["grain", "pyarrow"])
def test_a_package_that_is_missing_says_its_extra(package, many, stream_of, tmp_path, monkeypatch):
    def hide(name, path=None, target=None):
        if name == package:
            raise ModuleNotFoundError("hidden by the test", name=name)

    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [types.SimpleNamespace(find_spec=hide), *sys.meta_path])
    words = rf"{package} is not installed; it comes with the extra \[stream\]: pip install"
    stream = stream_of(many)
    pl.DataFrame({"x": [1.0, 2.0], "y": [0, 1]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=words):
        fit(stream if package == "grain" else stream_parquet(tmp_path / "x.parquet", "y"), CONFIG)


def test_no_reader_is_left_behind(many, stream_of, small_pieces):
    def stop(_record):
        raise Stopped

    fit(stream_of(many), CONFIG)
    with pytest.raises(Stopped):
        fit(stream_of(many), CONFIG, on_progress=stop)
    readers = [thread for thread in threading.enumerate() if thread.name.startswith("grain")]
    for thread in readers:
        thread.join(5)
    assert not any(thread.is_alive() for thread in readers)
