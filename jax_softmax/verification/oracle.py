"""The oracle: every quantity of a case in a type wider than the one under test, on the CPU.

float64 for float32 and half precision, `longdouble` for float64. Shares no code with `ops`.
"""

from __future__ import annotations

import numpy as np

from jax_softmax.verification.cases import Case, eps, numpy_dtype, statistics_dtype, tiny
from jax_softmax.verification.exact_layer import exact_layer
from jax_softmax.verification.exact_losses import exact_losses
from jax_softmax.verification.exact_rows import Exact, as_exact, softmax_rows, underflow_slack
from jax_softmax.verification.exact_softmax import log_softmax_gradient, softmax_gradient
from jax_softmax.verification.selection import LINEAR, LOSSES

_LONGDOUBLE_IS_WIDER = bool(np.finfo(np.longdouble).eps < np.finfo(np.float64).eps)


def has_oracle(dtype: str) -> bool:
    """Whether this platform's NumPy has a type wider than `dtype`."""
    return dtype != "float64" or _LONGDOUBLE_IS_WIDER


def exact(case: Case) -> dict[str, Exact]:
    """Every quantity of the case by its name: its outputs, "gradient", and what else it has."""
    wide = np.longdouble if case.group.dtype == "float64" else np.float64
    z = case.logits.astype(np.float64).astype(wide)
    found = (exact_losses if case.group.op in LOSSES else _softmaxes)(case, z)
    return found | (exact_layer(case, z, found["gradient"]) if case.group.op == LINEAR else {})


def _softmaxes(case: Case, z: np.ndarray) -> dict[str, Exact]:
    """Values and gradients of `softmax` and `log_softmax`, as `exact_softmax` has them."""
    rows, dtype = softmax_rows(z, case.where), numpy_dtype(case.group.dtype)
    g = case.cotangents["value"].astype(np.float64).astype(z.dtype)
    stats = statistics_dtype(dtype)
    least = tiny(stats)
    if case.group.op == "softmax":
        value, rounded = rows.p, 0
        gradient = softmax_gradient(rows, g, eps(stats))
    else:
        value, rounded = -rows.u, 1
        gradient = log_softmax_gradient(rows, g)
    terms = np.abs(value)
    slack = underflow_slack(rows.p, np.ones_like(g), gradient.reach, stats)
    return {
        "value": as_exact(
            value, terms, dtype, terms=terms + rounded, slack=np.where(terms < least, least, 0)
        ),
        "gradient": as_exact(
            gradient.value,
            gradient.scale,
            dtype,
            terms=gradient.terms,
            slack=slack + gradient.slack,
            reach=gradient.reach,
        ),
    }


def exact_tangent(case: Case, gradient: Exact) -> dict[str, Exact]:
    """The derivative along the case's tangents, `[N]`, where the group's rule has forward mode."""
    if case.group.rule != "jvp" or case.option.reduction != "none":
        return {}
    along = case.tangents.astype(np.float64).astype(gradient.value.dtype)
    value = np.sum(gradient.value * along, -1)
    scale, terms, slack = (
        np.sum(x * np.abs(along), -1) for x in (gradient.scale, gradient.terms, gradient.slack)
    )
    dtype = statistics_dtype(gradient.dtype)
    return {"tangent": Exact(value, scale, terms, slack, dtype)}
