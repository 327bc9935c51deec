"""`jax-softmax train DATASET --resume RUN`: finishes a training that was stopped or killed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_softmax.cli.measured import split_digest
from jax_softmax.cli.options import mesh_given
from jax_softmax.cli.stopping import signals
from jax_softmax.cli.tables import with_flags
from jax_softmax.cli.training import Prepared, Training, write_json
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    from jax_softmax.cli.train import Train
    from jax_softmax.datasets import Dataset
    from jax_softmax.datasets.load_stream import Streams
    from jax_softmax.training import FitResult, TrainConfig
    from jax_softmax.training.config import LbfgsConfig
    from jax_softmax.training.unfinished import Unfinished

# What metrics.json has beside the record of --json.
_OF_THE_FOLDER = ("versions", "sha256", "model_sha256")


def resume(command: Train, run_dir: Path, stack: contextlib.ExitStack) -> Prepared | None:
    """The training to go on with; None, and the run is named, if it is done.

    Raises:
      InputError: if there is nothing to go on with, or flags or data are not those of the start.
    """
    from jax_softmax.training import atomic, unfinished
    from jax_softmax.training.runs import check_run_dir, path_of

    for flag, value in (("--overwrite", command.overwrite), ("--run-dir", command.run_dir)):
        if value:
            raise InputError(
                f"{flag}: expected no such flag beside --resume, for the run is written to "
                f"{run_dir} as it was asked for at the start; leave it out."
            )
    run = path_of(run_dir)
    if run.name in ("", ".."):  # beside which nothing can be
        _finished(command, run_dir)
        return None
    atomic.sweep(run.parent)
    kept = stack.enter_context(unfinished.found(run))
    if kept is None:
        _finished(command, run_dir)
        return None
    _check_agrees(command, run_dir, kept.config, kept.data["dataset"])
    if _is_run(run):
        if _came_of(run, kept):  # killed between saving it and removing this
            kept.remove()
            _finished(command, run_dir)
            return None
        if not kept.overwrite:
            raise InputError(
                f"--resume {run_dir}: another run has that name meanwhile, which is not replaced; "
                f"move it away, or remove {kept.folder} to give this training up."
            )
    place = check_run_dir(run_dir, overwrite=True)
    place = dataclasses.replace(place, overwrite=kept.overwrite)
    config = _with_mesh(command, kept.config)
    command, dataset = same_data(command, kept)
    stack.enter_context(signals.deferred())
    return Training(command, dataset, config, place), kept


def _finished(command: Train, run_dir: Path) -> None:
    """Says that the run is there."""
    from jax_softmax.training.runs import read_run

    if not _is_run(run_dir):
        raise InputError(
            f"--resume {run_dir}: expected a run, or the run-to-be of a training that was started "
            f"with --checkpoint-every, got neither; give the --run-dir of one, or train without "
            f"--resume."
        )
    result, metrics = read_run(run_dir)
    _check_agrees(command, run_dir, result.config, metrics.get("dataset"))
    record = {name: value for name, value in metrics.items() if name not in _OF_THE_FOLDER}
    write_json(command, record, run_dir)
    print(f"{run_dir} is finished: {result.config.turn} {len(result.history):,} was its last.")


def names_of(command: Train) -> tuple[str, str]:
    """What the dataset of a command may be called: a name, or the path of files."""
    return command.dataset.strip().lower(), str(Path(command.dataset).expanduser().absolute())


def _check_agrees(
    command: Train, run_dir: Path, config: TrainConfig | LbfgsConfig, dataset: object
) -> None:
    """Raises InputError unless flags say what the training was started with, the mesh aside."""
    if dataset not in names_of(command):
        raise InputError(
            f"--resume {run_dir}: expected {dataset}, which it was started on, got "
            f"{command.dataset}."
        )
    settings = command.given_settings()
    settings.pop("mesh", None)
    for name, value in settings.items():
        started = getattr(config, name, None)  # an optimum has not all of them
        if value != started:
            flag, was = f"--{name.replace('_', '-')}", "none" if started is None else started
            raise InputError(
                f"{flag}: expected {was}, with which the training of {run_dir} was started, got "
                f"{'none' if value is None else value}; leave it out, or train without --resume."
            )


def _with_mesh(command: Train, config: TrainConfig) -> TrainConfig:
    """The settings with the devices to go on with: of `--mesh`, or those of the start."""
    from jax_softmax.training.mesh import mesh_of

    if command.mesh is not None:
        return dataclasses.replace(config, mesh=mesh_given(command.mesh))
    try:
        mesh_of(config.mesh)
    except InputError as error:
        raise InputError(
            f"{error}\nThe training was started with that; give --mesh with the devices that it is "
            f"to go on with (the result is the same to rounding)."
        ) from error
    return config


def _is_run(path: Path) -> bool:
    from jax_softmax.training.run_files import MODEL

    return (path / MODEL).exists()


def _came_of(run: Path, kept: Unfinished) -> bool:
    """Whether a run is what the training ends with: same settings, same data, so same bits."""
    from jax_softmax.training.runs import read_run

    found: tuple[FitResult, dict[str, Any]]
    try:
        found = read_run(run)
    except InputError:
        return False
    digests = ("train_sha256", "test_sha256")
    same_data = all(found[1].get(name) == kept.data[name] for name in digests)
    configs = (dataclasses.replace(c, mesh=None) for c in (found[0].config, kept.config))
    return same_data and next(configs) == next(configs)


def same_data(command: Train, kept: Unfinished) -> tuple[Train, Dataset | Streams]:
    """The data that the training was started on, and the command with the folders they are in."""
    data, seed = kept.data, kept.config.seed
    if command.raw_dir is command.data_dir is None:
        raw_dir, data_dir = (Path(data[n]) if n in data else None for n in ("raw_dir", "data_dir"))
        command = dataclasses.replace(command, raw_dir=raw_dir, data_dir=data_dir)
    if data.get("stream"):
        command = _streamed(command, data)
    if data.get("table"):
        command = with_flags(command, data)
    elsewhere = "give --raw-dir or --data-dir if they are elsewhere now"
    if data.get("table"):
        elsewhere = "the file, --test and the flags that read them must be those of the start"
    try:
        with _surroundings(data["environment"]):
            dataset = command.load(seed, command.raw_dir, command.data_dir)
    except InputError as error:
        raise InputError(
            f"{error}\nThe training was started on {data['source']}; {elsewhere}."
        ) from error
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        if split_digest(split) != data[f"{name}_sha256"]:
            raise InputError(
                f"--resume: expected the {name} examples that the training was started on "
                f"({data['source']}), got others ({dataset.source}); {elsewhere}, or start anew."
            )
    return command, dataset


def _streamed(command: Train, data: Mapping[str, Any]) -> Train:
    """The command with the flags by which the stream was opened, where it has none of its own."""
    kept: dict[str, Any] = {
        name: kind(data[name])
        for name, kind in (("label", str), ("test", Path), ("feature_scale", float))
        if name in data and getattr(command, name) is None
    }
    return dataclasses.replace(command, stream=True, **kept)


@contextlib.contextmanager
def _surroundings(variables: Mapping[str, str]) -> Iterator[None]:
    """The variables as they were at the start, where they are not set now."""
    missing = {name: value for name, value in variables.items() if not os.environ.get(name)}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
