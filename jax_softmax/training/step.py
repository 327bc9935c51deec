"""The model, its optimiser and the compiled program that runs epochs of steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jax_softmax.ops import softmax_cross_entropy_with_integer_labels
from jax_softmax.training.config import TrainConfig
from jax_softmax.training.layout import Layout
from jax_softmax.training.programs import latest_programs

if TYPE_CHECKING:
    from jax_softmax.training.sharded import Spread

# Numbers in a kernel up to which a matrix product costs a CPU more than its arithmetic: 3 x 4 of
# iris is, 4 x 16 is not (docs/performance.md).
_TINY = 16

# `kernel` as [V, D], the transpose of the public [D, V]: a CPU forms its gradient, the product of
# the logits' cotangent [V, N] and the features [N, D], faster that way round. To a GPU it is all
# the same: products are transposed for nothing (docs/performance.md).
Params = dict[str, jax.Array]
T = TypeVar("T")


class Batches(NamedTuple):
    """The training examples on the device, as they came.

    Attributes:
      features: `[N, D]`, e.g. uint8; scaled inside the step.
      labels: `[N]` int32.
      scale: a scalar that features are multiplied by.
      weights: `[N]`, how much each counts, of the parameters' dtype; None if all count alike.
    """

    features: jax.Array
    labels: jax.Array
    scale: Any
    weights: Any = None

    def of_rows(self, taken: Callable[[jax.Array], jax.Array]) -> Batches:
        """Some of the examples: what `taken` takes of the rows of each array."""
        weights = None if self.weights is None else taken(self.weights)
        return Batches(taken(self.features), taken(self.labels), self.scale, weights)


class TrainState(NamedTuple):
    """Everything that a step changes: the parameters and the optimiser's own state."""

    params: Params
    optimizer_state: Any


def _logits(params: Params, features: jax.Array, scale: jax.Array, layout: Layout) -> jax.Array:
    """Logits `(features * scale) @ kernel.T + bias`, in the parameters' dtype.

    `[V, N]` is faster on a CPU than `[N, V]` (docs/performance.md): XLA:CPU's product is, and what
    follows runs along the examples. The barrier has the gradient by these logits written as
    `[V, N]` too, where XLA:CPU would turn it over to `[N, V]` and compute it in runs of V.

    Elsewhere the kernel is scaled rather than the features, so that a product reads pixels as they
    are stored; the scaled ones would be written out.

    A tiny kernel's logits are sums, which fuse with what follows where a product does not.

    `lax.dot` rather than `@`, for JAX keeps what it traced of each shape's `@` for ever.
    """
    kernel, bias = params["kernel"], params["bias"]
    features, scale = features.astype(kernel.dtype), scale.astype(kernel.dtype)
    tiny = kernel.size <= _TINY
    if not layout.classes_first:
        kernel = kernel * scale
        products = (
            jnp.sum(features[:, None, :] * kernel, -1) if tiny else lax.dot(features, kernel.T)
        )
        return products + bias[None, :]
    scaled = features * scale
    if tiny:
        return jnp.sum(kernel[:, None, :] * scaled[None], -1) + bias[:, None]
    return lax.optimization_barrier(lax.dot(kernel, scaled.T) + bias[:, None])


def loss_and_gradients(
    params: Params, batch: Batches, layout: Layout, label_smoothing: float = 0.0
) -> tuple[jax.Array, Params]:
    """The mean cross-entropy of the batch's examples, a scalar, and its gradients."""
    zero = jnp.zeros((), params["bias"].dtype)
    sums = sums_of_piece
    if label_smoothing:
        sums = functools.partial(sums_of_piece, label_smoothing=label_smoothing)
    found = sums_in_pieces(params, batch, layout, sums, zero)
    return divided(found, len(batch.features) if batch.weights is None else weight_of(batch))


def weight_of(batch: Batches) -> jax.Array:
    """The sum of the examples' weights, a scalar."""
    return jnp.sum(batch.weights)


def divided(sums: T, by: int | jax.Array) -> T:
    """Sums divided by a count, or by a sum of weights: 0 where all of them are 0."""
    by = by if isinstance(by, int) else jnp.where(by > 0, by, 1)
    means: T = jax.tree.map(lambda x: x / by, sums)
    return means


def sums_in_pieces(
    params: Params,
    batch: Batches,
    layout: Layout,
    sums_of: Callable[[Params, Batches, Layout], tuple[jax.Array, Params]],
    zero: jax.Array,
) -> tuple[jax.Array, Params]:
    """The sum of the examples' cross-entropies, which starts as `zero`, and its gradients.

    A large batch is taken in pieces: on a CPU they stay in its cache when they are made floating,
    elsewhere they stay within its memory. Two pieces to a turn of the loop, for XLA:CPU runs what
    each does with few threads side by side (docs/performance.md has what both save).
    """
    examples, width = batch.features.shape
    rows = _rows_of_piece(examples, width, layout.piece)
    if rows == examples:
        return sums_of(params, batch, layout)
    pieces = examples // rows // 2 * 2
    rest = examples - pieces * rows

    def add(
        sums: tuple[jax.Array, Params], first: jax.Array | int, count: int
    ) -> tuple[jax.Array, Params]:
        piece = batch.of_rows(lambda x: lax.dynamic_slice_in_dim(x, first, count))
        return jax.tree.map(jnp.add, sums, sums_of(params, piece, layout))

    zeros = zero, jax.tree.map(jnp.zeros_like, params)
    total = lax.fori_loop(0, pieces, lambda i, sums: add(sums, i * rows, rows), zeros, unroll=2)
    return add(total, examples - rest, rest) if rest else total


def _rows_of_piece(examples: int, width: int, numbers: int) -> int:
    """How many examples to a piece: a part of an even number of equal ones where there are such.

    Where there are none, fewer than two pieces are left over, which are taken by themselves.
    """
    most = max(1, numbers // width)
    if examples < 2 * most:
        return examples
    fewest = -(-examples // most)
    even = range(fewest + fewest % 2, 2 * fewest, 2)
    return next((examples // k for k in even if examples % k == 0), most)


def sums_of_piece(
    params: Params,
    batch: Batches,
    layout: Layout,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, Params]:
    """The sum of the cross-entropies of examples taken at once, and its gradients."""

    def total(params: Params) -> jax.Array:
        logits = _logits(params, batch.features, batch.scale, layout)
        return softmax_cross_entropy_with_integer_labels(
            logits,
            batch.labels,
            axis=0 if layout.classes_first else -1,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            sample_weight=batch.weights,
            reduction="sum",
        )

    return jax.value_and_grad(total)(params)


@functools.lru_cache(maxsize=32)
def sgd(
    momentum: float, nesterov: bool, weight_decay: float, schedule: str, steps: int
) -> optax.GradientTransformation:
    """optax SGD with a peak learning rate of 1; the step multiplies its update by the real one.

    SGD's update is linear in the learning rate, so the compiled program can take it as an argument
    and serve every rate. Cached, for `jit` knows an optimiser by its identity.
    """
    shape: optax.ScalarOrSchedule = 1.0
    if schedule == "cosine":
        shape = optax.cosine_decay_schedule(1.0, steps)
    elif schedule == "warmup-cosine":
        rise = max(1, steps // 10)
        # From 1 / rise rather than 0, at which the first step would do nothing.
        shape = optax.warmup_cosine_decay_schedule(1 / rise, 1.0, rise, max(2, steps))
    descent = optax.sgd(shape, momentum=momentum or None, nesterov=nesterov)
    if weight_decay == 0:
        return descent
    decay = optax.add_decayed_weights(weight_decay, mask={"kernel": True, "bias": False})
    return optax.chain(decay, descent)


def steps_per_epoch(examples: int, config: TrainConfig) -> int:
    """How many steps pass over all examples once, the last of them perhaps on fewer."""
    return 1 if config.batch_size is None else -(-examples // config.batch_size)


def is_full_batch(batch_size: int | None, examples: int) -> bool:
    """Whether a step takes all examples, in the order in which they are."""
    return batch_size is None or batch_size >= examples


def epoch_orders(
    rng: np.random.Generator, examples: int, count: int, calls_epochs: int
) -> np.ndarray:
    """`[calls_epochs, N]` int32, in whose first `count` rows are the numbers 0 to N - 1, shuffled.

    By NumPy: `jax.random.permutation` sorts, which XLA:CPU is slow at (docs/performance.md).
    """
    orders = np.zeros((calls_epochs, examples), np.int32)
    for order in orders[:count]:
        order[:] = rng.permutation(examples)
    return orders


@latest_programs("optimizer")
def initial_state(params: Params, *, optimizer: optax.GradientTransformation) -> Any:
    """The optimiser's own state, its arrays made by one program."""
    return optimizer.init(params)


@latest_programs()
def transposed(kernel: jax.Array) -> jax.Array:
    """The kernel in its public layout."""
    return kernel.T


@latest_programs("optimizer", "batch_size", "calls_epochs", "layout", "spread", "label_smoothing")
def run_epochs(
    state: TrainState,
    data: Batches,
    orders: np.ndarray | jax.Array | None,
    count: jax.Array | np.int32,
    learning_rate: jax.Array | np.ndarray,
    *,
    optimizer: optax.GradientTransformation,
    batch_size: int | None,
    calls_epochs: int,
    layout: Layout,
    spread: Spread | None = None,
    label_smoothing: float = 0.0,
) -> tuple[TrainState, jax.Array]:
    """Trains for `count` epochs in one compiled call.

    Args:
      state: what to start from.
      data: all training examples.
      orders: `[calls_epochs, N]`, what `epoch_orders` says; None for the full batch.
      count: epochs to run, at most `calls_epochs`. An argument of the program, so that the last,
        shorter call does not compile again.
      learning_rate: multiplies the optimiser's updates.
      optimizer: gives updates from gradients.
      batch_size: examples to a step; None or anything from N up is the full batch.
      calls_epochs: length of the returned losses.
      layout: what suits the device that has the data.
      spread: how state and data are spread over several devices; None on one.
      label_smoothing: as the losses have it.

    Returns:
      The state after the last epoch, and `[calls_epochs]` mean losses, an epoch each.
    """
    examples = data.labels.shape[0] if spread is None else spread.examples
    size = examples if batch_size is None else min(batch_size, examples)

    def updated(state: TrainState, gradients: Params) -> TrainState:
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        updates = jax.tree.map(lambda u: u * learning_rate.astype(u.dtype), updates)
        return TrainState(optax.apply_updates(state.params, updates), optimizer_state)

    def step(state: TrainState, batch: Batches, count: int) -> tuple[TrainState, jax.Array]:
        if spread is not None:
            loss, gradients = spread.loss_and_gradients(
                state.params, batch, count, layout, label_smoothing
            )
            return spread.updated(updated, state, gradients, optimizer), loss
        loss, gradients = loss_and_gradients(state.params, batch, layout, label_smoothing)
        return updated(state, gradients), loss

    def full_batch(state: TrainState, _i: jax.Array) -> tuple[TrainState, jax.Array]:
        return step(state, data, examples)

    def mini_batches(state: TrainState, i: jax.Array) -> tuple[TrainState, jax.Array]:
        assert orders is not None
        order = orders[i]
        whole = examples // size * size

        def take(rows: jax.Array) -> Batches:
            if spread is not None:
                return spread.take(data, rows)
            # Row numbers of a permutation are in bounds; saying so saves a select over the batch.
            return data.of_rows(lambda x: x.at[rows].get(mode="promise_in_bounds"))

        def on_batch(state: TrainState, batch: Batches, count: int) -> tuple[TrainState, jax.Array]:
            state, loss = step(state, batch, count)
            return state, loss * (count if data.weights is None else weight_of(batch))

        def on_rows(state: TrainState, rows: jax.Array) -> tuple[TrainState, jax.Array]:
            return on_batch(state, take(rows), rows.size)

        def on_group(
            state: TrainState, given: tuple[jax.Array, jax.Array]
        ) -> tuple[TrainState, jax.Array]:
            rows, steps = given
            group = take(rows)

            def on_part(
                i: jax.Array, carry: tuple[TrainState, jax.Array]
            ) -> tuple[TrainState, jax.Array]:
                state, total = carry
                part = group.of_rows(lambda x: lax.dynamic_slice_in_dim(x, i * size, size))
                state, loss = on_batch(state, part, size)
                return state, total + loss

            return lax.fori_loop(0, steps, on_part, (state, zero))

        zero = jnp.zeros((), state.params["bias"].dtype)
        steps = whole // size
        together = min(steps, layout.gathered // (size * data.features.shape[1]))
        if spread is None and together > 1 and data.features.size > layout.gathered:
            # The last group is filled up with rows that no step takes.
            steps_of = np.minimum(together, steps - np.arange(0, steps, together))
            rows = jnp.pad(order[:whole], (0, len(steps_of) * together * size - whole))
            groups = rows.reshape(len(steps_of), -1), jnp.asarray(steps_of)
            state, losses = lax.scan(on_group, state, groups)
        else:
            batches = order[:whole].reshape(-1, size)
            state, losses = lax.scan(on_rows, state, batches, unroll=layout.unroll)
        total = jnp.sum(losses)
        if whole < examples:
            # By itself, for a mask over every batch would cost each step (docs/performance.md).
            state, last = on_rows(state, order[whole:])
            total += last
        return state, divided(total, examples if data.weights is None else weight_of(data))

    full = is_full_batch(batch_size, examples)
    an_epoch = full_batch if full else mini_batches

    def body(i: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
        state, losses = carry
        state, loss = an_epoch(state, i)
        return state, losses.at[i].set(loss)

    def several(i: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
        state, losses = carry
        first = i * layout.epochs
        numbers = first + jnp.arange(layout.epochs)
        state, found = lax.scan(an_epoch, state, numbers, unroll=layout.unroll)
        return state, lax.dynamic_update_slice_in_dim(losses, found, first, 0)

    carry = state, jnp.zeros(calls_epochs, state.params["kernel"].dtype)
    if not full or not 1 < layout.epochs <= calls_epochs:
        return lax.fori_loop(0, count, body, carry)
    groups = count // layout.epochs
    carry = lax.fori_loop(0, groups, several, carry)
    return lax.fori_loop(groups * layout.epochs, count, body, carry)
