"""A training whose examples are read from files: the epochs of `fit`, a piece at a time."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_softmax.errors import CheckpointError
from jax_softmax.training import processes
from jax_softmax.training.checkpoints import Progress
from jax_softmax.training.labels import check_several_classes
from jax_softmax.training.layout import layout_for
from jax_softmax.training.memory_run import MemoryRun
from jax_softmax.training.step import TrainState, is_full_batch, run_epochs
from jax_softmax.training.streams import Pieces, Reader, read_ahead, units_in_piece

# Calls that are under way, and hold their pieces.
_UNDER_WAY = 2


class _Part(NamedTuple):
    """What is done of an epoch.

    Attributes:
      pieces: how many.
      loss: of their examples, divided by all of the epoch's.
      row: the last of their rows, by which the order is known again.
    """

    pieces: int = 0
    loss: float = 0.0
    row: int = -1


class StreamedRun(MemoryRun):
    """The state that moves, and the pieces that are read for it.

    A piece is to the compiled program what an epoch in memory is, with its rows in order: the same
    steps, so the same bits.
    """

    _reader: Reader
    _weights: np.ndarray | None
    _width: int
    _size: int
    _steps: int
    _rows: int
    _done: int
    _last: tuple[TrainState, _Part]
    _orders: dict[int, jax.Array | np.ndarray]
    on_piece: Callable[[dict[str, float]], None] | None = None
    """Told how many epochs are done, as a fraction, and the mean loss in the last."""

    def longest_call(self) -> int:
        """An epoch, for all of it is read anew."""
        return 1

    def advance(self, count: int, calls_epochs: int, *, upcoming: int) -> tuple[float, np.ndarray]:
        """Runs an epoch, or what is left of it; 0 of them only compile its programs."""
        started = time.perf_counter()
        if count == 0:
            for rows in {self._rows, self.examples % self._rows} - {0}:
                own = len(range(rows)[self.placement.own_rows(rows)])
                zeros = np.zeros((own, self._width), self._reader.stored)
                none = None if self._weights is None else np.zeros(own)
                self._call(zeros, np.zeros(own, np.int32), none, 0, rows)
            return time.perf_counter() - started, np.zeros(0)
        loss = self._epoch()
        self.shuffle = self.rng.bit_generator.state
        self._last, self._done = (self.state, _Part()), self._done + 1
        return time.perf_counter() - started, np.array([loss], self.dtype)

    def restore(self, kept: Progress) -> Progress:
        """Goes back to where a checkpoint was written, which may be within an epoch."""
        progress = self._restored(kept)
        self._last, self._done = (self.state, _Part(**progress.part)), progress.epoch
        return progress

    def interrupted(self, progress: Progress) -> Progress:
        """How far an epoch came that did not end."""
        state, part = self._last
        if part.pieces == 0:
            return progress
        return dataclasses.replace(progress, state=state, part=part._asdict())

    def _put(self, features: Any, labels: Any, weights: np.ndarray | None) -> None:
        del labels  # read with the features
        self._weights = weights
        self._reader = features
        self._done = 0
        self._width = math.prod(self._reader.stream.feature_shape)
        self._size = min(self.config.batch_size or self.examples, self.examples)
        self._steps = units_in_piece(self._size * self._width)
        self._rows = min(self._size * self._steps, self.examples)
        self._last = self.state, _Part()
        self._orders = {}
        self.layout = layout_for(self.state.params["bias"])

    def _epoch(self) -> float:
        stream = self._reader.stream
        stream.check_unchanged()
        # A full batch is taken in the order in which it is, as in memory.
        order = np.arange(self.examples) if self.full_batch else stream.order(self.rng)
        pieces = Pieces(self._reader, order, self._size, self._steps, self.placement.own_rows)
        self.state, part = self._last
        if part.pieces and order[: part.pieces * self._rows][-1] != part.row:
            raise CheckpointError(
                "checkpoint within an epoch: is of another order of the rows, as another version "
                "may draw it; go on with that version, or remove it to go on from the one before."
            )
        whole = part.pieces == 0
        seen: np.ndarray | None = None
        under_way: collections.deque[tuple[TrainState, jax.Array]] = collections.deque()
        with read_ahead(pieces, part.pieces) as read:
            for piece, (features, labels) in enumerate(read, part.pieces):
                if seen is None or len(seen) < 2:
                    seen = np.union1d(labels, labels if seen is None else seen)
                rows = min(self._rows, self.examples - piece * self._rows)
                weights = None if self._weights is None else self._weights[pieces.rows(piece)]
                losses = self._call(features, labels, weights, 1, rows)
                processes.progressed()
                under_way.append((self.state, losses))
                if len(under_way) > _UNDER_WAY:
                    self._wait(order, *under_way.popleft())
                if not np.isfinite(self._last[1].loss):  # nor will it be
                    return self._last[1].loss
        while under_way:
            self._wait(order, *under_way.popleft())
        if whole and seen is not None and processes.count() == 1:  # else each has seen some
            check_several_classes(seen, self._reader.class_names)
        return self._last[1].loss

    def _call(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray | None,
        count: int,
        rows: int,
    ) -> jax.Array:
        """Starts the steps of a piece of so many rows, of which this process has read its own.

        Returns:
          The mean loss of each epoch of it, of which there is one.
        """
        full = is_full_batch(self._size, rows)
        scale = np.asarray(self.about["feature_scale"], self.dtype)
        weights = None if weights is None else weights.astype(self.dtype)
        data, spread = self.placement.piece(features, labels, scale, rows, weights)
        with self.placement.computing():
            self.state, losses = run_epochs(
                self.state,
                data,
                None if full else self._in_order(rows),
                np.int32(count),
                np.asarray(self.learning_rate, self.dtype),
                optimizer=self.optimizer,
                batch_size=self._size,
                calls_epochs=2,  # as in memory, where the program of one is another
                layout=self.layout,
                spread=spread,
                label_smoothing=self.config.label_smoothing,
            )
            # Programs over several devices must not be under way when others start.
            return losses if spread is None else jax.block_until_ready(losses)

    def _in_order(self, rows: int) -> jax.Array | np.ndarray:
        if rows not in self._orders:
            order = np.arange(rows, dtype=np.int32)
            orders = np.stack([order, order])
            # Of NumPy, where it goes to several devices.
            self._orders[rows] = jax.device_put(orders) if self.placement.spread is None else orders
        return self._orders[rows]

    def _wait(self, order: np.ndarray, state: TrainState, losses: jax.Array) -> None:
        """Waits for a piece, and says that it is done."""
        pieces, total, _ = self._last[1]
        done = min((pieces + 1) * self._rows, self.examples)
        share = self._share(order, pieces * self._rows, done)
        loss = total + float(processes.on_host(losses)[0]) * share
        # At once, for an interrupt may come between any two lines.
        self._last = state, _Part(pieces + 1, loss, int(order[done - 1]))
        if done < self.examples and self.on_piece is not None:
            epoch = self._done + done / self.examples
            share = self._share(order, 0, done)
            self.on_piece({"epoch": epoch, "train_loss": loss / share if share else loss})

    def _share(self, order: np.ndarray, first: int, last: int) -> float:
        """Of all that the examples weigh, what those of these places in the order do."""
        if self._weights is None:
            return (last - first) / self.examples
        return float(self._weights[order[first:last]].sum() / self._weights.sum())
