"""Writing run folders: what stands in the way is said, and what is there is not lost."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jax_softmax import InputError, TrainConfig, fit, load_run, save_run
from jax_softmax.training import FitResult
from jax_softmax.training.runs import check_run_dir


def _tree(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def _kernel(folder):
    return load_run(folder).params["kernel"].shape


@pytest.fixture(params=["swaps", "moves"])
def system(request, monkeypatch):
    """One that swaps folders in one step, and one that cannot."""
    if request.param == "moves":

        def lacks(*_arguments):
            raise OSError(errno.ENOSYS, "not here")

        monkeypatch.setattr("jax_softmax.training.atomic._rename", lacks)
    return request.param


def test_a_link_stays_and_what_it_leads_to_is_replaced(
    system, table_result, image_result, tmp_path
):
    real = save_run(table_result, tmp_path / "elsewhere" / "real")
    link = tmp_path / "latest"
    link.symlink_to(real)
    assert save_run(image_result, link, overwrite=True) == link
    assert link.is_symlink()
    assert _kernel(real) == (30, 3)
    assert {path.name for path in tmp_path.rglob("*") if path.parent != real} == {
        "elsewhere",
        "latest",
        "real",
    }


def test_a_link_to_nothing_makes_what_it_leads_to(system, table_result, tmp_path):
    (tmp_path / "latest").symlink_to(tmp_path / "real")
    save_run(table_result, tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert _kernel(tmp_path / "real") == (5, 3)


def test_a_link_to_a_run_is_not_written_through_unasked(table_result, tmp_path):
    real = save_run(table_result, tmp_path / "real")
    (tmp_path / "latest").symlink_to(real)
    with pytest.raises(InputError, match="a run is there already"):
        save_run(table_result, tmp_path / "latest")


def _make(folder, content):
    folder.mkdir()
    if content:
        (folder / content).write_text("another's")


@pytest.mark.parametrize("content", ["", "thesis.txt", "model.safetensors"])
def test_a_folder_that_another_makes_meanwhile_is_not_replaced(
    system, content, table_result, tmp_path, monkeypatch
):
    """Whoever makes it, and whenever: here at the last moment, while pictures are drawn."""
    from jax_softmax.training import pictures

    target = tmp_path / "run"
    original = pictures.learning_curve

    def draw(history, *turn):
        _make(target, content)
        return original(history, *turn)

    monkeypatch.setattr(pictures, "learning_curve", draw)
    with pytest.raises(InputError, match=r"another has made it meanwhile, .*--overwrite"):
        save_run(table_result, target)
    assert _tree(tmp_path).keys() == {Path("run"), *([Path("run", content)] if content else [])}


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_folder_that_another_fills_meanwhile_is_not_replaced(
    system, overwrite, table_result, tmp_path, monkeypatch
):
    from jax_softmax.training import pictures

    target = tmp_path / "run"
    target.mkdir()
    original = pictures.learning_curve

    def draw(history, *turn):
        (target / "thesis.txt").write_text("years")
        return original(history, *turn)

    monkeypatch.setattr(pictures, "learning_curve", draw)
    with pytest.raises(InputError, match="another has made it|holds files but no model"):
        save_run(table_result, target, overwrite=overwrite)
    assert _tree(tmp_path).keys() == {Path("run"), Path("run", "thesis.txt")}


def test_with_overwrite_a_run_that_another_makes_meanwhile_is_replaced(
    system, table_result, image_result, tmp_path, monkeypatch
):
    from jax_softmax.training import pictures

    original = pictures.learning_curve

    def draw(history, *turn):
        monkeypatch.setattr(pictures, "learning_curve", original)
        save_run(image_result, tmp_path / "run")
        return original(history, *turn)

    monkeypatch.setattr(pictures, "learning_curve", draw)
    save_run(table_result, tmp_path / "run", overwrite=True)
    assert _kernel(tmp_path / "run") == (5, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "x" * 300, "x" * 300 + "/a", "a/b/" * 1030])
def test_a_name_that_is_too_long_is_said_before_anything_is_made(name, table_result, tmp_path):
    with pytest.raises(InputError, match="run folder .*cannot be made .*too long"):
        save_run(table_result, tmp_path / name)
    assert _tree(tmp_path) == {}
    with pytest.raises(InputError, match="cannot be read .*too long|no such folder"):
        load_run(tmp_path / name)


def test_the_longest_name_that_the_system_allows(table_result, tmp_path):
    folder = save_run(table_result, tmp_path / ("x" * 255))
    assert _kernel(folder) == (5, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["x" * 255]


def test_a_name_with_a_null_character(table_result, tmp_path):
    with pytest.raises(InputError, match="run folder .*null"):
        save_run(table_result, str(tmp_path / "a\0b"))
    with pytest.raises(InputError, match="run folder"):
        load_run(str(tmp_path / "a\0b"))


@contextlib.contextmanager
def _no_file_over(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 400, 2000])
def test_a_file_that_cannot_grow_leaves_the_old_run(size, table_result, image_result, tmp_path):
    save_run(table_result, tmp_path / "run")
    before = _tree(tmp_path)
    with (
        pytest.raises(InputError, match=r"run folder .*cannot be written \(.*too large"),
        _no_file_over(size),
    ):
        save_run(image_result, tmp_path / "run", overwrite=True)
    assert _tree(tmp_path) == before


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "none", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root mounts a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("left", [0, 4, 8, 12, 20, 32])  # KiB; a run takes 80
def test_a_full_disk_leaves_the_old_run(left, small_disk, table_result, image_result):
    save_run(table_result, small_disk / "run")
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
    (small_disk / "filler").write_bytes(bytes(free - left * 1024))
    before = _tree(small_disk)
    with pytest.raises(InputError, match=r"cannot be written \(.*No space left on device"):
        save_run(image_result, small_disk / "run", overwrite=True)
    assert _tree(small_disk) == before
    assert _kernel(small_disk / "run") == (5, 3)


def test_a_disk_that_can_only_be_read(small_disk, table_result, image_result):
    run = save_run(table_result, small_disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for target, overwrite in ((run, True), (small_disk / "new", False)):
        with pytest.raises(InputError, match="no folder that can be written to"):
            save_run(image_result, target, overwrite=overwrite)
    assert _kernel(run) == (5, 3)


def test_a_disk_mounted_there_is_refused_at_once(small_disk, table_result):
    with pytest.raises(InputError, match="is a mount point"):
        save_run(table_result, small_disk)


def test_the_disk_holds_a_run_before_it_has_its_name(table_result, tmp_path, monkeypatch):
    """Every file, then the folder, then the name; and the name in its own folder after it."""
    synced, renamed = [], []
    fsync, atomic = os.fsync, "jax_softmax.training.atomic"

    def sync(handle):
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def rename(*arguments):
        renamed.append(len(synced))
        return original(*arguments)

    original = sys.modules[atomic]._rename
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(f"{atomic}._rename", rename)
    run = save_run(table_result, tmp_path / "of" / "run")
    (at,) = renamed
    names = [path.name for path in synced[:at]]
    assert {path.name for path in run.iterdir()} == set(names[:-1])
    assert names[-1] == "new"
    assert {tmp_path / "of", tmp_path} <= set(synced[at:])


WRITES = """
import pathlib, sys
import numpy as np
from jax_softmax import Split, TrainConfig, evaluate, fit, save_run
pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 5)).astype(np.uint8)
split = Split(pixels, np.arange(40) % 4, tuple("abcd"), 1 / 255)
result = fit(split, TrainConfig(epochs=3, batch_size=8), validation=split)
for name in sys.argv[1:]:
    save_run(result, name, metrics={"dataset": "x"}, evaluation=evaluate(result, split))
"""


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    """In processes of their own, for what is random is so once a process."""
    for names in (("a", "b", "c"), ("d", "e", "f")):
        subprocess.run(
            [sys.executable, "-c", WRITES, *names],
            cwd=tmp_path,
            check=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
    trees = [_tree(tmp_path / name) for name in "abcdef"]
    assert len(trees[0]) == 8
    for name in trees[0]:
        if name != Path("metrics.json"):
            assert len({tree[name] for tree in trees}) == 1, name


def _result(**changes):
    fields = {
        "params": {"kernel": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)},
        "feature_shape": (2,),
        "feature_scale": 1.0,
        "class_names": ("a", "b"),
        "config": TrainConfig(),
        "history": ({"epoch": 1, "train_loss": 1.0},),
    }
    return FitResult(**(fields | changes))


COMPLEX = {"kernel": np.ones((2, 2), complex), "bias": np.zeros(2, np.float32)}
OBJECTS = {"kernel": np.full((2, 2), None), "bias": np.zeros(2, np.float32)}
NAN = {"kernel": np.full((2, 2), np.nan, np.float32), "bias": np.zeros(2, np.float32)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"params": NAN}, "kernel: expected finite numbers"),
        ({"params": COMPLEX}, "complex128"),
        ({"params": OBJECTS}, "object"),
        ({"feature_scale": 0.0}, "feature_scale: expected a finite number above 0, got 0.0"),
        ({"class_names": ("a", "a")}, "expected distinct names, got 'a' twice"),
        ({"class_names": (10, 20)}, r"class_names: expected strings, got \[10, 20\]"),
        ({"class_names": (np.int64(1), np.int64(2))}, "the result cannot be written .*int64"),
        ({"history": ({"epoch": 1, "train_loss": np.float32(1)},)}, "cannot be written .*float32"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(changes, words, tmp_path):
    with pytest.raises(InputError, match=f"the result cannot be written.*{words}|{words}"):
        save_run(_result(**changes), tmp_path / "run")
    assert _tree(tmp_path) == {}


@pytest.mark.parametrize("value", [np.float32(1), object(), b"bytes", {1, 2}])
def test_metrics_that_json_does_not_know(value, tmp_path):
    with pytest.raises(InputError, match="the result cannot be written .*not JSON serializable"):
        save_run(_result(), tmp_path / "run", metrics={"test_loss": value})
    assert _tree(tmp_path) == {}


def test_metrics_do_not_take_the_names_of_the_digests(tmp_path):
    save_run(_result(), tmp_path / "run", metrics={"sha256": "mine", "model_sha256": 3})
    assert load_run(tmp_path / "run").class_names == ("a", "b")


def test_a_class_name_may_look_like_a_digest(tmp_path):
    names = ("0" * 64, "f" * 64)
    save_run(_result(class_names=names), tmp_path / "run")
    assert load_run(tmp_path / "run").class_names == names


def test_names_of_any_letters(tmp_path):
    names = ("Ünï", "猫\n\0\ud800")
    save_run(_result(class_names=names), tmp_path / "ü猫")
    assert load_run(tmp_path / "ü猫").class_names == names


def test_fit_and_save_from_python_leave_signals_alone(table, tmp_path):
    import signal

    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    save_run(fit(table, TrainConfig(epochs=1)), tmp_path / "run")
    after = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert after == before


def test_a_run_that_may_not_be_replaced_is_refused_before_training(
    table_result, tmp_path, monkeypatch
):
    run = save_run(table_result, tmp_path / "run")
    before = _tree(tmp_path)
    # As for a user who is not root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != run)
    with pytest.raises(InputError, match="cannot be replaced, for it may not be written to"):
        check_run_dir(run, overwrite=True)
    assert _tree(tmp_path) == before
