"""Exact values in NumPy: `longdouble` where the platform has one, float64 for half precision."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

LONGDOUBLE_IS_WIDER = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps


class Exact(NamedTuple):
    """Losses `[N]`, their derivatives for a cotangent of 1 `[N, V]`, and probabilities `[N, V]`."""

    loss: np.ndarray
    gradient: np.ndarray
    probability: np.ndarray


def integer_cross_entropy(logits, labels) -> Exact:
    """The loss with integer labels and its derivative, with the label's class summed apart."""
    half = logits.dtype.itemsize == 2
    z = np.asarray(logits, np.float64).astype(np.float64 if half else np.longdouble)
    rows = np.arange(len(z))
    largest = z.max(-1)
    terms = np.exp(z - largest[:, None])
    label_term = terms[rows, labels]
    apart = terms.copy()
    apart[rows, labels] = 0
    others = apart.sum(-1)
    total = others + label_term
    gap = largest - z[rows, labels]
    loss = np.where(gap == 0, np.log1p(others), gap + np.log(total))
    gradient = terms / total[:, None]
    probability = gradient.copy()
    gradient[rows, labels] = -others / total
    return Exact(loss, gradient, probability)


def softmax(x, axes=-1, where=True):
    """Probabilities in float64 along one axis or a tuple of them, among the classes `where`."""
    x = np.asarray(x, np.float64)
    e = np.where(where, np.exp(x - x.max(axes, keepdims=True, where=where, initial=-np.inf)), 0)
    return e / e.sum(axes, keepdims=True)


def cross_entropy(logits, q, axes=-1, where=True):
    """Losses in float64 against class probabilities, and their derivative by the logits."""
    p, q = softmax(logits, axes, where), np.where(where, np.asarray(q, np.float64), 0)
    terms = q * np.log(p, where=q != 0, out=np.zeros(q.shape))
    return -terms.sum(axes), p * q.sum(axes, keepdims=True) - q


def error_in_eps(actual, exact, dtype, representable) -> np.ndarray:
    """`|actual - exact| / |exact|` in machine epsilons of `dtype`; 0 where not `representable`.

    Where `exact` rounds to infinity in `dtype`, `actual` must be that infinity.
    """
    wide = np.asarray(actual, np.float64).astype(exact.dtype)
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float64).astype(dtype).astype(np.float64)
    overflows = np.isinf(rounded)
    scale = np.where(representable & ~overflows, np.abs(exact), 1)
    difference = np.where(overflows, 0, exact) - np.where(overflows, 0, wide)
    error = np.abs(difference) / scale / exact.dtype.type(jnp.finfo(dtype).eps)
    error = np.where(representable, error, 0)
    return np.where(overflows & (wide != rounded), np.inf, error).astype(np.float64)


def tiny(dtype) -> float:
    """The smallest normal number of `dtype`, bfloat16 included."""
    return float(jnp.finfo(dtype).tiny)


class Output(NamedTuple):
    """A number a row `[N]`, its derivative by the logits `[N, V]`, and the sizes of their terms.

    The sizes are sums of the absolute values of what is added up: where terms cancel, an error can
    only be held against them.
    """

    value: np.ndarray
    gradient: np.ndarray
    value_size: np.ndarray
    gradient_size: np.ndarray


class ExactRows(NamedTuple):
    """The loss and statistics under options, and what else they are made of.

    `loss.gradient` includes `sample_weight`; `by_labels [N, V]` and `by_weight [N]` are the loss's
    derivatives by soft labels and by `sample_weight`; `weight [N]` is what a row counts for in the
    mean; `probability [N, V]`; `cap_slope [N, V]` is the derivative of the soft cap.
    """

    loss: Output
    logsumexp: Output
    label_log_prob: Output
    entropy: Output
    argmax: np.ndarray
    weight: np.ndarray
    by_labels: np.ndarray
    by_weight: np.ndarray
    probability: np.ndarray
    cap_slope: np.ndarray

    def reduced(self, reduction):
        """`(value, by logits)` of the loss for a cotangent of 1, or of 1 a row."""
        return self.over(reduction, self.loss.value), self.over(
            reduction, self.loss.gradient, rows=True
        )

    def over(self, reduction, x, rows=False):
        """`x` divided by the mean's weights and summed over rows (kept apart with `rows`)."""
        total = self.weight.sum()
        if reduction == "mean":
            x = np.zeros_like(x) if total == 0 else x / total
        return x if rows or reduction == "none" else x.sum()


def options_cross_entropy(
    logits,
    labels,
    *,
    where=None,
    ignore_index=None,
    label_smoothing=0.0,
    class_weights=None,
    sample_weight=None,
    z_loss=0.0,
    soft_cap=None,
) -> ExactRows:
    """Both losses from their definition, for logits `[N, V]` and labels `[N]` or `[N, V]`.

    In `longdouble` for float64 logits, else in float64.
    """
    wide = np.longdouble if logits.dtype == np.float64 else np.float64
    rows, classes = logits.shape
    labels = np.asarray(labels)
    z = np.asarray(logits, np.float64).astype(wide)
    w = np.ones(classes, wide) if class_weights is None else np.asarray(class_weights, wide)
    given = np.ones(rows, wide) if sample_weight is None else np.asarray(sample_weight, wide)
    left = np.ones(logits.shape, bool)
    if where is not None:
        left = np.broadcast_to(where if np.ndim(where) == 2 else where[:, None], left.shape)
    kept = left.any(-1) & (given != 0)
    by_index = labels.ndim == 1
    if by_index:
        kept &= labels != ignore_index
        index = np.where(kept, labels, 0)
        q = (np.arange(classes) == index[:, None]).astype(wide)
    else:
        q = np.where(left & kept[:, None], np.asarray(labels, np.float64), 0).astype(wide)
    z = np.where(kept[:, None], z, 0)
    left = left | ~kept[:, None]

    top = np.where(left, z, -np.inf).argmax(-1)  # the cap keeps the order, and rounds to ties
    cap_slope = np.ones_like(z)
    if soft_cap is not None:
        decay = np.exp(-2 * np.abs(z) / wide(soft_cap))
        cap_slope = 4 * decay / (1 + decay) ** 2
        z = np.where(z == -np.inf, z, soft_cap * np.tanh(z / wide(soft_cap)))
    z = np.where(left, z, -np.inf)
    m = np.take_along_axis(z, top[:, None], -1)
    m = np.where(m == -np.inf, 0, m)
    e = np.exp(z - m)
    is_top = np.arange(classes) == top[:, None]
    others = np.where(is_top, 0, e).sum(-1, keepdims=True)
    log_s = np.where(e.sum(-1, keepdims=True) == 0, -np.inf, np.log1p(others))
    s = np.maximum(e.sum(-1, keepdims=True), 1)
    p, possible = e / s, z > -np.inf
    not_p = np.where(is_top, others / s, 1 - p)
    surprisal = np.where(possible, m - z + np.where(np.isinf(log_s), 0, log_s), np.inf)

    alpha = wide(label_smoothing)
    each = np.where(left, alpha / left.sum(-1, keepdims=True), 0)
    t = w * ((1 - alpha) * q + each)

    def charged(targets):
        with np.errstate(invalid="ignore"):
            terms = np.where(targets == 0, 0, targets * surprisal)
        T = targets.sum(-1, keepdims=True)
        gradient = (T - targets) * p - targets * not_p
        return Output(
            terms.sum(-1),
            np.where(possible, gradient, 0) * cap_slope,
            np.abs(terms).sum(-1),
            (np.abs(targets).sum(-1, keepdims=True) * p + np.abs(targets)) * cap_slope,
        )

    lse, lse_size = (m + log_s)[:, 0], (np.abs(m) + np.abs(log_s))[:, 0]
    bare, hit = charged(t), charged(q)
    finite = np.where(possible, surprisal, 0)
    entropy = (p * finite).sum(-1)
    outputs = {
        "loss": Output(
            given * (bare.value + (z_loss * lse**2 if z_loss else 0)),
            given[:, None]
            * (bare.gradient + (2 * z_loss * lse[:, None] * p * cap_slope if z_loss else 0)),
            np.abs(given) * (bare.value_size + (abs(z_loss) * lse_size**2 if z_loss else 0)),
            np.abs(given)[:, None]
            * (
                bare.gradient_size
                + (2 * abs(z_loss) * lse_size[:, None] * p * cap_slope if z_loss else 0)
            ),
        ),
        "logsumexp": Output(lse, p * cap_slope, lse_size, p * cap_slope),
        "label_log_prob": Output(-hit.value, -hit.gradient, hit.value_size, hit.gradient_size),
        "entropy": Output(
            entropy,
            p * (finite - entropy[:, None]) * cap_slope,
            entropy,
            p * (finite + entropy[:, None]) * cap_slope,
        ),
    }
    by_labels = given[:, None] * (1 - alpha) * w * finite
    by_weight = bare.value + (z_loss * lse**2 if z_loss else 0)
    zeroed = {
        name: Output(*(np.where(kept if x.ndim == 1 else kept[:, None], x, 0) for x in output))
        for name, output in outputs.items()
    }
    return ExactRows(
        **zeroed,
        argmax=np.where(kept, top, 0),
        weight=np.where(kept, given * (w[index] if by_index else 1), 0),
        by_labels=np.where(kept[:, None], by_labels, 0),
        by_weight=np.where(kept, by_weight, 0),
        probability=p,
        cap_slope=cap_slope,
    )
