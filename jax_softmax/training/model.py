"""The trained classifier: its parameters and what must be known about its input."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np

from jax_softmax._checks import classes_shown
from jax_softmax._columns import Columns
from jax_softmax.training.config import LbfgsConfig, TrainConfig


@dataclasses.dataclass(frozen=True, eq=False)
class SoftmaxModel:
    """Class probabilities `softmax((features * feature_scale) @ kernel + bias)`.

    Attributes:
      params: `{"kernel": [D, V], "bias": [V]}`.
      feature_shape: the shape of one example, `D` numbers in all.
      feature_scale: what stored features are multiplied by before the kernel.
      class_names: `V` names.

    See Also:
      `FitResult`, which is one; `predict_proba`, which computes them.

    >>> import numpy as np
    >>> from jax_softmax import predict_proba
    >>> params = {"kernel": np.array([[1.0, -1.0]]), "bias": np.zeros(2)}
    >>> predict_proba(SoftmaxModel(params, (1,), 1.0, ("no", "yes")), [[0.0]]).tolist()
    [[0.5, 0.5]]
    """

    params: dict[str, jax.Array] | dict[str, np.ndarray]
    feature_shape: tuple[int, ...]
    feature_scale: float
    class_names: tuple[str, ...]

    @property
    def is_image(self) -> bool:
        """Whether an example is a picture, `[height, width]` (or more axes)."""
        return len(self.feature_shape) > 1 and math.prod(self.feature_shape) > 1

    def __repr__(self) -> str:
        """A line: the shapes, dtype and classes, and no number of the parameters."""
        return f"<{type(self).__name__}: {self._shapes()}>"

    def _shapes(self) -> str:
        scaled = "" if self.feature_scale == 1 else f" times {self.feature_scale:.6g}"
        dtype = getattr(self.params.get("kernel"), "dtype", "")
        classes = classes_shown(self.class_names)
        return f"features {list(self.feature_shape)}{scaled}, {classes}, {dtype}"


@dataclasses.dataclass(frozen=True, eq=False)
class FitResult(SoftmaxModel):
    """A model and how it came about: what `fit` returns, `save_run` writes and `load_run` reads.

    Attributes:
      config: the settings it was trained with; an `LbfgsConfig` where it is an optimum that was
        solved for.
      history: a record an epoch: `epoch` (from 1), `train_loss` (the mean over the epoch, while the
        parameters moved), and `validation_loss`, `validation_accuracy` at the epochs looked at. Of
        an optimum a record an iteration, and `train_loss` is what is minimised, with the penalty.
      compile_seconds: time to trace and compile; near 0 when the program was there already.
      train_seconds: time to run the epochs, validation left out.
      device: where it ran.
      columns: what makes the features of a table's columns, where it was trained on a table's
        (`load_table`): `predict` and `evaluate` then take data frames, columns in any order.

    See Also:
      `fit`; `save_run`, `load_run`; `evaluate`, `predict`.

    >>> import numpy as np
    >>> from jax_softmax import Split, TrainConfig, fit
    >>> result = fit(Split(np.array([[0.0], [1.0]]), np.array([0, 1])), TrainConfig(epochs=3))
    >>> [record["epoch"] for record in result.history], result.params["kernel"].shape
    ([1, 2, 3], (1, 2))
    """

    config: TrainConfig | LbfgsConfig
    history: tuple[dict[str, float], ...]
    compile_seconds: float = 0.0
    train_seconds: float = 0.0
    device: str = ""
    columns: Columns | None = None

    @property
    def best_epoch(self) -> int:
        """The epoch that the parameters are of: the last, but with patience the best."""
        best = None if self.config.patience is None else best_record(self.history)
        return len(self.history) if best is None else int(best["epoch"])

    def __repr__(self) -> str:
        """A few lines: the model, its settings, the last losses, times and device."""
        lines = [f"<{type(self).__name__}: {self._shapes()}", f"  settings  {self.config.words}"]
        if self.history:
            last = self.history[-1]
            losses = f"{last['train_loss']:.4f} training"
            if "validation_loss" in last:
                losses += (
                    f", {last['validation_loss']:.4f} held-out, "
                    f"accuracy {last['validation_accuracy']:.4f}"
                )
            lines.append(f"  loss      {losses} ({self.config.turn} {last['epoch']:,})")
        if self.config.patience is not None:
            lines.append(f"  best      epoch {self.best_epoch:,}, which the parameters are of")
        times = f"{self.compile_seconds:.2f} s to compile, {self.train_seconds:.2f} s to run"
        lines.append(f"  time      {times}{', on ' if self.device else ''}{self.device}>")
        return "\n".join(lines)


def best_record(history: Sequence[dict[str, float]]) -> dict[str, float] | None:
    """The first record of the smallest validation loss; None if none has any."""
    best = None
    for record in history:
        if "validation_loss" in record and is_better(record, best):
            best = record
    return best


def is_better(record: dict[str, float], best: dict[str, float] | None) -> bool:
    """Whether a record has a smaller validation loss; any number is better than NaN."""
    if best is None:
        return True
    loss, least = record["validation_loss"], best["validation_loss"]
    return loss < least or (math.isnan(least) and not math.isnan(loss))
