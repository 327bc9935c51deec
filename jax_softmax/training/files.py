"""A file that a person asked for: written whole or not at all, over nothing unless that is said."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from jax_softmax.errors import InputError
from jax_softmax.training import atomic


def check_file(path: Path, *, overwrite: bool | Callable[[Path], bool], flag: str = "") -> None:
    """Asked before any work is done for a file.

    Args:
      path: the file's.
      overwrite: replace a file that is there; or says whether what it holds may be replaced.
      flag: which asked for it, for messages.

    Raises:
      InputError: if it cannot be written, or is there and may not be replaced.
    """
    called = f"{flag} {path}".strip()
    try:
        if _is_device(path):
            return
        target = Path(os.path.realpath(path))
        with contextlib.suppress(FileNotFoundError):
            target.lstat()  # a name that is too long is so, be it there or not
        folder = target.parent
        if target.is_dir() or not folder.is_dir():
            raise InputError(f"{called}: expected a file's path in a folder that is there.")
        if target.is_file() and callable(overwrite) and not overwrite(path):
            raise InputError(
                f"{called}: holds something else than such results, which would be lost; give "
                f"another path."
            )
        if target.is_file() and not overwrite:
            raise _exists(path)
    except (OSError, ValueError) as error:  # ValueError: a null character
        if isinstance(error, InputError):
            raise
        raise InputError(f"{called}: cannot be written ({error}).") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{called}: cannot be written, for {folder} cannot; give another path.")


def write_file(path: Path, data: bytes, *, overwrite: bool, flag: str = "") -> None:
    """Writes a file in one step, once the disk holds it; through a link, what it leads to.

    Args:
      path: the file's.
      data: all that it is to hold.
      overwrite: replace a file that is there.
      flag: which asked for it, for messages.

    Raises:
      InputError: as `check_file`.
    """
    called = f"{flag} {path}".strip()
    check_file(path, overwrite=overwrite, flag=flag)
    try:
        if _is_device(path):
            path.write_bytes(data)
            return
        target = Path(os.path.realpath(path))
        with atomic.work_folder(target.parent) as work:
            work.mkdir()
            new = work / "file"
            new.write_bytes(data)
            atomic.sync(new)
            if overwrite:
                os.replace(new, target)
            else:
                atomic.put_new_file(new, target)
            atomic.sync(target.parent)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise InputError(f"{called}: cannot be written ({error}).") from error


def _is_device(path: Path) -> bool:
    """Whether it is written to as it is, as a pipe or /dev/stdout, and never replaced.

    /dev/stdout may lead to a file, in which others write.
    """
    if path.absolute().parts[:2] == ("/", "dev"):
        return path.exists() and not path.is_dir()
    return path.exists() and not path.is_file() and not path.is_dir()


def _exists(path: Path) -> InputError:
    return InputError(
        f"{path}: is there already; give another path, or --overwrite (overwrite=True)."
    )
