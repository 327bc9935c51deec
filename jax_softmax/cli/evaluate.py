"""`jax-softmax evaluate RUN [DATASET]`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from jax_softmax.cli import tables
from jax_softmax.cli.measured import agreement, split_digest
from jax_softmax.cli.options import DataOptions, Mesh, mesh_given, note
from jax_softmax.cli.text import evaluation_lines, named_lines
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    from jax_softmax.datasets import Columns, Dataset
    from jax_softmax.datasets.load_stream import Streams
    from jax_softmax.training import FitResult


class Loaded(NamedTuple):
    """A run and what it is measured on.

    Attributes:
      model: the run's.
      trained: what its `metrics.json` says.
      found: the examples.
      name: what they are called.
      same: whether the run was trained on that dataset.
    """

    model: FitResult
    trained: dict[str, Any]
    found: tables.Examined
    name: str
    same: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(DataOptions):
    """Measure a trained model on its dataset's test examples, or on another's."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """The run folder that `jax-softmax train` wrote."""
    dataset: Annotated[
        tyro.conf.Positional[str | None],
        tyro.conf.arg(
            metavar="[DATASET]",
            help_behavior_hint="(default: the one it was trained on, from the same folder)",
        ),
    ] = None
    """iris, mnist or digits, or a table with the columns of the training's."""
    label: Annotated[
        str | None,
        tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: that of the training)"),
    ] = None
    """The column of a table that has the classes."""
    mesh: Mesh = None
    """Devices to spread the examples (data) and the classes (model) over."""

    def loaded(self) -> Loaded:
        """The run, and the examples that it is measured on."""
        from jax_softmax.datasets.tables import is_table
        from jax_softmax.training.runs import read_run

        model, trained = read_run(self.run_dir)
        name = self.dataset or trained.get("dataset")
        if name is None:
            raise InputError(
                f"run folder {self.run_dir}: does not say its dataset; name one after it, or a "
                f"table with its --label."
            )
        same = trained.get("dataset") in (name.strip().lower(), str(Path(name).absolute()))
        if is_table(name) and not (same and trained.get("stream")):
            found = tables.to_evaluate(model, trained, name, self.label)
            return Loaded(model, trained, found, Path(found.name).name, same)
        found = self._named(name, trained, same, model.columns)
        return Loaded(model, trained, found, found.name, same)

    def run(self) -> None:
        """Loads the run and the dataset and prints loss, accuracy and the table of classes."""
        from jax_softmax.training import evaluate

        self.check_json()
        mesh = mesh_given(self.mesh)
        model, trained, found, name, same = self.loaded()
        test = evaluate(model, found.examples, mesh=mesh)
        compared, sentence = agreement(test, split_digest(found.examples), trained)
        self.write_json(
            [
                {
                    "dataset": found.name,
                    "source": found.source,
                    "run_dir": str(self.run_dir),
                    "test_examples": len(test.labels),
                    "test_loss": test.loss,
                    "test_accuracy": test.accuracy,
                    "compared_with_training": compared,
                }
            ]
        )
        lines = named_lines("data", f"{name}, {len(test.labels):,} test examples")
        lines += named_lines("source", found.source)
        if same and found.source != trained.get("source") and not found.notes:
            lines += named_lines("", f"(trained on another: {trained.get('source')})")
        lines += [line for pair in found.notes for line in named_lines(*pair)]
        if "split_seed" not in trained:
            lines += named_lines(
                "", "(the run does not say its split: it may have been trained on these)"
            )
        lines += named_lines("result", sentence)
        print("\n".join([*lines, *evaluation_lines(test=test)]))

    def _named(
        self, name: str, trained: Mapping[str, Any], same: bool, columns: Columns | None
    ) -> tables.Examined:
        """The test examples of a dataset, or of the stream that was trained on.

        Args:
          name: of the dataset, or the path of the stream's files.
          trained: what the run says.
          same: whether the run was trained on that.
          columns: of the model.
        """
        from jax_softmax._columns import listed
        from jax_softmax.datasets import load_dataset
        from jax_softmax.datasets.load_stream import load_stream

        if columns is not None and not same:
            raise InputError(
                f"{name}: expected a table with the columns that the model was trained on "
                f"({listed(column.name for column in columns.used)}), got a dataset; give the path "
                f"of a table."
            )
        if self.label is not None:
            raise InputError(
                f"--label: expected a table to go with it, got {name!r}; leave it out."
            )
        folders = {"raw_dir": self.raw_dir, "data_dir": self.data_dir}
        remembered = same and folders == {"raw_dir": None, "data_dir": None}
        if remembered:
            folders = {folder: trained.get(folder) for folder in folders}
        with note(f"loading {name}"):
            # The run's own split, whose test examples it has not seen.
            seed = trained.get("split_seed", 0)
            dataset: Dataset | Streams
            try:
                if same and trained.get("stream"):
                    dataset = load_stream(name, **stream_of(trained, self.data_dir), seed=seed)
                else:
                    dataset = load_dataset(name, **folders, seed=seed)
            except InputError as error:
                if not remembered:
                    raise
                raise InputError(
                    f"{error}\nThe run was trained on what was there; give --raw-dir or --data-dir "
                    f"if it is elsewhere now."
                ) from error
        return tables.Examined(dataset.test, dataset.name, dataset.source)


def stream_of(said: Mapping[str, Any], data_dir: Path | None) -> dict[str, Any]:
    """How a stream was opened, as `load_stream` takes it.

    Args:
      said: what a run or a training says of its data.
      data_dir: where it is now, if that was given.
    """
    kinds = {"label": str, "test": Path, "feature_scale": float, "data_dir": Path}
    known: dict[str, Any] = {name: kind(said[name]) for name, kind in kinds.items() if name in said}
    return known if data_dir is None else known | {"data_dir": data_dir}
