"""The optimum of softmax regression as a saved model, that of `fit` being one trained by steps."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import jax
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from jax_softmax._checks import check_class_names, check_feature_scale
from jax_softmax.classifier.estimator import SoftmaxClassifier
from jax_softmax.errors import DivergedError, InputError, TrainingWarning
from jax_softmax.training.config import LbfgsConfig
from jax_softmax.training.examples import Examples, check_features
from jax_softmax.training.labels import check_labels, check_several_classes
from jax_softmax.training.mesh import default_devices, mesh_of
from jax_softmax.training.model import FitResult


def optimum(
    train: Examples,
    config: LbfgsConfig | None = None,
    *,
    on_iterations: Callable[[int, float], None] | None = None,
) -> FitResult:
    """The model of `SoftmaxClassifier(solver="lbfgs")`, as `fit` returns one.

    Args:
      train: as of `fit`, in memory.
      config: settings; `LbfgsConfig()` if None.
      on_iterations: is called now and then with how many there were so far, and the objective.

    Returns:
      The model. Its history has a record an iteration, whose `train_loss` is the objective, penalty
      and all; its `train_seconds` has the time to compile in it.

    Raises:
      InputError: if the examples cannot be used, or there is none of some class, or the
        coefficients are too large to be numbers.

    Warns:
      TrainingWarning: if the optimum was not reached.

    >>> from jax_softmax import Split
    >>> model = optimum(Split(np.array([[0.0], [1.0], [2.0]]), np.array([0, 0, 1])))
    >>> model.params["kernel"].shape
    (1, 2)
    """
    config = LbfgsConfig() if config is None else config
    scale = check_feature_scale(train.feature_scale)
    features = check_features(train.features)
    labels, names = check_labels(train.labels, len(features), check_class_names(train.class_names))
    check_several_classes(labels, names)
    _check_all_occur(labels, names)
    mesh = mesh_of(config.mesh)
    classifier = SoftmaxClassifier(
        C=config.C,
        tol=config.tol,
        max_iter=config.max_iter,
        label_smoothing=config.label_smoothing,
        class_weight=config.class_weight,
        mesh=None if mesh is None else dict(mesh.shape),
        verbose=False if on_iterations is None else on_iterations,
    )
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        try:
            classifier.fit(_scaled(features, scale), labels)
        except ValueError as error:
            raise InputError(str(error)) from error
    seconds = time.perf_counter() - started
    params = _params(classifier)
    if not all(np.isfinite(value).all() for value in params.values()):
        raise DivergedError("lbfgs: the coefficients became infinite or NaN; scale the features.")
    for warning in caught:
        kind = TrainingWarning if warning.category is ConvergenceWarning else warning.category
        warnings.warn(str(warning.message), kind, stacklevel=2)
    # Where all coefficients are 0 at the optimum, all classes are as likely as one another.
    losses = classifier.loss_curve_ or [float(np.log(len(names)))]
    devices = default_devices()[:1] if mesh is None else list(mesh.devices.flat)
    kind = devices[0].device_kind
    return FitResult(
        params=params,
        feature_shape=np.shape(train.features)[1:],
        feature_scale=scale,
        class_names=names,
        config=config,
        history=tuple(
            {"epoch": number, "train_loss": loss} for number, loss in enumerate(losses, start=1)
        ),
        train_seconds=seconds,
        device=kind if mesh is None else f"{len(devices)} x {kind}",
        columns=getattr(train, "columns", None),
    )


def _check_all_occur(labels: np.ndarray, names: tuple[str, ...]) -> None:
    absent = np.bincount(labels, minlength=len(names)) == 0
    if absent.any():
        raise InputError(
            f"labels: expected a training example of each class, got none of "
            f"{names[int(absent.argmax())]!r}, whose coefficients have no optimum; give one, or "
            f"leave the class out, or train by steps (solver sgd)."
        )


def _scaled(features: np.ndarray, scale: float) -> np.ndarray:
    """As floats of 32 bits, or of 64 as they came."""
    wide = features.dtype == np.float64 or (
        features.dtype.kind in "iu" and features.dtype.itemsize > 2
    )
    floats: np.ndarray = features.astype(np.float64 if wide else np.float32)
    return floats if scale == 1 else floats * floats.dtype.type(scale)


def _params(classifier: SoftmaxClassifier) -> dict[str, np.ndarray]:
    """`{"kernel": [D, V], "bias": [V]}`, in a dtype that `predict` computes in."""
    kernel, bias = classifier.coef_.T, classifier.intercept_
    if len(bias) == 1:  # of the second class over the first: each has half of it
        kernel, bias = (np.concatenate([-x / 2, x / 2], -1) for x in (kernel, bias))
    dtype = jax.dtypes.canonicalize_dtype(kernel.dtype)
    with np.errstate(over="ignore"):
        return {"kernel": kernel.astype(dtype), "bias": bias.astype(dtype)}
