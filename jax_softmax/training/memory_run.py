"""A training whose examples are in memory: the data on the device and the state that moves."""

from __future__ import annotations

import time
from collections.abc import Sized
from typing import Any

import numpy as np
import optax
from jax.sharding import Mesh

from jax_softmax.errors import CheckpointError
from jax_softmax.training import processes
from jax_softmax.training.checkpoints import Progress
from jax_softmax.training.config import TrainConfig
from jax_softmax.training.examples import fit_dtype
from jax_softmax.training.layout import layout_for
from jax_softmax.training.model import SoftmaxModel
from jax_softmax.training.placement import placement_of
from jax_softmax.training.step import (
    Params,
    epoch_orders,
    is_full_batch,
    run_epochs,
    sgd,
    steps_per_epoch,
)

# Row numbers of shuffled examples handed to one call: 64 MB.
_ORDERS_PER_CALL = 2**24
# Steps in one call over several devices, which wait for one another in each, however small it is:
# few enough that the call ends soon where they are simulated, too.
_STEPS_PER_CALL = 2**12


class MemoryRun:
    """What one `fit` needs of its examples and its state."""

    def __init__(
        self,
        config: TrainConfig,
        mesh: Mesh | None,
        optimizer: optax.GradientTransformation | None,
        params: dict[str, np.ndarray],
        features: Any,
        labels: Sized,
        about: dict[str, Any],
        weights: np.ndarray | None = None,
    ) -> None:
        self.config = config
        self.dtype = params["kernel"].dtype
        self.about = about
        self.examples = len(labels)
        self.learning_rate = config.learning_rate if optimizer is None else 1.0
        self.optimizer = _sgd(config, self.examples) if optimizer is None else optimizer
        self.placement = placement_of(mesh, self.optimizer, self.examples, params)
        plain = optimizer is None and not config.momentum
        self.state = self.placement.state(params, without_arrays=plain)
        self.full_batch = is_full_batch(config.batch_size, self.examples)
        self.given_optimizer = optimizer
        self.rng = np.random.default_rng(config.seed)
        self.shuffle = self.rng.bit_generator.state
        self.orders: np.ndarray | None = None
        self._put(features, labels, weights)

    def _put(self, features: Any, labels: Any, weights: np.ndarray | None) -> None:
        """Puts the examples on the device."""
        features = fit_dtype(features, self.dtype)
        floating = np.issubdtype(features.dtype, np.floating)
        # Copies, for the caller may write to the examples meanwhile, and jax.device_put may take an
        # array's memory as it is. (Not of JAX: its copies are two more programs to compile.)
        features = np.array(features, self.dtype if floating else None)
        scale = np.asarray(self.about["feature_scale"], self.dtype)
        weights = None if weights is None else weights.astype(self.dtype)
        self.data = self.placement.data(features, np.array(labels), scale, weights)
        self.layout = layout_for(self.data.features)

    def longest_call(self) -> int:
        """How many epochs a compiled call may have."""
        numbers = self.examples * self.data.features.shape[1]
        longest = max(1, self.layout.numbers_per_call // numbers)
        if not self.full_batch:
            longest = min(longest, max(1, _ORDERS_PER_CALL // self.examples))
        if self.placement.spread is not None:
            steps = steps_per_epoch(self.examples, self.config)
            longest = min(longest, max(1, _STEPS_PER_CALL // steps))
        return longest

    def advance(self, count: int, calls_epochs: int, *, upcoming: int) -> tuple[float, np.ndarray]:
        """Runs the next `count` epochs; seconds and their `[count]` losses.

        While they run it shuffles for the next call, which has `upcoming` epochs: an accelerator
        would wait for that otherwise, a tenth of the time of an epoch of MNIST.
        """
        started = time.perf_counter()
        # With room for one only, XLA:CPU lays the epoch out otherwise and rounds otherwise.
        calls_epochs = max(2, calls_epochs)
        with self.placement.computing():
            self.state, all_losses = run_epochs(
                self.state,
                self.data,
                self.orders if count else self._shuffled(0, calls_epochs),
                # Numbers of NumPy, for each of JAX costs a dispatch: a fifth of a short run.
                np.int32(count),
                np.asarray(self.learning_rate, self.dtype),
                optimizer=self.optimizer,
                batch_size=self.config.batch_size,
                calls_epochs=calls_epochs,
                layout=self.layout,
                spread=self.placement.spread,
                label_smoothing=self.config.label_smoothing,
            )
            self.shuffle = self.rng.bit_generator.state
            self.orders = self._shuffled(upcoming, calls_epochs) if upcoming else None
            losses = processes.on_host(all_losses)[:count]
        return time.perf_counter() - started, losses

    def _shuffled(self, count: int, calls_epochs: int) -> np.ndarray | None:
        if self.full_batch:
            return None
        return epoch_orders(self.rng, self.examples, count, calls_epochs)

    def restore(self, kept: Progress) -> Progress:
        """Goes back to where a checkpoint was written, after an epoch."""
        if kept.part:
            raise CheckpointError(
                "checkpoint within an epoch: is of examples that were streamed; go on with the "
                "stream, or remove it to go on from the one before."
            )
        return self._restored(kept)

    def _restored(self, kept: Progress) -> Progress:
        progress = self.placement.restored(kept)
        self.state = progress.state
        self.rng.bit_generator.state = progress.shuffle
        return progress

    def interrupted(self, progress: Progress) -> Progress:
        """What to keep where a call was interrupted: in memory, nothing of that call."""
        return progress

    def device(self) -> str:
        """The devices the parameters are on, e.g. `cpu`, `NVIDIA H200` or `8 x NVIDIA H200`."""
        devices = self.state.params["bias"].devices()
        kind: str = next(iter(devices)).device_kind
        return kind if len(devices) == 1 else f"{len(devices)} x {kind}"

    def model(self, params: Params | None = None) -> SoftmaxModel:
        """The parameters as they stand, or those given, in their public layout."""
        params = self.state.params if params is None else params
        return SoftmaxModel(params=self.placement.public(params), **self.about)


def _sgd(config: TrainConfig, examples: int) -> optax.GradientTransformation:
    # A schedule's length is part of the program; a constant rate has none: one program serves all.
    constant = config.schedule == "constant"
    steps = 0 if constant else steps_per_epoch(examples, config) * config.epochs
    steps = min(steps, 2**31 - 1)  # of which optax makes an int32
    return sgd(config.momentum, config.nesterov, config.weight_decay, config.schedule, steps)
