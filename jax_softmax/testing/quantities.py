"""Every quantity of a case in a type wider than the one under test, and the scales of errors."""

from __future__ import annotations

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
from jax_softmax.testing.options import LINEAR, LOSSES, SECOND_DERIVATIVES
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
    found = _losses(case, exact_rows(case))
    if case.group.op == LINEAR:
        z = widened(case.logits, numpy_dtype(case.group.dtype))
        found |= exact_layer(case, z, found["gradient"])
    return found


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
    if case.group.op == LINEAR:
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
        textbook = textbook + np.abs(g) * (uncapped + p)
        reach = reach + np.abs(g) * output.reach
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
    size = 1 + np.abs(g) * rows.target_mass
    least = tiny(dtype) * size
    slack = np.where(scale < least, least, 0)
    return as_exact(value, scale, dtype, terms=scale + size, slack=slack)


def exact_tangent(case: Case, gradient: Exact) -> dict[str, Exact]:
    """A loss's derivative along the case's tangents, `[N]`, if the rule has forward mode."""
    forward = case.group.rule == "jvp" and case.option.reduction == "none"
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
