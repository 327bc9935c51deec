"""Training on standardised features, for a model of the features as they came.

With `z = (x - mean) / deviation` (`x` already times `feature_scale`),

    z @ kernel + bias = x @ (kernel / deviation) + (bias - (mean / deviation) @ kernel)

so the parameters that were trained on `z` become those of `x`, and whatever uses the model needs
not know of it. What is lost by that is rounding where the mean is far from 0 for its deviation.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from jax_softmax._checks import check_feature_scale
from jax_softmax.errors import InputError, TrainingWarning
from jax_softmax.training.arrays import column_name
from jax_softmax.training.examples import Examples, check_features
from jax_softmax.training.model import FitResult
from jax_softmax.training.streams import Streamed, is_stream

# A mean of so many deviations costs float32 four of its seven digits.
_FAR = 1e4
_CALLER_OF_FIT = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Standardizer:
    """Means and deviations of training features, `[D]` float64."""

    mean: np.ndarray
    deviation: np.ndarray
    feature_scale: float

    @staticmethod
    def of(train: Examples) -> Standardizer:
        """Those of the training examples; a constant feature has deviation 1.

        Raises:
          InputError: as `check_features` does, or if there is no finite mean or deviation.

        Warns:
          TrainingWarning: if a mean is so many deviations that the model loses digits.
        """
        features = check_features(train.features)
        scale = check_feature_scale(train.feature_scale)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = features.mean(axis=0, dtype=np.float64) * scale
            deviation = features.std(axis=0, dtype=np.float64) * scale
        constant = (features == features[0]).all(axis=0)
        mean = np.where(constant, features[0] * scale, mean)  # to the bit: it is 0 then
        deviation = np.where(constant, 1.0, deviation)
        wrong = ~(np.isfinite(mean) & np.isfinite(deviation) & (deviation > 0))
        if wrong.any():
            name = column_name(train.features, int(wrong.argmax()))
            raise InputError(
                f"features: expected numbers of which there are a mean and a deviation, but those "
                f"in {name} are too large or too small; scale them first."
            )
        far = ~constant & (np.abs(mean) > _FAR * deviation)
        if far.any():
            name = column_name(train.features, int(far.argmax()))
            warnings.warn(
                f"features: the mean in {name} is more than {_FAR:,.0f} deviations from 0, which "
                f"rounds the model's results; subtract a number near it first.",
                TrainingWarning,
                stacklevel=_CALLER_OF_FIT + 1,
            )
        return Standardizer(mean, deviation, scale)

    def applied(self, examples: Any) -> Any:
        """The examples with standardised features; None and other things pass as they are."""
        if examples is None or not hasattr(examples, "features"):
            return examples
        features = check_features(examples.features)
        if features.shape[1] != len(self.mean):
            raise InputError(
                f"validation: expected {len(self.mean)} numbers an example, as train has, got "
                f"{features.shape[1]}."
            )
        floats = np.float64 if features.dtype == np.float64 else np.float32
        scaled = (features * self.feature_scale - self.mean) / self.deviation
        return SimpleNamespace(
            features=scaled.astype(floats),
            labels=examples.labels,
            class_names=getattr(examples, "class_names", ()),
            feature_scale=1.0,
        )

    def of_standardised(self, params: Mapping[str, Any] | None) -> Any:
        """Parameters for features as they came, as those for standardised ones."""
        if not (isinstance(params, Mapping) and params.keys() == {"kernel", "bias"}):
            return params  # None, or what `fit` refuses
        kernel, bias = (np.asarray(params[name]) for name in ("kernel", "bias"))
        if kernel.ndim != 2 or len(kernel) != len(self.mean):
            return params
        wide = kernel.astype(np.float64)
        return {
            "kernel": (wide * self.deviation[:, None]).astype(kernel.dtype),
            "bias": (bias + self.mean @ wide).astype(bias.dtype),
        }

    def of_features(self, result: FitResult, train: Examples | Streamed) -> FitResult:
        """The result of standardised features, as that of features as they came."""
        kernel, bias = (np.asarray(result.params[name]) for name in ("kernel", "bias"))
        wide = kernel / self.deviation[:, None]
        params = {
            "kernel": wide.astype(kernel.dtype),
            "bias": (bias - self.mean @ wide).astype(bias.dtype),
        }
        return dataclasses.replace(
            result,
            params=params,
            feature_scale=self.feature_scale,
            feature_shape=np.shape(train.features)[1:],  # type: ignore[union-attr]
            columns=getattr(train, "columns", None),
        )


def is_standardised(train: object) -> bool:
    """Whether examples in memory ask for it."""
    return not is_stream(train) and getattr(train, "standardize", False) is True
