"""`MODEL_CARD.md` of a run folder: what the model is, of what data, how good, and how to use it.

Times stand in `metrics.json` only: the card is the same bytes for the same training.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_softmax._columns import Columns, NumberColumn
from jax_softmax.training.model import FitResult
from jax_softmax.training.run_files import versions

if TYPE_CHECKING:
    from jax_softmax.training.metrics import Evaluation

_MOST_CLASSES = 100
_DATA = {
    "source": "source",
    "train_examples": "training examples",
    "validation_examples": "validation examples, which training stopped by",
    "test_examples": "test examples",
    "test_sha256": "SHA-256 of the test examples",
    "split_seed": "seed of the split",
    "label": "column of the classes",
    "test": "test file",
    "test_size": "share, or number, of test examples",
    "stratify": "stratified by class",
    "impute": "missing cells filled with",
    "drop": "columns left out",
    "categorical": "columns of categories",
}
# What else a run of the command says of itself; a reader of the card has no use for it.
_NOT_SAID = (
    *("dataset", "versions", "raw_dir", "data_dir", "train_sha256", "best_epoch"),
    *("stream", "table", "feature_scale"),
)
_MOST_COLUMNS = 200


def model_card(result: FitResult, metrics: Mapping[str, Any], evaluation: Evaluation | None) -> str:
    """The card as Markdown.

    Args:
      result: what `fit` returned.
      metrics: what `metrics.json` says beside times, device and versions.
      evaluation: gives the table of classes.
    """
    name = Path(str(metrics.get("dataset") or "")).name  # a table's is its path
    sections = {
        "Model": _model(result),
        "Data": [*_table(("", ""), _data(metrics))] or ["The run does not say its data."],
        **({} if result.columns is None else {"Columns": _columns(result.columns)}),
        "Metrics": _metrics(metrics, evaluation),
        "Training": _training(result),
        "Versions": _table(("package", "version"), versions().items()),
        "Use": _use(result),
    }
    lines = [f"# {_escaped(name) if name else 'A softmax classifier'}", ""]
    lines.append(
        "A softmax classifier (multinomial logistic regression), trained by "
        "jax_softmax. It is linear in its features, and "
        "knows no class but its own: whatever it is given, the probabilities sum to 1."
    )
    for title, said in sections.items():
        lines += ["", f"## {title}", "", *said]
    return "\n".join(lines) + "\n"


def _model(result: FitResult) -> list[str]:
    kernel = result.params["kernel"]
    names = [_escaped(name) for name in result.class_names[:_MOST_CLASSES]]
    more = len(result.class_names) - len(names)
    if more:
        names.append(f"and {more:,} more, in `model.safetensors`")
    facts = {
        "probabilities": "`softmax((features * feature_scale) @ kernel + bias)`",
        "features of an example": f"`{list(result.feature_shape)}`, "
        + ("as the dataset stores them" if result.columns is None else "made of the columns below"),
        "`feature_scale`": f"{result.feature_scale!r}",
        "parameters": f"{kernel.size + len(result.class_names):,}, {kernel.dtype}",
        f"{len(result.class_names):,} classes": ", ".join(names),
    }
    return _table(("", ""), facts.items())


def _data(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (words, _escaped(_number(metrics[name])))
        for name, words in _DATA.items()
        if metrics.get(name) is not None
    ]


def _columns(columns: Columns) -> list[str]:
    """What is made of each column of a table."""
    rows = []
    for column in columns.used[:_MOST_COLUMNS]:
        if isinstance(column, NumberColumn):
            made = f"(number - {column.mean:.6g}) / {column.scale:.6g}"
        else:
            words = [_escaped(word) for word in column.categories[:20]]
            more = len(column.categories) - len(words)
            made = f"1 for each of {', '.join(words)}{f' and {more:,} more' if more else ''}"
        filled = "" if column.fill is None else _escaped(_number(column.fill))
        rows.append((_escaped(column.name), made, filled))
    lines = _table(("column", "features", "a missing cell becomes"), rows)
    more = len(columns.used) - len(rows)
    lines += ["", f"And {more:,} more, in `model.safetensors`."] if more else []
    unused = [_escaped(name) for name in columns.unused[:_MOST_COLUMNS]]
    return [*lines, *(["", f"Not used: {', '.join(unused)}."] if unused else [])]


def _metrics(metrics: Mapping[str, Any], evaluation: Evaluation | None) -> list[str]:
    own = [
        (_escaped(str(name).replace("_", " ")), _escaped(_number(value)))
        for name, value in metrics.items()
        if name not in _DATA and name not in _NOT_SAID
    ]
    lines = _table(("metric", "value"), own)
    if evaluation is not None and len(evaluation.class_names) <= _MOST_CLASSES:
        rows = [
            (
                _escaped(record["class_name"]),
                *(f"{record[score]:.4f}" for score in ("precision", "recall", "f1")),
                f"{record['support']:,}",
            )
            for record in evaluation.per_class()
        ]
        of = f"Of {len(evaluation.labels):,} {_escaped(evaluation.of)}:"
        titles = ("class", "precision", "recall", "F1", "examples")
        lines += [*([""] if lines else []), of, "", *_table(titles, rows)]
    return lines or ["The run does not say what was measured."]


def _training(result: FitResult) -> list[str]:
    settings = [
        (name.replace("_", " "), _escaped("none" if value is None else _number(value)))
        for name, value in dataclasses.asdict(result.config).items()
    ]
    said = [("device", _escaped(result.device))] if result.device else []
    said.append((f"the parameters are of {result.config.turn}", f"{result.best_epoch:,}"))
    return _table(("", ""), [*settings, *said])


def _use(result: FitResult) -> list[str]:
    shape = ", ".join(map(str, ("N", *result.feature_shape)))
    taken = f"features [{shape}]" if result.columns is None else "a data frame of these columns"
    return [
        "```python",
        "from jax_softmax import load_run, predict",
        "",
        'model = load_run("RUN")  # this folder; damage to its files is an error',
        f"classes = predict(model, features)  # {taken}",
        "names = [model.class_names[i] for i in classes]",
        "```",
        "",
        "`jax-softmax evaluate RUN` measures it again, `jax-softmax report RUN` makes a page about "
        "it, and `jax-softmax export RUN` a file that runs without the package.",
    ]


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}", *lines] if lines else []


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    return str(value)


def _escaped(text: str) -> str:
    r"""Text that Markdown shows as it is, in a line.

    >>> print(_escaped("a *b* <i> | 5"))
    a \*b\* \<i\> \| 5
    """
    return re.sub(r"([\\`*_{}\[\]<>|#$~&])", r"\\\1", " ".join(text.split()))
