"""Divergences of two rows of logits and their derivatives, from their definitions in NumPy.

In `longdouble`, whatever the logits' dtype. Shares no code with `ops`. Of a student's probabilities
q and a teacher's p, with d_j = log q_j - log p_j and phi(x) = e^x - 1 - x,

    forward = sum_j p_j phi(d_j)
    dforward/dz_j = q_j - p_j = p_j sum_k p_k (e^{d_j} - e^{d_k})
    dforward/dt_j = -p_j sum_k p_k (d_j - d_k)

The reverse is the same with the roles exchanged. In the middle, with m = (p + q) / 2,

    js = sum_j (p_j phi(h_j) + q_j phi(i_j)) / 2,    h_j = log(m_j / p_j),    i_j = log(m_j / q_j)
    djs/dz_j = -q_j (i_j - sum_k q_k i_k) / 2,    djs/dt_j = -p_j (h_j - sum_k p_k h_k) / 2

The sizes that errors are compared with are these sums of absolute values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# From here on e^x may overflow where its product does not.
_LARGE = 2.0


class PairRegime(NamedTuple):
    """How a student's rows come from a teacher's, both of `scale * N(0, 1)`.

    Attributes:
      scale: of the logits.
      near: None, or the student's are the teacher's and `near * N(0, 1)`.
      one: the student's are the teacher's, but that of the first class is larger by this.
      shift: what is added to the teacher's, and then to both.
      lead: None, or how far the first class leads in both.
      apart: None, or how far the first class leads in the teacher's, and the second in the
        student's.
    """

    scale: float = 1.0
    near: float | None = None
    one: float = 0.0
    shift: float = 0.0
    lead: float | None = None
    apart: float | None = None


PAIR_REGIMES = {
    "N(0,1)": PairRegime(),
    "N(0,30)": PairRegime(scale=30.0),
    "near by 1e-3": PairRegime(scale=5.0, near=1e-3),
    "near by 1e-6": PairRegime(scale=5.0, near=1e-6),
    "one class differs": PairRegime(scale=5.0, one=1e-3),
    "shifted +1e4": PairRegime(near=1e-2, shift=1e4),
    "confident by 14": PairRegime(lead=14.0),
    "confident by 60": PairRegime(lead=60.0),
    "leaders differ by 80": PairRegime(apart=80.0),
}


def pair_rows(classes: int, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`rows` rows per regime of `PAIR_REGIMES`: the student's and teacher's logits, float64."""
    students, teachers = [], []
    for regime in PAIR_REGIMES.values():
        z, t = regime.scale * rng.standard_normal((2, rows, classes))
        if regime.near is not None:
            t = t + regime.shift
            z = t + regime.near * rng.standard_normal(z.shape)
        if regime.shift:
            z -= 3  # a number for all classes, which no divergence sees
        if regime.one:
            z = t.copy()
            z[:, 0] += regime.one
        if regime.lead is not None:
            for x in (z, t):
                x[:, 0] = x.max(-1) + regime.lead
        if regime.apart is not None:
            t[:, 0], z[:, 1] = t.max(-1) + regime.apart, z.max(-1) + regime.apart
        students.append(z)
        teachers.append(t)
    return np.concatenate(students), np.concatenate(teachers)


class Slope(NamedTuple):
    """A derivative by logits `[N, V]`, and the sizes of its terms."""

    value: np.ndarray
    size: np.ndarray


class ExactDivergence(NamedTuple):
    """A divergence of each row, and what its error depends on.

    Attributes:
      value: `[N]`, a sum of terms none of which is negative.
      by_student: its derivative.
      by_teacher: its derivative.
      student: the probabilities `[N, V]`.
      teacher: the probabilities `[N, V]`.
      ratio: `[N, V]`, `log q - log p`; 0 where neither can happen.
    """

    value: np.ndarray
    by_student: Slope
    by_teacher: Slope
    student: np.ndarray
    teacher: np.ndarray
    ratio: np.ndarray


def exact_divergence(
    student: np.ndarray,
    teacher: np.ndarray,
    direction: str,
    *,
    where: np.ndarray | None = None,
    soft_cap: float | None = None,
    temperature: float = 1.0,
) -> ExactDivergence:
    """The divergence of logits `[N, V]`, which are finite in the classes that `where` leaves."""
    given = np.ones(student.shape, bool) if where is None else where
    z, t = (np.where(given, x.astype(np.longdouble), -np.inf) for x in (student, teacher))
    slopes = [_cap_slope(x, soft_cap) / temperature for x in (z, t)]
    z, t = (_capped(x, soft_cap) / temperature for x in (z, t))
    log_q, log_p = _log_softmax(z), _log_softmax(t)
    q, p = np.exp(log_q), np.exp(log_p)
    d = _ratio(z, t, log_q, log_p, p, given)
    value, by_student, by_teacher = {
        "forward": lambda: _forward(p, q, d),
        "reverse": lambda: _reverse(p, q, d),
        "js": lambda: _middle(p, q, d),
    }[direction]()
    by_student, by_teacher = (
        Slope(by.value * slope, by.size * slope)
        for by, slope in zip((by_student, by_teacher), slopes, strict=True)
    )
    return ExactDivergence(value, by_student, by_teacher, q, p, d)


def _capped(x: np.ndarray, cap: float | None) -> np.ndarray:
    return x if cap is None else np.where(np.isfinite(x), cap * np.tanh(x / cap), x)


def _cap_slope(x: np.ndarray, cap: float | None) -> np.ndarray:
    if cap is None:
        return np.ones_like(x)
    e = np.exp(-2 * np.abs(x) / cap)
    return 4 * e / (1 + e) ** 2


def _log_softmax(z: np.ndarray) -> np.ndarray:
    """With the leader's term of the sum set apart, so that a small one keeps its digits."""
    largest = z.max(-1, keepdims=True)
    others = np.exp(z - largest)
    np.put_along_axis(others, z.argmax(-1)[:, None], 0, -1)
    return z - largest - np.log1p(others.sum(-1, keepdims=True))


def _ratio(
    z: np.ndarray,
    t: np.ndarray,
    log_q: np.ndarray,
    log_p: np.ndarray,
    p: np.ndarray,
    given: np.ndarray,
) -> np.ndarray:
    """`log q - log p`; of near rows from the differences of logits, as precise as it is small."""
    with np.errstate(invalid="ignore"):
        d, x = (np.where(given, a - b, 0) for a, b in ((log_q, log_p), (z, t)))
    x = np.where(given, x - np.take_along_axis(x, t.argmax(-1)[:, None], -1), 0)
    near = np.abs(x).max(-1, keepdims=True) < 50
    more = (p * np.expm1(np.where(near, x, 0))).sum(-1, keepdims=True)
    return np.where(near & given, x - np.log1p(more), d)


def _phi(x: np.ndarray) -> np.ndarray:
    """`e^x - 1 - x`."""
    near = np.clip(x, -1, 1)
    series = np.zeros_like(x)
    for k in range(30, 2, -1):
        series = (series + 1) * near / k
    return np.where(np.abs(x) <= 1, near * near / 2 * (1 + series), np.expm1(x) - x)


def _terms(of: np.ndarray, to: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`of * phi(x)`, where `to = of * e^x`."""
    return np.where(x > _LARGE, to - of * (1 + x), of * _phi(np.minimum(x, _LARGE)))


def _change(of: np.ndarray, to: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`to - of`, where `to = of * e^x`."""
    return np.where(x > _LARGE, to - of, of * np.expm1(np.minimum(x, _LARGE)))


def _forward(p: np.ndarray, q: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, Slope, Slope]:
    moved = Slope(_change(p, q, d), _spread(p, np.expm1(d)))
    return _terms(p, q, d).sum(-1), moved, _of_weights(p, d)


def _reverse(p: np.ndarray, q: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, Slope, Slope]:
    value, by_other, by_weights = _forward(q, p, -d)
    return value, by_weights, by_other


def _of_weights(p: np.ndarray, d: np.ndarray) -> Slope:
    """By the logits of the row whose classes weigh the sum."""
    x = d - np.take_along_axis(d, p.argmax(-1)[:, None], -1)
    return Slope(-p * (x - (p * x).sum(-1, keepdims=True)), _spread(p, d))


def _spread(p: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`p_j sum_k p_k |x_j - x_k|`, in the order of the x, where it is a difference of sums."""
    leader = p.argmax(-1)[:, None]
    x = x - np.take_along_axis(x, leader, -1)  # the leader's sum then has terms of one sign
    order = x.argsort(-1)
    p_up, x_up = (np.take_along_axis(a, order, -1) for a in (p, x))
    below, of_below = (np.cumsum(a, -1) for a in (p_up, p_up * x_up))
    above, of_above = (np.cumsum(a[:, ::-1], -1)[:, ::-1] for a in (p_up, p_up * x_up))
    found = np.empty_like(x)
    np.put_along_axis(found, order, (x_up * (below - above)) - of_below + of_above, -1)
    return p * np.abs(found)


def _middle(p: np.ndarray, q: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, Slope, Slope]:
    h, i, m = _to_middle(d), _to_middle(-d), (p + q) / 2
    value = (_terms(p, m, h) + _terms(q, m, i)).sum(-1) / 2
    return value, _half_of_weights(q, i), _half_of_weights(p, h)


def _to_middle(d: np.ndarray) -> np.ndarray:
    """`log((1 + e^d) / 2)`."""
    near = np.log1p(np.expm1(np.minimum(d, _LARGE)) / 2)
    far = np.maximum(d, _LARGE)
    return np.where(d > _LARGE, far + np.log1p(np.exp(-far)) - np.log(np.longdouble(2)), near)


def _half_of_weights(a: np.ndarray, h: np.ndarray) -> Slope:
    mean, size = ((a * x).sum(-1, keepdims=True) for x in (h, np.abs(h)))
    return Slope(-a * (h - mean) / 2, a * (np.abs(h) + size) / 2)
