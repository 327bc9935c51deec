"""Examples that are read from files while they are used, a piece ahead of the device.

grain reads ahead in threads. Its positions are numbers of pieces, so it goes on from any.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jax_softmax._checks import require
from jax_softmax._extras import needs_train_extra
from jax_softmax.errors import InputError
from jax_softmax.training.config import TrainConfig
from jax_softmax.training.labels import check_labels, check_several_classes

if TYPE_CHECKING:
    from typing_extensions import TypeIs  # Python's own from 3.13 on

# Numbers in a piece, which is read and computed with at once: enough that a call costs little
# beside them, few enough that a handful of pieces is little memory (8 MB each as float32).
_NUMBERS_PER_PIECE = 2**21
# Pieces that are read before they are asked for, and how many threads read them.
_AHEAD, _THREADS = 2, 2


class Streamed(Protocol):
    """What `jax_softmax.datasets.Stream` is: examples that are read when they are asked for."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """`V` names, or none."""

    @property
    def feature_scale(self) -> float:
        """What a stored feature is multiplied by."""

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one example."""

    @property
    def dtype(self) -> np.dtype:
        """Of the features as stored."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Where they are."""

    @property
    def labels(self) -> np.ndarray | None:
        """All labels; None where they are read with the rows."""

    @property
    def sha256(self) -> str:
        """A digest by which the same examples are known again."""

    def __len__(self) -> int:
        """How many examples there are."""

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Features `[n, ...]` of rows, and their labels where `labels` is None."""

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """An order to train in."""

    def sample(self) -> np.ndarray:
        """Numbers of some rows, spread over all."""

    def place(self, row: int) -> str:
        """Where a row is, for messages."""

    def column(self, column: int) -> str:
        """What a number of a row is called, for messages."""

    def check_unchanged(self) -> None:
        """Raises InputError if a file changed."""


def is_stream(examples: object) -> TypeIs[Streamed]:
    """Whether examples are read when they are asked for."""
    return not isinstance(examples, type) and hasattr(examples, "check_unchanged")


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """A stream as training and evaluation want it: checked, in the dtype that the device takes.

    Attributes:
      stream: what is read.
      labels: `[N]` int32, or None where they are read with the rows.
      class_names: `V` names, in the order of the labels.
      dtype: of the parameters.
    """

    stream: Streamed
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    dtype: np.dtype

    def __len__(self) -> int:
        return len(self.stream)

    @property
    def stored(self) -> np.dtype:
        """The dtype of what `read` gives: floats, and integers JAX would wrap, as the parameters.

        Whatever their values, which are not known before all are read.
        """
        dtype = self.stream.dtype
        return self.dtype if dtype.kind == "f" or dtype.itemsize == 8 else dtype

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features `[n, D]` and labels `[n]` int32 of rows.

        Raises:
          InputError: if a feature is not finite, or a label is no class; the message names file and
            row.
        """
        features, labels = self.stream.read(rows)
        features = features.reshape(len(rows), -1)
        with np.errstate(over="ignore"):
            cast = features.astype(self.stored, copy=False)
        if cast.dtype.kind == "f" and not np.isfinite(cast).all():
            finite = np.isfinite(cast)
            row = int(np.argmin(finite.all(axis=1)))
            column = int(np.argmin(finite[row]))
            got = features[row, column]
            expected = f"numbers that {self.dtype} holds" if np.isfinite(got) else "finite numbers"
            raise InputError(
                f"{self.stream.place(int(rows[row]))}: expected {expected}, got {got} in "
                f"{self.stream.column(column)}; drop or fill such rows first."
            )
        if self.labels is not None:
            return cast, self.labels[rows]
        assert labels is not None
        outside = (labels < 0) | (labels >= len(self.class_names))
        if outside.any():
            row = int(np.argmax(outside))
            raise InputError(
                f"{self.stream.place(int(rows[row]))}: expected a label in [0, "
                f"{len(self.class_names)}), got {labels[row]}."
            )
        return cast, labels.astype(np.int32)


def reader_of(
    stream: Streamed, labels: np.ndarray | None, class_names: tuple[str, ...], dtype: np.dtype
) -> Reader:
    """What reads a stream; `labels` are used where the stream has them in memory."""
    return Reader(stream, None if stream.labels is None else labels, class_names, dtype)


def sampled(
    stream: Streamed, config: TrainConfig
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """A sample of the features, `[n, D]` as stored; the labels, or those of the sample; names.

    Raises:
      InputError: if it cannot be read, or a label in memory is no class, or there are not several
        classes, or the settings ask for all examples at once, or the extra `[stream]` is not
        installed.
    """
    require(
        config.batch_size is not None,
        "batch size: expected a number of examples for a stream, for all of them at once may not "
        "fit",
        config.batch_size,
    )
    with needs_train_extra():
        import grain  # noqa: F401 - before anything is read
    rows = stream.sample()
    features, labels = stream.read(rows)
    names = stream.class_names
    if stream.labels is not None:
        labels, names = check_labels(stream.labels, len(stream), names)
        check_several_classes(labels, names)
    elif len(names) < 2:
        raise InputError(f"class_names: expected at least two for a stream, got {names}.")
    assert labels is not None
    return features.reshape(len(rows), -1), labels, names


def units_in_piece(numbers: int) -> int:
    """How many steps, or rows, of so many numbers make up a piece."""
    return max(1, _NUMBERS_PER_PIECE // numbers)


class Pieces:
    """Pieces of an order of rows, several steps to a piece, read by number: a source of grain."""

    def __init__(
        self,
        reader: Reader,
        order: np.ndarray,
        batch_size: int,
        steps: int,
        own: Callable[[int], slice] | None = None,
    ) -> None:
        """Pieces of `order`.

        Args:
          reader: what reads the rows.
          order: `[N]` numbers of rows, in the order in which they are used.
          batch_size: rows to a step.
          steps: steps to a piece; the last piece has what is left over, a partial batch too.
          own: which rows of a piece of so many this process reads, where there are several.
        """
        self._reader, self._order, self._own = reader, order, own
        self._rows = batch_size * steps

    def __len__(self) -> int:
        return -(-len(self._order) // self._rows)

    def rows(self, piece: int) -> np.ndarray:
        """The numbers of the rows that this process reads for a piece, one step after another."""
        rows = self._order[piece * self._rows : (piece + 1) * self._rows]
        return rows if self._own is None else rows[self._own(len(rows))]

    def __getitem__(self, piece: int) -> tuple[np.ndarray, np.ndarray]:
        """Features `[n, D]` and labels `[n]` of a piece."""
        rows = self.rows(piece)
        if len(rows) == 0:  # the other processes have all that there are
            width = math.prod(self._reader.stream.feature_shape)
            return np.zeros((0, width), self._reader.stored), np.zeros(0, np.int32)
        return self._reader.read(rows)


@contextlib.contextmanager
def read_ahead(pieces: Pieces, first: int = 0) -> Iterator[Iterator[Any]]:
    """The pieces from one on, read by threads while those before are used.

    Raises:
      InputError: if the extra `[stream]` is not installed.
    """
    with needs_train_extra():
        import grain
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
    iterator = iter(grain.MapDataset.source(pieces)[first:].to_iter_dataset(options))
    try:
        yield iterator
    finally:
        iterator.close()
