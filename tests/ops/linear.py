"""A linear layer under the fused loss: its arguments, its exact results, one compiled call."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_softmax import ops
from jax_softmax.testing.oracle import options_cross_entropy
from tests.ops.options import IGNORED

loss = ops.linear_softmax_cross_entropy
unfused_loss = ops.softmax_cross_entropy_with_integer_labels

OPTIONS = (
    "label_smoothing",
    "class_weights",
    "sample_weight",
    "z_loss",
    "soft_cap",
    "temperature",
    "ignore_index",
)
NAMES = ("bias", *OPTIONS)
ARRAYS = ("features", "kernel", "bias", "sample_weight")
OUTPUTS = ("loss", "logsumexp", "label_log_prob", "entropy")
WIDTH, CLASSES = 5, 37


class Case(NamedTuple):
    """What the loss is called with: arrays that may be differentiated, and the rest.

    `kernel` is `[D, V]`, whatever layout the loss is to be called with.
    """

    arrays: dict[str, Any]
    labels: Any
    options: dict[str, Any]

    def changed(self, **arrays):
        return self._replace(arrays={**self.arrays, **arrays})


def case(names=(), rows=(13,), width=WIDTH, classes=CLASSES, dtype=np.float32, seed=0):
    """Random arguments for the options `names`: one class and one row of weight 0."""
    rng = np.random.default_rng(seed)
    arrays = {
        "features": rng.standard_normal((*rows, width)).astype(dtype),
        "kernel": rng.standard_normal((width, classes)).astype(dtype),
    }
    labels = rng.integers(0, classes, rows).astype(np.int32)
    wide = jnp.promote_types(dtype, np.float32)
    options = {}
    if "bias" in names:
        arrays["bias"] = rng.standard_normal(classes).astype(dtype)
    if "sample_weight" in names:
        arrays["sample_weight"] = (0.1 + 2 * rng.random(rows)).astype(wide)
        if labels.size:
            arrays["sample_weight"].reshape(-1)[-1] = 0
    if "class_weights" in names:
        options["class_weights"] = (0.1 + 2 * rng.random(classes)).astype(wide)
        if labels.size:
            options["class_weights"][labels.reshape(-1)[0]] = 0
    for name, value in (
        ("label_smoothing", 0.1),
        ("z_loss", 0.03),
        ("soft_cap", 2.5),
        ("temperature", 0.7),
    ):
        if name in names:
            options[name] = value
    if "ignore_index" in names:
        options["ignore_index"] = IGNORED
        if labels.size > 1:
            labels.reshape(-1)[1] = IGNORED
    return Case(arrays, labels, options)


def cotangents_for(made, reduction, stats, seed=1):
    """A random cotangent for the loss, and with statistics for each of them too."""
    rng = np.random.default_rng(seed)
    rows = made.labels.shape
    wide = jnp.promote_types(made.arrays["features"].dtype, np.float32)
    shapes = [rows if reduction == "none" else (), *[rows] * (3 if stats else 0)]
    return [np.asarray(rng.standard_normal(shape), wide) for shape in shapes]


def weighted(f, cotangents, arrays, *rest):
    """`sum(cotangents * outputs)`, with all outputs beside it."""
    out = f(arrays, *rest)
    out = (out[0], *out[1][:4]) if isinstance(out, tuple) else (out,)
    terms = zip(cotangents, out, strict=False)
    return sum(jnp.sum(g * x) for g, x in terms if g is not None), out


def call(static, arrays, labels, class_weights=None, f=loss):
    """The fused loss of a dictionary of arrays."""
    static = dict(static)
    arrays = dict(arrays)
    kernel = arrays.pop("kernel")
    if static.get("kernel_layout") == "vd":
        kernel = kernel.T
    if class_weights is not None:
        static["class_weights"] = class_weights
    return f(arrays.pop("features"), kernel, labels, **arrays, **static)


def call_unfused(static, arrays, labels, class_weights=None):
    """The same by the loss on logits."""
    arrays, static = dict(arrays), dict(static)
    for name in ("kernel_layout", "block_size", "precision"):
        static.pop(name, None)
    logits = arrays.pop("features") @ arrays.pop("kernel")
    bias = arrays.pop("bias", None)
    if bias is not None:
        logits = logits + bias.reshape((1,) * (logits.ndim - 1) + bias.shape)
    if class_weights is not None:
        static["class_weights"] = class_weights
    return unfused_loss(logits, labels, **arrays, **static)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled(f, static, cotangents, arrays, labels, class_weights):
    total = functools.partial(weighted, functools.partial(f, static), cotangents)
    (_, out), gradients = jax.value_and_grad(total, has_aux=True)(arrays, labels, class_weights)
    return out, gradients


def outputs_and_gradients(made, cotangents, f=call, **static):
    """All outputs, and the gradients of their products with the cotangents by every array."""
    options = dict(made.options)
    class_weights = options.pop("class_weights", None)
    static = tuple(sorted({**options, **static}.items()))
    return _compiled(f, static, cotangents, made.arrays, made.labels, class_weights)


def exact(made, cotangents, reduction="mean", num_classes=None):
    """What `outputs_and_gradients` should find, from the definition, in float64 or better."""
    arrays = {name: np.asarray(x, np.float64) for name, x in made.arrays.items()}
    wide = np.longdouble if made.arrays["features"].dtype == np.float64 else np.float64
    x = arrays["features"].reshape(made.labels.size, -1).astype(wide)
    kernel = arrays["kernel"].astype(wide)
    logits = x @ kernel + arrays.get("bias", np.zeros(kernel.shape[1])).astype(wide)
    options = dict(made.options)
    if "sample_weight" in arrays:
        given = np.broadcast_to(arrays["sample_weight"], made.labels.shape)
        options["sample_weight"] = given.reshape(-1)
    if num_classes is not None:
        options["where"] = np.broadcast_to(np.arange(kernel.shape[1]) < num_classes, logits.shape)
    labels = made.labels.reshape(-1)
    rows = options_cross_entropy(logits.astype(np.float64), labels, **options)

    g = np.asarray(cotangents[0], wide).reshape(-1) * np.ones(len(labels), wide)
    divisor = rows.weight.sum() if reduction == "mean" else 1
    share = np.zeros_like(g) if divisor == 0 else g / divisor
    gradient = share[:, None] * rows.loss.gradient
    for name, of_rows in zip(OUTPUTS[1:], cotangents[1:], strict=False):
        if of_rows is not None:
            by_row = np.asarray(of_rows, wide).reshape(-1, 1)
            gradient = gradient + by_row * getattr(rows, name).gradient
    gradients = {
        "features": (gradient @ kernel.T).reshape(arrays["features"].shape),
        "kernel": x.T @ gradient,
    }
    if "bias" in arrays:
        gradients["bias"] = gradient.sum(0)
    value = rows.over(reduction, rows.loss.value)
    if "sample_weight" in arrays:
        kept = labels != options.get("ignore_index")
        weights = options.get("class_weights", np.ones(kernel.shape[1]))
        by_weight = rows.by_weight
        if reduction == "mean":
            by_weight = by_weight - weights[np.where(kept, labels, 0)] * value
        gradients["sample_weight"] = np.where(kept, share * by_weight, 0).reshape(
            arrays["sample_weight"].shape
        )
    stats = [getattr(rows, name).value for name in OUTPUTS[1:]]
    out = [value, *stats, rows.argmax]
    return [np.reshape(x, made.labels.shape) if np.ndim(x) else x for x in out], gradients
