"""A linear layer whose logits are exactly a case's own, so that its loss sees the same rows.

Row n has a single feature, number n + 1, of 1/2, and the kernel has twice the row's logits there.
So a logit has one term that is not 0, and powers of two round nothing in any dtype. Likewise the
kernel's gradient is half of the logits', and is reported as theirs. The bias is 0, since any other
would round the logits; its gradient is checked all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_softmax.testing.causal import LENGTH, causal_arguments
from jax_softmax.testing.options import Option

FEATURES_GRADIENT = "features gradient"
BIAS_GRADIENT = "bias gradient"
SCALE_GRADIENT = "scale gradient"


def features_of(rows: int, dtype: np.dtype) -> np.ndarray:
    """The features of all rows, `[N, N]`."""
    return np.roll(np.eye(rows) / 2, 1, axis=1).astype(dtype)


def kernel_of(logits: Any, xp: Any = jnp) -> Any:
    """`[N, V]`, the kernel for the features of `features_of`; linear in the logits."""
    return xp.roll(2 * logits, 1, axis=0)


def layer_keywords(option: Option, rows: int, classes: int) -> dict[str, Any]:
    """The op's keywords besides the losses' own options; they ask for several blocks.

    Blocks of classes leave a rest (unless V = 2). Blocks of rows do not, if the op can help it.
    """
    block_rows, block_classes = -(-rows // 3), classes // 3 + 1
    return {
        "reduction": option.reduction,
        "block_size": (block_rows, block_classes) if option.class_blocks else block_rows,
        "precision": "highest",  # tensor cores and matrix units round their inputs
    }


def call_on_layer(op: Callable[..., Any], arrays: dict[str, Any], keywords: dict[str, Any]) -> Any:
    """The results of `op` for the layer of a case's arrays, with rows as `[N]`."""
    names = ("features", "labels", "sample_weight", "where")
    given = {name: arrays[name] for name in names if arrays[name] is not None}
    rows = {name: x.reshape(-1, LENGTH, *x.shape[1:]) for name, x in given.items()}
    kernel = kernel_of(arrays["logits"])
    kernel = kernel if keywords.get("kernel_layout") != "vd" else kernel.T
    of_classes = ("bias", "class_weights")
    classwise = {name: arrays[name] for name in of_classes if arrays[name] is not None}
    found = op(rows.pop("features"), kernel, rows.pop("labels"), **rows, **classwise, **keywords)
    return _of_places(found, len(arrays["features"]))


def call_causal(
    op: Callable[..., Any], arrays: dict[str, Any], keywords: dict[str, Any], tokens: str
) -> Any:
    """The results of a causal loss whose token after each place is the place's label.

    Args:
      op: the loss.
      arrays: a case's; the weight of a row becomes that of the token after it.
      keywords: constants of the program.
      tokens: the option of that name.
    """
    kernel, rows = kernel_of(arrays["logits"]), len(arrays["features"])
    given = causal_arguments(tokens, rows)
    if arrays["sample_weight"] is not None:
        given["loss_mask"] = jnp.roll(arrays["sample_weight"].reshape(-1, LENGTH), 1, 1)
    found = op(
        arrays["features"].reshape(-1, LENGTH, rows),
        kernel if keywords.get("kernel_layout") != "vd" else kernel.T,
        jnp.roll(arrays["labels"].reshape(-1, LENGTH), 1, 1),
        bias=arrays["bias"],
        **given,
        **keywords,
    )
    return _of_places(found, rows)


def call_contrastive(
    op: Callable[..., Any], arrays: dict[str, Any], keywords: dict[str, Any]
) -> Any:
    """The results of a contrastive loss whose similarities are the case's logits."""
    given = {name: arrays[name] for name in ("sample_weight", "where") if arrays[name] is not None}
    if arrays["logit_scale"] is not None:
        given["logit_scale"] = arrays["logit_scale"][0]
    return op(arrays["features"], kernel_of(arrays["logits"]).T, **given, **keywords)


def call_largest(
    op: Callable[..., Any], arrays: dict[str, Any], keywords: dict[str, Any], linear: bool
) -> Any:
    """The log-probabilities of the likeliest classes, NaN where they are of other classes."""
    labels, given = arrays["labels"], [arrays["logits"]]
    if linear:
        kernel = kernel_of(arrays["logits"])
        kernel = kernel if keywords.get("kernel_layout") != "vd" else kernel.T
        given, keywords = [arrays["features"], kernel], keywords | {"bias": arrays["bias"]}
    log_probs, indices = op(*given, labels.shape[-1], **keywords)
    return jnp.where(indices == labels, log_probs, jnp.nan)


def _of_places(found: Any, rows: int) -> Any:
    """Results of `rows` places in any shape as `[N]`, or `[N, K]`."""

    def flat(x: Any) -> Any:
        return x if not x.ndim else x.reshape(-1) if x.size == rows else x.reshape(rows, -1)

    return jax.tree.map(flat, found)
