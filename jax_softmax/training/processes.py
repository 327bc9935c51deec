"""Several processes that train together (`jax.distributed`): what they tell one another.

Every process runs the same program over its own devices, and each function here that says so must
be called by all of them in the same order. With one process they cost nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from jax_softmax._checks import is_finite, require
from jax_softmax.errors import CheckpointError, InputError, LostProcessError

T = TypeVar("T")

# Compiling takes its time, and not on every process the same.
_FIRST_STEPS = 20.0
# Of what is waited for now.
_alarms: list[_Alarm] = []
# The kinds of error that one process tells to the others.
_KINDS: dict[str, type[InputError]] = {"CheckpointError": CheckpointError}


@dataclasses.dataclass(frozen=True)
class Watchdog:
    """What is done where a process waits too long for another, which is then dead or stuck.

    What waits cannot be interrupted: the process can only be ended.

    Attributes:
      seconds: how long it may wait, on top of twice the longest call of that kind so far. Counted
        anew with each piece of a stream, and each block of an evaluation, that is done.
      end: is called in a thread with a message, and ends the process.
      say: is called so with a message before that, where the first call, in which others may still
        be loading, takes as long as later ones may not; None says nothing.

    Raises:
      InputError: if the seconds are no positive number.
    """

    seconds: float
    end: Callable[[str], object]
    say: Callable[[str], object] | None = None

    def __post_init__(self) -> None:
        require(
            is_finite(self.seconds) and self.seconds > 0,
            "step timeout: expected a positive number of seconds",
            self.seconds,
        )


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def on_host(array: Any) -> np.ndarray:
    """An array's numbers, wherever they are. Called by all processes."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    whole: np.ndarray = multihost_utils.process_allgather(array, tiled=True)
    return whole


def told_by_first(f: Callable[[], T]) -> T:
    """What `f` gives in the first process, or the InputError that it raises there, in all.

    Called by all processes.

    Args:
      f: gives what JSON can say.

    Raises:
      LostProcessError: in the others, if `f` raises anything else in the first.
    """
    if count() == 1:
        return f()
    said: dict[str, Any] = {}
    if is_first():
        try:
            said = {"value": f()}
        except BaseException as error:  # of any kind, for the others wait
            mistake = isinstance(error, InputError)
            said = {"kind": type(error).__name__, "message": str(error), "mistake": mistake}
            _broadcast(json.dumps(said).encode())
            raise
    said = json.loads(_broadcast(json.dumps(said).encode()))
    if "message" in said:
        kind, message = said["kind"], said["message"]
        if not said["mistake"]:
            raise LostProcessError(_lost(f"process 0 stopped ({kind}: {message})"))
        raise _KINDS.get(kind, InputError)(f"process 0: {message}")
    value: T = said["value"]
    return value


def arrays_of_first(arrays: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """The first process's arrays, in all. Called by all processes, the others with None."""
    shapes = told_by_first(
        lambda: {name: [x.dtype.name, *x.shape] for name, x in (arrays or {}).items()}
    )
    if count() == 1:
        return dict(arrays or {})
    from jax.experimental import multihost_utils

    found = {}
    for name, (dtype, *shape) in shapes.items():
        # As bytes, for JAX would cut 64-bit numbers.
        own = np.zeros(shape, dtype) if arrays is None else np.ascontiguousarray(arrays[name])
        sent = multihost_utils.broadcast_one_to_all(own.reshape(-1).view(np.uint8))
        found[name] = np.asarray(sent).view(dtype).reshape(shape)
    return found


def together(f: Callable[[], T]) -> T:
    """What `f` gives in each process; if it raises in one, all raise. Called by all."""
    if count() == 1:
        return f()
    failure: BaseException | None = None
    try:
        value = f()
    except BaseException as error:  # of any kind, for the others wait
        failure = error
    failed = [i for i, x in enumerate(_gathered(np.int32(failure is not None))) if x]
    if failure is not None:
        raise failure
    if failed:
        raise InputError(
            f"process {failed[0]} of {count()} cannot train with the others; its own output says "
            f"why."
        )
    return value


def check_same(what: str, value: Any) -> None:
    """Raises InputError unless all processes have the same of what JSON can say. Called by all."""
    if count() == 1:
        return
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    found = _gathered(np.frombuffer(digest, np.uint8))
    others = [i for i, x in enumerate(found) if not np.array_equal(x, found[0])]
    if others:
        raise InputError(
            f"{what}: expected the same in all {count()} processes, got other ones in process "
            f"{others[0]} than in process 0; start all of them with the same arguments and data."
        )


def largest_of(number: int) -> int:
    """The largest of the numbers that all processes have. Called by all."""
    return number if count() == 1 else int(np.max(_gathered(np.int32(number))))


@contextlib.contextmanager
def watched(
    watchdog: Watchdog | None, what: str, *, first: bool = False, usual: float = 0.0
) -> Iterator[None]:
    """Minds, where there are several processes, that one of them may be lost meanwhile.

    Args:
      watchdog: what to do if it takes too long; None waits for ever.
      what: what is waited for, in the message.
      first: whether it is done the first time, or programs are compiled: which takes its time.
      usual: how long it took before, which it may take twice.

    Raises:
      LostProcessError: if what is done failed for want of another process.
    """
    if count() == 1:
        yield
        return
    with contextlib.ExitStack() as stack:
        if watchdog is not None:
            limit = watchdog.seconds * (_FIRST_STEPS if first else 1) + 2 * usual
            _alarm(stack, limit, watchdog.end, _lost(f"waited {limit:.3g} s for {what}"))
            if first and watchdog.say is not None:
                words = f"has waited {watchdog.seconds:.3g} s for {what}, and waits on, for it is"
                _alarm(stack, watchdog.seconds, watchdog.say, f"{words} the first time.")
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            words = str(error).partition("\n")[0]
            raise LostProcessError(_lost(f"{what} failed ({words})")) from error


class Watch:
    """`watched` for what is done again and again; each kind of it has its usual time."""

    def __init__(self, watchdog: Watchdog | None) -> None:
        self._watchdog = watchdog
        self._usual: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, what: str, kind: str | None = None) -> Iterator[None]:
        """Minds what is done inside.

        Args:
          what: what is waited for, in the message.
          kind: of it, if it is done more than once.
        """
        kind = what if kind is None else kind
        usual = self._usual.get(kind)
        started = time.monotonic()
        with watched(self._watchdog, what, first=usual is None, usual=usual or 0.0):
            yield
        self._usual[kind] = max(usual or 0.0, time.monotonic() - started)


def _alarm(
    stack: contextlib.ExitStack, seconds: float, f: Callable[[str], object], words: str
) -> None:
    """Calls `f` after so many seconds, unless the stack is left before."""
    alarm = _Alarm(seconds, f, words)
    _alarms.append(alarm)
    stack.callback(_alarms.remove, alarm)
    stack.callback(alarm.stop)


def progressed() -> None:
    """Something that is waited for goes on: it is waited for anew."""
    for alarm in _alarms:
        alarm.restart()


class _Alarm:
    """Calls a function with some words after so many seconds."""

    def __init__(self, seconds: float, function: Callable[[str], object], words: str) -> None:
        self._given = seconds, function, [words]
        self._start()

    def _start(self) -> None:
        self._timer = threading.Timer(*self._given)
        self._timer.daemon = True
        self._timer.start()

    def restart(self) -> None:
        self.stop()
        self._start()

    def stop(self) -> None:
        self._timer.cancel()


def _lost(what: str) -> str:
    return (
        f"{what}: another of the {count()} processes has died or is stuck, and this one, number "
        f"{jax.process_index()}, cannot go on without it; look at the others' output, and go on "
        f"from the last checkpoint, if there is one."
    )


def _gathered(value: np.ndarray | np.generic) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


def _broadcast(data: bytes) -> bytes:
    """The first process's bytes."""
    from jax.experimental import multihost_utils

    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    sent = np.zeros(length, np.uint8)
    if is_first():
        sent[:] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes()
