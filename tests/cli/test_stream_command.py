"""`train --stream`: the run of memory, finished after a stop, evaluated on the same files."""

from __future__ import annotations

import signal

import numpy as np
import polars as pl
import pytest
import tyro

from jax_softmax import load_dataset
from jax_softmax.cli.train import Train
from jax_softmax.training import run_files, streams

pytestmark = pytest.mark.usefixtures("no_pictures")
SCALE = ("--feature-scale", 1 / 16)
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def digits_files(tmp_path_factory):
    """A folder with digits as `npy/`, `table.parquet` and `test.parquet`."""
    folder = tmp_path_factory.mktemp("files")
    digits = load_dataset("digits")
    (folder / "npy").mkdir()
    np.save(folder / "npy" / "features.npy", digits.train.features)
    np.save(folder / "npy" / "labels.npy", digits.train.labels)
    for name, split in (("table", digits.train), ("test", digits.test)):
        table = pl.DataFrame(split.features.reshape(len(split.labels), 64))
        names = pl.Series("digit", np.array(NAMES)[split.labels])
        table.with_columns(names).write_parquet(folder / f"{name}.parquet", row_group_size=200)
    return folder


def same_model(a, b):
    """Whether two runs end with the same bits: their weights, settings and history."""
    names = (run_files.MODEL, run_files.CONFIG, run_files.HISTORY)
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def test_a_prepared_dataset_is_as_in_memory(command, cwd, real_data):
    prepared = real_data / "prepared"
    if not prepared.is_dir():
        pytest.skip("no prepared TFDS folder")
    flags = ("iris", "--data-dir", prepared, "--batch-size", 16, "--epochs", 20, "--patience", 9)
    assert command("train", *flags, "--run-dir", "memory").code == 0
    streamed = command("train", *flags, "--stream", "--run-dir", "streamed")
    assert streamed.code == 0, streamed.err
    assert "108 training and 30 test examples" in " ".join(streamed.out.split())
    assert "12 more training examples, split off by the seed" in streamed.out
    assert ", streamed" in streamed.out
    assert same_model(cwd / "memory", cwd / "streamed")
    outcome = command("evaluate", "streamed")
    assert outcome.code == 0, outcome.err
    assert "the same as training measured" in outcome.out


def test_a_pair_of_npy_files_is_divided_by_the_seed(command, cwd, digits_files):
    outcome = command(
        "train", digits_files / "npy", "--stream", *SCALE, "--epochs", 3, "--run-dir", "run"
    )
    assert outcome.code == 0, outcome.err
    metrics = outcome._replace(run=cwd / "run").metrics
    assert (metrics["train_examples"], metrics["test_examples"]) == (1149, 288)
    assert metrics["stream"] is True
    assert metrics["feature_scale"] == 1 / 16
    assert metrics["test_accuracy"] > 0.7
    outcome = command("evaluate", "run")
    assert "the same as training measured" in outcome.out


def test_parquet_files_with_a_test_file_of_their_own(command, cwd, digits_files, monkeypatch):
    monkeypatch.chdir(digits_files)  # paths as they are typed
    outcome = command(
        *("train", "table.parquet", "--stream", "--label", "digit", "--test", "test.parquet"),
        *(*SCALE, "--epochs", 3, "--run-dir", cwd / "run"),
    )
    assert outcome.code == 0, outcome.err
    metrics = outcome._replace(run=cwd / "run").metrics
    assert (metrics["train_examples"], metrics["test_examples"]) == (1437, 360)
    monkeypatch.chdir(cwd)
    outcome = command("evaluate", "run")
    assert outcome.code == 0, outcome.err
    assert "the same as training measured" in outcome.out
    assert "trained on another" not in outcome.out
    assert "seven" in outcome.out


def test_a_run_without_a_name_is_called_after_the_file(command, cwd, digits_files):
    outcome = command(
        "train", digits_files / "table.parquet", "--stream", "--label", "digit", "--epochs", 1
    )
    assert outcome.code == 0, outcome.err
    (run,) = (cwd / "runs").iterdir()
    assert run.name.startswith("table-2")


def test_a_stopped_stream_is_finished_by_resume_alone(command, cwd, digits_files, monkeypatch):
    """Stopped by SIGTERM within an epoch, as a long one is."""
    monkeypatch.setattr(streams, "_NUMBERS_PER_PIECE", 64 * 128)  # a step a piece
    path = digits_files / "table.parquet"
    flags = (path, "--stream", "--label", "digit", *SCALE, "--epochs", 6, "--checkpoint-every", 4)
    assert command("train", *flags, "--run-dir", "never").code == 0

    read, count = streams.Pieces.__getitem__, [0]

    def stop(self, piece):
        count[0] += 1
        if count[0] == 25:
            signal.raise_signal(signal.SIGTERM)
        return read(self, piece)

    monkeypatch.setattr(streams.Pieces, "__getitem__", stop)
    outcome = command("train", *flags, "--run-dir", "run")
    monkeypatch.setattr(streams.Pieces, "__getitem__", read)
    assert outcome.code == 143
    assert "stopped by SIGTERM after epoch 2." in outcome.err
    (kept,) = (cwd / ".run.training" / "checkpoints").glob("epoch-*")
    assert kept.name.startswith("epoch-0000000002-")
    resumed = command("train", path, "--resume", "run")
    assert resumed.code == 0, resumed.err
    assert same_model(cwd / "never", cwd / "run")
    again = command("train", path, "--resume", "run")
    assert again.code == 0
    assert "is finished" in again.out


def test_resume_on_other_files_is_refused(command, digits_files, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "features.npy", rng.random((90, 4)))
    np.save(folder / "labels.npy", np.arange(90) % 3)

    def stop(self, piece):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(streams.Pieces, "__getitem__", stop)
        flags = ("--stream", "--epochs", 2, "--checkpoint-every", 1, "--run-dir", "run")
        assert command("train", folder, *flags).code == 130
    np.save(folder / "features.npy", rng.random((90, 4)))
    outcome = command("train", folder, "--resume", "run")
    assert outcome.code == 2
    assert "expected the train examples that the training was started on" in outcome.err
    outcome = command("train", digits_files / "npy", "--resume", "run")
    assert outcome.code == 2
    assert "which it was started on, got" in outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("iris --label kind", "--label: expected a table to go with it, such as customers.csv, or"),
        ("iris --target kind", "--label: expected a table to go with it"),
        ("iris --test x", "--test: expected a table to go with it, such as customers.csv, or --st"),
        ("iris --drop x", "--drop: expected a table to go with it, such as customers.csv, got"),
        ("mnist --stream --impute mean", "--impute: expected a table to go with it"),
        ("iris --feature-scale 2", "--feature-scale: expected --stream to go with it"),
        ("mnist --stream --raw-dir .", "--raw-dir: expected no such folder beside --stream"),
        ("mnist --stream --label x", "--label: expected it beside files of your own, and mnist is"),
        ("mnist --stream", "expected a prepared TFDS folder"),
        ("nothing --stream", "unknown dataset 'nothing': expected a dataset that is prepared in"),
        ("{}/table.parquet --stream", "expected --label NAME, the column of the labels, got none."),
        ("{}/table.parquet --stream --label q", "expected a column 'q' of labels, found none"),
        ("{}/npy --stream --label q", "--label: expected it beside Parquet files, and"),
        ("{}/npy/labels.npy --stream", "expected a Parquet file (.parquet), a folder of them, or"),
        ("{}/npy --stream --batch-size none", "batch size: expected a number of examples for a"),
        ("{}/npy --stream --feature-scale 0", "feature_scale: expected one finite number above 0"),
        ("{}/npy --stream --test nowhere", "nowhere: expected a Parquet file (.parquet), a folder"),
        (". --stream --label x", "expected files ending in .parquet in it, found none."),
    ],
)
def test_mistakes(words, said, command, cwd, digits_files, tree):
    outcome = command("train", *words.format(digits_files).split())
    assert outcome.code == 2
    assert said in " ".join(outcome.err.split())
    assert tree(cwd) == {}


def test_a_stream_has_batches_though_the_dataset_has_none():
    command = tyro.cli(Train, args=["iris", "--stream"], config=(tyro.conf.FlagCreatePairsOff,))
    assert command.settings().batch_size == 128
    assert command.settings().epochs == 1000
