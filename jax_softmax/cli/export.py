"""`jax-softmax export RUN`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jax_softmax.cli.arguments import one_of
from jax_softmax.cli.options import OutputOptions, beside
from jax_softmax.cli.text import named_lines
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    from jax_softmax._columns import Columns


def _columns_taken(columns: Columns, kind: str) -> str:
    """What a program or a graph takes of a table."""
    from jax_softmax._columns import NumberColumn, listed

    if kind == "stablehlo":
        names = listed(columns.features)
        return f"features [N, {len(columns.features)}] float32, made of the columns: {names}"
    kinds = {True: "numbers (float64)", False: "words (strings)"}
    by_kind = {
        words: [c.name for c in columns.used if isinstance(c, NumberColumn) == number]
        for number, words in kinds.items()
    }
    return "the table's columns, [N, 1] each; " + "; ".join(
        f"{words}: {listed(names)}" for words, names in by_kind.items() if names
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(OutputOptions):
    """Write a trained model as a file that runs without this package."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """The run folder that `jax-softmax train` wrote."""
    format: Annotated[
        Literal["safetensors", "stablehlo", "onnx"] | None,
        tyro.conf.arg(
            metavar="safetensors|stablehlo|onnx",
            help_behavior_hint="(default: by the ending of --output)",
        ),
        one_of("safetensors", "stablehlo", "onnx"),
    ] = None
    """The parameters; a program of jax.export for CPU, CUDA and TPU; or a graph."""
    output: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: RUN.FORMAT)")
    ] = None
    """The file to write."""
    dtype: Annotated[
        Literal["uint8", "float32"] | None,
        tyro.conf.arg(
            metavar="uint8|float32",
            help_behavior_hint="(default: uint8 for images that the model scales, else float32)",
        ),
        one_of("uint8", "float32"),
    ] = None
    """What the program takes features in."""
    overwrite: bool = False
    """Replace a file that is there."""

    def run(self) -> None:
        """Loads the run, writes the file and says what it takes and gives."""
        from jax_softmax.export import export_model
        from jax_softmax.export.file import format_of, stored_dtype
        from jax_softmax.training import load_run

        self.check_json()
        if self.format is self.output is None:
            raise InputError(
                "--format: expected one of safetensors, stablehlo, onnx; add it, or --output FILE "
                "with such an ending."
            )
        output = self.output or beside(self.run_dir, f".{self.format}")
        kind = format_of(output, self.format)
        model = load_run(self.run_dir)
        export_model(model, output, format=kind, dtype=self.dtype, overwrite=self.overwrite)
        dtype = self.dtype or stored_dtype(model)
        shape = ", ".join(map(str, model.feature_shape))
        classes = len(model.class_names)
        said = {"model": f"{output} ({kind}, {output.stat().st_size:,} bytes)"}
        if kind == "safetensors":
            said["holds"] = (
                f"kernel [{model.params['kernel'].shape[0]}, {classes}], bias [{classes}]"
            )
        else:
            said["takes"] = f"features [N, {shape}] {dtype}, as the dataset stores them"
            if model.columns is not None:
                said["takes"] = _columns_taken(model.columns, kind)
            said["gives"] = f"probabilities [N, {classes}]"
        self.write_json([{"run_dir": str(self.run_dir), "format": kind, "file": str(output)}])
        print("\n".join(line for name, words in said.items() for line in named_lines(name, words)))
