"""`evaluate` and `predict`: every example, in blocks."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import canonicalize_dtype
from jax.sharding import Mesh

from jax_softmax._checks import check_class_names, classes_shown, shown
from jax_softmax._extras import needs_train_extra
from jax_softmax._frames import encoded_frame
from jax_softmax.errors import InputError
from jax_softmax.ops import softmax, softmax_cross_entropy_with_integer_labels
from jax_softmax.training import sharded_metrics
from jax_softmax.training.examples import Examples, check_examples, check_features, fit_dtype
from jax_softmax.training.labels import labels_in
from jax_softmax.training.mesh import (
    DATA,
    MODEL,
    MeshShape,
    alone_on,
    mesh_of,
    place,
)
from jax_softmax.training.model import SoftmaxModel
from jax_softmax.training.processes import on_host, progressed
from jax_softmax.training.programs import latest_programs
from jax_softmax.training.step import Params
from jax_softmax.training.streams import (
    Pieces,
    Reader,
    Streamed,
    is_stream,
    read_ahead,
    units_in_piece,
)

# Features or logits in a block of examples: 32 MB once they are float32.
_NUMBERS_PER_BLOCK = 2**23
# Small sets of examples are filled up to a multiple of as many as have so many numbers, or of 256:
# several sets share a program.
_NUMBERS_TO_FILL = 2**16


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """How a model does on examples whose labels are known.

    Attributes:
      loss: the mean cross-entropy, in nats.
      accuracy: the share of examples whose likeliest class is their label.
      labels: `[N]` int32, the true classes.
      predictions: `[N]` int32, the likeliest classes.
      class_names: `V` names.
      of: what the examples are called in pictures and summaries, "test examples" say.

    See Also:
      `evaluate`; `summarize` for statistics of a loss.

    >>> import numpy as np
    >>> Evaluation(0.7, 0.5, np.array([0, 1]), np.array([0, 0]), ("no", "yes")).accuracy
    0.5
    """

    loss: float
    accuracy: float
    labels: np.ndarray
    predictions: np.ndarray
    class_names: tuple[str, ...]
    of: str = "examples"

    def __repr__(self) -> str:
        """Two lines: how it did, and on what."""
        wrong = int(np.sum(self.labels != self.predictions))
        return (
            f"<Evaluation of {len(self.labels):,} {self.of}: loss {self.loss:.4f}, "
            f"accuracy {self.accuracy:.4f} ({wrong:,} wrong)\n"
            f"  {classes_shown(self.class_names)}>"
        )

    @needs_train_extra()
    def confusion(self) -> np.ndarray:
        """`[V, V]` counts, a row for each true class, a column for each predicted one."""
        from sklearn.metrics import confusion_matrix

        classes = range(len(self.class_names))
        return confusion_matrix(self.labels, self.predictions, labels=list(classes))

    @needs_train_extra()
    def per_class(self) -> list[dict[str, Any]]:
        """A record a class: `class_name`, `precision`, `recall`, `f1`, `support` (examples)."""
        from sklearn.metrics import precision_recall_fscore_support

        columns = precision_recall_fscore_support(
            self.labels,
            self.predictions,
            labels=list(range(len(self.class_names))),
            zero_division=0.0,
        )
        names = ("precision", "recall", "f1")
        return [
            {
                "class_name": name,
                **dict(zip(names, map(float, row), strict=True)),
                "support": int(n),
            }
            for name, *row, n in zip(self.class_names, *columns, strict=True)
        ]


def evaluate(
    model: SoftmaxModel,
    examples: Examples | Streamed,
    *,
    mesh: Mapping[str, int] | MeshShape | None = None,
) -> Evaluation:
    """Loss and accuracy over every example, none dropped.

    Args:
      model: what `fit` or `load_run` returned.
      examples: `features [N, ...]` as stored (the model scales them) and `labels [N]`, integers
        or names of the model's classes, or one-hot. Where they have `class_names` in another order,
        labels count in that. Or a `Stream`, which is read a piece at a time.
      mesh: the devices, as of `TrainConfig`: examples are spread over `data`, classes over `model`;
        None is all devices on `data`. The results are the same to rounding.

    Returns:
      An `Evaluation`: mean loss in nats, accuracy, and each example's class.

    Raises:
      InputError: if the features are not finite or not the model's width, or a label is none of its
        classes, or the mesh takes more devices than there are.

    See Also:
      `predict`, `predict_proba`; `Evaluation`.

    >>> import numpy as np
    >>> from jax_softmax import Split, TrainConfig, fit
    >>> split = Split(np.array([[0.0], [1.0]]), np.array([0, 1]))
    >>> evaluate(fit(split, TrainConfig(learning_rate=1.0)), split).accuracy
    1.0
    """
    _check_model(model)
    run = functools.partial(
        _in_blocks, _losses_and_predictions, sharded_metrics.losses_and_predictions, mesh, model
    )
    if is_stream(examples):
        if getattr(model, "columns", None) is not None:
            raise InputError(
                "examples: expected a Split of a data frame, for the model was trained on a "
                "table's columns, got a stream."
            )
        parts = list(_of_stream(run, model, examples))
    else:
        check_examples("examples", examples, ("features", "labels"))
        features = _features_of(model, examples.features, getattr(examples, "columns", None))
        own_names = check_class_names(getattr(examples, "class_names", ()))
        labels = labels_in(examples.labels, len(features), own_names, model.class_names)
        parts = [[*run(features, labels), labels]]
    losses, predictions, labels = map(np.concatenate, zip(*parts, strict=True))
    return Evaluation(
        loss=float(losses.mean(dtype=np.float64)),
        accuracy=float(np.mean(predictions == labels)),
        labels=labels,
        predictions=predictions,
        class_names=model.class_names,
    )


def _of_stream(
    run: Callable[..., list[np.ndarray]], model: SoftmaxModel, stream: Streamed
) -> Iterator[list[np.ndarray]]:
    """Losses, predictions and labels of a stream's examples, a block at a time."""
    check_features(np.zeros((1, *stream.feature_shape), stream.dtype), model.feature_shape)
    labels, own_names = stream.labels, stream.class_names
    if labels is not None:
        labels = labels_in(labels, len(stream), own_names, model.class_names)
        own_names = model.class_names
    dtype = np.dtype(model.params["kernel"].dtype)
    reader = Reader(stream, labels, own_names, dtype)
    widest = max(model.params["kernel"].shape)
    pieces = Pieces(reader, np.arange(len(stream)), 1, units_in_piece(widest))
    with read_ahead(pieces) as read:
        for features, numbers in read:
            numbers = labels_in(numbers, len(numbers), own_names, model.class_names)
            yield [*run(features, numbers), numbers]


def predict(
    model: SoftmaxModel, features: Any, *, mesh: Mapping[str, int] | MeshShape | None = None
) -> np.ndarray:
    """The likeliest class of each example, `[N]` int32 indices into `model.class_names`.

    Args:
      model: what `fit` or `load_run` returned.
      features: `[N, ...]` as stored; the model scales them. Of a model that was trained on a
        table's columns (`load_table`), a data frame with those columns, in any order.
      mesh: the devices, as for `evaluate`.

    Returns:
      `[N]` int32, indices into `model.class_names`.

    Raises:
      InputError: if they are not finite or not the model's width, or the mesh takes more devices
        than there are.

    See Also:
      `predict_proba`; `evaluate` where labels are known.

    >>> import numpy as np
    >>> from jax_softmax import Split, TrainConfig, fit
    >>> split = Split(np.array([[0.0], [1.0]]), np.array([0, 1]))
    >>> predict(fit(split, TrainConfig(learning_rate=1.0)), [[0.0], [1.0], [0.9]]).tolist()
    [0, 1, 1]
    """
    _check_model(model)
    features = _features_of(model, features)
    (classes,) = _in_blocks(_likeliest, sharded_metrics.likeliest, mesh, model, features)
    return classes


def predict_proba(
    model: SoftmaxModel, features: Any, *, mesh: Mapping[str, int] | MeshShape | None = None
) -> np.ndarray:
    """Class probabilities of each example, `softmax((features * feature_scale) @ kernel + bias)`.

    Args:
      model: what `fit` or `load_run` returned.
      features: `[N, ...]` as for `predict`.
      mesh: the devices, as for `evaluate`.

    Returns:
      `[N, V]`, in the dtype of the parameters; rows sum to 1.

    Raises:
      InputError: as for `predict`.

    See Also:
      `predict` for the classes alone.

    >>> import numpy as np
    >>> from jax_softmax import Split, TrainConfig, fit
    >>> split = Split(np.array([[0.0], [1.0]]), np.array([0, 1]))
    >>> predict_proba(fit(split, TrainConfig(learning_rate=1.0)), [[0.5], [0.9]]).shape
    (2, 2)
    """
    _check_model(model)
    features = _features_of(model, features)
    (found,) = _in_blocks(_probabilities, sharded_metrics.probabilities, mesh, model, features)
    return found[:, : len(model.class_names)]


def _features_of(model: SoftmaxModel, features: Any, made_by: object = None) -> np.ndarray:
    """Features `[N, D]`; a model of a table's columns makes them of a data frame.

    Args:
      model: the model.
      features: what was passed.
      made_by: the columns that made features of it already, if any did.

    Raises:
      InputError: as `check_features` does, or if the model wants a data frame.
    """
    columns = getattr(model, "columns", None)
    if columns is not None and made_by != columns:
        features = encoded_frame(columns, features)
    return check_features(features, model.feature_shape)


def _check_model(model: object) -> None:
    if not isinstance(model, SoftmaxModel):
        raise InputError(
            f"model: expected what fit or load_run returned, got {shown(model)}; "
            f"load_run reads a run folder."
        )


@latest_programs()
def _losses_and_predictions(
    params: Params, scale: jax.Array, features: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    logits = _logits(params, features, scale)
    losses = softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses, _first_largest(logits)


@latest_programs()
def _likeliest(params: Params, scale: jax.Array, features: jax.Array) -> tuple[jax.Array]:
    return (_first_largest(_logits(params, features, scale)),)


@latest_programs()
def _probabilities(params: Params, scale: jax.Array, features: jax.Array) -> tuple[jax.Array]:
    return (softmax(_logits(params, features, scale)),)


def _logits(params: Params, features: jax.Array, scale: jax.Array) -> jax.Array:
    """`[N, V]` logits `(features * scale) @ kernel + bias`, in the parameters' dtype."""
    kernel = params["kernel"]
    scaled = features.astype(kernel.dtype) * scale.astype(kernel.dtype)
    return scaled @ kernel + params["bias"][None, :]


def _first_largest(logits: jax.Array) -> jax.Array:
    """`jnp.argmax(logits, -1)`, of which JAX would keep something each time that it is compiled."""
    largest = (logits == jnp.max(logits, -1, keepdims=True)) | jnp.isnan(logits)
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    return jnp.min(jnp.where(largest, classes, logits.shape[1]), -1)


def _in_blocks(
    on_one: Callable[..., tuple[jax.Array, ...]],
    on_several: Callable[..., tuple[jax.Array, ...]],
    sizes: Mapping[str, int] | MeshShape | None,
    model: SoftmaxModel,
    *arrays: np.ndarray,
) -> list[np.ndarray]:
    """A compiled function of `params, scale, *block` over blocks of rows, its results joined.

    The last block is filled up with copies of its last row and cut again: one program serves all.
    """
    mesh = mesh_of(sizes)
    scale = np.asarray(model.feature_scale, canonicalize_dtype(model.params["kernel"].dtype))
    arrays = (fit_dtype(arrays[0], scale.dtype), *arrays[1:])
    examples, width = arrays[0].shape
    classes = len(model.class_names)
    over_rows, over_classes = (1, 1) if mesh is None else (mesh.shape[DATA], mesh.shape[MODEL])
    widest = max(width, -(-classes // over_classes))
    few = min(256, max(1, _NUMBERS_TO_FILL // widest)) * over_rows
    block = min(-(-examples // few) * few, max(1, _NUMBERS_PER_BLOCK // widest) * over_rows)
    results = []
    with contextlib.nullcontext() if mesh is None else alone_on(mesh):
        run = _on_devices(on_one, on_several, mesh, model, scale)
        for first in range(0, examples, block):
            rows = [array[first : first + block] for array in arrays]
            count = len(rows[0])
            if count < block:
                rows = [np.concatenate([r, np.repeat(r[-1:], block - count, axis=0)]) for r in rows]
            results.append([on_host(out)[:count] for out in run(*rows)])
            progressed()
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def _on_devices(
    on_one: Callable[..., tuple[jax.Array, ...]],
    on_several: Callable[..., tuple[jax.Array, ...]],
    mesh: Mesh | None,
    model: SoftmaxModel,
    scale: np.ndarray,
) -> Callable[..., tuple[jax.Array, ...]]:
    """The function of a block's rows, the parameters in their places."""
    if mesh is None:
        return functools.partial(on_one, jax.device_put(dict(model.params)), scale)
    kernel, bias = (np.asarray(model.params[name]) for name in ("kernel", "bias"))
    params = {"kernel": place(mesh, MODEL, kernel.T), "bias": place(mesh, MODEL, bias)}
    classes = len(model.class_names)

    def run(*rows: np.ndarray) -> tuple[jax.Array, ...]:
        placed = [place(mesh, DATA, array) for array in rows]
        return on_several(params, scale, *placed, mesh=mesh, classes=classes)

    return run
