"""`jax-softmax train DATASET`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jax_softmax.cli import tables
from jax_softmax.cli.arguments import (
    number,
    one_of,
    share_or_count,
    whole_number,
    whole_number_or_none,
)
from jax_softmax.cli.distributed import joined, prepared_by_first
from jax_softmax.cli.options import DataOptions, Mesh, mesh_given, note
from jax_softmax.cli.resume import resume
from jax_softmax.cli.solver import LBFGS, check_solver, lbfgs_settings
from jax_softmax.cli.stopping import signals
from jax_softmax.cli.training import Prepared, Training, data_of, new_run_dir, resuming
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    from jax_softmax.datasets import Dataset
    from jax_softmax.datasets.load_stream import Streams
    from jax_softmax.training import TrainConfig
    from jax_softmax.training.config import LbfgsConfig

_TABLE = "tables"
# What suits a dataset where a flag says nothing. iris is the tutorial's own setting.
_SETTINGS: dict[str, dict[str, Any]] = {
    "iris": {"learning_rate": 0.1, "batch_size": None, "epochs": 1000},
    "mnist": {"learning_rate": 0.5, "batch_size": 128, "epochs": 20, "schedule": "cosine"},
    "digits": {"learning_rate": 0.5, "batch_size": 32, "epochs": 100, "schedule": "cosine"},
    _TABLE: {
        "learning_rate": 0.03,
        "momentum": 0.9,
        "batch_size": 32,
        "epochs": 100,
        "schedule": "cosine",
    },
}


_names_of_columns = tyro.conf.arg(metavar="NAME,NAME", help_behavior_hint="")


def _suits(metavar: str, setting: str, otherwise: str = "") -> Any:
    """Says in an option's help what each dataset takes where the option is not given."""
    taken = (f"{name} {values.get(setting) or otherwise}" for name, values in _SETTINGS.items())
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {', '.join(taken)})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(DataOptions):
    """Train a softmax classifier on a dataset and write a run folder."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """iris, mnist, digits; a table (.csv .tsv .parquet .arrow .npz .npy); or files to --stream."""
    stream: bool = False
    """Read the examples from files all the while: for data larger than memory."""
    label: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """The column of a table (with --stream of Parquet files) to predict; --target is the same."""
    test: Annotated[
        Path | None,
        tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: a fifth, by the seed)"),
    ] = None
    """A table, or files like those of --stream, to test on."""
    test_size: Annotated[
        str | None,
        tyro.conf.arg(metavar="SHARE|N", help_behavior_hint="(default: 0.2)"),
        share_or_count,
    ] = None
    """How much of a table to test on: a share, or a number of rows."""
    stratify: bool = False
    """Split each class of a table in the same proportion."""
    impute: Annotated[
        Literal["mean", "median", "most-frequent"] | None,
        tyro.conf.arg(metavar="mean|median|most-frequent", help_behavior_hint=""),
        one_of("mean", "median", "most-frequent"),
    ] = None
    """What to fill missing cells of numbers with; those of words get the most frequent word."""
    drop: Annotated[str | None, _names_of_columns] = None
    """Columns of a table to leave out."""
    categorical: Annotated[str | None, _names_of_columns] = None
    """Columns of a table whose numbers, or many words, are categories."""
    feature_scale: Annotated[
        float | None, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: 1)"), number
    ] = None
    """What --stream multiplies the features of files by, such as 0.00392157 for 8-bit pixels."""
    solver: Annotated[
        Literal["sgd", "lbfgs"] | None,
        tyro.conf.arg(metavar="sgd|lbfgs", help_behavior_hint="(default: sgd)"),
        one_of("sgd", "lbfgs"),
    ] = None
    """Train by mini-batch steps, or to the optimum of scikit-learn's LogisticRegression (lbfgs)."""
    C: Annotated[
        float | None, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: 1)"), number
    ] = None
    """With --solver lbfgs the inverse of the penalty's strength, inf for none."""
    tol: Annotated[
        float | None, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: 1e-4)"), number
    ] = None
    """With --solver lbfgs the largest element that the gradient may have at the end."""
    max_iter: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 1000)"), whole_number
    ] = None
    """With --solver lbfgs the most iterations."""
    epochs: Annotated[int | None, _suits("N", "epochs"), whole_number] = None
    """Passes over the training examples."""
    batch_size: Annotated[
        int | Literal["none"] | None, _suits("N|none", "batch_size", "none"), whole_number_or_none
    ] = None
    """Examples to a step, or "none" for all of them at once."""
    learning_rate: Annotated[float | None, _suits("RATE", "learning_rate"), number] = None
    """Step size of SGD, at its peak."""
    momentum: Annotated[float | None, _suits("NUMBER", "momentum", "0"), number] = None
    """In [0, 1); 0 is plain SGD."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: Annotated[
        float | None, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(default: 0)"), number
    ] = None
    """Added times the kernel to the kernel's gradient."""
    schedule: Annotated[
        Literal["constant", "cosine", "warmup-cosine"] | None,
        _suits("constant|cosine|warmup-cosine", "schedule", "constant"),
        one_of("constant", "cosine", "warmup-cosine"),
    ] = None
    """How the learning rate goes over the run."""
    label_smoothing: Annotated[
        float | None, tyro.conf.arg(metavar="SHARE", help_behavior_hint="(default: 0)"), number
    ] = None
    """The share of each label that is spread over all classes."""
    class_weight: Annotated[
        Literal["balanced"] | None,
        tyro.conf.arg(metavar="balanced", help_behavior_hint=""),
        one_of("balanced"),
    ] = None
    """Weigh the training examples so that all classes weigh the same."""
    seed: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 0)"), whole_number
    ] = None
    """Fixes the split and the order of the examples."""
    patience: Annotated[
        int | None,
        tyro.conf.arg(metavar="N", help_behavior_hint="(default: never before the last)"),
        whole_number,
    ] = None
    """Stop when a tenth of the training examples, split off, get no better for N epochs."""
    checkpoint_every: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: none)"), whole_number
    ] = None
    """Epochs from one checkpoint to the next, for --resume."""
    mesh: Mesh = None
    """Devices to spread the examples (data) and the classes (model) over."""
    run_dir: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/DATASET-TIME)")
    ] = None
    """The run folder to make."""
    overwrite: bool = False
    """Replace a run that is there."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """Finish the training of that run folder, with the settings it was started with."""
    distributed: bool = False
    """Train with the processes that SLURM, Open MPI, a TPU pod or Kubernetes started beside it."""
    coordinator: Annotated[
        str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="")
    ] = None
    """Train with others that are started by hand: where process 0 is."""
    processes: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint=""), whole_number
    ] = None
    """How many they are."""
    process_id: Annotated[
        int | None, tyro.conf.arg(metavar="I", help_behavior_hint=""), whole_number
    ] = None
    """Which this is, from 0."""
    step_timeout: Annotated[
        float | None, tyro.conf.arg(metavar="SECONDS", help_behavior_hint="(default: 45)"), number
    ] = None
    """Give up after waiting so long for another process that is dead or stuck."""

    def run(self) -> None:
        """Loads, trains, measures, writes the run folder and prints the report."""
        check_solver(self)
        with contextlib.ExitStack() as stack:
            watchdog = stack.enter_context(joined(self))
            prepare = functools.partial(self._prepared, stack)
            prepared = prepared_by_first(self, prepare) if watchdog else prepare()
            if prepared is not None:
                stack.enter_context(signals.deferred())
                training, kept = prepared
                training.run(kept, watchdog)

    def _prepared(self, stack: contextlib.ExitStack) -> Prepared | None:
        """The training, and where it is kept until it is done; None if it is done already."""
        from jax_softmax.training import unfinished
        from jax_softmax.training.config import LbfgsConfig
        from jax_softmax.training.runs import RunExistsError, check_run_dir

        self.check_json()
        self._check_stream()
        if self.resume is not None:
            return resume(self, self.resume, stack)
        config = self.settings()
        place = check_run_dir(self.run_dir or new_run_dir(self.dataset), overwrite=self.overwrite)
        if unfinished.is_there(place.path) and not self.overwrite:
            raise InputError(
                f"run folder {place.given}: a training of it is not done; finish it with "
                f"`{resuming(self.dataset, place.given)}`, or start it anew with --overwrite."
            )
        dataset = self.load(config.seed, self.raw_dir, self.data_dir)
        stack.enter_context(signals.deferred())
        if self.overwrite:
            unfinished.discard(place.path)
        if isinstance(config, LbfgsConfig) or config.checkpoint_every is None:
            return Training(self, dataset, config, place), None
        data = data_of(self, dataset)
        while True:
            try:
                kept = stack.enter_context(unfinished.started(place, config, data))
            except RunExistsError:
                if self.run_dir is not None:
                    raise
                # Another training of the same second; no name was asked for.
                place = check_run_dir(new_run_dir(self.dataset), overwrite=False)
            else:
                return Training(self, dataset, config, place), kept

    def load(self, seed: int, raw_dir: Path | None, data_dir: Path | None) -> Dataset | Streams:
        """The dataset, split by the seed."""
        from jax_softmax.datasets import load_dataset
        from jax_softmax.datasets.load_stream import load_stream

        if self.stream:
            with note(f"opening {self.dataset}"):
                return load_stream(
                    self.dataset,
                    data_dir=data_dir,
                    label=self.label,
                    test=self.test,
                    feature_scale=self.feature_scale,
                    seed=seed,
                )
        if tables.is_table(self):
            return tables.load(self.dataset, vars(self), seed)
        with note(f"loading {self.dataset}"):
            return load_dataset(self.dataset, raw_dir=raw_dir, data_dir=data_dir, seed=seed)

    def _check_stream(self) -> None:
        tables.check_flags(self)
        if self.stream:
            if self.raw_dir is not None:
                raise InputError(
                    "--raw-dir: expected no such folder beside --stream, which reads prepared ones "
                    "(--data-dir) and files; leave it out."
                )
            return
        if self.feature_scale is not None:
            raise InputError(
                "--feature-scale: expected --stream to go with it; add it, or leave this."
            )

    def given_settings(self) -> dict[str, Any]:
        """The settings for which there are flags on the command line, as a TrainConfig has them."""
        from jax_softmax.training import TrainConfig

        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(TrainConfig)}
        none = (None, False)  # a flag that is no flag; 0 is a number
        settings = {k: v for k, v in given.items() if not any(v is nothing for nothing in none)}
        if settings.get("batch_size") == "none":
            settings["batch_size"] = None
        if "mesh" in settings:
            settings["mesh"] = mesh_given(self.mesh)
        return settings

    def settings(self) -> TrainConfig | LbfgsConfig:
        """The settings of a training that starts."""
        from jax_softmax.training import TrainConfig

        if self.solver == LBFGS:
            return lbfgs_settings(self, mesh_given(self.mesh))
        suits = _TABLE if tables.is_table(self) else self.dataset.lower()
        suit = dict(_SETTINGS.get(suits, {}))
        if self.stream and suit.get("batch_size", 0) is None:
            del suit["batch_size"]  # a stream has no full batch
        return TrainConfig(**suit | self.given_settings())
