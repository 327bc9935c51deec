"""`jax-softmax train --distributed`: joins the processes that train together."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jax_softmax.cli.stopping import signals
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    from jax_softmax.cli.train import Train

# JAX ends a process whose peers it has not heard of for so long: later than the step's own limit,
# which says more.
_HEARTBEAT = 50
# How long processes wait for all to have started.
_JOIN = 300
_WHERE = "SLURM, Open MPI, TPU pods and Kubernetes"


@contextlib.contextmanager
def joined(command: Train) -> Iterator[None]:
    """Inside, this process is one of those that train together, where the flags say so.

    The first alone prints. What a process must not do alone it is told by `training.processes`.

    Raises:
      InputError: if the flags do not fit together, or the others do not come.
    """
    given = _given(command)
    if given is None:
        yield
        return
    import jax

    with signals.kept(), _expected(given):
        try:
            jax.distributed.initialize(
                **given,
                heartbeat_timeout_seconds=_HEARTBEAT,
                # Later than `_expected`, for JAX ends the process then with a stack of its own.
                initialization_timeout=2 * _JOIN,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(_failed(error)) from error
    signals.check()
    with contextlib.ExitStack() as stack:
        if jax.process_index() > 0:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield


def _given(command: Train) -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize`; None for one process."""
    named = {
        "coordinator": command.coordinator,
        "processes": command.processes,
        "process-id": command.process_id,
    }
    missing = [f"--{name}" for name, value in named.items() if value is None]
    if len(missing) == len(named):
        return {} if command.distributed else None
    if missing:
        raise InputError(
            f"{', '.join(missing)}: expected all of --coordinator HOST:PORT, --processes N and "
            f"--process-id I, got only some; or leave them out where {_WHERE} start the processes."
        )
    host, colon, port = str(command.coordinator).rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise InputError(
            f"--coordinator: expected HOST:PORT of process 0, such as node1:8476, got "
            f"{command.coordinator!r}."
        )
    count, index = command.processes, command.process_id
    assert count is not None and index is not None
    if count < 1 or not 0 <= index < count:
        raise InputError(
            f"--process-id: expected a number from 0 to {max(count, 1) - 1}, one less than "
            f"--processes, got {index} of {count} processes."
        )
    return {
        "coordinator_address": command.coordinator,
        "num_processes": count,
        "process_id": index,
    }


@contextlib.contextmanager
def _expected(given: dict[str, Any]) -> Iterator[None]:
    """Ends this process where the others do not come: JAX's waiting cannot be interrupted."""

    def end() -> None:
        where = given.get("coordinator_address", "the coordinator")
        sys.stderr.write(
            f"jax-softmax: waited {_JOIN:g} s at {where}: expected all processes to start, but not "
            f"all did; look at the others' output, and see that they reach that address.\n"
        )
        sys.stderr.flush()
        os._exit(2)

    timer = threading.Timer(_JOIN, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _failed(error: Exception) -> str:
    words = str(error).partition("\n")[0].rstrip(".")
    return (
        f"--distributed: expected {_WHERE}, whose environment says where the processes are, got "
        f"none ({words}); give --coordinator HOST:PORT, --processes N and --process-id I to each."
    )
