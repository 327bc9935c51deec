"""The inputs and exact results of the losses that have a teacher: pairs of rows, near and far."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_softmax.testing.cases import Group
from jax_softmax.testing.divergence import (
    PAIR_REGIMES,
    ExactDivergence,
    Slope,
    exact_divergence,
    pair_rows,
)
from jax_softmax.testing.exact import Exact, as_exact, eps, numpy_dtype, statistics_dtype, tiny
from jax_softmax.testing.exact_layer import lost, of_kernel
from jax_softmax.testing.layer import features_of
from jax_softmax.testing.options import KL_DIVERGENCE, LINEAR_TOP_K, Option, option_of
from jax_softmax.testing.oracle import options_cross_entropy
from jax_softmax.testing.regimes import row_cotangents

TEACHER_GRADIENT = "teacher gradient"

# How many classes a teacher names.
_NAMED = 5


@dataclass(frozen=True)
class TeacherCase:
    """One group's inputs: NumPy arrays, `rows` of them for each regime in `PAIR_REGIMES`' order.

    Attributes:
      group: the group they are for.
      option: the group's option.
      logits: the student's, `[N, V]` in the dtype under test.
      teacher: the teacher's, of the same shape and dtype.
      label_index: `[N]`, the teacher's likeliest class.
      log_probs: None, or those of the classes that the teacher names, `[N, k]`.
      indices: None, or these classes.
      sample_weight: None, or `[N]`.
      where: None, or booleans, `[N, V]` or `[N]`.
      cotangent: `[N]`, or a number for a total.
      tangents: directions of both logits, `[N, V]`.
      features: None, or those of both linear layers, `[N, N]`.
    """

    group: Group
    option: Option
    logits: np.ndarray
    teacher: np.ndarray
    label_index: np.ndarray
    log_probs: np.ndarray | None
    indices: np.ndarray | None
    sample_weight: np.ndarray | None
    where: np.ndarray | None
    cotangent: np.ndarray
    tangents: tuple[np.ndarray, np.ndarray]
    features: np.ndarray | None

    @property
    def rows(self) -> int:
        """How many rows each regime has."""
        return len(self.logits) // len(self.regimes)

    @property
    def regimes(self) -> tuple[str, ...]:
        """The regimes, in order."""
        return tuple(PAIR_REGIMES)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are passed to the op, by name."""
        names = ("logits", "teacher", "log_probs", "indices", "sample_weight", "where", "features")
        return {name: x for name in names if (x := getattr(self, name)) is not None}

    def differentiated(self) -> dict[str, str]:
        """The arrays that have a gradient, and the gradient's name."""
        names = {"logits": "gradient"}
        if self.group.op == KL_DIVERGENCE:
            names["teacher"] = TEACHER_GRADIENT
        if self.sample_weight is not None:
            names["sample_weight"] = "weight gradient"
        return names


def make_teacher_case(group: Group) -> TeacherCase:
    """The inputs of `group`: the same at every call."""
    rng = np.random.default_rng(group.classes)
    option, dtype = option_of(group.op, group.option), numpy_dtype(group.dtype)
    wide = statistics_dtype(dtype)
    rows = 6 if group.classes <= 1000 else 2
    logits, teacher = (x.astype(dtype) for x in pair_rows(group.classes, rows, rng))
    count = len(logits)
    mask = rng.random(logits.shape) < 0.6
    mask[:, :2] = True  # the classes that lead
    sample_weight = rng.uniform(0.25, 2, count).astype(wide)
    sample_weight[3::10] = 0
    where = mask if option.where else np.arange(count) % 4 != 2 if option.where_rows else None
    named = _named(teacher) if group.op == LINEAR_TOP_K else (None, None)
    if option.where_rows and group.op == KL_DIVERGENCE:
        logits[2::8] = teacher[2::4] = np.nan  # in rows that are left out
    cotangent = row_cotangents(count, rng).astype(wide)
    return TeacherCase(
        group,
        option,
        logits,
        teacher,
        np.where(np.isnan(teacher), 0, teacher).argmax(-1),
        None if named[0] is None else named[0].astype(wide),
        named[1],
        sample_weight if option.sample_weight else None,
        where,
        cotangent if option.reduction == "none" else np.asarray(0.3 * count, wide),
        (
            rng.standard_normal(logits.shape).astype(dtype),
            rng.standard_normal(logits.shape).astype(dtype),
        ),
        None if group.op == KL_DIVERGENCE else features_of(count, dtype),
    )


def _named(teacher: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z = teacher.astype(np.float64)
    indices = np.argsort(-z, -1, kind="stable")[:, :_NAMED].astype(np.int32)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return np.log(np.take_along_axis(p, indices, -1)), indices


def in_float64(case: TeacherCase) -> TeacherCase:
    """The case in float64, with the same, already rounded numbers."""

    def widened(x: Any) -> Any:
        return x if x is None or x.dtype in (bool, np.int32) else x.astype(np.float64)

    arrays: dict[str, Any] = {name: widened(x) for name, x in case.arrays().items()}
    return dataclasses.replace(
        case,
        group=dataclasses.replace(case.group, dtype="float64"),
        cotangent=widened(case.cotangent),
        tangents=(widened(case.tangents[0]), widened(case.tangents[1])),
        **arrays,
    )


@dataclass(frozen=True)
class _Rows:
    """A row's loss and derivatives without weights, with the terms that the textbook adds up."""

    value: np.ndarray
    size: np.ndarray
    textbook: np.ndarray
    slopes: dict[str, tuple[Slope, np.ndarray]]
    slack: np.ndarray  # [N, V], what underflow may cost


def exact_teacher(case: TeacherCase) -> dict[str, Exact]:
    """Every quantity of the case by its name."""
    dtype = numpy_dtype(case.group.dtype)
    stats, count = statistics_dtype(dtype), len(case.logits)
    rows = _top_k(case) if case.group.op == LINEAR_TOP_K else _divergence(case)
    wide = rows.value.dtype
    kept = np.ones(count, bool) if case.where is None or case.where.ndim == 2 else case.where
    given = np.ones(count) if case.sample_weight is None else case.sample_weight
    v = np.where(kept, given, 0).astype(wide)
    g = np.broadcast_to(case.cotangent.astype(wide), count)
    if case.option.reduction == "mean":
        g = g / v.sum()
    least = _least(stats)
    found = {}
    if case.option.reduction == "none":
        found["loss"] = as_exact(
            v * rows.value, v * rows.size, stats, terms=v * rows.textbook, slack=least * v
        )
    for name, (slope, textbook) in rows.slopes.items():
        factor = (g * v)[:, None]
        size = np.abs(factor)
        found[name] = as_exact(
            factor * slope.value,
            size * slope.size,
            dtype if case.features is None else stats,
            terms=size * textbook,
            slack=size * rows.slack + least * (size != 0),
        )
    if case.features is not None:
        gradient, total = found["gradient"], case.option.reduction != "none"
        slack = gradient.slack
        if total:
            slack = slack + lost(gradient.value, case.cotangent, stats)
        found["gradient"] = of_kernel(gradient, dtype, total, slack)
    if case.sample_weight is not None:
        value, size, textbook = rows.value, rows.size, rows.textbook
        if case.option.reduction == "mean":
            means = ((v * x).sum() / v.sum() for x in (value, size, textbook))
            of_value, of_size, of_textbook = means
            value, size, textbook = value - of_value, size + of_size, textbook + of_textbook
        share = np.abs(g) * kept
        found["weight gradient"] = as_exact(
            g * kept * value, share * size, stats, terms=share * textbook, slack=least * share
        )
    return found | _tangent(case, found)


def _tangent(case: TeacherCase, found: dict[str, Exact]) -> dict[str, Exact]:
    """The derivative along the case's tangents, `[N]`, if the rule has forward mode."""
    if case.group.rule != "jvp" or case.option.reduction != "none":
        return {}
    names = [name for name in ("gradient", TEACHER_GRADIENT) if name in found]
    pairs = [(found[name], v) for name, v in zip(names, case.tangents, strict=False)]

    def along(field: str, absolute: bool) -> Any:
        terms = (
            getattr(of, field) * (np.abs(v) if absolute else v).astype(np.float64)
            for of, v in pairs
        )
        return sum(np.sum(x, -1) for x in terms)

    value, dtype = along("value", False), statistics_dtype(numpy_dtype(case.group.dtype))
    scale, terms, slack = (along(field, True) for field in ("scale", "terms", "slack"))
    return {"tangent": Exact(value, scale, terms, slack, dtype)}


def _least(dtype: np.dtype) -> float:
    """Of a probability: what is below it may underflow in `dtype`, or its products."""
    return 1e6 * tiny(dtype)


def _divergence(case: TeacherCase) -> _Rows:
    option, stats = case.option, statistics_dtype(numpy_dtype(case.group.dtype))
    student, teacher = (np.where(np.isnan(x), 0, x) for x in (case.logits, case.teacher))
    exact = exact_divergence(
        student,
        teacher,
        option.direction,
        where=case.where if option.where else None,
        soft_cap=option.soft_cap,
        temperature=option.temperature,
    )
    p, q, d = exact.teacher, exact.student, np.abs(exact.ratio)
    both = p + q
    with np.errstate(divide="ignore"):
        logs = sum(-np.log(np.where(x == 0, 1, x)) for x in (p, q))
    # The textbook's terms, and what a number added to one logit changes at most.
    value = (both * (1 + logs)).sum(-1)
    reach = both * (1 + d + (both * d).sum(-1, keepdims=True))
    textbook = (both * (1 + logs + value[:, None])) / option.temperature
    size, slopes = _capped(exact, reach, option, stats)
    named = {"gradient": slopes[0], TEACHER_GRADIENT: slopes[1]}
    if case.group.op != KL_DIVERGENCE:
        del named[TEACHER_GRADIENT]
    least = _least(stats)
    slack = np.where(np.minimum(p, q) < least, least * (1 + d) / option.temperature, 0)
    return _Rows(
        exact.value,
        size,
        value + size,
        {name: (slope, textbook + slope.size) for name, slope in named.items()},
        slack,
    )


def _capped(
    exact: ExactDivergence, reach: np.ndarray, option: Option, dtype: np.dtype
) -> tuple[np.ndarray, tuple[Slope, Slope]]:
    """The sizes that errors are compared with; a cap rounds the logits, and so moves them."""
    slopes = exact.by_student, exact.by_teacher
    if option.soft_cap is None:
        return exact.value, slopes
    # By the first order of what both logits move by, and the second, of nearly equal rows.
    first = sum(np.abs(by.value).sum(-1) for by in slopes) * option.temperature
    second = (option.logits_eps or 0) * eps(dtype)
    by_student, by_teacher = (Slope(by.value, by.size + reach) for by in slopes)
    return exact.value + first + second, (by_student, by_teacher)


def _top_k(case: TeacherCase) -> _Rows:
    """As a cross-entropy with class probabilities, of which those that are not named are equal."""
    assert case.log_probs is not None
    assert case.indices is not None
    option, classes = case.option, case.group.classes
    z = case.logits
    masses = np.exp(case.log_probs.astype(np.longdouble))
    total = masses.sum(-1, keepdims=True)
    each: Any = 0.0
    if option.rest == "renormalise":
        masses = masses / total
    elif option.rest == "uniform":
        each = np.maximum(1 - total, 0) / max(classes - masses.shape[-1], 1)
    labels = np.zeros(z.shape, np.longdouble) + each
    np.put_along_axis(labels, case.indices, masses, -1)
    exact = options_cross_entropy(z, labels, temperature=option.temperature)
    loss = exact.loss
    # What 1 - total rounds to reaches every class that is not named.
    lost = (each != 0) / classes * np.ones_like(z, np.float64)
    u, p = exact.surprisal, exact.probability
    size = loss.value_size + (lost * u).sum(-1)
    slope = Slope(
        loss.gradient,
        loss.gradient_size + (lost + p * lost.sum(-1, keepdims=True)) / option.temperature,
    )
    textbook = slope.size + (labels + p * (1 + u)) / option.temperature
    least = _least(statistics_dtype(numpy_dtype(case.group.dtype)))
    slack = np.full(z.shape, least) / option.temperature
    return _Rows(loss.value, size, size + 1, {"gradient": (slope, textbook)}, slack)
