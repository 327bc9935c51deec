"""Where a training's arrays are: whole on one device, or spread over several."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jax_softmax.training.checkpoints import Progress
from jax_softmax.training.mesh import DATA, alone_on, own_rows, place
from jax_softmax.training.processes import on_host
from jax_softmax.training.sharded import NO_LABEL, Spread, cut, initial_state_of
from jax_softmax.training.step import Batches, Params, TrainState, initial_state, transposed

Arrays = dict[str, np.ndarray]


class OneDevice:
    """All arrays are on the device that JAX takes.

    Attributes:
      spread: what the compiled program must know of where arrays are.
    """

    spread: Spread | None = None

    def __init__(self, optimizer: optax.GradientTransformation) -> None:
        """For states of that optimiser."""
        self._optimizer = optimizer

    def state(self, params: Arrays, *, without_arrays: bool) -> TrainState:
        """What to start from; `without_arrays`: the optimiser has none of the model's size."""
        placed: Params = jax.device_put(params)
        if without_arrays:
            return TrainState(placed, self._optimizer.init(placed))  # without a program
        return TrainState(placed, initial_state(placed, optimizer=self._optimizer))

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Inside this programs run."""
        return contextlib.nullcontext()

    def data(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        scale: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> Batches:
        """The training examples, all of them."""
        put = jax.device_put
        return Batches(put(features), put(labels), scale, None if weights is None else put(weights))

    def own_rows(self, length: int) -> slice:
        """Which of so many rows this process must supply."""
        return slice(0, length)

    def piece(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        scale: np.ndarray,
        length: int,
        weights: np.ndarray | None = None,
    ) -> tuple[Batches, Spread | None]:
        """A part of `length` training examples, of which the arrays are `own_rows`."""
        del length  # as many as there are
        return self.data(features, labels, scale, weights), None

    def kept(self, progress: Progress) -> Progress:
        """A training as a checkpoint has it, of whole arrays."""
        return progress

    def restored(self, progress: Progress) -> Progress:
        """A training that a checkpoint had, its arrays in their places."""
        return progress

    def public(self, params: Params) -> dict[str, jax.Array]:
        """Parameters of their true shapes, the kernel `[D, V]`."""
        return {"kernel": transposed(params["kernel"]), "bias": params["bias"]}


class SeveralDevices:
    """Examples are spread over the mesh axis `data`, what has a number a class over `model`.

    Attributes:
      spread: what the compiled program must know of where arrays are.
    """

    def __init__(
        self, optimizer: optax.GradientTransformation, mesh: Mesh, examples: int, params: Arrays
    ) -> None:
        """Over the mesh, for so many examples and parameters of the shapes of `params`."""
        self._optimizer = optimizer
        self.spread = Spread(mesh, examples, len(params["bias"]))
        self._shapes = self.spread.shapes(params, optimizer)

    def state(self, params: Arrays, *, without_arrays: bool) -> TrainState:
        """What to start from; `without_arrays`: the optimiser has none of the model's size."""
        del without_arrays  # a schedule's counter must be on all of the devices too
        placed: Params = self.spread.placed(params)
        with self.computing():
            state = initial_state_of(placed, optimizer=self._optimizer, spread=self.spread)
            return TrainState(placed, jax.block_until_ready(state))

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Inside this programs run."""
        return alone_on(self.spread.mesh)

    def data(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        scale: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> Batches:
        """The training examples, all of them."""
        put = functools.partial(place, self.spread.mesh, DATA)
        return Batches(
            put(features), put(labels, NO_LABEL), scale, None if weights is None else put(weights)
        )

    def own_rows(self, length: int) -> slice:
        """Which of so many rows this process must supply."""
        return own_rows(self.spread.mesh, length)

    def piece(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        scale: np.ndarray,
        length: int,
        weights: np.ndarray | None = None,
    ) -> tuple[Batches, Spread | None]:
        """A part of `length` training examples, of which the arrays are `own_rows`."""
        first = self.own_rows(length).start
        put = functools.partial(place, self.spread.mesh, DATA, first=first, length=length)
        own = None if weights is None else put(weights)
        data = Batches(put(features), put(labels, fill=NO_LABEL), scale, own)
        return data, self.spread._replace(examples=length)

    def kept(self, progress: Progress) -> Progress:
        """A training as a checkpoint has it, of whole arrays."""
        state: TrainState = cut(jax.tree.map(_whole, progress.state), self._shapes)
        best = None
        if progress.best is not None:
            best = cut(jax.tree.map(_whole, progress.best), self._shapes.params)
        return dataclasses.replace(progress, state=state, best=best)

    def restored(self, progress: Progress) -> Progress:
        """A training that a checkpoint had, its arrays in their places."""
        state, best = self.spread.placed((progress.state, progress.best))
        return dataclasses.replace(progress, state=state, best=best)

    def public(self, params: Params) -> Arrays:
        """Parameters of their true shapes, the kernel `[D, V]`."""
        whole: Arrays = cut(jax.tree.map(on_host, params), self._shapes.params)
        return {"kernel": whole["kernel"].T, "bias": whole["bias"]}


def placement_of(
    mesh: Mesh | None, optimizer: optax.GradientTransformation, examples: int, params: Arrays
) -> OneDevice | SeveralDevices:
    """On one device, or over those of a mesh."""
    if mesh is None:
        return OneDevice(optimizer)
    return SeveralDevices(optimizer, mesh, examples, params)


def _whole(leaf: Any) -> Any:
    """An array on the host; keys of random numbers, which NumPy does not have, as they are."""
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else on_host(leaf)
