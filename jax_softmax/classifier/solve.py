"""Runs the solvers: programs compiled once a shape, and calls that a signal may come between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_softmax.classifier import lbfgs, proximal
from jax_softmax.classifier.first_pass import begun, preconditioner
from jax_softmax.classifier.objective import Problem, Spread, value_and_gradient
from jax_softmax.training.programs import latest_programs

# Pairs that L-BFGS keeps.
_MEMORY = 10
# Features up to which a preconditioner is made: a Cholesky factor of them all.
_MOST_FEATURES = 2048
# Iterations to a call at most, and multiplications to a call: a signal is seen between two calls.
_CALL, _WORK = 64, 2e10


class Found(NamedTuple):
    """Where a solver ended.

    Attributes:
      w: `[K, D + 1]`.
      losses: the objective after each iteration.
      iterations: how many there were.
      gradient: the largest element of the gradient, by its size.
      converged: whether that is small enough.
      stuck: whether rounding left nothing to gain.
      solver: what it is called.
    """

    w: np.ndarray
    losses: list[float]
    iterations: int
    gradient: float
    converged: bool
    stuck: bool
    solver: str

    def lacks(self, tol: float, max_iter: int) -> str:
        """What to say where it did not converge, and what to do."""
        reached = f"the gradient's largest element is {self.gradient:.3g}, above tol={tol:g}"
        if self.stuck:
            return (
                f"{self.solver} stopped after {self.iterations} iterations: {reached}, and "
                f"rounding leaves nothing to gain. Increase tol, pass float64 features, or scale "
                f"them."
            )
        return (
            f"{self.solver} failed to converge after {self.iterations} iteration(s) "
            f"(max_iter={max_iter}): {reached}. Increase max_iter, or scale the features as in "
            f"https://scikit-learn.org/stable/modules/preprocessing.html"
        )


def minimise(
    problem: Problem,
    w: jax.Array,
    *,
    proximally: bool,
    block: int,
    label_smoothing: float,
    spread: Spread | None,
    tol: float,
    max_iter: int,
    on_iterations: Callable[[int, float], object] | None = None,
) -> Found:
    """The minimum of the problem's objective.

    Args:
      problem: what is minimised.
      w: `[K, D + 1]`, where to start.
      proximally: for a penalty with an absolute value, which has no gradient at 0.
      block: how many rows are taken together.
      label_smoothing: as the losses have it.
      spread: over which devices; None for one.
      tol: the largest element, by its size, that the gradient may have at the end.
      max_iter: the most iterations.
      on_iterations: is called now and then with the number so far and the objective.
    """
    precise = w.dtype
    tolerance = jnp.asarray(tol, precise)
    options: dict[str, Any] = {"block": block, "label_smoothing": label_smoothing, "spread": spread}
    state: Any = proximal.start(w) if proximally else lbfgs.start(w, _MEMORY)
    factor = None
    if not proximally and _helps(problem):
        factor, state = _begun(problem, state, tolerance, at_0=not np.asarray(w).any(), **options)
    done = int(state.iterations)
    losses = [] if done < 0 else [float(state.value)]
    a_call = int(np.clip(_WORK / max(1, problem.labels.size * w.size), 1, _CALL))
    while True:
        until = min(max_iter, max(done, 0) + a_call)
        state, found = run(
            problem,
            state,
            factor,
            tolerance,
            np.int32(until),
            np.zeros(_CALL + 1, precise),
            **options,
        )
        before, done = done, int(state.iterations)
        losses += np.asarray(found)[: done - before].tolist()
        status = int(state.status)
        if on_iterations is not None:
            on_iterations(done, losses[-1])
        if status != lbfgs.GOING or done >= max_iter:
            break
    return Found(
        w=np.asarray(state.w),
        losses=losses[1:],
        iterations=done,
        gradient=float(state.size),
        converged=status == lbfgs.CONVERGED,
        stuck=status == lbfgs.STUCK,
        solver="the proximal solver (l1_ratio > 0)" if proximally else "lbfgs",
    )


def _helps(problem: Problem) -> bool:
    examples, width = problem.labels.shape[0], problem.rows.width
    return width <= _MOST_FEATURES and width <= examples


_begun = latest_programs("at_0", "block", "label_smoothing", "spread", donate="state")(begun)


@latest_programs("block", "label_smoothing", "spread", donate="state")
def run(
    problem: Problem,
    state: Any,
    factor: jax.Array | None,
    tol: jax.Array,
    until: np.int32,
    losses: np.ndarray,
    *,
    block: int,
    label_smoothing: float,
    spread: Spread | None,
) -> tuple[Any, jax.Array]:
    """Goes on until the gradient is small, or nothing more is gained, or for some iterations.

    Args:
      problem: what is minimised.
      state: of the solver, which its type tells.
      factor: what `begun` gives; None for none.
      tol: the largest element, by its size, that the gradient may have at the end.
      until: the number of iterations at which to stop, counted from the first.
      losses: `[L]`, to be filled from its beginning with the value after each iteration, and before
        them, from a new state, that at the start.
      block: how many rows are taken together.
      label_smoothing: as the losses have it.
      spread: over which devices; None for one.

    Returns:
      The state, and the losses.
    """
    first = state.iterations
    precondition = None if factor is None else preconditioner(factor, spread)

    def f(w: jax.Array) -> tuple[jax.Array, jax.Array]:
        return value_and_gradient(
            problem, w, block=block, label_smoothing=label_smoothing, spread=spread
        )

    def evaluated(state: Any) -> Any:
        if isinstance(state, proximal.State):
            return proximal.evaluated(f, problem.l1, state, tol)
        return lbfgs.evaluated(f, state, precondition, tol)

    def goes_on(carry: tuple[Any, jax.Array]) -> jax.Array:
        state, _ = carry
        return (state.status == lbfgs.GOING) & (state.iterations < until)

    def turn(carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        state, losses = carry
        after = evaluated(state)
        kept = after.iterations > state.iterations
        place = jnp.where(kept, state.iterations - first, losses.shape[0])
        return after, losses.at[place].set(after.value, mode="drop")

    found: tuple[Any, jax.Array] = lax.while_loop(goes_on, turn, (state, jnp.asarray(losses)))
    return found
