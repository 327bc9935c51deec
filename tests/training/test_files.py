"""Files that a person asked for: whole or not at all, over nothing unless that is said."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from jax_softmax import InputError
from jax_softmax.training import atomic
from jax_softmax.training.files import check_file, write_file


def test_a_file_is_there_whole(tmp_path):
    path = tmp_path / "page.html"
    write_file(path, b"some bytes", overwrite=False)
    assert path.read_bytes() == b"some bytes"
    assert os.listdir(tmp_path) == ["page.html"]


@pytest.mark.parametrize("renames", [True, False], ids=["rename", "no rename"])
def test_of_what_another_made_meanwhile_nothing_is_lost(renames, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    put = atomic.put_new_file

    def late(new, target):
        target.write_text("another's")
        put(new, target)

    def refuse(*_):
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr(atomic, "put_new_file", late)
    if not renames:
        monkeypatch.setattr(atomic, "_rename", refuse)
    with pytest.raises(InputError, match="page.html: is there already; give another path"):
        write_file(path, b"mine", overwrite=False)
    assert path.read_text() == "another's"
    assert os.listdir(tmp_path) == ["page.html"]
    write_file(path, b"mine", overwrite=True)
    assert path.read_bytes() == b"mine"


def test_where_the_system_cannot_rename_so_a_new_file_is_linked(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr(atomic, "_rename", refuse)
    write_file(tmp_path / "page.html", b"mine", overwrite=False)
    assert (tmp_path / "page.html").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_pipe_is_written_to(tmp_path):
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    write_file(path, b"mine", overwrite=False)
    reader.join()
    assert read == [b"mine"] and stat.S_ISFIFO(path.stat().st_mode)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"page.html: cannot be written \(.*No space left"):
        write_file(tmp_path / "page.html", b"mine", overwrite=False)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # nothing is forbidden to root
    with pytest.raises(InputError, match="cannot be written, for .* cannot; give another path"):
        check_file(tmp_path / "page.html", overwrite=False)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="no /dev/fd")
def test_standard_output_that_leads_to_a_file_is_written_to_and_not_replaced(tmp_path):
    with (tmp_path / "out").open("wb", buffering=0) as out:
        write_file(Path(f"/dev/fd/{out.fileno()}"), b"mine\n", overwrite=False)
        out.seek(0, os.SEEK_END)
        out.write(b"later\n")
    assert (tmp_path / "out").read_bytes() == b"mine\nlater\n"
