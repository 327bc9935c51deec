"""Compiled programs, kept from one process to the next."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def use_compilation_cache() -> None:
    """Has JAX, which is not imported yet, keep what it compiles in the user's cache folder.

    A folder that JAX is told of already is used, and so is what it is told to keep; a folder that
    cannot be made is done without.
    """
    # JAX keeps what took a second; a small run is many programs of a tenth.
    os.environ.setdefault(_LEAST_SECONDS, "0")
    if _FOLDER in os.environ:
        return
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no home
        folder = Path(base).expanduser() / "jax_softmax" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            _drop_exchanged(folder)
            os.environ[_FOLDER] = str(folder)


def _drop_exchanged(folder: Path) -> None:
    """Removes programs that lie under another's name, copied or moved there.

    JAX runs what it finds under a name: at best it fails. What a name stood for when it was first
    seen is kept in a file beside the folder.
    """
    index = folder.with_name(f"{folder.name}.json")
    try:
        known = dict(json.loads(index.read_text()))
    except (OSError, ValueError, TypeError):  # not there, or damaged: nothing is known
        known = {}
    seen = {}
    for path in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # removed by another process meanwhile
            stat = path.stat()
            seen[path.name] = [stat.st_ino, stat.st_size, stat.st_mtime_ns]
            if known.get(path.name, seen[path.name]) != seen[path.name]:
                path.unlink()
                del seen[path.name]
    if seen != known:
        handle, name = tempfile.mkstemp(dir=index.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(seen, file)
        os.replace(name, index)


def use_no_compilation_cache() -> None:
    """Has JAX, which is not imported yet, neither read nor keep compiled programs."""
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
