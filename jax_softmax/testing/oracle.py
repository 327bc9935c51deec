"""The losses' exact values and derivatives with every option, from their definitions in NumPy.

In `longdouble` for float64 logits, else in float64. Shares no code with `ops`. For labels q,
smoothing alpha over n classes, class weights w, a z-loss c and a row's weight v,

    t_j = w_j ((1 - alpha) q_j + alpha / n),    T = sum_j t_j,    lse = z_k + log s
    loss = v (sum_j t_j u_j + c lse^2)
    dloss/dz_j = v ((T - t_j) p_j - t_j (1 - p_j) + 2 c lse p_j)
    dloss/dq_j = v (1 - alpha) w_j u_j        dloss/dv = loss / v
    dlse/dz_j = p_j        d(sum_j q_j log p_j)/dz_j = q_j (1 - p_j) - (Q - q_j) p_j
    dH/dz_j = p_j (u_j - H)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jax_softmax.testing.exact import statistics_dtype, widened
from jax_softmax.testing.softmax_rows import SoftmaxRows, softmax_rows


class Output(NamedTuple):
    """A number per row `[N]`, its derivative by the logits `[N, V]`, and the sizes of their terms.

    The sizes are sums of the terms' absolute values: where terms cancel, an error can only be
    compared with these. `reach` is `gradient_size` as if each probability were 1, uncapped.
    """

    value: np.ndarray
    gradient: np.ndarray
    value_size: np.ndarray
    gradient_size: np.ndarray
    reach: np.ndarray


@dataclass(frozen=True)
class ExactRows:
    """The loss and statistics of each row, 0 in rows that do not count, and their ingredients.

    Attributes:
      loss: its gradient includes the row's weight; so does `label_factor`.
      logsumexp: of the capped logits, without weights and smoothing.
      label_log_prob: as `logsumexp`.
      entropy: as `logsumexp`.
      argmax: `[N]`.
      weight: `[N]`, the row's weight in the mean's divisor.
      target_mass: `[N]`, `|v| (T + Q)`.
      label_factor: `[N, V]`, `v (1 - alpha) w_j`.
      surprisal: `[N, V]`, `u_j`; 0 at a class that cannot happen.
      by_weight: the loss's derivative by the weights `[N]`, and the size of its terms.
      probability: `[N, V]`.
      cap_slope: `[N, V]`, the derivative of the soft cap and of the division by a temperature.
    """

    loss: Output
    logsumexp: Output
    label_log_prob: Output
    entropy: Output
    argmax: np.ndarray
    weight: np.ndarray
    target_mass: np.ndarray
    label_factor: np.ndarray
    surprisal: np.ndarray
    by_weight: np.ndarray
    by_weight_size: np.ndarray
    probability: np.ndarray
    not_probability: np.ndarray
    cap_slope: np.ndarray

    @property
    def by_labels(self) -> np.ndarray:
        """The loss's derivative by soft labels, `[N, V]`."""
        return self.label_factor * self.surprisal

    def reduced(self, reduction: str) -> tuple[Any, np.ndarray]:
        """`(value, by logits)` of the loss for a cotangent of 1, or of 1 per row."""
        gradient = self.loss.gradient / self.divisor(reduction)
        return self.over(reduction, self.loss.value), gradient

    def over(self, reduction: str, x: np.ndarray) -> Any:
        """`x [N]`, or its sum or weighted mean over rows."""
        return x if reduction == "none" else x.sum() / self.divisor(reduction)

    def divisor(self, reduction: str) -> Any:
        """What sums are divided by; infinite for a mean of no weight, which is 0."""
        total = self.weight.sum() if reduction == "mean" else 1
        return np.inf if total == 0 else total


@dataclass(frozen=True)
class _Problem:
    """What every output is computed from; columns are `[N, 1]`."""

    rows: SoftmaxRows
    possible: np.ndarray  # [N, V] booleans
    u: np.ndarray  # [N, V], 0 at classes that cannot happen
    q: np.ndarray  # [N, V]
    t: np.ndarray  # [N, V]
    v: np.ndarray  # column
    z_loss: float
    cap_slope: np.ndarray  # [N, V]


def _finite(x: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """`x [N]` in rows that count, 0 where it is infinite: the derivative by the weights."""
    return np.where(counted & np.isfinite(x), x, 0)


def options_cross_entropy(
    logits: np.ndarray,
    labels: Any,
    *,
    where: np.ndarray | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    class_weights: Any = None,
    sample_weight: Any = None,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    temperature: float = 1.0,
) -> ExactRows:
    """Both losses from their definition, for logits `[N, V]` and labels `[N]` or `[N, V]`."""
    labels, z = np.asarray(labels), widened(np.asarray(logits), logits.dtype)
    wide, (count, classes) = z.dtype.type, z.shape
    w = np.ones(classes, wide) if class_weights is None else np.asarray(class_weights, wide)
    given = np.ones(count, wide) if sample_weight is None else np.asarray(sample_weight, wide)
    left = _left_classes(where, z.shape)
    counted = left.any(-1)
    by_index = labels.ndim == 1
    if by_index and ignore_index is not None:
        counted &= labels != ignore_index
    # A row of weight 0 with NaN or +inf does not count.
    number = (np.isfinite(z) | (z == -np.inf)).all(-1)
    counted &= number | (given != 0)
    kept = counted & (given != 0)
    left, v = left | ~counted[:, None], np.where(kept, given, 0)[:, None]
    z = np.where(left, np.where(counted[:, None], z, 0), -np.inf)
    index = np.where(kept, labels, 0) if by_index else np.zeros(count, int)
    if by_index:
        q = (np.arange(classes) == np.where(counted, labels, 0)[:, None]).astype(wide)
    else:
        q = np.where(left & counted[:, None], np.asarray(labels, np.float64), 0).astype(wide)
    alpha = wide(label_smoothing)
    t = w * ((1 - alpha) * q + np.where(left, alpha / left.sum(-1, keepdims=True), 0))
    capped, cap_slope = _cap(z, soft_cap)
    if temperature != 1:
        read, cap_slope = _divided(capped, temperature, logits.dtype), cap_slope / temperature
        capped = read if soft_cap is None else capped / temperature
    rows, possible = softmax_rows(capped), z > -np.inf
    problem = _Problem(rows, possible, np.where(possible, rows.u, 0), q, t, v, z_loss, cap_slope)
    bare = _loss(problem)
    outputs = {
        "loss": _weighted(bare, v),
        "logsumexp": _logsumexp(problem),
        "label_log_prob": _label_log_prob(problem),
        "entropy": _entropy(problem),
    }
    return ExactRows(
        **{name: Output(*(_zeroed(x, kept) for x in out)) for name, out in outputs.items()},
        argmax=np.where(kept, z.argmax(-1), 0),  # of the logits: the cap rounds to ties
        weight=np.where(kept, given * (w[index] if by_index else 1), 0),
        target_mass=np.where(kept, np.abs(given) * (_sum(t) + _sum(q))[:, 0], 0),
        label_factor=v * (1 - alpha) * w,
        surprisal=_zeroed(problem.u, kept),
        by_weight=_finite(bare.value, counted),
        by_weight_size=_finite(bare.value_size, counted),
        probability=rows.p,
        not_probability=rows.not_p,
        cap_slope=cap_slope,
    )


def _left_classes(where: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if where is None:
        return np.ones(shape, bool)
    return np.broadcast_to(where if np.ndim(where) == 2 else where[:, None], shape)


def _cap(z: np.ndarray, cap: float | None) -> tuple[np.ndarray, np.ndarray]:
    """`cap tanh(z / cap)`, which keeps impossible classes impossible, and its derivative."""
    if cap is None:
        return z, np.ones_like(z)
    wide = z.dtype.type
    decay = np.exp(-2 * np.abs(z) / wide(cap))
    capped = np.where(z == -np.inf, z, wide(cap) * np.tanh(z / wide(cap)))
    return capped, 4 * decay / (1 + decay) ** 2  # 1 - tanh^2 would cancel


def _divided(z: np.ndarray, temperature: float, dtype: np.dtype) -> np.ndarray:
    """`z / temperature`, rounded as the caller's own division of logits of `dtype` would be."""
    due = statistics_dtype(np.dtype(dtype))
    return widened(z.astype(due) / due.type(temperature), due)


def _zeroed(x: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return np.where(kept if x.ndim == 1 else kept[:, None], x, 0)


def _sum(x: np.ndarray) -> np.ndarray:
    return np.sum(x, -1, keepdims=True)


def _weighted(output: Output, v: np.ndarray) -> Output:
    size = np.abs(v)
    return Output(
        v[:, 0] * output.value,
        v * output.gradient,
        size[:, 0] * output.value_size,
        size * output.gradient_size,
        size * output.reach,
    )


def _charged(problem: _Problem, targets: np.ndarray) -> Output:
    """`sum_j targets_j u_j`: infinite where a target is on a class that cannot happen."""
    p, not_p, slope = problem.rows.p, problem.rows.not_p, problem.cap_slope
    total = _sum(np.abs(targets))
    with np.errstate(invalid="ignore"):
        terms = np.where(targets == 0, 0, targets * problem.rows.u)
    gradient = (_sum(targets) - targets) * p - targets * not_p
    return Output(
        terms.sum(-1),
        np.where(problem.possible, gradient, 0) * slope,
        np.abs(terms).sum(-1),
        (total * p + np.abs(targets)) * slope,
        total + np.abs(targets),
    )


def _loss(problem: _Problem) -> Output:
    charged, c = _charged(problem, problem.t), problem.z_loss
    if not c:
        return charged
    lse = _logsumexp(problem)
    # Where it is infinite no class can happen, and there is no derivative.
    finite, size = (np.where(np.isinf(x), 0, x)[:, None] for x in (lse.value, lse.value_size))
    factor, size = 2 * c * finite, 2 * abs(c) * size
    return Output(
        charged.value + c * lse.value**2,
        charged.gradient + factor * lse.gradient,
        charged.value_size + abs(c) * lse.value_size**2,
        charged.gradient_size + size * lse.gradient,
        charged.reach + size,
    )


def _logsumexp(problem: _Problem) -> Output:
    rows, gradient = problem.rows, problem.rows.p * problem.cap_slope
    value, size = rows.largest + rows.log_s, np.abs(rows.largest) + np.abs(rows.log_s)
    return Output(value[:, 0], gradient, size[:, 0], gradient, np.ones_like(gradient))


def _label_log_prob(problem: _Problem) -> Output:
    hit = _charged(problem, problem.q)
    return hit._replace(value=-hit.value, gradient=-hit.gradient)


def _entropy(problem: _Problem) -> Output:
    p, u, slope = problem.rows.p, problem.u, problem.cap_slope
    value = _sum(p * u)
    gradient, size = p * (u - value) * slope, p * (u + value) * slope
    return Output(value[:, 0], gradient, value[:, 0], size, u + value)


def softmax(x: Any, axes: Any = -1, where: Any = True) -> np.ndarray:
    """Probabilities along one axis or a tuple of them, among the classes `where`."""
    x = np.asarray(x)
    flat, back = _classes_last(x, axes)
    mask, _ = _classes_last(np.broadcast_to(where, x.shape), axes)
    return back(softmax_rows(widened(flat, x.dtype), mask).p)


def cross_entropy(
    logits: Any, q: Any, axes: Any = -1, where: Any = True
) -> tuple[np.ndarray, np.ndarray]:
    """Losses against class probabilities along the axes, and their derivative by the logits."""
    logits = np.asarray(logits)
    flat, back = _classes_last(logits, axes)
    labels, mask = (_classes_last(np.broadcast_to(x, logits.shape), axes)[0] for x in (q, where))
    loss = options_cross_entropy(flat, np.where(mask, labels, 0), where=mask).loss
    gradient = back(loss.gradient)
    return loss.value.reshape(np.delete(logits.shape, axes)), gradient


def _classes_last(x: np.ndarray, axes: Any) -> tuple[np.ndarray, Any]:
    """`x` as `[N, V]`, and a function that undoes this."""
    axes = np.atleast_1d(axes)
    last = range(-len(axes), 0)
    moved = np.moveaxis(x, axes, last)
    rows = moved.shape[: x.ndim - len(axes)]
    classes = int(np.prod(moved.shape[len(rows) :]))

    def back(flat: np.ndarray) -> np.ndarray:
        return np.moveaxis(flat.reshape(moved.shape), last, axes)

    return moved.reshape(-1, classes), back
