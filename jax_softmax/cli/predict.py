"""`jax-softmax predict RUN FILE`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import tyro

from jax_softmax.cli import predictions
from jax_softmax.cli.arguments import whole_number
from jax_softmax.cli.options import Mesh, OutputOptions, mesh_given, write_file
from jax_softmax.cli.text import named_lines, prediction_lines
from jax_softmax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict(OutputOptions):
    """Classify the examples of a file with a trained model."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """The run folder that `jax-softmax train` wrote."""
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """A table like the training's; or .npy, .csv (an example a row), or .png/.jpg for images."""
    output: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE.csv|.parquet", help_behavior_hint="(default: print a line a row)"
        ),
    ] = None
    """Write a table of the columns class and probability, a row an example."""
    probabilities: bool = False
    """In that table a column p_CLASS for each class, too."""
    top: Annotated[
        int, tyro.conf.arg(metavar="K", help_behavior_hint="(default: 1)"), whole_number
    ] = 1
    """The K likeliest classes of each example."""
    mesh: Mesh = None
    """Devices to spread the examples (data) and the classes (model) over."""

    def run(self) -> None:
        """Prints, or writes, the likeliest class of each example and its probability."""
        from jax_softmax.cli import tables
        from jax_softmax.cli.features import read_features
        from jax_softmax.training import load_run, predict_proba

        self.check_json()
        self._check_output()
        mesh = mesh_given(self.mesh)
        model = load_run(self.run_dir)
        read = tables.read_features if tables.is_for(self.file, model) else read_features
        features = read(self.file, model)
        plain = dataclasses.replace(model, columns=None)  # features are made already
        found = predict_proba(plain, features, mesh=mesh)
        order = predictions.likeliest(found, self.top)
        records = predictions.records_of(found, order, model.class_names)
        self.write_json(records)
        if self.output is None:
            print("\n".join(prediction_lines(records)))
            return
        table = predictions.table_of(found, order, model.class_names, each=self.probabilities)
        write_file("--output", self.output, predictions.as_bytes(table, self.output))
        counts = {name: (order[:, 0] == i).sum() for i, name in enumerate(model.class_names)}
        said = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        lines = named_lines("examples", f"{len(records):,}: {said}")
        print("\n".join([*lines, *named_lines("output", str(self.output))]))

    def _check_output(self) -> None:
        from jax_softmax.training.files import check_file

        if self.top < 1:
            raise InputError(f"--top: expected a number of at least 1, got {self.top}.")
        if self.output is None:
            if self.probabilities:
                raise InputError(
                    "--probabilities: expected --output FILE to go with it, for a line has no room "
                    "for them; add it, or take --top K."
                )
            return
        predictions.check_suffix(self.output)
        if self.output.exists() and self.file.exists() and os.path.samefile(self.output, self.file):
            raise InputError(f"--output {self.output}: is the file to read; give another path.")
        check_file(self.output, overwrite=predictions.is_ours, flag="--output")
