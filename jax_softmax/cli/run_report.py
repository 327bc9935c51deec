"""`jax-softmax report RUN [DATASET]`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jax_softmax.cli.evaluate import Evaluate
from jax_softmax.cli.options import beside, mesh_given, note
from jax_softmax.cli.text import named_lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(Evaluate):
    """Write a page about a trained model: one HTML file with curves, tables and pictures."""

    output: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: RUN-report.html)"),
    ] = None
    """The file to write."""
    overwrite: bool = False
    """Replace a file that is there."""

    def run(self) -> None:
        """Loads the run and the dataset, examines the test examples and writes the page."""
        from jax_softmax.report import class_records, examine, report_page
        from jax_softmax.training import evaluate
        from jax_softmax.training.files import check_file, write_file

        self.check_json()
        output = self.output or beside(self.run_dir, "-report.html")
        check_file(output, overwrite=self.overwrite)
        mesh = mesh_given(self.mesh)
        model, trained, found, name, _ = self.loaded()
        with note("examining the test examples"):
            test = evaluate(model, found.examples, mesh=mesh)
            if not found.notes:  # that of a table all rows are measured, say
                test = dataclasses.replace(test, of="test examples")
            examined = examine(model, found.examples, test, mesh=mesh)
        with note("drawing"):
            names = () if model.columns is None else model.columns.features
            page = report_page(
                model,
                trained,
                examined,
                data=Path(name).name,
                source=found.source,
                feature_names=names,
                notes=found.notes,
                rows=found.rows,
            )
        write_file(output, page.encode(), overwrite=self.overwrite)
        about = {"run_dir": str(self.run_dir), "dataset": found.name}
        self.write_json([about | record for record in class_records(examined)])
        print("\n".join(named_lines("report", str(output))))
