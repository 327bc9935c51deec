"""Mini-batch steps on the penalised loss: the "sgd" solver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from sklearn.model_selection import train_test_split

from jax_softmax.classifier.objective import Problem, dot
from jax_softmax.classifier.proximal import shrunk
from jax_softmax.ops import softmax_cross_entropy_with_integer_labels
from jax_softmax.training.programs import latest_programs


class State(NamedTuple):
    """What a step changes.

    Attributes:
      w: `[K, D + 1]`.
      optimizer_state: optax's own.
      total: `[K, D + 1]`, the sum of `w` after each step that is averaged.
      averaged: how many those are.
      rows: that were seen, over all epochs.
    """

    w: Any
    optimizer_state: Any
    total: Any
    averaged: Any
    rows: Any


def start(w: np.ndarray, momentum: float) -> State:
    """The state at `w`."""
    state = _optimizer(momentum).init(jnp.asarray(w))
    zero = np.zeros((), np.int32)
    return State(w, jax.tree.map(np.asarray, state), np.zeros_like(w), zero, zero)


def resumed(state: State, begun: State, *, intercepts: bool) -> State:
    """A state to go on from, in the dtype and with the momentum of one that has just begun.

    Without intercepts those that it has are dropped, with what they had of momentum and mean.
    """
    optimizer_state = state.optimizer_state
    had, has = (jax.tree.leaves(x.optimizer_state) for x in (state, begun))
    if len(had) != len(has):  # a trace, or none
        optimizer_state = begun.optimizer_state
    state = state._replace(optimizer_state=optimizer_state)

    def goes_on(new: Any, old: Any) -> np.ndarray:
        cast = np.array(old, new.dtype)
        if cast.ndim == 2 and not intercepts:
            cast[:, -1] = 0
        return cast

    found: State = jax.tree.map(goes_on, begun, state)
    return found


def set_aside(
    indices: np.ndarray, weights: np.ndarray, share: float, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows to train on, and of those set aside, a share of each class.

    Raises:
      ValueError: if they are too few for that, or all of either weigh nothing.
    """
    try:
        rows, held = train_test_split(
            np.arange(len(indices)), test_size=share, stratify=indices, random_state=random
        )
    except ValueError as error:
        raise ValueError(
            f"early_stopping: expected rows enough to set some of each class aside with "
            f"validation_fraction={share:g}, got {len(indices)} ({error}). Leave it out, or give "
            f"more rows."
        ) from error
    if not (weights[rows].any() and weights[held].any()):
        raise ValueError(
            "early_stopping: expected weights above 0 among the rows to train on and among those "
            "set aside, got only 0; leave out rows of weight 0, or early_stopping."
        )
    return rows, held


def coefficients(state: State) -> np.ndarray:
    """`[K, D + 1]`, the mean of the points if there is one, else the last."""
    return np.asarray(state.total / state.averaged if state.averaged else state.w)


def batches(random: np.random.RandomState, examples: int, batch_size: int) -> np.ndarray:
    """`[steps, B]` int32, the rows in a new order, filled up with -1."""
    size = min(batch_size, examples)
    steps = -(-examples // size)
    order = np.full(steps * size, -1, np.int32)
    order[:examples] = random.permutation(examples)
    return order.reshape(steps, size)


def _optimizer(momentum: float) -> optax.GradientTransformation:
    # A rate of 1, for the update is linear in it: the program takes the real one as an argument.
    return optax.sgd(1.0, momentum=momentum or None)


@latest_programs("momentum", "label_smoothing")
def epoch(
    problem: Problem,
    state: State,
    order: np.ndarray,
    rate: np.ndarray,
    average_from: np.int32,
    *,
    momentum: float,
    label_smoothing: float,
) -> tuple[State, jax.Array]:
    """One pass over the rows.

    Args:
      problem: what is minimised, whose rows have `take`.
      state: what to start from.
      order: as `batches` gives it.
      rate: a scalar, the learning rate.
      average_from: a scalar, after how many rows the averaging begins; -1 for never.
      momentum: of the steps.
      label_smoothing: as the losses have it.

    Returns:
      The state, and the epoch's loss without penalties: a scalar, of each row before its step.
    """
    optimizer = _optimizer(momentum)
    # So that an epoch's steps weigh rows and penalties as the objective does, though the last step
    # has fewer rows.
    scale = order.shape[0]

    def step(state: State, rows: Any) -> tuple[State, jax.Array]:
        counts, rows = rows >= 0, jnp.maximum(rows, 0)
        features = problem.rows.take(rows)
        weights = jnp.where(counts, problem.weights[rows], 0)

        def total(w: jax.Array) -> jax.Array:
            logits = dot(features, w[:, :-1].T) + w[:, -1]
            return softmax_cross_entropy_with_integer_labels(
                logits,
                problem.labels[rows],
                sample_weight=weights,
                label_smoothing=label_smoothing,
                reduction="sum",
            )

        loss, gradient = jax.value_and_grad(total)(state.w)
        gradient = scale * gradient
        gradient = gradient.at[:, :-1].add(problem.l2 * state.w[:, :-1])
        gradient = gradient.at[:, -1].multiply(problem.intercept)
        update, optimizer_state = optimizer.update(gradient, state.optimizer_state)
        w = shrunk(state.w + rate * update, rate * problem.l1)
        seen = state.rows + jnp.sum(counts, dtype=state.rows.dtype)
        averages = (average_from >= 0) & (seen >= average_from)
        return State(
            w=w,
            optimizer_state=optimizer_state,
            total=state.total + jnp.where(averages, w, 0),
            averaged=state.averaged + averages,
            rows=seen,
        ), loss

    state, losses = lax.scan(step, state, order)
    return state, jnp.sum(losses)


class Watch:
    """Whether something that should fall has not done so for some epochs."""

    def __init__(self, tol: float, patience: int) -> None:
        self._tol, self._patience, self._waited = tol, patience, 0
        self._least = math.inf
        self.best: Any = None
        self.ended = False

    def ends(self, value: float, state: Any) -> bool:
        """Takes note of an epoch's value, and of the state after it if it is the best."""
        self._waited = 0 if value < self._least - self._tol else self._waited + 1
        if value < self._least or self.best is None:
            self._least, self.best = value, state
        self.ended = self._waited >= self._patience
        return self.ended


def lacks(
    curve: Sequence[float], classes: int, watch: Watch, watched: str, tol: float, max_iter: int
) -> str:
    """What to say where steps did not converge, and what to do; "" where they did.

    Args:
      curve: the loss of each epoch.
      classes: how many there are.
      watch: what watched the epochs.
      watched: by what: "loss", or "accuracy" on rows set aside.
      tol: what it must gain.
      max_iter: the most epochs.
    """
    equal = math.log(classes)
    if curve and curve[-1] > equal:
        return (
            f"sgd stopped after {len(curve)} epochs at a loss of {curve[-1]:.4g}, above the "
            f"{equal:.4g} of equal probabilities. Scale the features, or try a smaller "
            f"learning_rate."
        )
    if watch.ended:
        return ""
    still = "the loss still falls"
    if watched == "accuracy":
        still = "the accuracy on the rows set aside still rises"
    return (
        f"sgd failed to converge after {max_iter} epochs (max_iter): {still} by more than "
        f"tol={tol:g}. Increase max_iter, or the learning rate."
    )
