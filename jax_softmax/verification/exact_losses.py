"""The losses' exact values and derivatives: the definitions, in NumPy.

For labels q, smoothing alpha over n classes, class weights w, a z-loss c and a row's weight v,

    t_j = w_j ((1 - alpha) q_j + alpha / n),    T = sum_j t_j,    lse = z_k + log s
    loss = v (sum_j t_j u_j + c lse^2)
    dloss/dz_j = v ((T - t_j) p_j - t_j (1 - p_j) + 2 c lse p_j)
    dloss/dq_j = v (1 - alpha) w_j u_j        dloss/dv = loss / v
    dlse/dz_j = p_j        d(sum_j q_j log p_j)/dz_j = q_j (1 - p_j) - (Q - q_j) p_j
    dH/dz_j = p_j (u_j - H)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jax_softmax.verification.cases import Case, numpy_dtype, statistics_dtype, tiny
from jax_softmax.verification.exact_rows import (
    Exact,
    SoftmaxRows,
    as_exact,
    softmax_rows,
    underflow_slack,
)
from jax_softmax.verification.selection import LINEAR


@dataclass(frozen=True)
class _Problem:
    """A case in the wide type; columns are `[N, 1]`."""

    case: Case
    rows: SoftmaxRows
    u: np.ndarray  # [N, V], 0 at classes that do not count
    q: np.ndarray  # [N, V]
    t: np.ndarray  # [N, V]
    w: np.ndarray  # [V]
    weight: np.ndarray  # column: v, divided by the mean's divisor; 0 where the row does not count
    kept: np.ndarray  # column of booleans
    bend: np.ndarray  # [N, V], the soft cap's derivative, or 1
    cotangents: dict[str, np.ndarray]  # columns, 0 where the row does not count


class _Output(NamedTuple):
    """An output `[N, 1]`, its derivative `[N, V]`, and the terms of both.

    `reach` is `gradient_terms` as if each probability were 1.
    """

    value: np.ndarray
    terms: np.ndarray
    gradient: np.ndarray
    gradient_terms: np.ndarray
    reach: np.ndarray


def exact_losses(case: Case, z: np.ndarray) -> dict[str, Exact]:
    """Every quantity of a loss, from the case and its logits in the wide type."""
    problem = _problem(case, z)
    outputs = {name: _OUTPUTS[name](problem) for name in case.option.outputs}
    found = {"gradient": _gradient(problem, outputs)}
    if case.option.reduction == "none":
        found |= {name: _value(problem, name, output) for name, output in outputs.items()}
    if case.labels.ndim == 2:
        found["labels gradient"] = _labels_gradient(problem)
    if case.sample_weight is not None and "loss" in outputs:
        found["weight gradient"] = _weight_gradient(problem)
    return found


def _problem(case: Case, given: np.ndarray) -> _Problem:
    option, wide, cap = case.option, given.dtype, case.option.soft_cap
    with np.errstate(over="ignore"):
        # d(c tanh(z / c))/dz; 1 - tanh^2 would cancel.
        bend = np.ones_like(given) if cap is None else 1 / np.square(np.cosh(given / cap))
    z = given if cap is None else cap * np.tanh(given / cap)
    count, classes = z.shape
    mask = np.ones(z.shape, bool) if case.where is None else case.where
    weight = np.ones(count) if case.sample_weight is None else case.sample_weight
    kept = (weight != 0) & (case.label_index == case.labels if case.labels.ndim == 1 else True)
    weight = np.where(kept, weight, 0).astype(wide)[:, None]
    w = np.ones(classes, wide) if case.class_weights is None else case.class_weights.astype(wide)
    if case.labels.ndim == 1:
        q = (np.arange(classes) == case.label_index[:, None]).astype(wide)
    else:
        q = case.labels.astype(np.float64).astype(wide)
    q = np.where(mask, q, 0)
    alpha = wide.type(option.label_smoothing)
    t = np.where(mask, w * ((1 - alpha) * q + alpha / mask.sum(-1, keepdims=True)), 0)
    if option.reduction == "mean":
        by_label = w[case.label_index][:, None] if case.labels.ndim == 1 else 1
        weight = weight / np.sum(weight * by_label)
    cotangents = {
        name: np.where(kept[:, None], np.broadcast_to(g, (count,)).astype(wide)[:, None], 0)
        for name, g in case.cotangents.items()
    }
    rows = softmax_rows(z, case.where)
    u = np.where(mask, rows.u, 0)
    return _Problem(case, rows, u, q, t, w, weight, kept[:, None], bend, cotangents)


def _sum(x: np.ndarray) -> np.ndarray:
    return np.sum(x, -1, keepdims=True)


def _from_targets(t: np.ndarray, rows: SoftmaxRows) -> np.ndarray:
    return (_sum(t) - t) * rows.p - t * rows.not_p


def _loss(problem: _Problem) -> _Output:
    rows, t, v = problem.rows, problem.t, problem.weight
    c = problem.case.option.z_loss
    lse, size = rows.largest + rows.log_s, np.abs(rows.largest) + rows.log_s
    charged = _sum(t * problem.u)
    reach = _sum(t) + 2 * c * size
    return _Output(
        v * (charged + c * np.square(lse)),
        v * (charged + c * np.square(size)),
        v * (_from_targets(t, rows) + 2 * c * lse * rows.p),
        v * (reach * rows.p + t),
        v * (reach + t),
    )


def _logsumexp(problem: _Problem) -> _Output:
    rows = problem.rows
    value, terms = rows.largest + rows.log_s, np.abs(rows.largest) + rows.log_s
    return _Output(value, terms, rows.p, rows.p, np.ones_like(rows.p))


def _label_log_prob(problem: _Problem) -> _Output:
    q, rows = problem.q, problem.rows
    terms = _sum(q * problem.u)
    total = _sum(q)
    return _Output(-terms, terms, -_from_targets(q, rows), total * rows.p + q, total + q)


def _entropy(problem: _Problem) -> _Output:
    p, u = problem.rows.p, problem.u
    value = _sum(p * u)
    return _Output(value, value, p * (u - value), p * (u + value), u + value)


_OUTPUTS = {
    "loss": _loss,
    "logsumexp": _logsumexp,
    "label_log_prob": _label_log_prob,
    "entropy": _entropy,
}


def _value(problem: _Problem, name: str, output: _Output) -> Exact:
    dtype = statistics_dtype(numpy_dtype(problem.case.group.dtype))
    least = tiny(dtype)
    value, terms = (np.where(problem.kept, x, 0)[:, 0] for x in (output.value, output.terms))
    # What a weight multiplies may underflow first.
    heaviest = 1 + (problem.weight * (_sum(problem.t) + _sum(problem.q)))[:, 0]
    slack = np.where(terms < least * heaviest, least * heaviest, 0)
    if name == "entropy":
        # Up to 90 times as large, in float32, as the probabilities that it is made of: p for the
        # likeliest class, whose surprisal is log1p of the others, and p log p for themselves.
        p = problem.rows.p
        slack = slack + np.sum(np.where(p < least, p * (problem.u + 1), 0), -1)
    return as_exact(value, terms, dtype, terms=terms + heaviest, slack=slack)


def _gradient(problem: _Problem, outputs: dict[str, _Output]) -> Exact:
    case, rows, bend = problem.case, problem.rows, problem.bend
    dtype = numpy_dtype(case.group.dtype)
    stats = statistics_dtype(dtype)
    if case.group.op == LINEAR:
        dtype = stats  # a layer's logits are never half precision
    value, terms, textbook, reach, slack = (np.zeros_like(rows.p) for _ in range(5))
    for name, output in outputs.items():
        g = problem.cotangents[name]
        value = value + g * output.gradient
        terms = terms + np.abs(g) * output.gradient_terms
        # The textbook's entropy has p (log p + 1), and is off by p at a class that is certain.
        textbook = textbook + np.abs(g) * (output.gradient_terms + rows.p)
        reach = reach + np.abs(g) * output.reach
        for factor in (rows.p * bend, rows.not_p * bend):
            slack = slack + underflow_slack(factor, g, output.reach, stats)
    spread = case.labels.ndim == 2 and case.option.soft_labels
    value = value * bend
    scale = terms * bend if case.option.cancels or spread else np.abs(value)
    return as_exact(value, scale, dtype, terms=textbook, slack=slack, reach=reach)


def _labels_gradient(problem: _Problem) -> Exact:
    dtype = numpy_dtype(problem.case.group.dtype)
    nothing = np.zeros_like(problem.weight)
    g, g_log_prob = (problem.cotangents.get(name, nothing) for name in ("loss", "label_log_prob"))
    factor = problem.weight * (1 - problem.case.option.label_smoothing) * problem.w * g
    size = np.abs(factor) + np.abs(g_log_prob)
    least = tiny(statistics_dtype(dtype))
    slack = np.where(problem.u < least, least * size, 0)
    value, scale = (factor - g_log_prob) * problem.u, size * problem.u
    return as_exact(value, scale, dtype, terms=scale + size, slack=slack)


def _weight_gradient(problem: _Problem) -> Exact:
    dtype = statistics_dtype(numpy_dtype(problem.case.group.dtype))
    g, weight = problem.cotangents["loss"], np.where(problem.kept, problem.weight, 1)
    loss = _loss(problem)
    value, scale = ((x * y / weight)[:, 0] for x, y in ((loss.value, g), (loss.terms, np.abs(g))))
    size = 1 + np.abs(g[:, 0]) * _sum(problem.t)[:, 0]
    least = tiny(dtype) * size
    slack = np.where(scale < least, least, 0)
    return as_exact(value, scale, dtype, terms=scale + size, slack=slack)
