"""The inputs of a group: rows on which losses go wrong, rounded to the dtype under test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jax_softmax.testing.exact import numpy_dtype, statistics_dtype
from jax_softmax.testing.layer import features_of
from jax_softmax.testing.options import LINEAR, LOSSES, SOFT_LABELS, Option, option_of
from jax_softmax.testing.regimes import REGIMES, regime_rows, row_cotangents


@dataclass(frozen=True)
class Group:
    """What is compiled once: every regime is rows of its one array."""

    op: str
    rule: str
    option: str
    dtype: str
    classes: int


@dataclass(frozen=True)
class Case:
    """One group's inputs: NumPy arrays, `rows` of them for each regime in `REGIMES`' order.

    Attributes:
      group: what they are for.
      option: the group's option.
      logits: `[N, V]` in the dtype under test.
      labels: `[N]` int32, or class probabilities `[N, V]` in the dtype under test.
      label_index: `[N]`, the label, or the likeliest class of `labels`.
      class_weights: None, or `[V]`.
      sample_weight: None, or `[N]`.
      where: None, or `[N, V]` booleans that leave every row its label.
      cotangents: `[N]` for each output that has one (a number for a total), `[N, V]` for "value".
      tangents: `[N, V]`, a direction for forward mode.
      features: None, or a linear layer's, `[N, N]`; its kernel is made from the logits.
      bias: None, or a linear layer's, `[V]`.
    """

    group: Group
    option: Option
    logits: np.ndarray
    labels: np.ndarray
    label_index: np.ndarray
    class_weights: np.ndarray | None
    sample_weight: np.ndarray | None
    where: np.ndarray | None
    cotangents: dict[str, np.ndarray]
    tangents: np.ndarray
    features: np.ndarray | None = None
    bias: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """Rows a regime."""
        return len(self.logits) // len(REGIMES)

    def arrays(self) -> dict[str, np.ndarray | None]:
        """What is handed to the op, by the names of its arguments."""
        rows = ("logits", "labels", "class_weights", "sample_weight", "where")
        names = (*rows, "features", "bias")
        return {name: getattr(self, name) for name in names}


def make_case(group: Group) -> Case:
    """The inputs of `group`: the same at every call."""
    rng = np.random.default_rng(group.classes)
    option, dtype = option_of(group.op, group.option), numpy_dtype(group.dtype)
    wide = statistics_dtype(dtype)
    logits, index, _ = regime_rows(group.classes, 6 if group.classes <= 1000 else 2, rng)
    logits = logits.astype(dtype)
    count = len(logits)
    # From here on everything is random whether it is used or not, so that options share it.
    mask = rng.random(logits.shape) < 0.6
    mask[np.arange(count), index] = True
    class_weights = rng.uniform(0.25, 2, group.classes).astype(wide)
    sample_weight = rng.uniform(0.25, 2, count).astype(wide)
    sample_weight[3::10] = 0
    ignored = np.arange(count) % 5 == 4
    tangents = rng.standard_normal(logits.shape).astype(dtype)
    where = mask if option.where else None
    labels = np.where(ignored & (option.ignore_index is not None), -1, index).astype(np.int32)
    if group.op == SOFT_LABELS:
        labels = _probabilities(index, group.classes, option.soft_labels, rng).astype(dtype)
    if group.op in LOSSES:
        cotangents = {name: row_cotangents(count, rng).astype(wide) for name in option.outputs}
        if option.reduction != "none":
            total = 0.3 * count if option.reduction == "mean" else 0.3
            cotangents["loss"] = np.asarray(total, wide)
    else:
        counts = mask if option.where else np.ones_like(mask)
        cotangents = {"value": _dense_cotangents(index, counts, dtype, rng)}
    linear = group.op == LINEAR
    return Case(
        group,
        option,
        logits,
        labels,
        index,
        class_weights if option.class_weights else None,
        sample_weight if option.sample_weight else None,
        where,
        cotangents,
        tangents,
        features_of(count, dtype) if linear else None,
        np.zeros(group.classes, dtype) if linear else None,
    )


def _probabilities(
    index: np.ndarray, classes: int, soft: bool, rng: np.random.Generator
) -> np.ndarray:
    """`[N, V]`: one-hot at `index`, or half of it spread over some random classes."""
    one_hot = (np.arange(classes) == index[:, None]).astype(np.float64)
    spread = rng.random(one_hot.shape) * (rng.random(one_hot.shape) < 0.7)
    if not soft:
        return one_hot
    return 0.5 * one_hot + 0.5 * spread / np.maximum(spread.sum(-1, keepdims=True), 1)


def _dense_cotangents(
    index: np.ndarray, mask: np.ndarray, dtype: np.dtype, rng: np.random.Generator
) -> np.ndarray:
    """`[N, V]`: random, or in every second row only at the label; 0 at classes left out."""
    count, classes = mask.shape
    by_row = row_cotangents(count, rng)[:, None]
    if dtype == np.float16:
        by_row = np.minimum(by_row, 1024)  # a float16 holds no 65536
    dense = by_row * rng.standard_normal((count, classes))
    only_label = np.where(np.arange(classes) == index[:, None], by_row, 0)
    chosen = np.where(np.arange(count)[:, None] // 5 % 2, only_label, dense)
    return np.where(mask, chosen, 0).astype(dtype)
