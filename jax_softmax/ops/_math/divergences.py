"""Divergences of two rows of logits, their student's and their teacher's, and their derivatives.

With log-probabilities log a_j of the row whose classes weigh the sum and log b_j of the other, and

    d_j = log b_j - log a_j,    phi(x) = e^x - 1 - x >= 0

    KL(a || b) = sum_j a_j (-d_j) = sum_j a_j phi(d_j),    since sum_j a_j e^{d_j} = sum_j b_j = 1

The terms on the left have both signs, and cancel where the rows are nearly equal: a divergence of
1e-10 is lost among terms of 1e-5. None on the right is negative. An error that all d_j share
changes their sum only by its square, since sum_j a_j phi'(d_j) = sum_j (b_j - a_j) = 0.

The d_j themselves must be as precise as they are small. With a difference of logits x_j, exact as a
sum of two numbers, and a number c near the difference of the rows' logsumexps,

    f_j = x_j - c,    d_j = f_j - log1p(r),    r = sum_j a_j (e^{f_j} - 1)

If a class L has most of the mass of a row and d_L is small, c = x_L: then f_L is exactly 0, and d_L
keeps every digit that the other classes give it, as `p_y - 1` would not.

    dKL/dz^b_j = b_j - a_j = a_j (e^{d_j} - 1)
    dKL/dz^a_j = -a_j (d_j + KL) = -a_j (f_j - sum_k a_k f_k)

The Jensen-Shannon divergence has m_j = (a_j + b_j) / 2 in the middle:

    JS = (KL(a || m) + KL(b || m)) / 2,    h_j = log m_j - log a_j = log((1 + e^{d_j}) / 2)

    dJS/dz^a_j = -a_j (h_j - sum_k a_k h_k) / 2,    and so for b

A number that all f_j share does not matter in -a_j (f_j - sum_k a_k f_k). If a class has most of
the mass of a, its own is taken off: then it has exactly 0, and the others keep their digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.ops._backends.compensated import difference, shifted_exp
from jax_softmax.ops._backends.interface import Backend
from jax_softmax.ops._backends.sums import row_sum
from jax_softmax.ops._math.logits import CappedLogits, held_logits
from jax_softmax.ops._math.row_data import Gradients, Outputs, RowData, drop_rows
from jax_softmax.ops._math.row_loss import RowLoss
from jax_softmax.ops._math.rows import RowStatistics
from jax_softmax.ops._math.slices import Slices
from jax_softmax.ops._options import Options

# From here on e^x is not computed as a factor: it may overflow where its product does not.
_LARGE = 2.0

# A number as a value and its rounding error.
_Exactly = tuple[jax.Array, jax.Array]


class Residuals(NamedTuple):
    """What the gradients need of a pair of rows, `[...]` each.

    Attributes:
      rows: the student's statistics.
      teacher: the teacher's.
      gap: c, as a value and its rounding error; a constant for differentiation.
      more: `log1p(r)`.
      pivots: of the student's and of the teacher's leader if it has most of the mass, what `gap` is
        of all: its difference of logits.
      means: of `_Direction.centred`.
      infinite: booleans, whether the divergence is; its derivative is then 0.
    """

    rows: RowStatistics
    teacher: RowStatistics
    gap: _Exactly
    more: jax.Array
    pivots: tuple[_Exactly, _Exactly]
    means: tuple[jax.Array, ...] = ()
    infinite: jax.Array | None = None


class _Pair(NamedTuple):
    """Both rows of probabilities, and the logarithms of their ratios, `[..., V]` each.

    Attributes:
      student: q.
      teacher: p.
      offset: f; infinite where one of the two cannot happen, 0 where neither can.
      more: `[..., 1]`.
      offsets: f less the student's leader's, and less the teacher's (see `pivots`).
    """

    student: jax.Array
    teacher: jax.Array
    offset: jax.Array
    more: jax.Array
    offsets: tuple[jax.Array, ...]

    @property
    def ratio(self) -> jax.Array:
        """`d = log q - log p`."""
        return self.offset - self.more


def _teacher(options: Options, data: RowData) -> CappedLogits:
    assert data.labels is not None
    return held_logits(data.labels, data.mask, options)


def _less(x: _Exactly, y: _Exactly) -> jax.Array:
    """`x - y`, as precise as it is small."""
    value, error = difference(x[0], y[0])
    return value + (error + x[1] - y[1])


def _offset(z: jax.Array, t: jax.Array, gap: _Exactly) -> jax.Array:
    """`(z - t) - gap`, for logits of which neither is `-inf`, else infinite, or 0."""
    possible, teachers = z > -jnp.inf, t > -jnp.inf
    both = possible & teachers
    found = _less(difference(jnp.where(both, z, 0), jnp.where(both, t, 0)), gap)
    alone = jnp.where(possible == teachers, 0, jnp.where(possible, jnp.inf, -jnp.inf))
    return jnp.where(both, found, alone.astype(z.dtype))


@jax.custom_jvp
def excess(x: jax.Array) -> jax.Array:
    """`e^x - 1 - x`, with full relative precision."""
    # The series of 2 (e^x - 1 - x) / x^2, for |x| <= 1.
    near = jnp.clip(x, -1, 1)
    last = 18 if x.dtype == jnp.float64 else 11
    series = jnp.ones_like(x)
    for k in range(last, 2, -1):
        series = 1 + near / k * series
    return jnp.where(jnp.abs(x) <= 1, near * near / 2 * series, jnp.expm1(x) - x)


@excess.defjvp
def _excess_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (dot,) = primals, tangents
    return excess(x), jnp.expm1(x) * dot


def _terms(of: jax.Array, to: jax.Array, ratio: jax.Array) -> jax.Array:
    """`of * (e^ratio - 1 - ratio)`, where `to = of * e^ratio`."""
    most = float(jnp.finfo(ratio.dtype).max)
    bounded = jnp.clip(ratio, -most, most)
    far = to - of * (1 + bounded)
    return jnp.where(ratio > _LARGE, far, of * excess(jnp.minimum(bounded, _LARGE)))


def _change(of: jax.Array, to: jax.Array, ratio: jax.Array) -> jax.Array:
    """`to - of`, where `to = of * e^ratio`."""
    near = of * jnp.expm1(jnp.minimum(ratio, _LARGE))
    return jnp.where(ratio > _LARGE, to - of, near)


def _log1p(x: jax.Array) -> jax.Array:
    """`log(1 + x)`; XLA:CPU's float64 one is off by up to 150 eps from -0.43 to -0.32."""
    if x.dtype != jnp.float64:
        return jnp.log1p(x)
    near = jnp.clip(x, -0.5, -0.1)
    return jnp.where(x == near, 2 * jnp.arctanh(near / (2 + near)), jnp.log1p(x))


def _to_middle(ratio: jax.Array) -> jax.Array:
    """`log((1 + e^ratio) / 2)`."""
    near = _log1p(jnp.expm1(jnp.clip(ratio, -_LARGE, _LARGE)) / 2)
    far = jnp.maximum(ratio, 0) + (jnp.log1p(jnp.exp(-jnp.abs(ratio))) - math.log(2))
    return jnp.where(jnp.abs(ratio) > _LARGE, far, near)


def _weighed(of: jax.Array, x: jax.Array) -> jax.Array:
    """`of * x`, 0 for an infinite `x` of a class without mass."""
    most = float(jnp.finfo(x.dtype).max)
    return of * jnp.clip(x, -most, most)


class _Direction(NamedTuple):
    """A divergence as a sum over the classes, and its derivatives.

    Attributes:
      terms: of the sum, `[..., V]`.
      centred: pairs of a row's probabilities, and what its derivative has less its mean.
      by_student: `[..., V]`, given the means.
      by_teacher: `[..., V]`.
    """

    terms: Callable[[_Pair], jax.Array]
    centred: Callable[[_Pair], tuple[tuple[jax.Array, jax.Array], ...]]
    by_student: Callable[[_Pair, Sequence[jax.Array]], jax.Array]
    by_teacher: Callable[[_Pair, Sequence[jax.Array]], jax.Array]


def _by_weights(of: jax.Array, x: jax.Array, mean: jax.Array) -> jax.Array:
    """`-of (x - mean)`, the derivative by the logits of the row whose classes weigh the sum."""
    return _weighed(of, mean[..., None] - x)


def _forward_terms(pair: _Pair) -> jax.Array:
    terms = _terms(pair.teacher, pair.student, pair.ratio)
    return jnp.where(pair.ratio == -jnp.inf, jnp.inf, terms)


_FORWARD = _Direction(
    _forward_terms,
    lambda pair: ((pair.teacher, pair.offsets[1]),),
    lambda pair, _: _change(pair.teacher, pair.student, pair.ratio),
    lambda pair, means: _by_weights(pair.teacher, pair.offsets[1], means[0]),
)


def _reverse_terms(pair: _Pair) -> jax.Array:
    terms = _terms(pair.student, pair.teacher, -pair.ratio)
    return jnp.where(pair.ratio == jnp.inf, jnp.inf, terms)


_REVERSE = _Direction(
    _reverse_terms,
    lambda pair: ((pair.student, -pair.offsets[0]),),
    lambda pair, means: _by_weights(pair.student, -pair.offsets[0], means[0]),
    lambda pair, _: _change(pair.student, pair.teacher, -pair.ratio),
)


def _middle_terms(pair: _Pair) -> jax.Array:
    q, p, d = pair.student, pair.teacher, pair.ratio
    middle = (p + q) / 2
    of_teacher = _terms(p, middle, _to_middle(d))
    return (of_teacher + _terms(q, middle, _to_middle(-d))) / 2


def _of_middle(pair: _Pair) -> tuple[tuple[jax.Array, jax.Array], ...]:
    return (pair.teacher, _to_middle(pair.ratio)), (pair.student, _to_middle(-pair.ratio))


_MIDDLE = _Direction(
    _middle_terms,
    _of_middle,
    lambda pair, means: _by_weights(*_of_middle(pair)[1], means[1]) / 2,
    lambda pair, means: _by_weights(*_of_middle(pair)[0], means[0]) / 2,
)


def _of_teacher(options: Options, slices: Slices) -> Slices:
    """The teacher's logits, a slice at a time."""
    return slices._replace(each=lambda f: slices.each(lambda _, at: f(_teacher(options, at), at)))


def _constant(x: jax.Array) -> jax.Array:
    """`x` for no differentiation, 0 where it is not finite."""
    return lax.stop_gradient(jnp.where(jnp.isfinite(x), x, 0))


def _constants(first: jax.Array, x: _Exactly, y: _Exactly) -> _Exactly:
    """`x` where `first` and it is finite, else `y`; for no differentiation."""
    first = first & jnp.isfinite(x[0])
    return _constant(jnp.where(first, x[0], y[0])), _constant(jnp.where(first, x[1], y[1]))


def _has_most(rows: RowStatistics) -> jax.Array:
    """Whether the class set apart, the likeliest, has more than half of the mass."""
    return rows.others < rows.own


def _pair(z: jax.Array, t: jax.Array, of: Residuals, q: jax.Array, p: jax.Array) -> _Pair:
    """From logits and their exponentials."""
    of = jax.tree.map(lambda x: x[..., None], of)
    offsets = tuple(_offset(z, t, pivot) for pivot in of.pivots)
    student, teacher = q / of.rows.total, p / of.teacher.total
    return _Pair(student, teacher, _offset(z, t, of.gap), of.more, offsets)


def _forward(
    direction: _Direction, options: Options, slices: Slices, data: RowData
) -> tuple[Outputs, Residuals]:
    backend, teachers = slices.backend, _of_teacher(options, slices)
    student, teacher = slices.top(), teachers.top()
    wide = student.rows.total.dtype
    rows, others = student.rows, RowStatistics(*(x.astype(wide) for x in teacher.rows))
    # Near the difference of the logsumexps, and how far from it: as a factor of probabilities.
    logs = student.log_total - teacher.log_total.astype(wide)
    value, error = difference(rows.shift, others.shift)
    between, further = difference(value, -_constant(logs))
    error += further
    apart = rows.total / others.total * jnp.exp(-_constant(logs))

    def both(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The logits of a class."""

        def logit(logits: CappedLogits, at: RowData) -> jax.Array:
            return backend.pick(logits.values(), at.column_of(index))

        return slices.sum(logit), teachers.sum(logit).astype(wide)

    of_student, of_teacher = both(student.column), both(teacher.column)
    # A class with most of the mass of one row, if there is one and the other gives it as much.
    taught = _has_most(others)
    z, t = (jnp.where(taught, *x) for x in zip(of_teacher, of_student, strict=True))
    q, p = (shifted_exp(x, of.shift) / of.total for x, of in ((z, rows), (t, others)))
    leads = (taught | _has_most(rows)) & (p < 2 * q) & (q < 2 * p)
    gap = _constants(leads, difference(z, t), (between, error))
    # The teacher's probabilities times e^f are the student's times this.
    factor = jnp.where(leads, p / jnp.where(leads, q, 1), apart)
    pivots = (
        _constants(_has_most(rows), difference(*of_student), gap),
        _constants(_has_most(others), difference(*of_teacher), gap),
    )
    first = Residuals(rows, others, gap, jnp.zeros_like(logs), pivots)

    def pair_of(of: Residuals, logits: CappedLogits, at: RowData) -> _Pair:
        z, t = logits.values(), _teacher(options, at).values().astype(wide)
        q, p = (shifted_exp(x, of.shift[..., None]) for x, of in ((z, rows), (t, others)))
        return _pair(z, t, of, q, p)

    def beyond(logits: CappedLogits, at: RowData) -> jax.Array:
        pair = pair_of(first, logits, at)
        return row_sum(_change(pair.teacher, pair.student * factor[..., None], pair.ratio))

    more = lax.stop_gradient(_log1p(slices.sum(beyond)))
    # c is a constant, and with it their sum has the derivative of the logsumexps' difference.
    between += logs - _constant(logs)
    of = first._replace(more=more + (between - lax.stop_gradient(between)))

    def sums(logits: CappedLogits, at: RowData) -> jax.Array:
        pair = pair_of(of, logits, at)
        centred = (_weighed(*x) for x in direction.centred(pair))
        return jnp.stack([row_sum(x) for x in (direction.terms(pair), *centred)])

    loss, *means = slices.sum(sums)
    # A row without a class that can happen is as far from any other as can be.
    never = (rows.own == 0) | (others.own == 0)
    loss = jnp.where(never, jnp.inf, loss)
    return Outputs(loss), of._replace(means=tuple(means), infinite=jnp.isinf(loss))


def _gradients(
    direction: _Direction,
    backend: Backend,
    options: Options,
    logits: jax.Array,
    data: RowData,
    residuals: Residuals,
    cotangents: Outputs,
    final: bool,
) -> Gradients:
    """`g dL/dz` by the student's and the teacher's logits, `[..., V]` each."""
    assert data.labels is not None
    kept = data.kept(residuals.rows.total + residuals.teacher.total)
    logits, residuals, cotangents = drop_rows(kept, logits, residuals, cotangents)
    if kept is not None:
        data = data._replace(labels=jnp.where(kept[..., None], data.labels, 0))
    held = held_logits(logits, data.mask, options)
    others = _teacher(options, data)
    z = held.values()
    t = others.values().astype(z.dtype)
    q, p = (
        backend.exponentials(x, rows.shift, rounded=stored.dtype != x.dtype)
        for x, rows, stored in (
            (z, residuals.rows, held.stored),
            (t, residuals.teacher, others.stored),
        )
    )
    pair = _pair(z, t, residuals, q, p)
    g = cotangents.zeros_for_none(residuals.rows.total).loss
    assert residuals.infinite is not None
    infinite = residuals.infinite[..., None]
    # 0, or NaN in both gradients of a row if either of its logits is NaN.
    never = 0 * (residuals.rows.total + residuals.teacher.total)[..., None]

    def by(of: CappedLogits, slopes: jax.Array) -> jax.Array:
        # Selected before the product with g, which may be infinite as well.
        slopes = jnp.where(infinite, 0, slopes) + never
        return of.through_cap(jnp.where(of.values() == -jnp.inf, never, g[..., None] * slopes))

    means = residuals.means
    return Gradients(
        by(held, direction.by_student(pair, means)), by(others, direction.by_teacher(pair, means))
    )


def _row_loss(direction: _Direction) -> RowLoss:
    return RowLoss(partial(_forward, direction), partial(_gradients, direction))


DIVERGENCES = {
    "forward": _row_loss(_FORWARD),
    "reverse": _row_loss(_REVERSE),
    "js": _row_loss(_MIDDLE),
}
