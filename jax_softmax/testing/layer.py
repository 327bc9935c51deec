"""A linear layer whose logits are a case's own, exactly, so that its loss is held to the same rows.

Row n has the one feature n + 1, of 1/2, and the kernel has twice the row's logits there: of the
terms of a logit one is not 0, and powers of two round nothing in any dtype. In the same way the
kernel's gradient is half of the logits', and is reported as theirs. The bias is 0, for any other
would round the logits; it has its gradient all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_softmax.testing.options import Option

FEATURES_GRADIENT = "features gradient"
BIAS_GRADIENT = "bias gradient"

# Rows are handed over as `[N / 7, 7]`: cases have a multiple of seven, one of each regime.
_LAST = 7


def features_of(rows: int, dtype: np.dtype) -> np.ndarray:
    """`[N, N]`."""
    return np.roll(np.eye(rows) / 2, 1, axis=1).astype(dtype)


def kernel_of(logits: Any, xp: Any = jnp) -> Any:
    """`[N, V]`, the kernel for the features of `features_of`; linear in the logits."""
    return xp.roll(2 * logits, 1, axis=0)


def layer_keywords(option: Option, rows: int, classes: int) -> dict[str, Any]:
    """How the op is called, beside the losses' own options: in several blocks.

    Those of classes do not divide them. Those of rows do, as the op sees to where it can.
    """
    block_rows, block_classes = -(-rows // 3), classes // 3 + 1
    return {
        "reduction": option.reduction,
        "block_size": (block_rows, block_classes) if option.class_blocks else block_rows,
        "precision": "highest",  # tensor cores and matrix units round what they multiply
    }


def call_on_layer(op: Callable[..., Any], arrays: dict[str, Any], keywords: dict[str, Any]) -> Any:
    """What `op` gives for the layer of a case's arrays, a row each `[N]`."""
    names = ("features", "labels", "sample_weight", "where")
    given = {name: arrays[name] for name in names if arrays[name] is not None}
    rows = {name: x.reshape(-1, _LAST, *x.shape[1:]) for name, x in given.items()}
    kernel = kernel_of(arrays["logits"])
    kernel = kernel if keywords.get("kernel_layout") != "vd" else kernel.T
    classwise = {name: arrays[name] for name in ("bias", "class_weights")}
    found = op(rows.pop("features"), kernel, rows.pop("labels"), **rows, **classwise, **keywords)
    return jax.tree.map(lambda x: x.reshape(-1) if x.ndim else x, found)
