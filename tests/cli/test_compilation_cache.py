"""Compiled programs are kept where the user keeps caches, unless told otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from jax_softmax.cli.compilation_cache import use_compilation_cache

FOLDER = "JAX_COMPILATION_CACHE_DIR"
LEAST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


@pytest.fixture(autouse=True)
def fresh_environment(monkeypatch, tmp_path):
    for name in (FOLDER, LEAST):
        # Set first, so that what the function sets is undone too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_users_cache_folder_is_made_and_named_to_jax(tmp_path):
    use_compilation_cache()
    assert os.environ[FOLDER] == str(tmp_path / "cache" / "jax_softmax" / "compiled")
    assert os.path.isdir(os.environ[FOLDER])
    assert os.environ[LEAST] == "0"


def test_a_folder_that_jax_was_told_of_stays(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER, "elsewhere")
    use_compilation_cache()
    assert os.environ[FOLDER] == "elsewhere"
    assert os.environ[LEAST] == "0"  # or it would keep next to nothing of a small run
    assert not (tmp_path / "cache").exists()


def test_what_jax_was_told_to_keep_stays(monkeypatch):
    monkeypatch.setenv(LEAST, "5")
    use_compilation_cache()
    assert os.environ[LEAST] == "5"


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    use_compilation_cache()
    assert FOLDER not in os.environ


def exchange(first, second):
    third = first.with_name("third")
    first.rename(third)
    second.rename(first)
    third.rename(second)


@pytest.fixture
def kept(tmp_path):
    """Two programs of the cache, seen once."""
    use_compilation_cache()
    folder = tmp_path / "cache" / "jax_softmax" / "compiled"
    paths = [folder / f"jit_{name}-cache" for name in ("a", "b")]
    for path in paths:
        path.write_bytes(path.name.encode())
    os.environ.pop(FOLDER)
    use_compilation_cache()
    os.environ.pop(FOLDER)
    return paths


def test_programs_stay(kept):
    use_compilation_cache()
    assert all(path.read_bytes() == path.name.encode() for path in kept)


def test_programs_exchanged_with_each_other_are_dropped(kept):
    exchange(*kept)
    use_compilation_cache()
    assert not any(path.exists() for path in kept)
    assert os.environ[FOLDER] == str(kept[0].parent)


def test_a_program_copied_over_another_is_dropped(kept):
    kept[0].write_bytes(kept[1].read_bytes() + b"longer")
    use_compilation_cache()
    assert [path.exists() for path in kept] == [False, True]


@pytest.mark.parametrize("text", ["", "[1, 2]", '"a"', "{", "null"])
def test_an_index_that_cannot_be_read_is_made_anew(text, kept):
    kept[0].parent.with_name("compiled.json").write_text(text)
    use_compilation_cache()
    os.environ.pop(FOLDER)
    exchange(*kept)
    use_compilation_cache()
    assert not any(path.exists() for path in kept)


@pytest.mark.slow
def test_a_command_trains_though_its_programs_were_exchanged(tmp_path):
    command = [sys.executable, "-m", "jax_softmax", "train", "iris", "--epochs", "2", "--overwrite"]

    def train():
        done = subprocess.run(
            [*command, "--run-dir", "run"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    train()
    train()
    programs = sorted((tmp_path / "cache" / "jax_softmax" / "compiled").glob("jit_*-cache"))
    exchange(programs[0], programs[-1])
    train()


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "kept"), [((), True), (("--no-compilation-cache",), False)])
def test_a_command_keeps_its_programs_unless_told_not_to(flag, kept, tmp_path):
    command = [sys.executable, "-m", "jax_softmax", "train", "iris", "--epochs", "2", *flag]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    folder = tmp_path / "cache" / "jax_softmax" / "compiled"
    assert (folder.is_dir() and any(folder.iterdir())) == kept
