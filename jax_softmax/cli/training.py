"""What `train` does once the data are loaded: it trains, measures, writes the run and reports."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jax_softmax.cli.measured import split_digest
from jax_softmax.cli.options import Lines, progress_bar, training_warnings_said
from jax_softmax.cli.solver import solved
from jax_softmax.cli.stopping import signals
from jax_softmax.cli.tables import table_flags
from jax_softmax.cli.text import count_of, evaluation_lines, train_report
from jax_softmax.errors import CheckpointError, DivergedError, InputError

if TYPE_CHECKING:
    from jax_softmax.cli.train import Train
    from jax_softmax.datasets import Dataset, Split, Stream
    from jax_softmax.datasets.load_stream import Streams
    from jax_softmax.training import Evaluation, FitResult, TrainConfig
    from jax_softmax.training.config import LbfgsConfig
    from jax_softmax.training.processes import Watchdog
    from jax_softmax.training.runs import Place
    from jax_softmax.training.unfinished import Unfinished

# Of the training examples, split off to stop by; scikit-learn's own share.
_VALIDATION_SHARE = 0.1


# A training, and where it is kept until it is done, if it is.
Prepared = tuple["Training", "Unfinished | None"]


@dataclasses.dataclass(frozen=True)
class Training:
    """A training of the command: its flags, data and settings, and where the run is to be."""

    command: Train
    dataset: Dataset | Streams
    config: TrainConfig | LbfgsConfig
    place: Place

    def run(self, kept: Unfinished | None, watchdog: Watchdog | None = None) -> None:
        """Trains and writes the run folder.

        Args:
          kept: has the checkpoints, where there are any.
          watchdog: of several processes.
        """
        from jax_softmax.training import evaluate, processes
        from jax_softmax.training.config import LbfgsConfig

        fate = "nothing was saved"
        if kept is not None:
            fate = f"`{resuming(self.command.dataset, self.place.given)}` goes on from there"
        dataset = self.dataset
        validation: Split | Stream = dataset.test
        try:
            if self.config.patience is not None:
                dataset, validation = _split_off(dataset, self.config.seed)
            if isinstance(self.config, LbfgsConfig):
                result = self._solve(self.config, fate)
            else:
                result = self._fit(self.config, dataset.train, validation, kept, fate, watchdog)
        except CheckpointError as error:
            raise CheckpointError(f"{error} To go on then: {fate.split('`')[1]}") from error
        except InputError as error:
            if kept is not None and processes.is_first():
                self._give_up(kept, error)
            raise
        with processes.watched(watchdog, "the evaluation", first=True):
            train, test = (
                evaluate(result, split, mesh=self.config.mesh)
                for split in (dataset.train, dataset.test)
            )
            test = dataclasses.replace(test, of="test examples")
        metrics = _metrics(dataset, train, test) | self._where_data_were()
        split_off = 0
        if self.config.patience is not None:
            split_off = count_of(validation)
            metrics |= {"validation_examples": split_off, "best_epoch": result.best_epoch}
        if kept is not None:
            metrics["train_sha256"] = kept.data["train_sha256"]
        check_signals(f"after {_done(len(result.history), self.config)}; {fate}")
        run_dir = processes.told_by_first(lambda: str(self._write(result, metrics, test, kept)))
        check_signals(f"when the run had been saved; it is in {run_dir}")
        print("\n".join(train_report(dataset, result, split_off)))
        print("\n".join(evaluation_lines(train=train, test=test)))
        print(f"\nrun folder  {run_dir}")

    def _give_up(self, kept: Unfinished, error: InputError) -> None:
        """Removes what is kept of the training, if it would only fail again."""
        if isinstance(error, DivergedError) or not kept.has_checkpoints:
            kept.remove()

    def _solve(self, config: LbfgsConfig, fate: str) -> FitResult:
        def check(done: int) -> None:
            check_signals(f"after {_done(done, config)}; {fate}")

        return solved(cast("Split", self.dataset.train), config, check)

    def _fit(
        self,
        config: TrainConfig,
        train: Split | Stream,
        validation: Split | Stream,
        kept: Unfinished | None,
        fate: str,
        watchdog: Watchdog | None,
    ) -> FitResult:
        from jax_softmax.training import fit, processes

        say = Lines()
        with training_warnings_said(), progress_bar("training", config.epochs, "epochs") as bar:

            def on_progress(record: dict[str, float]) -> None:
                bar.n = round(record["epoch"], 2)  # of a stream a fraction
                bar.update(0)
                loss = f"loss {record['train_loss']:.4f}"
                bar.set_postfix_str(loss)
                if processes.is_first():
                    say(f"{_done(record['epoch'], config)}, {loss}")
                what = f"the other processes in epoch {math.ceil(record['epoch'])}"
                with processes.watched(watchdog, what):
                    check_signals(lambda: f"after {_done(record['epoch'], config)}; {fate}")

            return fit(
                train,
                config,
                validation=validation,
                on_progress=on_progress,
                checkpoints=None if kept is None else kept.checkpoints,
                watchdog=watchdog,
            )

    def _write(
        self,
        result: FitResult,
        metrics: dict[str, Any],
        test: Evaluation,
        kept: Unfinished | None,
    ) -> Path:
        """Writes the run folder and `--json`; the folder's path."""
        from jax_softmax.training.runs import RunExistsError, check_run_dir, write_run

        place = self.place
        while True:
            try:
                run_dir = write_run(place, result, metrics=metrics, evaluation=test)
                break
            except RunExistsError:
                if not (self.command.run_dir is self.command.resume is None):
                    raise
                # Another training of the same second: no name was asked for, so there are others.
                place = check_run_dir(new_run_dir(self.command.dataset), overwrite=False)
        if kept is not None:
            kept.remove()
        times = {"compile_seconds": result.compile_seconds, "train_seconds": result.train_seconds}
        write_json(self.command, metrics | times | {"device": result.device}, run_dir)
        return run_dir

    def _where_data_were(self) -> dict[str, Any]:
        """What the split came of, so that the run can be evaluated on the same."""
        return {
            "split_seed": self.config.seed,
            **_folders(self.command.raw_dir, self.command.data_dir),
            **stream_flags(self.command),
            **table_flags(self.command),
        }


def check_signals(words: str | Callable[[], str]) -> None:
    """`signals.check`, in all processes that train together or in none. Called by all."""
    from jax_softmax.training import processes

    number = processes.largest_of(signals.received or 0)
    if number:
        signals.received = signals.received or signal.Signals(number)
    signals.check(words)


def write_json(command: Train, record: dict[str, Any], run_dir: Path) -> None:
    """Writes `--json` of a run that is saved."""
    try:
        command.write_json([record | {"run_dir": str(run_dir)}])
    except InputError as error:
        raise InputError(f"{error} The run is saved, in {run_dir}.") from error


def new_run_dir(dataset: str) -> Path:
    """`runs/DATASET-TIME`, or the next such name that is not taken."""
    from jax_softmax.training import unfinished

    name = Path(dataset.strip()).absolute().stem or "files"
    stem = f"{name.lower()}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, i = Path("runs") / stem, 2
    while os.path.lexists(path) or unfinished.is_there(path):
        path, i = Path("runs") / f"{stem}-{i}", i + 1
    return path


def resuming(dataset: str, run_dir: Path) -> str:
    """The command that finishes a training."""
    return f"jax-softmax train {shlex.join([dataset, '--resume', str(run_dir)])}"


def stream_flags(command: Train) -> dict[str, Any]:
    """The flags by which a stream is opened again; none where there is none."""
    if not command.stream:
        return {}
    test = None if command.test is None else str(command.test.expanduser().absolute())
    given = {"label": command.label, "test": test, "feature_scale": command.feature_scale}
    return {"stream": True, **{name: value for name, value in given.items() if value is not None}}


def data_of(command: Train, dataset: Dataset | Streams) -> dict[str, Any]:
    """What the data were, so that the same are trained on when a training goes on."""
    from jax_softmax.datasets.load import DATA_DIR_VARIABLE, RAW_DIR_VARIABLE

    named = {name: os.environ.get(name) for name in (RAW_DIR_VARIABLE, DATA_DIR_VARIABLE)}
    return {
        "dataset": dataset.name,
        "source": dataset.source,
        **_folders(command.raw_dir, command.data_dir),
        **stream_flags(command),
        **table_flags(command),
        "environment": {
            name: str(Path(value).expanduser().absolute()) for name, value in named.items() if value
        },
        "train_sha256": split_digest(dataset.train),
        "test_sha256": split_digest(dataset.test),
    }


def _folders(raw_dir: Path | None, data_dir: Path | None) -> dict[str, str]:
    given = {"raw_dir": raw_dir, "data_dir": data_dir}
    return {name: str(path.expanduser().absolute()) for name, path in given.items() if path}


def _split_off(dataset: Dataset | Streams, seed: int) -> tuple[Dataset | Streams, Split | Stream]:
    """The dataset with fewer training examples, and those: a tenth of each class."""
    from sklearn.model_selection import train_test_split

    from jax_softmax.datasets import Dataset
    from jax_softmax.datasets.load_stream import divide

    if not isinstance(dataset, Dataset):
        rest, held = divide(dataset.train, _VALIDATION_SHARE, seed)
        return dataclasses.replace(dataset, train=rest), held
    split = dataset.train
    try:
        features, seen_features, labels, seen_labels = train_test_split(
            split.features,
            split.labels,
            test_size=_VALIDATION_SHARE,
            stratify=split.labels,
            random_state=seed,
        )
    except ValueError as error:
        raise InputError(
            f"patience: no validation examples can be split off the {len(split.labels)} training "
            f"examples ({error}); leave --patience out."
        ) from error
    less = dataclasses.replace(split, features=features, labels=labels)
    seen = dataclasses.replace(split, features=seen_features, labels=seen_labels)
    return dataclasses.replace(dataset, train=less), seen


def _done(done: float, config: TrainConfig | LbfgsConfig) -> str:
    most = getattr(config, "epochs" if config.turn == "epoch" else "max_iter")
    return f"{config.turn} {round(done, 2):,} of {most:,}"


def _metrics(dataset: Dataset | Streams, train: Evaluation, test: Evaluation) -> dict[str, Any]:
    return {
        "dataset": dataset.name,
        "source": dataset.source,
        "train_examples": len(train.labels),
        "test_examples": len(test.labels),
        "test_sha256": split_digest(dataset.test),
        "train_loss": train.loss,
        "train_accuracy": train.accuracy,
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
    }
