"""A training that goes on from a checkpoint ends with the bits of one that never stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings

import jax
import numpy as np
import optax
import pytest

from jax_softmax import InputError, Split, TrainConfig, fit
from jax_softmax.errors import CheckpointError, TrainingWarning
from jax_softmax.training import atomic, checkpoints
from jax_softmax.training.run_files import sealed_json

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 50)
TRAIN = Split(RNG.normal(size=(50, 4)) + LABELS[:, None], LABELS)
SEEN = Split(TRAIN.features[:20] + 0.1, LABELS[:20])
# 21 epochs: looks at each, a checkpoint after each fifth and the last.
CONFIG = TrainConfig(
    epochs=21, batch_size=8, momentum=0.9, schedule="cosine", checkpoint_every=5, seed=3
)
NOISY = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(7)), optax.sgd(0.1))
CONFIGS = {
    "mini-batches": (CONFIG, None),
    "full batch": (dataclasses.replace(CONFIG, batch_size=None), None),
    "plain": (dataclasses.replace(CONFIG, momentum=0.0, schedule="constant"), None),
    "adam": (CONFIG, optax.adam(1e-2)),
    "noise of a key": (CONFIG, NOISY),
}


def stopping_at(epoch):
    """An `on_epoch` that raises KeyboardInterrupt at the epoch, and the epochs it was told."""
    told = []

    def on_epoch(record):
        told.append(record["epoch"])
        if record["epoch"] == epoch:
            raise KeyboardInterrupt

    return on_epoch, told


def stop(folder, epoch, config=CONFIG, train=TRAIN, **options):
    with pytest.raises(KeyboardInterrupt):
        fit(train, config, checkpoints=folder, on_epoch=stopping_at(epoch)[0], **options)


def same(a, b):
    return a.history == b.history and all(
        np.asarray(a.params[name]).tobytes() == np.asarray(b.params[name]).tobytes()
        for name in ("kernel", "bias")
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def epoch(number):
    return f"epoch-{number:010d}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of epochs 10 and 15."""
    folder = tmp_path_factory.mktemp("stopped") / "checkpoints"
    stop(folder, 15)
    assert names(folder) == [epoch(10), epoch(15)]
    return folder


@pytest.fixture
def stopped(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def whole():
    return fit(TRAIN, dataclasses.replace(CONFIG, checkpoint_every=None))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("watched", [False, True])
def test_a_training_that_goes_on_ends_with_the_same_bits(name, watched, tmp_path):
    config, optimizer = CONFIGS[name]
    options = {"optimizer": optimizer, "validation": SEEN if watched else None}
    never = fit(TRAIN, dataclasses.replace(config, checkpoint_every=None), **options)
    for number in (3, 6, 11, 20):  # in calls of five epochs, or of one
        stop(tmp_path / "c", number, config, **options)
    gone_on = fit(TRAIN, config, checkpoints=tmp_path / "c", **options)
    assert same(gone_on, never)
    assert ("validation_loss" in never.history[0]) == watched


def test_what_it_starts_from_goes_on_too(tmp_path):
    params = {"kernel": RNG.normal(size=(4, 3)), "bias": np.ones(3)}
    never = fit(TRAIN, CONFIG, params=params, checkpoints=tmp_path / "never")
    stop(tmp_path / "c", 10, params=params)
    assert same(fit(TRAIN, CONFIG, params=params, checkpoints=tmp_path / "c"), never)


def test_names_are_told_apart_by_what_they_say(tmp_path):
    named = [
        Split(s.features, np.array(["one", "two", "three"], object)[s.labels])
        for s in (TRAIN, SEEN)
    ]
    stop(tmp_path, 10, train=named[0], validation=named[1])
    # The same words, at other addresses.
    again = [
        Split(s.features, np.array(["".join([*name]) for name in s.labels], object)) for s in named
    ]
    assert len(fit(again[0], CONFIG, validation=again[1], checkpoints=tmp_path).history) == 21
    other = Split(SEEN.features, again[1].labels[::-1].copy())
    with pytest.raises(CheckpointError, match="validation examples: "):
        fit(again[0], CONFIG, validation=other, checkpoints=tmp_path)


def test_the_last_two_are_kept_and_epochs_are_told_once(tmp_path, whole):
    on_epoch, told = stopping_at(None)
    fit(TRAIN, CONFIG, checkpoints=tmp_path, on_epoch=on_epoch)
    assert names(tmp_path) == [epoch(20), epoch(21)]
    assert told == list(range(1, 22))
    told.clear()
    assert same(fit(TRAIN, CONFIG, checkpoints=tmp_path, on_epoch=on_epoch), whole)
    assert told == []


def test_epochs_of_before_are_not_told_again(stopped):
    on_epoch, told = stopping_at(None)
    fit(TRAIN, CONFIG, checkpoints=stopped, on_epoch=on_epoch)
    assert told == list(range(16, 22))


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("pattern", ["checkpoint.json", "orbax/arrays/d/*", "orbax/about/metadata"])
@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: path.unlink()])
def test_a_damaged_one_is_passed_over_by_name(pattern, damage, stopped, whole):
    damage(next((stopped / epoch(15)).glob(pattern)))
    on_epoch, told = stopping_at(None)
    with pytest.warns(
        TrainingWarning, match=rf"checkpoint .*{epoch(15)}: is damaged .*passed"
    ) as w:
        again = fit(TRAIN, CONFIG, checkpoints=stopped, on_epoch=on_epoch)
    assert w[0].filename == __file__
    assert same(again, whole) and told[0] == 11
    assert names(stopped) == [epoch(20), epoch(21)]


def test_where_both_are_damaged_it_starts_from_the_beginning(stopped, whole):
    for number in (10, 15):
        flip_a_bit(stopped / epoch(number) / "checkpoint.json")
    with pytest.warns(TrainingWarning, match="is damaged") as seen:
        assert same(fit(TRAIN, CONFIG, checkpoints=stopped), whole)
    assert len(seen) == 2


def test_a_damaged_one_is_not_kept_in_the_place_of_a_whole_one(stopped):
    flip_a_bit(stopped / epoch(15) / "checkpoint.json")
    with pytest.warns(TrainingWarning), pytest.raises(KeyboardInterrupt):
        fit(TRAIN, CONFIG, checkpoints=stopped, on_epoch=stopping_at(13)[0])
    assert names(stopped) == [epoch(10), epoch(15)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stop(stopped, 16)  # from 15, which is whole again


def test_what_is_restored_is_checked_beside_the_files(stopped, whole, monkeypatch):
    """orbax gives other numbers than it was given, of files that are as they were."""
    restore = checkpoints._orbax_restore

    def wrong(path):
        arrays, about = restore(path)
        if epoch(15) in str(path):
            arrays["bias"] = arrays["bias"] + np.float32(1e-6)
        return arrays, about

    monkeypatch.setattr(checkpoints, "_orbax_restore", wrong)
    with pytest.warns(TrainingWarning, match=rf"{epoch(15)}: is damaged \(what is restored has"):
        assert same(fit(TRAIN, CONFIG, checkpoints=stopped), whole)


OTHERS = {
    "epochs": ({"config": dataclasses.replace(CONFIG, epochs=22)}, "epochs: 21 there, 22 here"),
    "seed": ({"config": dataclasses.replace(CONFIG, seed=4)}, "seed: 3 there, 4 here"),
    "features": (
        {"train": Split(TRAIN.features + 1e-9, LABELS)},
        r"training examples: \w{8}… there, \w{8}… here",
    ),
    "labels": ({"train": Split(TRAIN.features, LABELS[::-1].copy())}, "training examples: "),
    "scale": ({"train": Split(TRAIN.features, LABELS, feature_scale=0.5)}, "training examples: "),
    "names": ({"train": Split(TRAIN.features, LABELS, list("abc"))}, "training examples: "),
    "validation": ({"validation": SEEN}, r"validation examples: None there, \w{8}… here"),
    "start": (
        {"params": {"kernel": np.ones((4, 3)), "bias": np.zeros(3)}},
        r"starting params: \w{8}…",
    ),
    "optimizer": ({"optimizer": optax.adam(1e-2)}, "optimizer: of the settings there, passed here"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_those_of_another_training_are_an_error(name, folder):
    options, words = OTHERS[name]
    arguments = {"train": TRAIN, "config": CONFIG, **options}
    with pytest.raises(CheckpointError, match=rf"is of another training \({words}") as raised:
        fit(**arguments, checkpoints=folder)
    assert "give another folder" in str(raised.value)
    assert names(folder) == [epoch(10), epoch(15)]


def test_those_of_another_optimizer_are_an_error(tmp_path):
    stop(tmp_path, 5, optimizer=optax.adam(1e-2))
    for other in (optax.sgd(0.1), optax.sgd(0.1, momentum=0.9)):
        with pytest.raises(CheckpointError, match="optimizer: expected the one that"):
            fit(TRAIN, CONFIG, checkpoints=tmp_path, optimizer=other)


def test_another_version_is_an_error(stopped):
    path = stopped / epoch(15) / "checkpoint.json"
    said = json.loads(path.read_text()) | {"format": "jax_softmax.checkpoint.9"}
    path.write_bytes(sealed_json(said))
    with pytest.raises(CheckpointError, match=r"expected one of this version .*checkpoint\.9"):
        fit(TRAIN, CONFIG, checkpoints=stopped)


def test_other_packages_are_said(stopped, monkeypatch, whole):
    versions = checkpoints.run_files.versions() | {"jax": "0.99"}
    monkeypatch.setattr(checkpoints.run_files, "versions", lambda: versions)
    with pytest.warns(TrainingWarning, match=r"was written with jax .*, now 0\.99; results"):
        assert same(fit(TRAIN, CONFIG, checkpoints=stopped), whole)


def test_one_process_at_a_time(stopped):
    with atomic.locked(stopped / "lock") as free:
        assert free
        with pytest.raises(CheckpointError, match="another process is training with them"):
            fit(TRAIN, CONFIG, checkpoints=stopped)


def test_a_full_disk_says_what_there_is(stopped, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_orbax_save", full)
    with pytest.raises(CheckpointError, match=rf"{epoch(20)}: cannot be written .*{epoch(15)}"):
        fit(TRAIN, CONFIG, checkpoints=stopped)
    assert names(stopped) == [epoch(10), epoch(15)]


@pytest.mark.parametrize(
    ("config", "folder", "words"),
    [
        (CONFIG, None, "checkpoint every: expected checkpoints=FOLDER"),
        (TrainConfig(), "c", r"checkpoints: expected TrainConfig\(checkpoint_every"),
        (CONFIG, 3, "checkpoints: expected a folder's path, got int"),
        (CONFIG, "\0", "cannot be used"),
        (CONFIG, __file__, "cannot be used"),
    ],
)
def test_a_folder_and_how_often_go_together(config, folder, words):
    with pytest.raises(InputError, match=words):
        fit(TRAIN, config, checkpoints=folder)
