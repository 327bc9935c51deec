"""`train --checkpoint-every` and `--resume`: what was stopped is finished, bit by bit."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal

import pytest

from jax_softmax import datasets, load_run
from jax_softmax.errors import DivergedError
from jax_softmax.training import atomic, checkpoints, memory_run, run_files, unfinished

SETTINGS = ("--epochs", 12, "--momentum", 0.5, "--seed", 4, "--checkpoint-every", 5)
START = ("train", "digits", *SETTINGS, "--run-dir", "run")
RESUME = ("train", "digits", "--resume", "run")
KEPT = ".run.training"

pytestmark = pytest.mark.usefixtures("no_pictures")


class Killed(BaseException):
    """Stands for SIGKILL between two steps."""


def killed(*_arguments, **_options):
    raise Killed


def contents(run):
    """What the files of a run say, but pictures and times."""
    names = (run_files.MODEL, run_files.CONFIG, run_files.HISTORY)
    said = json.loads((run / "metrics.json").read_text())
    assert said.pop("sha256") and said.pop("train_seconds") > 0 and said.pop("compile_seconds") > 0
    return {name: (run / name).read_bytes() for name in names} | {"metrics": said}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def newest(folder):
    """The name of the newest checkpoint of a training; "" if there is none."""
    return max((path.name for path in (folder / "checkpoints").glob("epoch-*")), default="")


@pytest.fixture(scope="module")
def never(train_once):
    """A run that was never stopped."""
    run = train_once("digits", *SETTINGS).run
    assert names(run.parent) == ["run", "train.json"]
    return contents(run)


@pytest.fixture
def stopped_by(command, monkeypatch):
    """Runs a command that gets a signal in a call of epochs, the first of which is 1."""

    def run(*words, call=7, number=signal.SIGTERM):
        original, calls = memory_run.run_epochs, []

        def run_epochs(*arguments, **options):
            calls.append(1)
            if len(calls) == 1 + call:  # the very first compiles
                os.kill(os.getpid(), number)
            return original(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(memory_run, "run_epochs", run_epochs)
            return command(*words)

    return run


@pytest.fixture
def stopped(stopped_by, cwd):
    """A training that was stopped after epoch 7 of 12; its folder."""
    assert stopped_by(*START).code == 143
    assert names(cwd) == [KEPT]
    return cwd / KEPT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_a_checkpoint_and_says_how_to_go_on(number, stopped_by, command, never, cwd):
    done = stopped_by(*START, number=number)
    assert (done.code, done.out) == (128 + number, "")
    said = f"jax-softmax: stopped by {number.name} after epoch 7 of 12; `"
    assert done.err.startswith(said) and done.err.endswith("` goes on from there.\n")
    assert newest(cwd / KEPT) == "epoch-0000000007"
    program, *words = shlex.split(done.err.split("`")[1])
    assert (program, *words) == ("jax-softmax", *RESUME)
    done = command(*words)
    assert (done.code, done.err) == (0, "")
    assert "training    12 epochs" in done.out and done.out.endswith("run folder  run\n")
    assert contents(cwd / "run") == never
    assert names(cwd) == ["run"]


def test_a_folder_s_name_is_quoted_where_the_shell_needs_it(stopped_by, command, cwd):
    done = stopped_by(*START[:-1], "my runs/the 1st")
    words = shlex.split(done.err.split("`")[1])[1:]
    assert words == ["train", "digits", "--resume", "my runs/the 1st"]
    assert command(*words).code == 0
    assert names(cwd / "my runs") == ["the 1st"]


def test_without_a_checkpoint_it_starts_from_the_beginning(command, monkeypatch, never, cwd):
    with monkeypatch.context() as patched:
        patched.setattr(memory_run, "run_epochs", killed)
        with pytest.raises(Killed):
            command(*START)
    assert names(cwd) == [KEPT] and newest(cwd / KEPT) == ""
    assert command(*RESUME).code == 0
    assert contents(cwd / "run") == never


@pytest.mark.parametrize(
    "place", ["runs.write_run", "unfinished.Unfinished.remove", "loop.evaluate"]
)
def test_killed_before_or_after_the_run_is_in_place(place, command, monkeypatch, never, cwd):
    with monkeypatch.context() as patched:
        patched.setattr(f"jax_softmax.training.{place}", killed)
        with pytest.raises(Killed):
            command(*START)
    assert KEPT in names(cwd)
    done = command(*RESUME, "--json", "out.json")
    assert (done.code, done.err) == (0, "")
    saved = place == "unfinished.Unfinished.remove"
    assert (done.out == "run is finished: epoch 12 was its last.\n") == saved
    assert contents(cwd / "run") == never
    assert names(cwd) == ["out.json", "run"]
    (record,) = json.loads((cwd / "out.json").read_text())
    assert record["run_dir"] == "run" and record["test_loss"] == never["metrics"]["test_loss"]


def test_a_finished_run_is_left_alone(command, cwd, tree):
    assert command("train", "iris", "--epochs", 2, "--run-dir", "run").code == 0
    before = tree(cwd)
    done = command("train", "iris", "--resume", "run", "--epochs", 2)
    assert (done.code, done.err) == (0, "")
    assert done.out == "run is finished: epoch 2 was its last.\n"
    refused = command("train", "iris", "--resume", "run", "--epochs", 3)
    assert refused.code == 2 and "--epochs: expected 2, with which" in refused.err
    assert tree(cwd) == before


def test_an_old_run_is_there_until_the_new_one_is(command, stopped_by, cwd, never):
    assert command("train", "digits", "--epochs", 1, "--run-dir", "run").code == 0
    assert stopped_by(*START, "--overwrite").code == 143
    assert load_run("run").config.epochs == 1
    assert command(*RESUME).code == 0
    assert contents(cwd / "run") == never
    assert names(cwd) == ["run"]


def test_a_link_stays_one(stopped_by, command, cwd, never):
    (cwd / "link").symlink_to("elsewhere/run")
    (cwd / "elsewhere").mkdir()
    words = (*START[:-1], "link")
    assert stopped_by(*words).code == 143
    assert names(cwd / "elsewhere") == [KEPT]
    assert command("train", "digits", "--resume", "link").code == 0
    assert (cwd / "link").is_symlink() and names(cwd / "elsewhere") == ["run"]
    assert contents(cwd / "elsewhere" / "run") == never


FLAGS = {
    "--epochs 13": "--epochs: expected 12, with which the training of run was started, got 13",
    "--momentum 0": "--momentum: expected 0.5, .* got 0",
    "--nesterov": "--nesterov: expected False, .* got True",
    "--batch-size none": "--batch-size: expected 32, .* got none",
    "--seed 0": "--seed: expected 4, .* got 0",
    "--checkpoint-every 6": "--checkpoint-every: expected 5, .* got 6",
    "--patience 3": "--patience: expected none, .* got 3",
    "--overwrite": "--overwrite: expected no such flag beside --resume",
    "--run-dir other": "--run-dir: expected no such flag beside --resume",
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory, train_once):
    """A training's folder, to be copied, as if it had been killed early."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(memory_run, "run_epochs", killed)
        monkeypatch.setattr(unfinished.Unfinished, "remove", lambda _self: None)
        with pytest.raises(Killed):
            train_once("digits", *SETTINGS)
    made = next(tmp_path_factory.getbasetemp().glob(f"trained*/{KEPT}"))
    return shutil.copytree(made, folder / KEPT)


@pytest.mark.parametrize("flag", FLAGS)
def test_flags_that_say_something_else_are_errors(flag, command, kept, cwd, tree):
    shutil.copytree(kept, cwd / KEPT)
    before = tree(cwd)
    done = command(*RESUME, *flag.split())
    assert done.code == 2 and done.out == ""
    assert_words(FLAGS[flag], done.err)
    assert "leave it out" in done.err
    assert tree(cwd) == before


def assert_words(words, text):
    assert re.search(words, " ".join(text.split())), text


def test_flags_that_say_the_same_are_none(command, kept, cwd, never):
    shutil.copytree(kept, cwd / KEPT)
    assert command(*RESUME, *SETTINGS, "--batch-size", 32).code == 0
    assert contents(cwd / "run") == never


def test_another_dataset_is_an_error(command, kept, cwd):
    shutil.copytree(kept, cwd / KEPT)
    done = command("train", "iris", "--resume", "run")
    assert done.code == 2
    assert "--resume run: expected digits, which it was started on, got iris" in done.err


def test_other_data_are_an_error(command, kept, cwd, monkeypatch):
    shutil.copytree(kept, cwd / KEPT)
    load = datasets.load_dataset
    other = lambda name, **options: load(name, **options | {"seed": 5})  # noqa: E731
    monkeypatch.setattr(datasets, "load_dataset", other)
    done = command(*RESUME)
    assert done.code == 2
    assert "expected the train examples that the training was started on (scikit" in done.err
    assert "or start anew" in done.err


def test_another_version_and_damage_are_errors(command, kept, cwd):
    shutil.copytree(kept, cwd / KEPT)
    about = cwd / KEPT / "training.json"
    good = about.read_bytes()
    about.write_bytes(
        run_files.sealed_json(json.loads(good) | {"format": "jax_softmax.training.9"})
    )
    done = command(*RESUME)
    assert done.code == 2 and "expected a training of this version" in done.err
    about.write_bytes(good.replace(b'"epochs": 12', b'"epochs": 13'))
    done = command(*RESUME)
    assert done.code == 2 and "training.json: is damaged" in done.err
    assert f"remove {KEPT} and train again" in done.err
    assert command(*START, "--overwrite").code == 0
    assert names(cwd) == ["run"]


def test_trainings_of_the_same_second_have_folders_of_their_own(
    command, cwd, monkeypatch, stopped_by
):
    monkeypatch.setattr("time.strftime", lambda _format: "20300101-000000")
    original, seen = unfinished.is_there, []
    # As if the other had not been there yet when a name was looked for.
    monkeypatch.setattr(
        unfinished,
        "is_there",
        lambda run: seen.append(run) is None and len(seen) > 2 and original(run),
    )
    assert stopped_by(*START[:-2]).code == 143
    seen.clear()
    assert command(*START[:-2]).code == 0
    assert names(cwd / "runs") == [
        ".digits-20300101-000000.training",
        "digits-20300101-000000-2",
    ]


def test_what_a_process_left_half_made_is_no_training(command, cwd, never):
    (cwd / KEPT).mkdir()
    assert command(*START).code == 0
    assert names(cwd) == ["run"] and contents(cwd / "run") == never
    (cwd / "other").mkdir()
    (cwd / ".other.training").mkdir()
    (cwd / ".other.training" / "notes").touch()
    done = command(*START[:-1], "other")
    assert done.code == 2 and ".other.training is there already, perhaps another's" in done.err
    assert names(cwd / ".other.training") == ["notes"]


@pytest.mark.parametrize("run", [".", "..", "/", "no/such/folder/run"])
def test_paths_that_cannot_be_runs_are_errors(run, command):
    done = command("train", "digits", "--resume", run)
    assert done.code == 2 and f"--resume {run}: expected a run, or" in done.err


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "files", "a file"])
def test_neither_a_run_nor_a_training_is_an_error(there, command, cwd):
    if there == "a file":
        (cwd / "run").touch()
    elif there != "nothing":
        (cwd / "run").mkdir()
        (cwd / "run" / "notes").touch() if there == "files" else None
    done = command(*RESUME)
    assert done.code == 2
    assert "--resume run: expected a run, or the run-to-be of a training that was" in done.err


def test_a_training_that_is_not_done_is_not_lost_to_another(command, stopped, cwd, never):
    for words in (START, ("train", "iris", "--run-dir", "run")):
        done = command(*words)
        assert done.code == 2
        assert "a training of it is not done; finish it with `jax-softmax train" in done.err
        assert newest(stopped) == "epoch-0000000007"
    assert command("train", "iris", "--epochs", 1, "--run-dir", "run", "--overwrite").code == 0
    assert names(cwd) == ["run"]


def test_a_training_that_another_process_is_at_is_left_to_it(command, stopped, cwd, tree):
    with atomic.locked(stopped / "lock") as free:
        assert free
        before = tree(cwd)
        for words in (RESUME, (*START, "--overwrite")):
            done = command(*words)
            assert done.code == 2 and "another process is at it" in done.err
        assert tree(cwd) == before


def test_a_run_that_came_meanwhile_is_not_replaced(command, stopped, cwd, iris):
    shutil.copytree(iris.run, cwd / "run")
    done = command(*RESUME)
    assert done.code == 2
    assert "another run has that name meanwhile, which is not replaced; move it" in done.err
    assert newest(stopped) == "epoch-0000000007"
    shutil.rmtree(cwd / "run")
    assert command(*RESUME).code == 0


def test_a_damaged_checkpoint_is_said_and_passed_over(command, stopped, cwd, never):
    path = stopped / "checkpoints" / newest(stopped) / "checkpoint.json"
    path.write_bytes(path.read_bytes()[:-9])
    done = command(*RESUME)
    assert done.code == 0
    assert "epoch-0000000007: is damaged" in done.err and "Traceback" not in done.err
    assert contents(cwd / "run") == never


def test_a_full_disk_is_an_error_that_says_how_to_go_on(command, monkeypatch, cwd, never):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "_orbax_save", full)
        done = command(*START)
    assert done.code == 2 and "No space left" in done.err
    assert done.err.endswith("To go on then: jax-softmax train digits --resume run\n")
    assert command(*RESUME).code == 0
    assert contents(cwd / "run") == never


def test_a_training_that_diverged_is_not_kept(command, cwd, monkeypatch):
    def diverges(*_arguments, **_options):
        raise DivergedError("the loss became nan")

    monkeypatch.setattr("jax_softmax.training.fit", diverges)
    assert command(*START).code == 2
    assert names(cwd) == []


def test_a_work_folder_s_sweep_leaves_a_training(stopped, cwd):
    atomic.sweep(cwd)
    assert newest(stopped) == "epoch-0000000007"


def test_raw_files_are_found_again_without_the_variable(
    command, cwd, real_data, monkeypatch, stopped_by
):
    monkeypatch.setenv("JAX_SOFTMAX_RAW_DIR", str(real_data))
    start = ("train", "mnist", "--epochs", 3, "--checkpoint-every", 1, "--run-dir", "run")
    assert stopped_by(*start, call=1).code == 143
    monkeypatch.delenv("JAX_SOFTMAX_RAW_DIR")
    done = command("train", "mnist", "--resume", "run")
    assert (done.code, done.err) == (0, "")
    assert f"raw files in {real_data}" in " ".join(done.out.split())
    assert "JAX_SOFTMAX_RAW_DIR" not in os.environ


def test_patience_stops_by_a_part_of_the_training_examples(command, cwd, stopped_by):
    words = ("train", "digits", "--epochs", 60, "--learning-rate", 2, "--schedule", "constant")
    words = (*words, "--patience", 3)
    done = command(*words, "--run-dir", "run")
    assert (done.code, done.err) == (0, "")
    run = load_run(cwd / "run")
    losses = [record["validation_loss"] for record in run.history]
    assert run.best_epoch == 1 + losses.index(min(losses)) == len(losses) - 3 < 57
    said = " ".join(done.out.split())
    assert "1,293 training and 360 test examples" in said
    assert "validation 144 more training examples, split off by the seed" in said
    assert (
        f"stopped after epoch {len(losses)}; the parameters are of epoch {len(losses) - 3}" in said
    )
    metrics = json.loads((cwd / "run" / "metrics.json").read_text())
    assert (metrics["best_epoch"], metrics["validation_examples"]) == (run.best_epoch, 144)
    assert metrics["test_loss"] != min(losses)
    # Stopped and gone on with, before the best epoch and after it: the same, to the bit.
    for call in (1, len(losses) - 2):
        name = f"after-{call}"
        kept = (*words, "--checkpoint-every", 2, "--run-dir", name)
        assert stopped_by(*kept, call=call).code == 143
        assert command("train", "digits", "--resume", name).code == 0
        other = load_run(cwd / name)
        assert (other.history, other.best_epoch) == (run.history, run.best_epoch)
        assert other.params["kernel"].tobytes() == run.params["kernel"].tobytes()
