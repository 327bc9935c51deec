"""How the Mosaic GPU kernel shares out rows, chunks and shared memory."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp

# Threads of a warpgroup, and the bytes that one moves at a time.
THREADS = 128
_VECTOR_BYTES = 16
# Shared memory of a multiprocessor, and what each program on it takes besides its own arrays.
_SHARED_BYTES = 228 * 1024
_SYSTEM_BYTES = 1024
# For the compiler's reductions, of which there are none, and for small arrays and barriers.
REDUCTION_BYTES = 512
_SMALL_BYTES = 1536
# Vectors in a chunk, warpgroups that share a row, and the most slots of all rings together.
_VECTORS = 4
_PARTS = 4
_SLOTS = 32
# A row of at most _SHORT chunks has a warpgroup to itself, and a multiprocessor _RESIDENT of these.
_SHORT = 4
_RESIDENT = 6
# What a row costs beside its bytes is more than XLA's passes over fewer (docs/performance.md).
_FEWEST_BYTES = 4000


class Plan(NamedTuple):
    """How a kernel takes `[rows, classes]` logits.

    Attributes:
      rows: how many rows there are.
      classes: how many classes count; columns beyond them do not.
      columns: how many classes the arrays have.
      dtype: of the logits.
      gradient: the dtype of the gradient; None if there is none.
      below: whether to sum the distances of the logits to the largest (see `RowShare`).
      vector: numbers that a warpgroup's threads hold at a time.
      vectors: how many of them are in a chunk.
      parts: warpgroups that share a row.
      slots: of each part's ring.
      programs: how many run; each takes every `programs`-th row.
    """

    rows: int
    classes: int
    columns: int
    dtype: Any
    gradient: Any
    below: bool
    vector: int
    vectors: int
    parts: int
    slots: int
    programs: int

    @property
    def chunk(self) -> int:
        """Numbers in a chunk."""
        return self.vector * self.vectors

    @property
    def chunks(self) -> int:
        """Chunks in a row, the last of which may be shorter."""
        return -(-self.columns // self.chunk)

    @property
    def held(self) -> int:
        """Chunks of a row that a part has at most."""
        return -(-self.chunks // self.parts)

    @property
    def staged(self) -> bool:
        """Whether the gradient is written beside the logits, rather than over them."""
        return self.gradient not in (None, self.dtype)

    @property
    def freed_by_row(self) -> bool:
        """Whether a row's last slot is freed before the next row: its loads may need that slot."""
        return self.gradient is not None and not self.staged and self.held >= self.slots

    @property
    def passes(self) -> float:
        """How often the logits' bytes are read or written, what is read again included."""
        again = max(0, self.held - self.slots) / self.held
        written = jnp.dtype(self.gradient).itemsize / jnp.dtype(self.dtype).itemsize
        return 1 + (again + written if self.gradient is not None else 0)


def make_plan(
    rows: int,
    columns: int,
    dtype: Any,
    gradient: Any = None,
    *,
    classes: int | None = None,
    below: bool = False,
    multiprocessors: int,
) -> Plan:
    """The plan for `[rows, columns]` logits, of which the first `classes` columns count."""
    itemsize = jnp.dtype(dtype).itemsize
    vector = THREADS * _VECTOR_BYTES // itemsize
    vectors = _VECTORS if columns > 2 * vector else 2
    chunk_bytes = vector * vectors * itemsize
    chunks = -(-columns // (vector * vectors))
    short = chunks <= _SHORT
    parts, resident = (1, _RESIDENT) if short else (_PARTS, 1)
    staged = 0
    if gradient is not None and jnp.dtype(gradient) != jnp.dtype(dtype):
        staged = 2 * vector * vectors * jnp.dtype(gradient).itemsize
    # Besides the rings: what is staged, and the lanes' numbers.
    fixed = parts * (staged + vector * 4) + REDUCTION_BYTES + _SMALL_BYTES
    available = _SHARED_BYTES // resident - _SYSTEM_BYTES
    slots = (available - fixed) // (parts * chunk_bytes)
    slots = max(2, min(slots, _SLOTS // parts))
    programs = min(rows, multiprocessors * resident)
    return Plan(
        rows,
        columns if classes is None else classes,
        columns,
        jnp.dtype(dtype),
        None if gradient is None else jnp.dtype(gradient),
        below,
        vector,
        vectors,
        parts,
        slots,
        programs,
    )


def suits(shape: tuple[int, ...], dtype: Any, gradient: Any) -> bool:
    """Whether the kernel can take logits of this shape, and has something to gain.

    The copy engine moves multiples of 16 bytes.
    """
    if not all(isinstance(size, int) for size in shape):
        return False
    *rows, columns = shape
    kinds = [jnp.dtype(kind) for kind in (dtype, gradient) if kind is not None]
    fits = all(kind.itemsize in (2, 4) and columns * kind.itemsize % 16 == 0 for kind in kinds)
    enough = columns * kinds[0].itemsize >= _FEWEST_BYTES
    # The classes that can happen are counted in float32.
    return fits and enough and columns <= 2**24 and math.prod(rows) > 0
