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

from jax_softmax.testing.options import Option

FEATURES_GRADIENT = "features gradient"
BIAS_GRADIENT = "bias gradient"

# Rows are passed as `[N / 7, 7]`: a case has a multiple of seven, as there are seven regimes.
_LAST = 7


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
    rows = {name: x.reshape(-1, _LAST, *x.shape[1:]) for name, x in given.items()}
    kernel = kernel_of(arrays["logits"])
    kernel = kernel if keywords.get("kernel_layout") != "vd" else kernel.T
    classwise = {name: arrays[name] for name in ("bias", "class_weights")}
    found = op(rows.pop("features"), kernel, rows.pop("labels"), **rows, **classwise, **keywords)
    return jax.tree.map(lambda x: x.reshape(-1) if x.ndim else x, found)
