"""What `fit` starts from: arguments of the right kinds, parameters and an optimiser that fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_softmax._checks import require
from jax_softmax.errors import InputError
from jax_softmax.training.arrays import as_array
from jax_softmax.training.config import TrainConfig
from jax_softmax.training.examples import check_examples
from jax_softmax.training.streams import is_stream


def check_types(
    train: object,
    config: object,
    validation: object,
    optimizer: object,
    on_progress: object,
    on_epoch: object,
    progress: object,
) -> None:
    """Raises InputError if an argument of `fit` is of another kind than it takes."""
    if not is_stream(train):
        check_examples("train", train, ("features", "labels", "class_names", "feature_scale"))
    if not isinstance(config, TrainConfig):
        remedy = "."
        if type(config).__name__ == "LbfgsConfig":
            remedy = "; for the optimum in Python use SoftmaxClassifier."
        raise InputError(f"config: expected a TrainConfig, got {type(config).__name__}{remedy}")
    if validation is not None and not is_stream(validation):
        check_examples("validation", validation, ("features", "labels"))
    if validation is None and config.patience is not None:
        raise InputError("patience: expected validation examples to go with it, got None.")
    methods = (getattr(optimizer, name, None) for name in ("init", "update"))
    if optimizer is not None and not all(map(callable, methods)):
        raise InputError(
            f"optimizer: expected an optax optimiser such as optax.adam(1e-3), got {optimizer!r}."
        )
    for name, function in (("on_progress", on_progress), ("on_epoch", on_epoch)):
        if not (function is None or callable(function)):
            raise InputError(
                f"{name}: expected a function of a record, got {type(function).__name__}."
            )
    require(isinstance(progress, bool), "progress: expected True or False", progress)


def check_optimizer(optimizer: Any, params: Mapping[str, np.ndarray]) -> None:
    """Raises InputError unless the optimiser makes updates of gradients, state and parameters."""
    try:
        state = jax.eval_shape(optimizer.init, params)
        updates, _ = jax.eval_shape(optimizer.update, params, state, params)
        jax.tree.map(
            lambda param, update: update.shape, params, updates
        )  # raises where they differ
        why = ""
    except (TypeError, ValueError, AttributeError) as error:
        why = str(error).partition("\n")[0]
    if why:
        raise InputError(
            f"optimizer: expected updates from gradients, state and parameters alone, as of "
            f"optax.adam(1e-3), got {why[:200]}."
        )


def check_held(dtype: Any, **settings: float) -> None:
    """Raises InputError if a setting is too large for the dtype that is computed in."""
    for name, value in settings.items():
        if value > float(np.finfo(dtype).max):
            words = name.replace("_", " ") if name != "feature_scale" else name
            raise InputError(f"{words}: expected a number that {dtype} holds, got {value!r}.")


def starting_params(params: Any, features: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """The parameters to start from, checked, with the kernel as `[V, D]`; on no device yet."""
    width = features.shape[1]
    if params is None:
        wide = features.dtype == np.float64
        dtype = jax.dtypes.canonicalize_dtype(np.float64 if wide else np.float32)
        # Of NumPy: zeros of JAX are two more programs to compile.
        return {"kernel": np.zeros((classes, width), dtype), "bias": np.zeros(classes, dtype)}
    if not isinstance(params, Mapping):
        raise InputError(
            f"params: expected a dict of arrays, kernel and bias, got {type(params).__name__}."
        )
    arrays = {name: as_array(f"params, {name}", value) for name, value in params.items()}
    expected = {"kernel": (width, classes), "bias": (classes,)}
    got = {name: array.shape for name, array in arrays.items()}
    if got != expected:
        raise InputError(f"params: expected arrays of shapes {expected}, got {got}.")
    for name, array in arrays.items():
        if array.dtype.kind in "cOSUTmMb":
            raise InputError(f"params, {name}: expected real numbers, got dtype {array.dtype}.")
    # Copied and turned over by NumPy: each would be a program of JAX to compile.
    dtype = jnp.promote_types(arrays["kernel"].dtype, jnp.float32)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    with np.errstate(over="ignore"):
        copies = {name: np.array(array, dtype) for name, array in arrays.items()}
    for name, copy in copies.items():
        if not np.isfinite(copy).all():
            raise InputError(f"params, {name}: expected finite numbers that {dtype} holds.")
    return {"kernel": copies["kernel"].T, "bias": copies["bias"]}
