"""The losses' options: arguments for each by its name, alone or together."""

import numpy as np

from jax_softmax import ops

integer_loss = ops.softmax_cross_entropy_with_integer_labels
soft_loss = ops.softmax_cross_entropy
LOSSES = {"integer": integer_loss, "soft": soft_loss}
IGNORED = -7

NAMES = (
    "label_smoothing",
    "class_weights",
    "sample_weight",
    "z_loss",
    "soft_cap",
    "temperature",
    "ignore_index",
    "where classes",
    "where rows",
)


def names_for(loss):
    return [name for name in NAMES if loss is integer_loss or name != "ignore_index"]


def case(loss, names, shape, dtype, rng):
    """Logits `[N, V]`, labels for `loss`, and its arguments for the options `names`.

    Weights are positive, but for one class and one row of weight 0.
    """
    rows, classes = shape
    logits = (3 * rng.standard_normal(shape)).astype(dtype)
    labels = rng.integers(0, classes, rows).astype(np.int32)
    options = {}
    if "label_smoothing" in names:
        options["label_smoothing"] = 0.1
    if "class_weights" in names:
        options["class_weights"] = (0.1 + 2 * rng.random(classes)).astype(np.float32)
        options["class_weights"][labels[0]] = 0
    if "sample_weight" in names:
        options["sample_weight"] = (0.1 + 2 * rng.random(rows)).astype(np.float32)
        options["sample_weight"][-1] = 0
    if "z_loss" in names:
        options["z_loss"] = 0.03
    if "soft_cap" in names:
        options["soft_cap"] = 2.5
    if "where classes" in names:
        options["where"] = rng.random(shape) < 0.7
        options["where"][np.arange(rows), labels] = True
    elif "where rows" in names:
        options["where"] = np.arange(rows) != 2
    if "temperature" in names:
        options["temperature"] = 0.7
    if "ignore_index" in names:
        labels[1] = IGNORED
        options["ignore_index"] = IGNORED
    if loss is soft_loss:
        return logits, rng.random(shape).astype(np.float32), options
    return logits, labels, options
