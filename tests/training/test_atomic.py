"""Work folders: a dead process's are removed, a living one's and others' things are not."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jax_softmax import InputError, load_run, save_run
from jax_softmax.training import atomic
from jax_softmax.training.runs import check_run_dir

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def no_pictures(monkeypatch):
    class Blank:
        def savefig(self, path):
            path.touch()

    for name in ("learning_curve", "class_weights"):
        monkeypatch.setattr(f"jax_softmax.training.pictures.{name}", lambda *_: Blank())


@pytest.fixture
def moves(monkeypatch):
    """A system that cannot swap folders."""

    def lacks(*_arguments):
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr(atomic, "_rename", lacks)


DIES = """
import os, sys
from pathlib import Path
from jax_softmax.training import atomic
with atomic.work_folder(Path()) as new:
    new.mkdir()
    (new / "half").write_text("written")
    (new.parent / "journal").write_text(sys.argv[1]) if sys.argv[1:] else None
    os._exit(0)
"""


def _die(folder, *words):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", DIES, *words], cwd=folder, env=environment, check=True)
    (left,) = (path for path in folder.iterdir() if path.name.startswith(".jax_softmax-"))
    return left


def test_what_a_dead_process_left_is_removed_by_the_next_start(tmp_path):
    _die(tmp_path)
    check_run_dir(tmp_path / "another", overwrite=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rest", [(), ("lock",), ("lock", "journal"), ("lock", "old", "new")])
def test_so_is_what_one_left_that_died_making_or_removing_it(rest, tmp_path):
    left = tmp_path / (atomic._PREFIX + "abcd1234")
    left.mkdir()
    for name in rest:
        (left / name).mkdir() if name in ("old", "new") else (left / name).touch()
    check_run_dir(tmp_path / "another", overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_a_living_writers_folder_is_left_alone(tmp_path, table_result):
    """Of another process, and of another thread of this one."""
    with atomic.work_folder(tmp_path) as new:
        new.mkdir()
        script = "import sys; from jax_softmax.training.runs import *; check_run_dir(sys.argv[1]"
        words = [sys.executable, "-c", f"{script}, overwrite=False)", str(tmp_path / "a")]
        subprocess.run(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
        save_run(table_result, tmp_path / "run")
        assert new.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def _renamed(left, machine):
    return left.rename(left.with_name(f".jax_softmax-{machine}-{left.name[-8:]}"))


def test_another_machines_folder_is_left_alone_for_a_day(tmp_path):
    """Its lock may not be seen from here."""
    left = _renamed(_die(tmp_path), "0123abcd")
    atomic.sweep(tmp_path)
    assert left.is_dir()
    os.utime(left, (0, 0))
    atomic.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [".jax_softmax-notes", ".jax_softmax", "jax_softmax-0123abcd-x"])
def test_what_has_another_name_is_left_alone(name, tmp_path):
    shutil.move(_die(tmp_path), tmp_path / name)
    os.utime(tmp_path / name, (0, 0))
    atomic.sweep(tmp_path)
    assert (tmp_path / name / "new" / "half").is_file()


def test_a_link_or_a_file_with_such_a_name_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "lock").touch()
    (tmp_path / (atomic._PREFIX + "abcd1234")).symlink_to(tmp_path / "mine")
    (tmp_path / (atomic._PREFIX + "abcd1235")).touch()
    atomic.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert (tmp_path / "mine" / "lock").exists()


def test_where_there_are_no_locks_runs_are_written_and_nothing_is_removed(
    tmp_path, table_result, monkeypatch
):
    left = _die(tmp_path)

    def no_locks(*_arguments):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(atomic.fcntl, "flock", no_locks)
    load_run(save_run(table_result, tmp_path / "run"))
    assert {path.name for path in tmp_path.iterdir()} == {"run", left.name}
    monkeypatch.setattr(atomic, "fcntl", None)  # Windows
    load_run(save_run(table_result, tmp_path / "another"))
    assert left.is_dir()


@pytest.mark.parametrize("by", [load_run, lambda run: check_run_dir(run, overwrite=True)])
def test_what_a_dead_process_took_away_is_put_there(by, moves, tmp_path, table_result):
    """It died between the two steps of a replacement: the new one takes the name."""
    old = save_run(table_result, tmp_path / "run")
    left = _die(tmp_path, "run")
    shutil.rmtree(left / "new")
    shutil.copytree(old, left / "new")
    old.rename(left / "old")
    by(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert load_run(tmp_path / "run").class_names == table_result.class_names


@pytest.mark.parametrize("name", ["../elsewhere", "/", "", ".", "..", "a/b"])
def test_a_journal_names_something_beside_it_or_nothing(name, tmp_path):
    (tmp_path / "runs").mkdir()
    _die(tmp_path / "runs", name)
    atomic.sweep(tmp_path / "runs")
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


def test_a_dead_replacement_does_not_replace_a_newer_run(tmp_path, table_result):
    run = save_run(table_result, tmp_path / "run")
    _die(tmp_path, "run")
    atomic.sweep(tmp_path)
    assert load_run(run).class_names == table_result.class_names
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("system", ["swaps", "moves"])
def test_a_run_can_be_read_while_it_is_replaced(
    system, tmp_path, table_result, image_result, request
):
    if system == "moves":
        request.getfixturevalue("moves")
    run = save_run(table_result, tmp_path / "run")
    done = threading.Event()

    def replace():
        while not done.is_set():
            for result in (image_result, table_result):
                save_run(result, run, overwrite=True)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        shapes = {load_run(run).feature_shape for _ in range(200)}
    finally:
        done.set()
        writer.join()
    assert shapes <= {(5,), (6, 5)}


def test_a_run_that_is_not_there_is_said_to_be_not_there(moves, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_run(tmp_path / "run")
