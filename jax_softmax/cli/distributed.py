"""`jax-softmax train --distributed`: joins the processes that train together."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_softmax.cli.resume import names_of, same_data
from jax_softmax.cli.stopping import signals
from jax_softmax.cli.training import Prepared, Training, data_of
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    from jax_softmax.cli.train import Train
    from jax_softmax.training import TrainConfig
    from jax_softmax.training.processes import Watchdog

# How long a process waits for another in a step.
_STEP = 45.0
# JAX ends a process whose peers it has not heard of for so long: later than the step's own limit,
# which says more.
_HEARTBEAT = 50
# How long processes wait for all to have started, and when they say so.
_JOIN, _NOTICE = 300, 5
_WHERE = "SLURM, Open MPI, TPU pods and Kubernetes"


@contextlib.contextmanager
def joined(command: Train) -> Iterator[Watchdog | None]:
    """Inside, this process is one of several that train together; None if no flag says so.

    The first alone prints.

    Raises:
      InputError: if the flags do not fit together, or the others do not come.
    """
    given = _given(command)
    if given is None:
        if command.step_timeout is not None:
            raise InputError(
                "--step-timeout: expected --distributed or --coordinator to go with it, for one "
                "process waits for no other; leave it out."
            )
        yield None
        return
    import jax

    from jax_softmax.training.processes import Watchdog

    watchdog = Watchdog(_STEP if command.step_timeout is None else command.step_timeout, _end, _say)
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
        yield watchdog


def prepared_by_first(command: Train, prepare: Callable[[], Prepared | None]) -> Prepared | None:
    """What the first process prepares, told to the others, which load the same data.

    The first alone looks at run folders, and writes them.

    Raises:
      InputError: if the first cannot prepare it, or another has not the data.
    """
    from jax_softmax.training import processes

    found: list[Prepared] = []

    def plan() -> dict[str, Any] | None:
        prepared = prepare()
        if prepared is None:
            return None
        found.append(prepared)
        training, kept = prepared
        return {
            "config": dataclasses.asdict(training.config),
            "run_dir": str(training.place.given),
            "data": data_of(training.command, training.dataset),
            "kept": kept is not None,
        }

    said = processes.told_by_first(plan)
    if said is None:
        return None
    return processes.together(lambda: found[0] if found else _followed(command, said))


def _followed(command: Train, said: Mapping[str, Any]) -> Prepared:
    """The training that the first process told of, with this process's own data."""
    from jax_softmax.training import TrainConfig
    from jax_softmax.training.runs import Place
    from jax_softmax.training.unfinished import Unfinished, folder_of

    path, config = Path(said["run_dir"]), TrainConfig(**said["config"])
    _check_agrees(command, config, said["data"]["dataset"])
    # Its folder is the first process's to use.
    kept = Unfinished(folder_of(path), config, said["data"], overwrite=False)
    command, dataset = same_data(command, kept)
    place = Place(path, path, empty=False, overwrite=False)
    return Training(command, dataset, config, place), kept if said["kept"] else None


def _check_agrees(command: Train, config: TrainConfig, dataset: str) -> None:
    """Raises InputError unless this process was started to train as the first is."""
    alike = "start all processes with the same arguments"
    if dataset not in names_of(command):
        raise InputError(
            f"dataset: expected {dataset}, as process 0 has it, got {command.dataset}; {alike}."
        )
    resumed = command.resume is not None
    own = command.given_settings() if resumed else vars(command.settings())
    for name, value in own.items():
        theirs = getattr(config, name)
        if value != theirs:
            raise InputError(
                f"{name.replace('_', ' ')}: expected {theirs}, as process 0 has it, got {value}; "
                f"{alike}."
            )


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
    if command.distributed:
        raise InputError(
            f"--distributed: expected it where {_WHERE} say where the processes are, and beside it "
            f"no --coordinator, --processes and --process-id, which say so; leave one out."
        )
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
    assert count is not None
    assert index is not None
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
    where = given.get("coordinator_address", "the coordinator")
    words = (
        f"waited {_JOIN:g} s at {where}: expected all processes to start and reach that address, "
        f"with the same --processes and each with a --process-id of its own, but not all did; look "
        f"at the others' output."
    )
    notice = f"waiting at {where} for all processes to start, for {_JOIN:g} s at most ..."
    timers = [
        threading.Timer(_NOTICE, _say, [notice]),
        threading.Timer(_JOIN, _end, [words]),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _say(words: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"jax-softmax: {words}", file=sys.stderr, flush=True)


def _end(words: str) -> None:
    """Ends the process, whatever it waits for."""
    _say(words)
    os._exit(1)


def _failed(error: Exception) -> str:
    words = str(error).partition("\n")[0].rstrip(".")
    return (
        f"--distributed: expected {_WHERE}, whose environment says where the processes are, got "
        f"none ({words}); give --coordinator HOST:PORT, --processes N and --process-id I to each."
    )
