"""Every quantity of a case in a type wider than the one under test, and the scales of errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jax_softmax.testing.cases import Case
from jax_softmax.testing.exact import (
    Exact,
    as_exact,
    eps,
    numpy_dtype,
    statistics_dtype,
    tiny,
    underflow_slack,
    widened,
)
from jax_softmax.testing.exact_layer import exact_layer
from jax_softmax.testing.layer import BIAS_GRADIENT, FEATURES_GRADIENT, SCALE_GRADIENT
from jax_softmax.testing.options import (
    CONTRASTIVE,
    LARGEST,
    LAYERS,
    LOSSES,
    SECOND_DERIVATIVES,
)
from jax_softmax.testing.oracle import ExactRows, Output, options_cross_entropy
from jax_softmax.testing.softmax_rows import (
    Derivative,
    SoftmaxRows,
    log_softmax_gradient,
    log_softmax_tangent,
    softmax_gradient,
    softmax_rows,
)


def exact(case: Case) -> dict[str, Exact]:
    """Every quantity of the case by its name: its outputs, "gradient", and any others."""
    if case.group.order == 2:
        return _second_derivatives(case, exact_rows(case))
    if case.group.op not in LOSSES:
        return _softmaxes(case)
    if case.labels.ndim == 2 and case.option.several:
        found = _several(case)
        # Those of the likeliest classes are a teacher's, without a derivative.
        only = {"label_log_prob"} if case.group.op in LARGEST else set(found)
        return {name: found[name] for name in only}
    of_pairs = case.group.op == CONTRASTIVE
    found = _pairs(case) if of_pairs else _losses(case, exact_rows(case))
    if case.option.scaled:
        found[SCALE_GRADIENT] = _scale_gradient(case, found["gradient"])
    if case.group.op in LAYERS:
        z = widened(case.logits, numpy_dtype(case.group.dtype))
        found |= exact_layer(case, z, found["gradient"])
    if of_pairs:
        del found[BIAS_GRADIENT]
    if of_pairs and case.option.symmetric:
        found |= {name: _of_both(found[name]) for name in ("gradient", FEATURES_GRADIENT)}
    return found


def _of_both(tower: Exact) -> Exact:
    """A tower's gradient as the sum of two in the tower's dtype: as rows, and as classes."""
    return dataclasses.replace(tower, roundings=tower.roundings + 2)


def _pairs(case: Case) -> dict[str, Exact]:
    """Of a contrastive loss: the mean of rows and columns, each pair the other's label."""

    def way(case: Case) -> dict[str, Exact]:
        if case.where is not None:
            # Pairs that are left out are no negatives either.
            case = dataclasses.replace(case, logits=np.where(case.where, case.logits, -np.inf))
        return _losses(case, exact_rows(case))

    if not case.option.symmetric:
        return way(case)
    rows = dataclasses.replace(case, cotangents={"loss": case.cotangents["loss"] / 2})
    columns = dataclasses.replace(rows, logits=case.logits.T)
    ways = [way(rows), way(columns)]
    ways[1]["gradient"] = _joined([ways[1]["gradient"]], lambda x: x[0].T)
    found = {name: _joined([found[name] for found in ways], sum) for name in ways[0]}
    if "loss" in found:
        found["loss"] = _joined([found["loss"]], lambda x: x[0] / 2)
    return found


def _scale_gradient(case: Case, gradient: Exact) -> Exact:
    """By the number that multiplies the similarities, from the gradient by these: `[1]`."""
    z = widened(case.logits, numpy_dtype(case.group.dtype)) * case.option.temperature
    parts = (
        np.sum(gradient.value * z),
        *(np.sum(x * np.abs(z)) for x in (gradient.scale, gradient.terms, gradient.slack)),
    )
    value, scale, terms, slack = (np.asarray([part]) for part in parts)
    dtype = statistics_dtype(numpy_dtype(case.group.dtype))
    found = as_exact(value, scale, dtype, terms=terms, slack=slack)
    return dataclasses.replace(found, summed=len(z))


def _several(case: Case) -> dict[str, Exact]:
    """Of several labels a row: the derivatives of each label and of the entropy, added up."""
    g, no_entropy = case.cotangents["label_log_prob"], np.zeros(len(case.logits))
    each = [
        _of_one_label(case, labels, {"label_log_prob": of_label, "entropy": no_entropy})
        for labels, of_label in zip(case.labels.T, g.T, strict=True)
    ]
    columns = [found.pop("label_log_prob") for found in each]
    for found in each:
        found.pop("entropy", None)
    both = {"label_log_prob": _joined(columns, lambda x: np.asarray(np.stack(x, -1)))}
    if "entropy" in case.option.outputs:
        # A row counts if one of its labels does: what is ignored is below 0.
        likeliest = case.labels.max(-1)
        cotangents = {"label_log_prob": no_entropy, "entropy": case.cotangents["entropy"]}
        alone = _of_one_label(case, likeliest, cotangents)
        alone.pop("label_log_prob")
        both["entropy"] = alone.pop("entropy")
        each.append(alone)
    return both | {name: _joined([found[name] for found in each], sum) for name in each[0]}


def _of_one_label(
    case: Case, labels: np.ndarray, cotangents: dict[str, np.ndarray]
) -> dict[str, Exact]:
    named = {name: cotangents[name] for name in case.option.outputs}
    return exact(dataclasses.replace(case, labels=labels, cotangents=named))


def _joined(parts: list[Exact], join: Callable[[list[np.ndarray]], Any]) -> Exact:
    """Exact quantities of one kind as one, each of their fields joined."""
    names = ("value", "scale", "terms", "slack")
    fields: dict[str, Any] = {name: join([getattr(part, name) for part in parts]) for name in names}
    reaches = [part.reach for part in parts if part.reach is not None]
    return dataclasses.replace(parts[0], **fields, reach=join(reaches) if reaches else None)


def exact_rows(case: Case) -> ExactRows:
    """The oracle's rows of a case of a loss."""
    option = case.option
    return options_cross_entropy(
        case.logits,
        case.labels,
        where=case.where,
        ignore_index=option.ignore_index,
        label_smoothing=option.label_smoothing,
        class_weights=case.class_weights,
        sample_weight=case.sample_weight,
        z_loss=option.z_loss,
        soft_cap=option.soft_cap,
        temperature=option.temperature,
    )


def _softmaxes(case: Case) -> dict[str, Exact]:
    """Values, gradients and, in forward mode, tangents of `softmax` and `log_softmax`."""
    dtype, of_softmax = numpy_dtype(case.group.dtype), case.group.op == "softmax"
    stats = statistics_dtype(dtype)
    rows, least = _rows_of(case), tiny(stats)
    value, rounded = (rows.p, 0) if of_softmax else (-rows.u, 1)
    terms = np.abs(value)
    g, v = (widened(x, dtype) for x in (case.cotangents["value"], case.tangents))
    gradient, tangent = (
        (softmax_gradient(rows, g, eps(stats)), softmax_gradient(rows, v, eps(stats)))
        if of_softmax
        else (log_softmax_gradient(rows, g), log_softmax_tangent(rows, v, eps(stats)))
    )
    found = {
        "value": as_exact(
            value, terms, dtype, terms=terms + rounded, slack=np.where(terms < least, least, 0)
        ),
        "gradient": _derivative(rows, gradient, dtype),
    }
    if case.group.rule == "jvp":
        found["tangent"] = _derivative(rows, tangent, dtype)
    return found


def _rows_of(case: Case) -> SoftmaxRows:
    where = case.where
    if where is not None and where.ndim == 1:
        where = where[:, None]
    return softmax_rows(widened(case.logits, numpy_dtype(case.group.dtype)), where)


def _derivative(rows: SoftmaxRows, found: Derivative, dtype: np.dtype) -> Exact:
    stats = statistics_dtype(dtype)
    slack = found.slack + underflow_slack(rows.p, np.ones_like(rows.p), found.reach, stats)
    slack = slack + 2 * tiny(stats)  # for a product that is added up, however large its factors
    return as_exact(
        found.value, found.scale, dtype, terms=found.terms, slack=slack, reach=found.reach
    )


def _losses(case: Case, rows: ExactRows) -> dict[str, Exact]:
    found = {"gradient": _gradient(case, rows)}
    names = case.option.outputs
    if case.option.reduction == "none":
        found |= {name: _value(case, rows, name) for name in names}
    if case.labels.ndim == 2:
        found["labels gradient"] = _labels_gradient(case, rows)
    if case.sample_weight is not None and "loss" in names:
        found["weight gradient"] = _weight_gradient(case, rows)
    return found


def cotangent(case: Case, rows: ExactRows, name: str) -> np.ndarray:
    """The cotangent of each row's output, a column; a loss's is divided by the mean's divisor."""
    if name not in case.cotangents:
        return np.zeros((len(case.logits), 1), rows.weight.dtype)
    g = case.cotangents[name].astype(rows.weight.dtype)
    if name == "loss":
        g = g / rows.divisor(case.option.reduction)
    return np.broadcast_to(g, rows.weight.shape)[:, None]


def _value(case: Case, rows: ExactRows, name: str) -> Exact:
    dtype = statistics_dtype(numpy_dtype(case.group.dtype))
    least, output = tiny(dtype), getattr(rows, name)
    terms = output.value_size
    # The factor of a weight may underflow first.
    heaviest = 1 + rows.target_mass
    slack = np.where(terms < least * heaviest, least * heaviest, 0)
    if name == "entropy":
        # Probabilities that underflow may take with them up to 90 times as much, in float32: p from
        # the likeliest class, whose surprisal is log1p of the others, and p log p of their own.
        p = rows.probability
        slack = slack + np.sum(np.where(p < least, p * (rows.surprisal + 1), 0), -1)
    return as_exact(output.value, terms, dtype, terms=terms + heaviest, slack=slack)


def _gradient(case: Case, rows: ExactRows) -> Exact:
    p, bend = rows.probability, rows.cap_slope
    dtype = numpy_dtype(case.group.dtype)
    stats = statistics_dtype(dtype)
    if case.group.op in LAYERS:
        dtype = stats  # a layer's logits are never half precision
    value, terms, textbook, reach, slack = (np.zeros_like(p) for _ in range(5))
    for name in case.option.outputs:
        output: Output = getattr(rows, name)
        g = cotangent(case, rows, name)
        value = value + g * output.gradient
        terms = terms + np.abs(g) * output.gradient_size
        # The textbook's entropy gradient has p (log p + 1), and is off by p at a class that is
        # certain; its derivative of the cap has 1 - tanh^2.
        uncapped = np.where(bend == 0, output.reach, output.gradient_size / np.where(bend, bend, 1))
        by_stored = np.abs(g) / case.option.temperature
        textbook = textbook + by_stored * (uncapped + p)
        reach = reach + by_stored * output.reach
        for factor in (p * bend, rows.not_probability * bend):
            slack = slack + underflow_slack(factor, g, output.reach, stats)
    spread = case.labels.ndim == 2 and case.option.soft_labels
    scale = terms if case.option.cancels or spread else np.abs(value)
    return as_exact(value, scale, dtype, terms=textbook, slack=slack, reach=reach)


def _labels_gradient(case: Case, rows: ExactRows) -> Exact:
    dtype = numpy_dtype(case.group.dtype)
    factor = rows.label_factor * cotangent(case, rows, "loss")
    g_log_prob = cotangent(case, rows, "label_log_prob")
    size = np.abs(factor) + np.abs(g_log_prob)
    least = tiny(statistics_dtype(dtype))
    slack = np.where(rows.surprisal < least, least * size, 0)
    value, scale = (factor - g_log_prob) * rows.surprisal, size * rows.surprisal
    return as_exact(value, scale, dtype, terms=scale + size, slack=slack)


def _weight_gradient(case: Case, rows: ExactRows) -> Exact:
    dtype = statistics_dtype(numpy_dtype(case.group.dtype))
    g = cotangent(case, rows, "loss")[:, 0]
    value, scale = g * rows.by_weight, np.abs(g) * rows.by_weight_size
    if case.option.reduction == "mean":
        # (l_n - L) / W, which a label's class weight would multiply.
        assert case.class_weights is None
        share, kept = rows.weight / rows.weight.sum(), _rows_kept(case)
        by, size = share @ rows.by_weight, share @ rows.by_weight_size
        value, scale = (np.where(kept, x, 0) for x in (value - g * by, scale + np.abs(g) * size))
    size = 1 + np.abs(g) * rows.target_mass
    least = tiny(dtype) * size
    slack = np.where(scale < least, least, 0)
    return as_exact(value, scale, dtype, terms=scale + size, slack=slack)


def _rows_kept(case: Case) -> np.ndarray:
    """`[N]` booleans: the rows that count, whatever their weight."""
    kept = np.ones(len(case.logits), bool)
    if case.where is not None and case.where.ndim == 1:
        kept &= case.where
    if case.option.ignore_index is not None:
        kept &= case.labels != case.option.ignore_index
    return kept


def exact_tangent(case: Case, gradient: Exact) -> dict[str, Exact]:
    """A loss's derivative along the case's tangents, `[N]`, if the rule has forward mode."""
    forward = case.group.rule == "jvp" and case.option.reduction == "none"
    # A pair's loss depends on other rows too.
    forward = forward and case.group.op != CONTRASTIVE
    if case.group.op not in LOSSES or not forward:
        return {}
    along = case.tangents.astype(np.float64).astype(gradient.value.dtype)
    value = np.sum(gradient.value * along, -1)
    scale, terms, slack = (
        np.sum(x * np.abs(along), -1) for x in (gradient.scale, gradient.terms, gradient.slack)
    )
    dtype = statistics_dtype(gradient.dtype)
    return {"tangent": Exact(value, scale, terms, slack, dtype)}


def _second_derivatives(case: Case, rows: ExactRows) -> dict[str, Exact]:
    """The sizes of the terms of a Hessian times the tangents; there are no exact values.

    A gradient is a sum of `p_k` times a factor of at most `reach`. Along v, p_k changes by
    `p_k (v_k - sum_j p_j v_j)`, and so do the terms of that factor. An integer label's gradient has
    `1 - p_k`, which changes by as much as the others do.
    """
    dtype, p, bend = numpy_dtype(case.group.dtype), rows.probability, rows.cap_slope
    along, cap = np.abs(widened(case.tangents, dtype)), case.option.soft_cap
    moved = bend * along
    moved = moved + np.sum(p * moved, -1, keepdims=True)
    at_label = np.arange(p.shape[-1]) == case.label_index[:, None]
    factor = np.where(at_label & (case.labels.ndim == 1), 1, p)
    terms, slack = np.zeros_like(p), np.zeros_like(p)
    for name in case.option.outputs:
        output, g = getattr(rows, name), cotangent(case, rows, name)
        reach = np.abs(g) * (output.reach + 1)
        inner = factor * reach * moved + p * np.sum(p * reach * moved, -1, keepdims=True)
        terms = terms + bend * inner
        # These have more factors than a gradient, so intermediate results underflow sooner.
        slack = slack + underflow_slack(p * bend / 2**10, g, (output.reach + 1) * moved, dtype)
        if cap is not None:
            terms = terms + np.abs(g) * output.gradient_size * along * 2 / cap
            # The reference's 1 - tanh^2 is off by an eps of 1, however small it is.
            slack = slack + 64 * eps(np.float64) * reach * (1 + along)
    sizes = as_exact(np.zeros_like(p), terms, dtype, terms=terms, slack=slack)
    return dict.fromkeys(SECOND_DERIVATIVES, sizes)
