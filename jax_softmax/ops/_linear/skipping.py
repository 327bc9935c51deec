"""Leaving out blocks of rows of which none counts, where the rows say which of them do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._mesh import vary, varying_axes, zeros_like_type


def skipping(skips: bool, block: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`block` for a scan, but zeros for rows of which none counts, without computing anything.

    The devices of the classes have the same rows, and so agree on what they leave out: what they
    exchange for a block is theirs alone.
    """
    if not skips:
        return block

    def unless_all_are_left_out(sums: Any, rows: Any) -> Any:
        def nothing(sums: Any, rows: Any) -> Any:
            _, found = jax.eval_shape(block, sums, rows)
            return sums, jax.tree.map(zeros_like_type, found)

        return lax.cond(jnp.any(rows.data.counted), block, nothing, sums, rows)

    return unless_all_are_left_out


def for_rows(skips: bool, parts: Any, features: jax.Array) -> Any:
    """A layer's arrays, or its tangents, for blocks that some devices leave out and others do not.

    The kernel and the bias vary as the features do: else their derivatives would be summed over the
    devices of the rows a block at a time, and a device that leaves it out would be waited for.
    """
    if not skips:
        return parts
    axes = varying_axes(features)
    kernel, bias = (None if x is None else vary(x, axes) for x in (parts.kernel, parts.bias))
    return parts._replace(kernel=kernel, bias=bias)
