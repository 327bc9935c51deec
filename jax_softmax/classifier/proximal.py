"""Proximal gradient steps, for a penalty with absolute values.

Each step is as long as the last two gradients say that the function is flat, and is halved until
the objective falls below the largest of the last few: SpaRSA (Wright, Nowak and Figueiredo, 2009).
It takes one sweep an iteration, where accelerated steps with a line search take two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jax_softmax.classifier.lbfgs import CONVERGED, GOING, STUCK, ValueAndGradient

# Values that the next must stay below the largest of, and by which part of the step's square.
_LOOK_BACK, _DECREASE = 10, 0.01
# Roundings of the value that a step may miss that by.
_ROUNDINGS = 8
_SHRINK, _SHORTEST, _LONGEST = 0.5, 1e-12, 1e12


class State(NamedTuple):
    """Where a minimisation is.

    Attributes:
      w: `[K, D + 1]`, the point.
      gradient: of the smooth part there.
      size: the largest element, by its size, of the gradient nearest to 0 there.
      values: the latest values of the objective, the first the latest.
      step: of the gradient, to be tried next.
      iterations: so far; -1 before the first evaluation.
      evaluations: so far.
      status: as of L-BFGS.
    """

    w: jax.Array
    gradient: jax.Array
    size: jax.Array
    values: jax.Array
    step: jax.Array
    iterations: jax.Array
    evaluations: jax.Array
    status: jax.Array

    @property
    def value(self) -> jax.Array:
        """The objective's latest value."""
        return self.values[0]


def start(w: jax.Array) -> State:
    """The state at `w`, from which nothing is known yet: the first evaluation is there."""
    return State(
        w=w,
        gradient=jnp.zeros_like(w),
        size=jnp.zeros((), w.dtype),
        values=jnp.full(_LOOK_BACK, -jnp.inf, w.dtype),
        step=jnp.zeros((), w.dtype),
        iterations=jnp.int32(-1),
        evaluations=jnp.int32(0),
        status=jnp.int32(GOING),
    )


def evaluated(f: ValueAndGradient, l1: Any, state: State, tol: jax.Array) -> State:
    """The state after one more evaluation: the step is taken, or halved.

    Args:
      f: gives the value and gradient of the smooth part.
      l1: the factor of the coefficients' absolute values, which the objective has besides.
      state: what to go on from.
      tol: as of L-BFGS.
    """
    begins = state.iterations < 0
    w = shrunk(state.w - state.step * state.gradient, state.step * l1)
    # What is given is not to be shrunk before its gradient is known.
    w = jnp.where(begins, state.w, w)
    smooth, gradient = f(w)
    value = smooth + l1 * jnp.sum(jnp.abs(w[:, :-1]))
    moved, change = w - state.w, gradient - state.gradient
    square = jnp.vdot(moved, moved)
    limit = jnp.max(state.values)
    rounding = _ROUNDINGS * jnp.finfo(w.dtype).eps * jnp.abs(limit)
    taken = begins | (value <= limit - _DECREASE * square / (2 * state.step) + rounding)

    def take() -> State:
        curvature = jnp.vdot(moved, change)
        flat = jnp.where(curvature > 0, square / curvature, 2 * state.step)
        at_start = 1 / jnp.maximum(1, jnp.linalg.norm(gradient))
        step = jnp.clip(jnp.where(begins, at_start, flat), _SHORTEST, _LONGEST)
        size = jnp.max(jnp.abs(_nearest_to_0(w, gradient, l1)))
        status = jnp.where(size <= tol, CONVERGED, jnp.where(begins | (square > 0), GOING, STUCK))
        return state._replace(
            w=w,
            gradient=gradient,
            size=size,
            values=jnp.roll(state.values, 1).at[0].set(value),
            step=step.astype(w.dtype),
            iterations=state.iterations + 1,
            status=status.astype(jnp.int32),
        )

    def halve() -> State:
        step = _SHRINK * state.step
        # Nothing that is NaN ever gets shorter.
        stuck = ~(step >= _SHORTEST) | (square == 0)
        return state._replace(step=step, status=jnp.where(stuck, STUCK, GOING).astype(jnp.int32))

    return lax.cond(taken, take, halve)._replace(evaluations=state.evaluations + 1)


def shrunk(w: jax.Array, by: jax.Array) -> jax.Array:
    """The coefficients nearer to 0 by so much, at most 0; the intercepts as they are."""
    coefficients = w[:, :-1]
    shrunk = jnp.sign(coefficients) * jnp.maximum(jnp.abs(coefficients) - by, 0)
    return w.at[:, :-1].set(shrunk)


def _nearest_to_0(w: jax.Array, gradient: jax.Array, l1: Any) -> jax.Array:
    """Of all gradients that the objective has at `w`, the one that is 0 at its minimum."""
    coefficients, g = w[:, :-1], gradient[:, :-1]
    at_0 = jnp.sign(g) * jnp.maximum(jnp.abs(g) - l1, 0)
    return gradient.at[:, :-1].set(
        jnp.where(coefficients == 0, at_0, g + l1 * jnp.sign(coefficients))
    )
