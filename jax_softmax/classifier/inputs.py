"""What scikit-learn's users pass, checked as scikit-learn does and put on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.utils import assert_all_finite, check_consistent_length
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, column_or_1d, validate_data

from jax_softmax.classifier.rows import DenseRows, Rows, single_rows, sparse_rows
from jax_softmax.training.mesh import DATA, padded, place

_ENCODE = (
    "Make numbers of words, in a pipeline by ColumnTransformer and OneHotEncoder; or train on the "
    "table as it is with `jax-softmax train FILE --label COLUMN`."
)
# Numbers of features, or of logits, to a block: a CPU keeps them in its cache, and elsewhere a
# block is large enough for its products to be fast (docs/performance.md).
_IN_CACHE, _ELSEWHERE = 2**19, 2**25


def checked_features(estimator: Any, features: Any, *, reset: bool) -> Any:
    """Features as a float array, a CSR matrix or, as it is, a JAX array; `[N, D]`.

    Raises:
      ValueError: if they are no finite numbers of two dimensions, or not those of `fit`.
    """
    if isinstance(features, jax.Array):
        return _of_jax(estimator, features, reset=reset)
    try:
        return validate_data(
            estimator,
            features,
            reset=reset,
            accept_sparse="csr",
            accept_large_sparse=True,
            dtype=[np.float64, np.float32],
            order="C",
        )
    except ValueError as error:
        if "could not convert string to float" not in str(error):
            raise
        raise ValueError(f"X{_column_of_words(features)}: {error}. {_ENCODE}") from error


def _column_of_words(features: Any) -> str:
    """Which is the first column that has a word in it, for messages."""
    columns: Iterable[tuple[Any, Any]]
    if hasattr(features, "iloc"):
        columns = ((name, features.iloc[:, i]) for i, name in enumerate(features.columns))
    elif hasattr(features, "columns"):
        columns = ((name, features[name].to_list()) for name in features.columns)
    else:
        columns = enumerate(np.asarray(features, object).T)
    for name, cells in columns:
        try:
            np.asarray(cells, np.float64)
        except (TypeError, ValueError):
            return f", column {name!r}"
    return ""


def _of_jax(estimator: Any, features: jax.Array, *, reset: bool) -> jax.Array:
    """A JAX array where it is; its shape alone goes through scikit-learn."""
    if jnp.issubdtype(features.dtype, jnp.complexfloating):
        raise ValueError(f"Complex data not supported: got dtype {features.dtype}.")
    # scikit-learn knows what to say of a shape; an array of nothing has it.
    validate_data(
        estimator,
        np.broadcast_to(np.float32(0), features.shape),
        reset=reset,
        skip_check_array=features.ndim == 2 and features.size > 0,
    )
    if features.dtype not in (jnp.float32, jnp.float64):
        features = features.astype(jnp.float32)
    if not bool(jnp.isfinite(features).all()):
        raise ValueError("Input X contains NaN or infinity; fill it in, or leave those rows out.")
    return features


def checked_labels(labels: Any, features: Any) -> np.ndarray:
    """Labels, `[N]`, of as many rows as the features have.

    Raises:
      ValueError: if they are not classes.
    """
    labels = column_or_1d(labels, warn=True)
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    check_consistent_length(features, labels)
    return np.asarray(labels)


def checked_weights(sample_weight: Any, features: Any) -> np.ndarray:
    """Weights, `[N]` and float64, of rows; 1 where none are given.

    Raises:
      ValueError: if they are negative, or all 0, or not one a row.
    """
    stands_for = np.broadcast_to(np.float64(0), features.shape)
    weights = np.array(
        _check_sample_weight(sample_weight, stands_for, dtype=np.float64, ensure_non_negative=True)
    )
    if not weights.any():
        # scikit-learn's words, from 1.8 on its own.
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return with_a_sum(weights, "sample_weight")


def with_a_sum(weights: np.ndarray, name: str) -> np.ndarray:
    """The weights; raises ValueError if they are no shares of their sum."""
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not ((weights >= 0).all() and 0 < total < np.inf):
        raise ValueError(
            f"{name}: expected weights of at least 0 whose sum over the rows is a number above 0, "
            f"got weights from {weights.min():g} to {weights.max():g}, and {total:g} in all."
        )
    return weights


def precision_of(features: Any) -> np.dtype[Any]:
    """The dtype that is computed in."""
    return np.dtype(features.dtype)


def computing_in(dtype: np.dtype[Any]) -> contextlib.AbstractContextManager[Any]:
    """Inside, JAX has that dtype, whatever the process has."""
    return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()


def block_of(examples: int, width: int, classes: int, mesh: Mesh | None) -> int:
    """How many rows a device takes together."""
    if mesh is not None:
        examples = padded(examples, mesh.shape[DATA]) // mesh.shape[DATA]
    numbers = _IN_CACHE if jax.default_backend() == "cpu" else _ELSEWHERE
    return max(1, min(examples, numbers // max(width, classes)))


def rows_of(features: Any, block: int, mesh: Mesh | None = None) -> Rows:
    """Features on the device, or spread over those of a mesh.

    Raises:
      ValueError: if sparse ones are to be spread.
    """
    if mesh is None and hasattr(features, "tocsr"):
        return single_rows(features) if block == 1 else sparse_rows(features, block)
    if hasattr(features, "tocsr"):
        raise ValueError("mesh: expected dense features to spread, got sparse ones; leave it out.")
    return DenseRows(on_devices(features, mesh))


def on_devices(rows: Any, mesh: Mesh | None) -> jax.Array:
    """An array of rows on the device, or spread over a mesh and filled up with 0."""
    if mesh is None:
        return jax.device_put(rows)  # jnp.asarray copies twice
    if not isinstance(rows, jax.Array):
        return place(mesh, DATA, rows)
    missing = padded(len(rows), mesh.shape[DATA]) - len(rows)
    rows = jnp.pad(rows, ((0, missing),) + ((0, 0),) * (rows.ndim - 1))
    return jax.device_put(rows, NamedSharding(mesh, P(DATA)))
