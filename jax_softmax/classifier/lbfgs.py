"""L-BFGS for a convex function whose every evaluation is a sweep over the rows.

Made for this model in two ways. It begins from a preconditioner where there is one, which is
cheap next to the sweeps that it saves (`first_pass.py` has which). And it judges a step by the
slope at its end, which a convex function allows and which is exact long after differences of the
value are lost to rounding (Hager and Zhang, 2005, call it the approximate Wolfe condition).

The loop is flat, an evaluation to a turn, so that the sweep is compiled once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# What a step must reduce of the value, and leave at most of the slope.
_DECREASE, _SLOPE = 0.1, 0.9
# Roundings of the value within which the slope alone decides.
_ROUNDINGS = 8
# Evaluations along one direction.
_TRIALS = 30

GOING, CONVERGED, STUCK = 0, 1, 2

ValueAndGradient = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
Preconditioner = Callable[[jax.Array], jax.Array]


class State(NamedTuple):
    """Where a minimisation is.

    Attributes:
      w: the point, of any shape.
      value: of the function there.
      gradient: there.
      size: the gradient's largest element, by its size.
      direction: in which the next points lie.
      step: the next point is `w + step * direction`.
      low: the longest step that was too short.
      high: the shortest that was too long, infinite until there is one.
      slope_at_low: of the function along the direction.
      slope_at_high: of the function along the direction; NaN if it was not finite there.
      trials: along this direction so far.
      steps: `[M, ...]`, the latest differences of points, that of iteration i at i modulo M.
      changes: `[M, ...]`, of their gradients.
      iterations: so far; -1 before the first evaluation.
      evaluations: so far.
      status: GOING, CONVERGED or STUCK.
    """

    w: jax.Array
    value: jax.Array
    gradient: jax.Array
    size: jax.Array
    direction: jax.Array
    step: jax.Array
    low: jax.Array
    high: jax.Array
    slope_at_low: jax.Array
    slope_at_high: jax.Array
    trials: jax.Array
    steps: jax.Array
    changes: jax.Array
    iterations: jax.Array
    evaluations: jax.Array
    status: jax.Array


def start(w: jax.Array, memory: int) -> State:
    """The state at `w`, from which nothing is known yet: the first evaluation is there."""

    # Arrays of their own, for a program takes them over.
    def zero() -> jax.Array:
        return jnp.zeros((), w.dtype)

    def none() -> jax.Array:
        # Where `w` is, on however many devices.
        return jnp.broadcast_to(jnp.zeros_like(w), (memory, *w.shape))

    return State(
        w=w,
        value=zero(),
        gradient=jnp.zeros_like(w),
        size=zero(),
        direction=jnp.zeros_like(w),
        step=zero(),
        low=zero(),
        high=zero(),
        slope_at_low=zero(),
        slope_at_high=zero(),
        trials=jnp.int32(0),
        steps=none(),
        changes=none(),
        iterations=jnp.int32(-1),
        evaluations=jnp.int32(0),
        status=jnp.int32(GOING),
    )


def begun(
    state: State,
    value: jax.Array,
    gradient: jax.Array,
    direction: jax.Array,
    step: jax.Array,
    tol: jax.Array,
) -> State:
    """The state where value and gradient are known without an evaluation, and the first step is.

    Args:
      state: what `start` gave.
      value: of the function there.
      gradient: there.
      direction: in which the next points lie.
      step: the first of them is `w + step * direction`.
      tol: as for `evaluated`.
    """
    known = state._replace(value=value, gradient=gradient, iterations=jnp.int32(0))
    return _towards(known, direction, step, tol)


def evaluated(
    f: ValueAndGradient, state: State, precondition: Preconditioner | None, tol: jax.Array
) -> State:
    """The state after one more evaluation: the step is taken, or another is chosen.

    Args:
      f: gives the function's value and gradient.
      state: what to go on from.
      precondition: multiplies what is like `w` by a matrix near the inverse of the Hessian; None
        for none.
      tol: the largest element, by its size, that the gradient may have at the end.
    """
    w = state.w + state.step * state.direction
    value, gradient = f(w)
    slope = jnp.vdot(gradient, state.direction)
    at_start = jnp.vdot(state.gradient, state.direction)
    rounding = _ROUNDINGS * jnp.finfo(w.dtype).eps * jnp.abs(state.value)
    falls = value <= state.value + _DECREASE * state.step * at_start
    level = (value <= state.value + rounding) & (slope <= (2 * _DECREASE - 1) * at_start)
    finite = jnp.isfinite(value) & jnp.isfinite(slope)
    short_enough = finite & (falls | level)
    good = short_enough & (jnp.abs(slope) <= -_SLOPE * at_start)
    too_long = ~short_enough | (slope > 0)
    trials = state.trials + 1
    # A step that falls is better than none where rounding hides the slope.
    last = (trials >= _TRIALS) & short_enough & (value < state.value)
    taken = good | last | (state.iterations < 0)

    def take() -> State:
        place = state.iterations % state.steps.shape[0]
        steps = state.steps.at[place].set(w - state.w)
        changes = state.changes.at[place].set(gradient - state.gradient)
        moved = state._replace(
            w=w,
            value=value,
            gradient=gradient,
            steps=steps,
            changes=changes,
            iterations=state.iterations + 1,
        )
        return _turned(moved, precondition, tol)

    def choose() -> State:
        tried = state._replace(
            low=jnp.where(too_long, state.low, state.step),
            slope_at_low=jnp.where(too_long, state.slope_at_low, slope),
            high=jnp.where(too_long, state.step, state.high),
            slope_at_high=jnp.where(
                too_long, jnp.where(finite & (slope > 0), slope, jnp.nan), state.slope_at_high
            ),
            trials=trials,
            status=jnp.where(trials >= _TRIALS, jnp.int32(STUCK), state.status),
        )
        return tried._replace(step=_next_step(tried))

    return lax.cond(taken, take, choose)._replace(evaluations=state.evaluations + 1)


def _next_step(state: State) -> jax.Array:
    """Where the slope between `low` and `high` would vanish if it were a line, kept off both ends.

    Without a `high` the step grows, as far as that line says but at most fourfold.
    """
    low, high = state.low, state.high
    width = high - low
    secant = low - state.slope_at_low * width / (state.slope_at_high - state.slope_at_low)
    within = jnp.where(jnp.isfinite(secant), secant, low + width / 2)
    within = jnp.clip(within, low + width / 10, high - width / 10)
    return jnp.where(jnp.isfinite(high), within, 4 * low)


def _turned(state: State, precondition: Preconditioner | None, tol: jax.Array) -> State:
    """A new direction from where the state is, or the end."""
    direction = -_inverse_hessian_times(state, state.gradient, precondition)
    slope = jnp.vdot(state.gradient, direction)
    # Rounding may turn the direction up; the preconditioner alone never does.
    plain = -_preconditioned(state.gradient, precondition)
    direction = jnp.where(slope < 0, direction, plain)
    # With nothing known, a step of the gradient's own length would be of any size.
    unknown = (state.iterations == 0) & (precondition is None)
    step = jnp.where(unknown, jnp.minimum(1, 1 / jnp.linalg.norm(direction)), 1)
    return _towards(state, direction, step, tol)


def _towards(state: State, direction: jax.Array, step: jax.Array, tol: jax.Array) -> State:
    """The state that goes there next, or is at the end."""
    slope = jnp.vdot(state.gradient, direction)
    size = jnp.max(jnp.abs(state.gradient))
    small = size <= tol
    status = jnp.where(small, CONVERGED, jnp.where(slope < 0, GOING, STUCK)).astype(jnp.int32)
    zero = jnp.zeros((), direction.dtype)
    return state._replace(
        size=size,
        direction=direction,
        step=step.astype(direction.dtype),
        low=zero,
        high=jnp.full((), jnp.inf, direction.dtype),
        slope_at_low=slope,
        slope_at_high=jnp.full((), jnp.nan, direction.dtype),
        trials=jnp.int32(0),
        status=status,
    )


def _inverse_hessian_times(
    state: State, vector: jax.Array, precondition: Preconditioner | None
) -> jax.Array:
    """The two loops of L-BFGS (Nocedal, 1980); pairs that say nothing are passed over."""
    dots = jax.vmap(jnp.vdot)(state.steps, state.changes)
    norms = jax.vmap(jnp.vdot)(state.changes, state.changes)
    known = dots > jnp.finfo(vector.dtype).eps * norms * 1e-3
    inverse = jnp.where(known, 1 / jnp.where(known, dots, 1), 0)

    def newest_first(vector: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        share = inverse[i] * jnp.vdot(state.steps[i], vector)
        return vector - share * state.changes[i], share

    def oldest_first(
        vector: jax.Array, given: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        i, share = given
        other = inverse[i] * jnp.vdot(state.changes[i], vector)
        return vector + (share - other) * state.steps[i], None

    memory = state.steps.shape[0]
    order = (state.iterations - 1 - jnp.arange(memory, dtype=jnp.int32)) % memory
    vector, shares = lax.scan(newest_first, vector, order)
    newest = order[0]
    change = state.changes[newest]
    scale = jnp.vdot(change, _preconditioned(change, precondition))
    vector = _preconditioned(vector, precondition) * jnp.where(
        known[newest], dots[newest] / scale, 1
    )
    vector, _ = lax.scan(oldest_first, vector, (order, shares), reverse=True)
    return vector


def _preconditioned(vector: jax.Array, precondition: Preconditioner | None) -> jax.Array:
    return vector if precondition is None else precondition(vector)
