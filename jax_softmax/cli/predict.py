"""`jax-softmax predict RUN FILE`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jax_softmax.cli.options import Mesh, OutputOptions, mesh_given
from jax_softmax.cli.text import prediction_lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict(OutputOptions):
    """Classify the examples of a file with a trained model."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """The run folder that `jax-softmax train` wrote."""
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """.npy or .csv (an example a row, as the dataset stores it), or .png/.jpg for images."""
    mesh: Mesh = None
    """Devices to spread the examples (data) and the classes (model) over."""

    def run(self) -> None:
        """Prints the likeliest class of each example and its probability."""
        from jax_softmax.cli.features import read_features
        from jax_softmax.training import load_run, predict, predict_proba

        self.check_json()
        mesh = mesh_given(self.mesh)
        model = load_run(self.run_dir)
        features = read_features(self.file, model)
        classes = predict(model, features, mesh=mesh)
        probabilities = predict_proba(model, features, mesh=mesh)
        records = [
            {
                "row": row,
                "class_index": int(index),
                "class_name": model.class_names[index],
                "probability": float(probabilities[row, index]),
            }
            for row, index in enumerate(classes)
        ]
        self.write_json(records)
        print("\n".join(prediction_lines(records)))
