"""SIGINT, SIGTERM and SIGHUP: a command stops where nothing is lost by it, and says so."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class StoppedError(KeyboardInterrupt):
    """A signal has stopped the command; the message says which, and what was lost."""


class Signals:
    """What signals a command was sent.

    Raised where they come, as Ctrl-C is in Python, they may be swallowed: JAX is called by Python's
    garbage collector, which drops exceptions. And they may tear what is being written. So the first
    one is kept in `received` for `check`, and inside `deferred` that is all.

    A second Ctrl-C ends the process at once, even inside a call of compiled code, where Python
    handles no signal: the bytes that the system's own handler writes are read by a thread.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._waits = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Takes the signals, but those that are ignored (nohup), and gives them back at the end."""
        self.received, self._waits = None, False
        if threading.current_thread() is not threading.main_thread():
            yield  # Python handles signals in the main thread only
            return
        before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
        mine = [n for n, handler in before.items() if handler not in (signal.SIG_IGN, None)]
        with _watched(mine), _swallowed_quietly():
            for number in mine:
                signal.signal(number, self._receive)
            try:
                yield
            finally:
                for number in mine:
                    signal.signal(number, before[number])

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal stops the command at a `check` only."""
        self.check()
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Takes the signals back that are given to others inside; JAX takes SIGTERM."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)

    def check(self, words: str | Callable[[], str] = "") -> None:
        """Raises StoppedError if a signal came; `words` say what became of the work."""
        if self.received is not None:
            said = words if isinstance(words, str) else words()
            raise StoppedError(f"stopped by {self.received.name}{said and f' {said}'}.")

    def end(self) -> None:
        """Signals raise no more: the command is on its way out."""
        self._waits = True

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        if not self._waits:
            raise StoppedError(
                "interrupted." if number == signal.SIGINT else f"stopped by {self.received.name}."
            )


@contextlib.contextmanager
def _watched(numbers: list[int]) -> Iterator[None]:
    """Ends the process at the SIGINT that follows another signal."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    watcher = threading.Thread(target=_watch, args=(reads, numbers), name="signals", daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writes, b"\0")  # the watcher's end; a child process may hold the pipe open
        watcher.join()
        os.close(writes)
        os.close(reads)


@contextlib.contextmanager
def _swallowed_quietly() -> Iterator[None]:
    """Says nothing of a StoppedError that is dropped, in a callback or a `__del__`: it is kept."""
    hook = sys.unraisablehook

    def quiet(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, StoppedError):
            hook(unraisable)

    sys.unraisablehook = quiet
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _watch(reads: int, numbers: list[int]) -> None:
    came = False
    while number := os.read(reads, 1)[0]:
        if came and number == signal.SIGINT:
            os._exit(128 + signal.SIGINT)
        came = came or number in numbers


signals = Signals()
