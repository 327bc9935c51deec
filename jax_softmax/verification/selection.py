"""What to verify: a grid of ops, rules, options, dtypes and numbers of classes."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from jax_softmax.errors import InputError
from jax_softmax.testing.cases import Group
from jax_softmax.testing.options import (
    CAUSAL,
    CONTRASTIVE,
    INTEGER_LABELS,
    KL_DIVERGENCE,
    LARGEST,
    LAYERS,
    LINEAR,
    LINEAR_KL,
    LINEAR_LARGEST,
    LINEAR_LOG_PROBS,
    LINEAR_TOP_K,
    LOG_PROBS,
    LOSSES,
    OF_TEACHERS,
    OPTIONS,
    SOFT_LABELS,
    Option,
    option_of,
)

OPS = tuple(OPTIONS)
RULES = ("vjp", "jvp")
DTYPES = ("float32", "bfloat16", "float16", "float64")
CLASSES = (2, 3, 10, 1000, 1024, 50257, 262144)  # 1024: sums over chunks of 128 need a multiple
_BLOCKS_CLASSES = 1024
PAIRS = 42  # of a contrastive loss: six rows for each of seven regimes

GridName = Literal["quick", "default", "full"]


@dataclass(frozen=True)
class Selection:
    """A part of everything that can be verified.

    Attributes:
      grid: "quick" compiles a few dozen programs, "default" some hundreds, "full" every
        combination. An op and dtype that are both named but not in the grid come from "default".
      ops: names of `OPS`; empty takes all.
      dtypes: names of `DTYPES`; empty takes all.

    Raises:
      InputError: if a name is unknown; the message suggests the nearest one.
    """

    grid: GridName = "default"
    ops: Sequence[str] = ()
    dtypes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in self.ops:
            _check_name("op", name, OPS)
        for name in self.dtypes:
            _check_name("dtype", name, DTYPES)

    def groups(self) -> list[Group]:
        """The groups; those that differ only in their rule are next to each other."""
        groups = self._groups_of(self.grid)
        if self.ops and self.dtypes:
            had = {(group.op, group.dtype) for group in groups}
            groups += [g for g in self._groups_of("default") if (g.op, g.dtype) not in had]
        return groups

    def _groups_of(self, grid: GridName) -> list[Group]:
        ops, dtypes = self.ops or OPS, self.dtypes or DTYPES
        every = {"quick": _quick, "default": _default, "full": _full}[grid]()
        possible = dict.fromkeys(map(_of_pairs, filter(_has_rule, every)))
        return [g for g in possible if g.op in ops and g.dtype in dtypes]

    def has_peers(self, group: Group) -> bool:
        """Whether to measure the peers on this group too: compiling them takes time."""
        if group.order == 2 or group.op in OF_TEACHERS:
            return False  # checked against what the peers do, but in float64
        if self.grid == "full":
            return group.classes <= 1024 or group.option == "none"
        if self.grid == "default":
            return group.dtype in ("float32", "bfloat16") and group.classes == 10
        if group.op in LAYERS:
            return False  # on the same logits the peers give the same as for integer labels
        of_half = group.op == INTEGER_LABELS and group.dtype == "bfloat16"
        few = group.option == "none" and group.classes == 10
        return few and (group.dtype == "float32" or of_half)


def _check_name(kind: str, name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise InputError(f"unknown {kind} {name!r}: expected one of {', '.join(known)}{hint}")


def _quick() -> Iterator[Group]:
    for op in (op for op in OPS if op not in (*LAYERS, LINEAR_KL, LINEAR_TOP_K)):
        for rule in RULES:
            yield Group(op, rule, "none", "float32", 10)
        for dtype in DTYPES[1:] if op == INTEGER_LABELS else DTYPES[1:2]:
            yield Group(op, "vjp", "none", dtype, 10)
    yield Group(INTEGER_LABELS, "vjp", "none", "float32", 1024)
    for option in OPTIONS[INTEGER_LABELS]:
        yield _of_option(INTEGER_LABELS, option)
    yield Group(INTEGER_LABELS, "jvp", "together", "float32", 10)
    yield Group(SOFT_LABELS, "vjp", "together", "float32", 10)
    for op, name in (("softmax", "row_blocks"), ("softmax", "impossible")):
        yield _of_option(op, option_of(op, name))
    for op, name in ((INTEGER_LABELS, "none"), (INTEGER_LABELS, "z_loss"), (SOFT_LABELS, "none")):
        yield Group(op, "vjp", name, "float32", 10, order=2)
    # A program of a layer takes as long to compile as three others: one of rows, one of a total.
    for name in ("none", "weighted_sum"):
        yield Group(LINEAR, "vjp", name, "float32", 10)
    yield Group(LINEAR_LOG_PROBS, "vjp", "together", "float32", 10)
    yield Group(LOG_PROBS, "vjp", "several_both", "float32", 10)
    yield Group(CAUSAL, "vjp", "segments_mean", "float32", 10)
    yield Group(CAUSAL, "vjp", "weights", "float32", 10)
    yield Group(CONTRASTIVE, "vjp", "none", "float32", PAIRS)
    yield Group(CONTRASTIVE, "vjp", "weighted_sum", "float32", PAIRS)
    yield Group(LINEAR_LARGEST, "vjp", "class_blocks", "float32", 10)
    for name in ("reverse", "js", "where_rows"):
        yield Group(KL_DIVERGENCE, "vjp", name, "float32", 10)
    yield Group(LINEAR_KL, "vjp", "none", "float32", 10)
    yield Group(LINEAR_TOP_K, "vjp", "uniform", "float32", 10)


def _has_rule(group: Group) -> bool:
    """The likeliest classes are not differentiated, so they have no rules."""
    return group.op not in LARGEST or (group.rule == "vjp" and group.order == 1)


def _of_pairs(group: Group) -> Group:
    """A contrastive loss has as many classes as rows."""
    return dataclasses.replace(group, classes=PAIRS) if group.op == CONTRASTIVE else group


def _of_option(op: str, option: Option, dtype: str = "float32", rule: str = "vjp") -> Group:
    """The group of an option; it has 10 classes, except for blocks of rows."""
    return Group(op, rule, option.name, dtype, _BLOCKS_CLASSES if option.row_blocks else 10)


def _default() -> Iterator[Group]:
    for op in OPS:
        for dtype in DTYPES:
            for option in OPTIONS[op]:
                for rule in RULES:
                    if dtype == "float32" or rule == "vjp" or option.name == "together":
                        yield _of_option(op, option, dtype, rule)
            for classes in (2, 3, 1000, 1024, 50257):
                yield Group(op, "vjp", "none", dtype, classes)
        for option in OPTIONS[op]:
            if not option.row_blocks:
                yield Group(op, "vjp", option.name, "float32", 1000)
    for op, option in _twice_differentiable():
        for rule, dtype in (("vjp", "float32"), ("jvp", "float32"), ("vjp", "float64")):
            yield Group(op, rule, option.name, dtype, 10, order=2)


def _full() -> Iterator[Group]:
    for op in OPS:
        for dtype in DTYPES:
            for classes in CLASSES:
                for option in OPTIONS[op]:
                    for rule in RULES:
                        yield Group(op, rule, option.name, dtype, classes)
    for op, option in _twice_differentiable():
        for dtype in ("float32", "float64"):
            for classes in (10, 1000, 1024):
                for rule in RULES:
                    yield Group(op, rule, option.name, dtype, classes, order=2)


def _twice_differentiable() -> Iterator[tuple[str, Option]]:
    """The options that the reference has, since second derivatives are checked against it.

    Several labels, and the losses of tokens and of pairs, have those of one label and of the
    layer's loss.
    """
    for op in LOSSES:
        for option in OPTIONS[op]:
            of_rows = op not in (CAUSAL, CONTRASTIVE)
            if of_rows and not (option.impossible or option.row_blocks or option.several):
                yield op, option
