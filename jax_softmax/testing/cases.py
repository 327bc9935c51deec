"""The inputs of a group: rows on which losses go wrong, rounded to the dtype under test."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass

import numpy as np

from jax_softmax.testing.causal import predicting
from jax_softmax.testing.exact import numpy_dtype, statistics_dtype
from jax_softmax.testing.layer import features_of
from jax_softmax.testing.options import (
    CAUSAL,
    CONTRASTIVE,
    LARGEST,
    LAYERS,
    LOSSES,
    SOFT_LABELS,
    Option,
    option_of,
)
from jax_softmax.testing.regimes import REGIMES, regime_rows, row_cotangents

# Where `p (g - sum p g)` is off by 2470 float32 eps at the leader.
KNOWN_LOGITS, KNOWN_COTANGENT = (10.0, 0.0, 0.3), (1.0, 0.2, -0.5)

# A row of the regime N(0,1), whose cotangents share a large number.
_BROAD_ROW = 1

# From this many bytes of float32 logits per processor, a CPU takes rows in blocks: 8 of 2 MB.
_BLOCKS_BYTES = 2**24
_MOST_PROCESSORS = 16  # more would need larger arrays than a check is worth


@dataclass(frozen=True)
class Group:
    """What is compiled once: all regimes are rows of one array.

    With `order` 2 the second derivatives are computed, instead of the outputs and the first ones.
    """

    op: str
    rule: str
    option: str
    dtype: str
    classes: int
    order: int = 1


@dataclass(frozen=True)
class Case:
    """One group's inputs: NumPy arrays, `rows` of them for each regime in `REGIMES`' order.

    Attributes:
      group: the group they are for.
      option: the group's option.
      logits: `[N, V]` in the dtype under test.
      labels: `[N]` int32, `[N, K]` for several a row, or class probabilities `[N, V]` in the
        dtype under test.
      label_index: `[N]`, the label, or the likeliest class by `labels`.
      class_weights: None, or `[V]`.
      sample_weight: None, or `[N]`.
      where: None, `[N, V]` booleans that leave every row its label, or `[N]` ones.
      cotangents: `[N]` for each output that has one (a number for a total, `[N, K]` for the
        log-probabilities of several labels), `[N, V]` for "value".
      tangents: `[N, V]`, a direction for forward mode and second derivatives.
      features: None, or those of a linear layer, `[N, N]`; its kernel is made from the logits.
      bias: None, or that of a linear layer, `[V]`.
      logit_scale: None, or that of a contrastive loss, `[1]`.
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
    logit_scale: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """How many rows each regime has."""
        return len(self.logits) // len(REGIMES)

    @property
    def regimes(self) -> tuple[str, ...]:
        """The regimes, in order."""
        return tuple(REGIMES)

    def arrays(self) -> dict[str, np.ndarray | None]:
        """The arrays passed to the op, by the names of its arguments."""
        rows = ("logits", "labels", "class_weights", "sample_weight", "where")
        names = (*rows, "features", "bias", "logit_scale")
        return {name: getattr(self, name) for name in names}

    def take(self, rows: np.ndarray) -> Case:
        """The case with those rows, in that order; not for a mean or a layer."""

        def pick(x: np.ndarray | None) -> np.ndarray | None:
            return None if x is None else x[rows]

        return dataclasses.replace(
            self,
            logits=self.logits[rows],
            labels=self.labels[rows],
            label_index=self.label_index[rows],
            sample_weight=pick(self.sample_weight),
            where=pick(self.where),
            cotangents={k: g[rows] if np.ndim(g) else g for k, g in self.cotangents.items()},
            tangents=self.tangents[rows],
        )

    def repeated(self) -> Case:
        """The case repeated until a CPU takes its rows in blocks."""
        processors = min(os.cpu_count() or 1, _MOST_PROCESSORS)
        rows = _BLOCKS_BYTES * processors // (4 * self.group.classes) + 1
        return self.take(
            np.arange(-(-rows // len(self.logits)) * len(self.logits)) % len(self.logits)
        )


def make_case(group: Group) -> Case:
    """The inputs of `group`: the same at every call."""
    rng = np.random.default_rng(group.classes)
    option, dtype = option_of(group.op, group.option), numpy_dtype(group.dtype)
    wide = statistics_dtype(dtype)
    logits, index, _ = regime_rows(group.classes, 6 if group.classes <= 1000 else 2, rng)
    count, row = len(logits), _known_row(len(logits))
    if group.op == CONTRASTIVE:
        logits, index = _partners(logits, index)
    elif group.op in LARGEST:
        logits[1::4, -1] = logits[1::4].max(-1)
    known = group.op not in LOSSES and group.classes >= len(KNOWN_LOGITS)
    broad = group.op not in LOSSES and group.classes >= 10
    if broad:
        logits[_BROAD_ROW], index[_BROAD_ROW] = _broad_row(group.classes, rng), 0
    if known:
        logits[row], index[row] = _padded(KNOWN_LOGITS, -30, rng, group.classes), 0
    # From here on everything is drawn, whether it is used or not, so that options share it.
    mask = rng.random(logits.shape) < 0.6
    mask[np.arange(count), index] = True
    class_weights = rng.uniform(0.25, 2, group.classes).astype(wide)
    sample_weight = rng.uniform(0.25, 2, count).astype(wide)
    sample_weight[3::10] = 0
    ignored = np.arange(count) % 5 == 4
    labels = np.where(ignored & (option.ignore_index is not None), -1, index).astype(np.int32)
    if group.op == SOFT_LABELS or option.class_probabilities:
        labels = _probabilities(index, group.classes, option.soft_labels, rng).astype(dtype)
    where = mask if option.where else _left_rows(count) if option.where_rows else None
    if group.op == CAUSAL:
        where = predicting(option.tokens, count)
    if option.impossible:
        logits[_impossible(index, mask)] = -np.inf
    elif option.where_rows and group.op not in LAYERS:
        logits[2::8] = np.nan  # in half of the rows that are left out
    # Not at an infinite log-probability: autodiff of the reference gives that logit a derivative.
    reached = ~np.isneginf(logits) & (mask | (not option.where))
    cotangent, tangent = (
        np.where(reached, _dense_cotangents(index, dtype, logits.shape, rng), 0).astype(dtype)
        for _ in range(2)
    )
    if known:
        cotangent[row] = np.where(reached[row], _padded(KNOWN_COTANGENT, 0, rng, group.classes), 0)
    if broad:
        shared = 16 + rng.standard_normal(group.classes)
        cotangent[_BROAD_ROW] = np.where(reached[_BROAD_ROW], shared, 0)
    of_rows = {name: row_cotangents(count, rng).astype(wide) for name in option.outputs}
    if group.op == CONTRASTIVE and dtype == np.float16:
        # A tower's gradient is the sum of two, and the sum of two infinities may be NaN.
        of_rows["loss"] = np.clip(of_rows["loss"], -1, 1)
    if option.reduction != "none":
        of_rows["loss"] = np.asarray(0.3 * count if option.reduction == "mean" else 0.3, wide)
    if group.op in LARGEST:
        labels = _likeliest(logits.astype(dtype), option.several)
    elif option.several:
        labels = _several_labels(index, option, group.classes, rng)
    if option.several:
        drawn = row_cotangents(labels.size, rng).reshape(labels.shape)
        of_rows["label_log_prob"] = drawn.astype(wide)
    linear, of_loss = group.op in LAYERS, group.op in LOSSES
    return Case(
        group,
        option,
        logits.astype(dtype),
        labels,
        index,
        class_weights if option.class_weights else None,
        sample_weight if option.sample_weight else None,
        where,
        of_rows if of_loss else {"value": cotangent},
        rng.standard_normal(logits.shape).astype(dtype) if of_loss else tangent,
        features_of(count, dtype) if linear else None,
        np.zeros(group.classes, dtype) if linear else None,
        np.asarray([1 / option.temperature], wide) if option.scaled else None,
    )


def _several_labels(
    index: np.ndarray, option: Option, classes: int, rng: np.random.Generator
) -> np.ndarray:
    """`[N, K]`: the label, it again in every third row, and others; some, or all, are ignored."""
    labels = rng.integers(0, classes, (len(index), option.several))
    labels[:, 0] = index
    labels[::3, -1] = index[::3]
    if option.ignore_index is not None:
        labels[1::4, 0] = labels[2::5] = option.ignore_index
    return labels.astype(np.int32)


def _partners(logits: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As many classes as rows, `[N, N]`: the label's logit of row n trades places with the n-th."""
    if logits.shape[0] != logits.shape[1]:
        raise ValueError(
            f"classes: expected as many as there are rows of a contrastive loss, {len(logits)}, "
            f"got {logits.shape[1]}."
        )
    diagonal = np.arange(len(logits))
    traded = logits.copy()
    traded[diagonal, index] = logits[diagonal, diagonal]
    traded[diagonal, diagonal] = logits[diagonal, index]
    return traded, diagonal


def _likeliest(stored: np.ndarray, k: int) -> np.ndarray:
    """`[N, k]`: the classes with the largest logits; of equal ones the first."""
    return np.argsort(-stored.astype(np.float64), axis=-1, kind="stable")[:, :k].astype(np.int32)


def _known_row(count: int) -> int:
    """The first of the rows that are confident by 14."""
    return list(REGIMES).index("confident by 14") * (count // len(REGIMES))


def _broad_row(classes: int, rng: np.random.Generator) -> np.ndarray:
    """`[V]`: the others' terms sum to just below a power of 2; the leader's, 1, takes them over it.

    The total then has one bit less after the point than the others have, so the leader's term,
    as the total minus the others, is off by the total's rounding.
    """
    row = 1e-3 * rng.standard_normal(classes)
    row += np.log((2.0 ** math.floor(math.log2(classes - 1)) - 0.5) / (classes - 1))
    row[0] = 0
    return row


def _padded(
    known: tuple[float, ...], centre: float, rng: np.random.Generator, classes: int
) -> np.ndarray:
    """`[V]`: the known numbers, followed by random ones around `centre`."""
    row = centre + rng.standard_normal(classes)
    row[: len(known)] = known
    return row


def _left_rows(count: int) -> np.ndarray:
    """`[N]`: every fourth row is left out."""
    return np.arange(count) % 4 != 2


def _impossible(index: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`[N, V]`: random classes, in every fifth row the label too, and in a few rows all classes."""
    found, rows = ~mask, np.arange(len(index))
    found[rows[3::5], index[3::5]] = True
    found[6::13] = True
    return found


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
    index: np.ndarray, dtype: np.dtype, shape: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """`[N, V]`, in turn random, only at the label, and random plus a large common number."""
    count, classes = shape
    by_row = row_cotangents(count, rng)[:, None]
    if dtype == np.float16:
        by_row = np.minimum(by_row, 1024)  # a float16 holds no 65536
    random = rng.standard_normal(shape)
    only_label = np.where(np.arange(classes) == index[:, None], by_row, 0)
    # As large as it can be and still leave some digits to the random part.
    offset = 16 if dtype.itemsize == 2 else 1e4
    turn = np.arange(count)[:, None] % 3
    return np.where(turn == 0, by_row * random, np.where(turn == 1, only_label, offset + random))
