"""`jax-softmax train DATASET`."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jax_softmax.cli.arguments import number, one_of, whole_number, whole_number_or_none
from jax_softmax.cli.measured import split_digest
from jax_softmax.cli.options import DataOptions, note, progress_bar, training_warnings_said
from jax_softmax.cli.report import evaluation_lines, train_report
from jax_softmax.cli.stopping import signals
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    from jax_softmax.datasets import Dataset
    from jax_softmax.training import Evaluation, FitResult, TrainConfig
    from jax_softmax.training.runs import Place

# What suits a dataset where a flag says nothing. iris is the tutorial's own setting.
_SETTINGS: dict[str, dict[str, Any]] = {
    "iris": {"learning_rate": 0.1, "batch_size": None, "epochs": 1000},
    "mnist": {"learning_rate": 0.5, "batch_size": 128, "epochs": 20, "schedule": "cosine"},
    "digits": {"learning_rate": 0.5, "batch_size": 32, "epochs": 100, "schedule": "cosine"},
}
_NOTHING = "nothing was saved"


def _suits(metavar: str, setting: str, otherwise: str = "") -> Any:
    """Says in an option's help what each dataset takes where the option is not given."""
    taken = (f"{name} {values.get(setting) or otherwise}" for name, values in _SETTINGS.items())
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {', '.join(taken)})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(DataOptions):
    """Train a softmax classifier on a dataset and write a run folder."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """iris, mnist or digits."""
    epochs: Annotated[int | None, _suits("N", "epochs"), whole_number] = None
    """Passes over the training examples."""
    batch_size: Annotated[
        int | Literal["none"] | None, _suits("N|none", "batch_size", "none"), whole_number_or_none
    ] = None
    """Examples to a step, or "none" for all of them at once."""
    learning_rate: Annotated[float | None, _suits("RATE", "learning_rate"), number] = None
    """Step size of SGD, at its peak."""
    momentum: Annotated[float, tyro.conf.arg(metavar="NUMBER"), number] = 0.0
    """In [0, 1); 0 is plain SGD."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: Annotated[float, tyro.conf.arg(metavar="NUMBER"), number] = 0.0
    """Added times the kernel to the kernel's gradient."""
    schedule: Annotated[
        Literal["constant", "cosine", "warmup-cosine"] | None,
        _suits("constant|cosine|warmup-cosine", "schedule", "constant"),
        one_of("constant", "cosine", "warmup-cosine"),
    ] = None
    """How the learning rate goes over the run."""
    seed: Annotated[int, tyro.conf.arg(metavar="N"), whole_number] = 0
    """Fixes the split and the order of the examples."""
    run_dir: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/DATASET-TIME)")
    ] = None
    """The run folder to make."""
    overwrite: bool = False
    """Replace a run that is there."""

    def run(self) -> None:
        """Loads, trains, measures, writes the run folder and prints the report."""
        from jax_softmax.datasets import load_dataset
        from jax_softmax.training import evaluate
        from jax_softmax.training.runs import check_run_dir

        self.check_json()
        config = self._config()
        place = check_run_dir(self.run_dir or _new_run_dir(self.dataset), overwrite=self.overwrite)
        with note(f"loading {self.dataset}"):
            dataset = load_dataset(
                self.dataset, raw_dir=self.raw_dir, data_dir=self.data_dir, seed=self.seed
            )
        with signals.deferred():
            result = _fit_with_progress(dataset, config)
            train, test = evaluate(result, dataset.train), evaluate(result, dataset.test)
            metrics = _metrics(dataset, train, test) | self._where_data_were()
            signals.check(f"after {_epochs(config.epochs, config)}; {_NOTHING}")
            run_dir = self._write(place, result, metrics, test)
            signals.check(f"when the run had been saved; it is in {run_dir}")
        print("\n".join(train_report(dataset, result)))
        print("\n".join(evaluation_lines(train=train, test=test)))
        print(f"\nrun folder  {run_dir}")

    def _write(
        self, place: Place, result: FitResult, metrics: dict[str, Any], test: Evaluation
    ) -> Path:
        """Writes the run folder and `--json`; the folder's path."""
        from jax_softmax.training.runs import RunExistsError, check_run_dir, write_run

        while True:
            try:
                run_dir = write_run(place, result, metrics=metrics, evaluation=test)
                break
            except RunExistsError:
                if self.run_dir is not None:
                    raise
                # Another training of the same second: no name was asked for, so there are others.
                place = check_run_dir(_new_run_dir(self.dataset), overwrite=False)
        times = {"compile_seconds": result.compile_seconds, "train_seconds": result.train_seconds}
        try:
            self.write_json([metrics | times | {"device": result.device, "run_dir": str(run_dir)}])
        except InputError as error:
            raise InputError(f"{error} The run is saved, in {run_dir}.") from error
        return run_dir

    def _where_data_were(self) -> dict[str, Any]:
        """What the split came of, so that the run can be evaluated on the same."""
        given = {"raw_dir": self.raw_dir, "data_dir": self.data_dir}
        folders = {name: str(path.expanduser().absolute()) for name, path in given.items() if path}
        return {"split_seed": self.seed, **folders}

    def _config(self) -> TrainConfig:
        from jax_softmax.training import TrainConfig

        settings = dict(_SETTINGS.get(self.dataset.lower(), {}))
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(TrainConfig)}
        settings |= {name: value for name, value in given.items() if value is not None}
        if settings.get("batch_size") == "none":
            settings["batch_size"] = None
        return TrainConfig(**settings)


def _new_run_dir(dataset: str) -> Path:
    stem = f"{dataset.lower()}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, i = Path("runs") / stem, 2
    while os.path.lexists(path):
        path, i = Path("runs") / f"{stem}-{i}", i + 1
    return path


def _fit_with_progress(dataset: Dataset, config: TrainConfig) -> FitResult:
    from jax_softmax.training import fit

    with training_warnings_said(), progress_bar("training", config.epochs, "epochs") as bar:

        def on_progress(record: dict[str, float]) -> None:
            bar.update(int(record["epoch"]) - bar.n)
            bar.set_postfix(loss=f"{record['train_loss']:.4f}")
            signals.check(lambda: f"after {_epochs(int(record['epoch']), config)}; {_NOTHING}")

        return fit(dataset.train, config, validation=dataset.test, on_progress=on_progress)


def _epochs(done: int, config: TrainConfig) -> str:
    return f"epoch {done:,} of {config.epochs:,}"


def _metrics(dataset: Dataset, train: Evaluation, test: Evaluation) -> dict[str, Any]:
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
