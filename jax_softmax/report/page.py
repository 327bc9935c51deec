"""The page: one HTML file with all that is in it, pictures too."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from jax_softmax._extras import needs_train_extra
from jax_softmax.report import figures
from jax_softmax.report.examined import Examined, worst_confusions
from jax_softmax.training import FitResult, pictures
from jax_softmax.training.run_files import versions

# What a run's metrics say that the page shows elsewhere, or that is of no use to a reader.
_NOT_SHOWN = {"versions", "sha256", "compile_seconds", "train_seconds", "device", "source"}


@needs_train_extra()
def report_page(
    result: FitResult,
    metrics: Mapping[str, Any],
    examined: Examined,
    *,
    data: str,
    source: str,
    feature_names: Sequence[str] = (),
    notes: Sequence[tuple[str, str]] = (),
    rows: np.ndarray | None = None,
) -> str:
    """A page about a run, as HTML that needs nothing from elsewhere.

    Args:
      result: the run.
      metrics: what its `metrics.json` says.
      examined: what `examine` found.
      data: what the examples are of, `iris` say.
      source: where they came from.
      feature_names: `D` names for the table of coefficients; without them features have numbers.
      notes: what to know of the examples, each a short name and a sentence.
      rows: `[N]`, which rows of a table the examples are, from 0; None for those of no table.

    Raises:
      InputError: if the extra `[train]` is not installed.
    """
    import jinja2

    evaluation = examined.evaluation
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = resources.files("jax_softmax.report").joinpath("page.html").read_text("utf-8")
    return environment.from_string(text).render(
        data=data,
        source=source,
        notes=notes,
        result=result,
        evaluation=evaluation,
        wrong=int((evaluation.predictions != evaluation.labels).sum()),
        features=math.prod(result.feature_shape),
        calibration_error=examined.calibration_error,
        classes=class_records(examined),
        of_table=rows is not None,
        mistakes=_mistakes(result, examined, rows),
        settings=_in_words(dataclasses.asdict(result.config)),
        said=_in_words({k: v for k, v in metrics.items() if k not in _NOT_SHOWN}),
        trained_with=_in_words(metrics.get("versions") or {}),
        made_with=_in_words(versions()),
        **_pictures(result, examined, feature_names),
    )


def _pictures(
    result: FitResult, examined: Examined, feature_names: Sequence[str]
) -> dict[str, str | None]:
    """The pictures by the names that the page has for them; None where there is nothing to see."""
    weights, spreads = None, None
    if result.is_image:
        weights = figures.drawn(pictures.class_weights(result))
    else:
        spreads = figures.drawn(figures.coefficients(result, examined.spreads, feature_names))
    return {
        "curve": figures.drawn(pictures.learning_curve(result.history, result.config.turn)),
        "confusion": figures.drawn(pictures.confusion_matrix(examined.evaluation)),
        "reliability": figures.drawn(figures.reliability(examined)),
        "weights": weights,
        "coefficients": spreads,
    }


def class_records(examined: Examined) -> list[dict[str, Any]]:
    """`Evaluation.per_class`, with the class that each is most often `taken_for`, and how often."""
    evaluation = examined.evaluation
    worst = worst_confusions(evaluation.confusion())
    return [
        record
        | {
            "taken_for": None if found is None else evaluation.class_names[found[0]],
            "taken_for_examples": 0 if found is None else found[1],
        }
        for record, found in zip(evaluation.per_class(), worst, strict=True)
    ]


def _mistakes(
    result: FitResult, examined: Examined, rows: np.ndarray | None
) -> list[dict[str, Any]]:
    names = result.class_names
    shown = result.is_image and figures.is_picture(result.feature_shape)
    return [
        {
            "row": mistake.row if rows is None else int(rows[mistake.row]),
            "label": names[mistake.label],
            "prediction": names[mistake.prediction],
            "confidence": mistake.confidence,
            "label_probability": mistake.label_probability,
            "picture": figures.photograph(
                mistake.features.reshape(result.feature_shape), result.feature_scale
            )
            if shown
            else None,
        }
        for mistake in examined.mistakes
    ]


def _in_words(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    def words(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.6g}"
        return "none" if value is None else str(value)

    return [(name.replace("_", " "), words(value)) for name, value in values.items()]
