"""What the commands print, as lines of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_softmax.datasets import Dataset
    from jax_softmax.training import Evaluation, FitResult


def device_name(platform: str, kind: str) -> str:
    """A device of JAX in words.

    >>> device_name("gpu", "NVIDIA H200"), device_name("cpu", "cpu")
    ('gpu: NVIDIA H200', 'cpu')
    """
    return kind if kind == platform else f"{platform}: {kind}"


def train_report(dataset: Dataset, result: FitResult) -> list[str]:
    """What was trained, on what, where, and how long it took."""
    config = result.config
    batch = "full batch" if config.batch_size is None else f"batches of {config.batch_size}"
    epochs = "1 epoch" if config.epochs == 1 else f"{config.epochs:,} epochs"
    width = math.prod(result.feature_shape)
    return [
        f"data        {dataset.name}: {len(dataset.train.labels):,} training and "
        f"{len(dataset.test.labels):,} test examples, {width} features, "
        f"{len(result.class_names)} classes",
        f"source      {dataset.source}",
        f"device      {result.device}",
        f"training    {epochs}, {batch}, learning rate {config.learning_rate:g} "
        f"({config.schedule})",
        f"time        {result.compile_seconds:.2f} s to compile, "
        f"{result.train_seconds:.2f} s to run",
    ]


def evaluation_lines(**evaluations: Evaluation) -> list[str]:
    """Loss and accuracy of each evaluation, then the table of classes of the last one."""
    lines = ["", f"{'':12}{'loss':>8}{'accuracy':>11}"]
    for name, seen in evaluations.items():
        lines.append(f"{name:12}{_loss(seen.loss):>8}{seen.accuracy:11.4f}")
    records = list(evaluations.values())[-1].per_class()
    width = max(10, *(len(record["class_name"]) for record in records)) + 2
    lines += ["", f"{'class':{width}}{'precision':>9}{'recall':>9}{'f1':>9}{'examples':>10}"]
    for record in records:
        scores = "".join(f"{record[name]:9.3f}" for name in ("precision", "recall", "f1"))
        lines.append(f"{record['class_name']:{width}}{scores}{record['support']:10,}")
    return lines


def _loss(loss: float) -> str:
    return f"{loss:.4f}" if loss < 1000 else f"{loss:.1e}"


def prediction_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line an example: its number, likeliest class and that class's probability."""
    width = max(5, *(len(record["class_name"]) for record in records)) + 2
    lines = [f"{'row':>6}  {'class':{width}}probability"]
    for record in records:
        probability = f"{record['probability']:11.4f}"
        lines.append(f"{record['row']:6}  {record['class_name']:{width}}{probability}")
    return lines
