"""Folders that are there under their name whole, or not at all, whatever happens meanwhile.

What is being written lies in a work folder beside its place. Its writer holds a lock on a file in
it, and the system gives the lock back when the process ends, however it ends. So a work folder
whose lock is free is a dead process's, and is removed by who writes there next.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no locks, and nothing of others is removed
    fcntl = None  # type: ignore[assignment]

# The machine is part of the name: a file system may be shared, and its locks may not be.
_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_PREFIX = f".jax_softmax-{_MACHINE}-"
_WORK = re.compile(r"\.jax_softmax-([0-9a-f]{8})-[a-z0-9_]{8}")
_LOCK, _OLD, _JOURNAL = "lock", "old", "journal"
NEW = "new"
# How old a work folder of another machine is before its lock is believed to be free.
_SECONDS_OF_OTHERS = 24 * 3600

_AT_FDCWD, _NO_REPLACE, _EXCHANGE = -100, 1, 2
_NOT_ABLE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}
# Of folders that cannot be synced, on Windows and on some network file systems.
_NOT_SYNCED = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}


@contextlib.contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A folder in `parent` to write in, locked while this process lives; then removed.

    Yields:
      The path of the folder to make: nothing is there yet.
    """
    sweep(parent)
    work, lock = _locked_folder(parent)
    try:
        yield work / NEW
    finally:
        _remove(work)
        os.close(lock)


def longest_work_path(parent: Path, name: str) -> Path:
    """The path of a file called `name` while it is written: its length may be too much."""
    return parent / (_PREFIX + 8 * "x") / NEW / name


def put_new(new: Path, target: Path) -> None:
    """Gives a folder the name `target` in one step.

    Raises:
      FileExistsError: something has that name, be it an empty folder.
    """
    try:
        _rename(new, target, _NO_REPLACE)
    except OSError as error:
        if error.errno not in _NOT_ABLE:
            raise
        _claim_and_rename(new, target)
    _sync_names(new, target)


def put_new_file(new: Path, target: Path) -> None:
    """Gives a file the name `target` in one step.

    Raises:
      FileExistsError: something has that name.
    """
    try:
        _rename(new, target, _NO_REPLACE)
    except OSError as error:
        if error.errno not in _NOT_ABLE:
            raise
        os.link(new, target)  # never replaces; the other name goes with its folder


def put_in_empty(new: Path, target: Path) -> None:
    """Gives a folder the name of an empty one, in one step.

    Raises:
      OSError: the other is not empty, or no folder.
    """
    os.rename(new, target)
    _sync_names(new, target)


def replace(new: Path, target: Path, check: Callable[[Path], None]) -> None:
    """Gives a folder the name `target`, whatever has it, and takes what had it to `new`.

    Args:
      new: in a work folder.
      target: where something may be, or nothing.
      check: raises if what was replaced must not be; then it is put back.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            put_new(new, target)
            return
        try:
            _exchange(new, target)
        except FileNotFoundError:  # gone meanwhile
            continue
        try:
            check(new)
        except BaseException:
            _exchange(new, target)
            raise
        _sync_names(new, target)
        return


def sync(path: Path) -> None:
    """Has the disk hold a file, or the names in a folder."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise


def sync_folder(folder: Path) -> None:
    """Has the disk hold a folder's files and their names, and those of folders in it."""
    for path in folder.iterdir():
        if path.is_dir():
            sync_folder(path)
        else:
            sync(path)
    sync(folder)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds the lock of a file, which is made if need be, while this process lives.

    Yields:
      Whether the lock was free, or there are no locks.

    Raises:
      FileNotFoundError: there is no such folder, or the file was removed meanwhile.
    """
    lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        free = _take(lock, otherwise=True)
        if free and not os.path.samestat(os.fstat(lock), path.stat()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield free
    finally:
        os.close(lock)


def sweep(parent: Path, *, wait_for: str | None = None) -> None:
    """Removes work folders of dead processes, and completes what one of them was replacing.

    Args:
      parent: the folder to look in.
      wait_for: a name in it that a living process may be about to give.
    """
    try:
        paths = [Path(entry) for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for work in paths:
        match = _WORK.fullmatch(work.name)
        with contextlib.suppress(OSError):
            if match and (match[1] == _MACHINE or _is_old(work)):
                _sweep(work, wait_for)


def _sweep(work: Path, wait_for: str | None) -> None:
    try:
        lock = os.open(work / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        work.rmdir()  # its process died before it made the lock, or will take another
        return
    try:
        name = _name_being_replaced(work)
        if _take(lock, otherwise=False, wait=name is not None and name == wait_for):
            if name is not None and (work / NEW).is_dir():
                with contextlib.suppress(FileExistsError):
                    put_new(work / NEW, work.parent / name)
            _remove(work)
    finally:
        os.close(lock)


def _remove(work: Path) -> None:
    """Removes a work folder, its lock last: without one what is left would never be removed."""
    for name in (NEW, _OLD):
        shutil.rmtree(work / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        for name in (_JOURNAL, _LOCK):
            (work / name).unlink(missing_ok=True)
        work.rmdir()


def _name_being_replaced(work: Path) -> str | None:
    try:
        name = os.fsdecode((work / _JOURNAL).read_bytes())
    except FileNotFoundError:
        return None
    return name if name == os.path.basename(name) and name not in ("", ".", "..") else None


def _is_old(work: Path) -> bool:
    return time.time() - work.stat().st_mtime > _SECONDS_OF_OTHERS


def _locked_folder(parent: Path) -> tuple[Path, int]:
    while True:
        work = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            lock = os.open(work / _LOCK, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        except FileNotFoundError:  # swept as an empty one
            continue
        except BaseException:
            work.rmdir()
            raise
        # Or swept before the lock was taken.
        if _take(lock, otherwise=True) and (work / _LOCK).exists():
            return work, lock
        os.close(lock)


def _take(lock: int, *, otherwise: bool, wait: bool = False) -> bool:
    """Whether the lock was free and is taken now; `otherwise` where there are no locks."""
    if fcntl is None:
        return otherwise
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return otherwise
    return True


def _exchange(new: Path, target: Path) -> None:
    """Swaps two folders in one step, or, where the system cannot, in steps `sweep` completes."""
    try:
        _rename(new, target, _EXCHANGE)
        return
    except OSError as error:
        if error.errno not in _NOT_ABLE:
            raise
    old, journal = new.with_name(_OLD), new.with_name(_JOURNAL)
    journal.write_bytes(os.fsencode(target.name))
    sync_folder(new.parent)
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    journal.unlink()
    old.rename(new)


def _claim_and_rename(new: Path, target: Path) -> None:
    """As RENAME_NOREPLACE: a folder made here is the only one that is replaced."""
    if os.name == "nt":  # never replaces
        os.rename(new, target)
        return
    target.mkdir()
    try:
        os.rename(new, target)
    except BaseException:
        with contextlib.suppress(OSError):
            target.rmdir()
        raise


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _rename(old: Path, new: Path, flags: int) -> None:
    """Linux's `renameat2`."""
    call = None if os.name == "nt" else getattr(_libc(), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(old), None, str(new))


def _sync_names(new: Path, target: Path) -> None:
    sync(target.parent)
    sync(new.parent)
