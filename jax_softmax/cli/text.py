"""What the commands print, as lines of text no wider than the terminal."""

from __future__ import annotations

import io
import itertools
import math
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jax_softmax.datasets import Dataset, Split, Stream
    from jax_softmax.datasets.load_stream import Streams
    from jax_softmax.training import Evaluation, FitResult

_WIDTH_WITHOUT_A_TERMINAL = 100
_GAP = 2
_NAMES = 10  # the width of `run folder` and of shorter names


class Column(NamedTuple):
    """A column of a table: its title, where its cells stand, and whether they may wrap."""

    title: str
    left: bool = False
    wraps: bool = False


def width() -> int:
    """The columns of the terminal, or COLUMNS; where there is neither, 100."""
    return shutil.get_terminal_size((_WIDTH_WITHOUT_A_TERMINAL, 24)).columns


def table_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str] | str], indent: int = 0
) -> list[str]:
    """A table as plain text, its titles first.

    Args:
      columns: of which one at most wraps, between words, where the table would be too wide.
      rows: the cells of a row, or a heading over the rows that follow.
      indent: how far the rows stand in from the headings.
    """
    from rich.cells import cell_len

    titles = [column.title for column in columns]
    cells = [titles, *(row for row in rows if not isinstance(row, str))]
    widths = [max(map(cell_len, texts)) for texts in zip(*cells, strict=True)]
    excess = indent + sum(widths) + _GAP * (len(widths) - 1) - width()
    for i, column in enumerate(columns):
        if column.wraps and excess > 0:
            words = (word for row in cells for word in row[i].split())
            widths[i] = max(widths[i] - excess, *map(cell_len, words))
    lines = []
    for heading, group in itertools.groupby([titles, *rows], _heading):
        if heading:
            lines.append(heading)
        else:
            lines += [" " * indent + line for line in _row_lines(columns, widths, group)]
    return lines


def _heading(row: Sequence[str] | str) -> str:
    return row if isinstance(row, str) else ""


def _row_lines(
    columns: Sequence[Column], widths: Sequence[int], rows: Iterable[Sequence[str]]
) -> list[str]:
    """Rows of cells, each in as many lines as its wrapping cell needs."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # The gaps are columns of their own: rich's padding differs from version to version.
    table = Table.grid()
    for column, cells in zip(columns, widths, strict=True):
        table.add_column(width=cells, justify="left" if column.left else "right")
        table.add_column(width=_GAP)
    for row in rows:
        # As Text, or rich would take [words] for markup.
        table.add_row(*(cell for text in row for cell in (Text(text), "")))
    # Without colours: a report is the same on a terminal, in a file and through a pipe.
    console = Console(
        file=io.StringIO(),
        width=sum(widths) + _GAP * len(widths),
        color_system=None,
        force_terminal=False,
        force_jupyter=False,
    )
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def wrapped(text: str, indent: int = 0, hanging: int | None = None) -> list[str]:
    """A paragraph in lines, broken between words; a long path keeps a line of its own."""
    return textwrap.wrap(
        text,
        min(width(), _WIDTH_WITHOUT_A_TERMINAL),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent if hanging is None else hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )


def named_lines(name: str, text: str) -> list[str]:
    """What `name` is, the name in a column of its own."""
    return wrapped(f"{name:{_NAMES}}  {text}", hanging=_NAMES + 2)


def device_name(platform: str, kind: str) -> str:
    """A device of JAX in words.

    >>> device_name("gpu", "NVIDIA H200"), device_name("cpu", "cpu")
    ('gpu: NVIDIA H200', 'cpu')
    """
    return kind if kind == platform else f"{platform}: {kind}"


def train_report(dataset: Dataset | Streams, result: FitResult, validation: int = 0) -> list[str]:
    """What was trained, on what, where, and how long it took.

    Args:
      dataset: what it was trained on.
      result: what came of it.
      validation: how many of the training examples were split off to stop by.
    """
    config = result.config
    notes = getattr(dataset, "notes", ())
    name = Path(dataset.name).name if notes else dataset.name  # a table's is its path
    said = {
        "data": f"{name}: {count_of(dataset.train):,} training and "
        f"{count_of(dataset.test):,} test examples, {math.prod(result.feature_shape)} features, "
        f"{len(result.class_names)} classes",
        "source": dataset.source,
        "validation": f"{validation:,} more training examples, split off by the seed",
        "device": result.device if config.mesh is None else f"{result.device}, {config.mesh}",
        "training": config.words,
        "stopped": f"after epoch {len(result.history):,}; the parameters are of epoch "
        f"{result.best_epoch:,}, of the smallest validation loss",
        "time": f"{result.compile_seconds:.2f} s to compile, {result.train_seconds:.2f} s to run",
    }
    if config.turn == "iteration":
        count = "1 iteration" if len(result.history) == 1 else f"{len(result.history):,} iterations"
        said["time"] = f"{result.train_seconds:.2f} s for {count}, compiling included"
    if not validation:
        del said["validation"], said["stopped"]
    pairs = [*said.items()]
    pairs[2:2] = notes
    return [line for name, text in pairs for line in named_lines(name, text)]


def count_of(split: Split | Stream) -> int:
    """How many examples there are."""
    from jax_softmax.datasets import Stream

    return len(split) if isinstance(split, Stream) else len(split.labels)


def evaluation_lines(**evaluations: Evaluation) -> list[str]:
    """Loss and accuracy of each evaluation, then the table of classes of the last one."""
    scores = [
        (name, _loss(seen.loss), f"{seen.accuracy:.4f}") for name, seen in evaluations.items()
    ]
    columns = (Column(" " * _NAMES, left=True), Column("loss"), Column("accuracy"))
    lines = ["", *table_lines(columns, scores)]
    rows = [
        (
            record["class_name"],
            *(f"{record[name]:.3f}" for name in ("precision", "recall", "f1")),
            f"{record['support']:,}",
        )
        for record in list(evaluations.values())[-1].per_class()
    ]
    numbers = (Column(title) for title in ("precision", "recall", "f1", "examples"))
    return [*lines, "", *table_lines([Column("class", left=True, wraps=True), *numbers], rows)]


def _loss(loss: float) -> str:
    return f"{loss:.4f}" if loss < 1000 else f"{loss:.1e}"


def prediction_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line an example: its number, likeliest classes and their probabilities."""
    # Not by `table_lines`: rich would take longer over a long file than the model does.
    ranks = [n.removeprefix("class_name") for n in records[0] if n.startswith("class_name")]
    classes = [[str(record[f"class_name{rank}"]) for record in records] for rank in ranks]
    widths = [max(len("class") + len(ranks[i]), *map(len, c)) + 2 for i, c in enumerate(classes)]
    titles = (
        f"{'class' + rank.replace('_', ' '):{width}}probability"
        for rank, width in zip(ranks, widths, strict=True)
    )
    lines = [f"{'row':>6}  {'  '.join(titles)}"]
    for row, names in enumerate(zip(*classes, strict=True)):
        cells = (
            f"{name:{width}}{records[row][f'probability{rank}']:11.4f}"
            for name, width, rank in zip(names, widths, ranks, strict=True)
        )
        lines.append(f"{records[row]['row']:6}  {'  '.join(cells)}")
    return lines
