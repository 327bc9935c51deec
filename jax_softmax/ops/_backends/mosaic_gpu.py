"""A kernel for NVIDIA GPUs that reads the logits once, written in Pallas Mosaic GPU.

XLA reads the logits for the maximum, for the sum and for the gradient. Here a row comes into shared
memory in chunks, and stays there until its gradient is written:

- A program takes every n-th row. Its warpgroups share the row: each has every `parts`-th chunk, and
  a ring of slots in shared memory that the copy engine fills ahead of it.
- First pass: a running maximum and sum in each lane, joined over the lanes and the warpgroups. The
  label is taken out before, by writing `-inf` over it in shared memory: no select per element.
- Then the row's coefficients, a few numbers, by a function of the share that the formulas give.
- Second pass: the gradient, written over the chunk's logits, from where the copy engine takes it; a
  slot is free when the next chunk is written. A gradient of another dtype goes through two buffers.

A row that fits is read once. Of a longer one the last chunks stay, and the first are read again,
most likely out of the L2 cache.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jax_softmax.ops._backends import compensated
from jax_softmax.ops._backends.interface import Coefficients, OfShare, RowShare, finite_shift
from jax_softmax.ops._backends.lowerable import lowerable
from jax_softmax.ops._backends.mosaic_plan import REDUCTION_BYTES, Plan
from jax_softmax.ops._backends.mosaic_warpgroup import Warpgroup, div, loop, rem


def run(
    plan: Plan,
    logits: jax.Array,
    index: jax.Array,
    of_share: OfShare | None = None,
    given: Sequence[jax.Array] = (),
    interpret: Any = None,
) -> tuple[RowShare, jax.Array | None]:
    """The share of each row, and its gradient if the plan has one.

    Args:
      plan: a result of `make_plan`.
      logits: `[rows, columns]`.
      index: `[rows]` int32, the class set apart; outside `[0, classes)` if none is.
      of_share: the coefficients of the gradient.
      given: `[rows]` float32 each, for `of_share`.
      interpret: None, or Pallas's parameters to simulate the kernel with.
    """
    numbers = 3 + plan.below
    rows = jax.ShapeDtypeStruct((plan.rows,), jnp.float32)
    outputs = [rows] * numbers
    staged = []
    if plan.gradient is not None:
        outputs.append(jax.ShapeDtypeStruct((plan.rows, plan.columns), plan.gradient))
    if plan.staged:
        staged = [plgpu.SMEM((plan.parts, 2, plan.chunk), plan.gradient)]
    shared, threads = [], {}
    if plan.parts > 1:
        shared = [plgpu.Barrier(num_arrivals=plan.parts)]
        threads = {"num_threads": plan.parts, "thread_name": "part"}
    build: Any = plgpu.kernel  # its keywords have no type in common
    kernel = build(
        lambda *refs: _Body(plan, len(given), of_share, interpret is not None, *refs).run(),
        out_type=outputs,
        scratch_types=[
            plgpu.SMEM((plan.parts, plan.slots, plan.chunk), plan.dtype),
            plgpu.SMEM((plan.parts, plan.vector), jnp.float32),
            plgpu.SMEM((2, 5, plan.parts), jnp.float32),
            plgpu.Barrier(num_barriers=plan.parts * plan.slots),
            *staged,
            *shared,
        ],
        grid=(plan.programs,),
        grid_names=("program",),
        interpret=interpret,
        compiler_params=plgpu.CompilerParams(
            unsafe_no_auto_barriers=True, reduction_scratch_bytes=REDUCTION_BYTES
        ),
        **threads,
    )
    found = kernel(logits, index, *given)
    share = RowShare(found[0], found[1], found[2], found[3] if plan.below else None)
    return share, None if plan.gradient is None else found[-1]


# What parts tell each other of a row. The lanes of one have all but the label's logit.
_LABEL, _LARGEST, _OTHERS, _BELOW, _COUNTED = range(5)
_NUMBERS = (_LARGEST, _OTHERS, _BELOW, _COUNTED)


class _Body(Warpgroup):
    """The program of a warpgroup."""

    def __init__(
        self,
        plan: Plan,
        given: int,
        of_share: OfShare | None,
        interpreted: bool,
        logits: Any,
        index: Any,
        *refs: Any,
    ) -> None:
        rest = iter(refs)
        self.of_share, self.index = of_share, index
        self.given = [next(rest) for _ in range(given)]
        self.results = [next(rest) for _ in range(3 + plan.below)]
        self.gradient: Any = None if plan.gradient is None else next(rest)
        ring, lanes, self.of_parts, arrived = (next(rest) for _ in range(4))
        self.staged: Any = next(rest) if plan.staged else None
        self.ready = None if plan.parts == 1 else next(rest)
        super().__init__(plan, interpreted, logits, ring, lanes, arrived)

    def run(self) -> None:
        """All rows of this program."""
        loop(0, self.plan.slots, self.fetch)
        lax.fori_loop(jnp.int32(0), self.rows, self.row, self.of_row(jnp.int32(0)))
        if self.plan.gradient is not None:
            plgpu.wait_smem_to_gmem(0)

    def of_row(self, turn: jax.Array) -> tuple[jax.Array, ...]:
        """A row's label, and the numbers given for its gradient."""
        row = self.first + jnp.minimum(turn, self.rows - 1) * self.plan.programs
        return tuple(ref[row] for ref in (self.index, *self.given))

    def row(self, turn: jax.Array, of_row: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """A row; returns what is loaded of the next, which would be waited for there."""
        upcoming = self.of_row(turn + 1)
        self.one_row(turn, *of_row)
        return upcoming

    def one_row(self, turn: jax.Array, label: jax.Array, *given: jax.Array) -> None:
        plan = self.plan
        row, base = self.first + turn * plan.programs, turn * self.loads
        label = jnp.where((label >= 0) & (label < plan.classes), label, -1)
        share = self.share(base, label, rem(turn, 2))

        @pl.when(self.part == 0)
        def _() -> None:
            for ref, value in zip(self.results, share, strict=False):
                ref[row] = value

        if plan.gradient is None or self.of_share is None:
            return
        of_share = lowerable(self.of_share)
        found = of_share(share, given)
        write = functools.partial(self.write, row, label, found, base)
        loop(self.again, self.chunks, lambda i: write(i, base + i, False))
        if plan.held > plan.slots:
            loop(0, self.again, lambda i: write(i, base + self.chunks + i, True))
        if plan.freed_by_row:
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            self.fetch(base + self.loads - 1 + plan.slots)

    def place(self, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The chunk of this part that has the label, -1 if none, and the place in it."""
        plan = self.plan
        chunk = div(label, plan.chunk)
        mine = (label >= 0) & (rem(chunk, plan.parts) == self.part)
        return jnp.where(mine, div(chunk, plan.parts), -1), label - chunk * plan.chunk

    # First pass

    def share(self, base: jax.Array, label: jax.Array, parity: jax.Array) -> RowShare:
        """The share of all classes of a row, the same in every warpgroup."""
        plan = self.plan
        at, within = self.place(label)
        self.of_parts[parity, _LABEL, self.part] = jnp.float32(-jnp.inf)

        def chunk(i: jax.Array, lanes: Any) -> Any:
            load = base + i
            plgpu.barrier_wait(self.barrier(load))
            self.mask_columns(load, i)

            @pl.when(i == at)
            def _() -> None:
                slot = self.slot(load)
                plgpu.commit_smem()
                label_logit = self.ring[self.part, slot, within]
                plgpu.commit_smem()
                self.ring[self.part, slot, within] = jnp.asarray(-jnp.inf, plan.dtype)
                self.of_parts[parity, _LABEL, self.part] = label_logit.astype(jnp.float32)
                plgpu.commit_smem()

            lanes = self.add(lanes, [self.values(load, u) for u in range(plan.vectors)])

            # A chunk that does not stay makes room for another.
            @pl.when(i < (self.chunks if plan.gradient is None else self.again))
            def _() -> None:
                plgpu.commit_smem()
                self.fetch(load + plan.slots)

            return lanes

        start = [self.vector(-jnp.inf), *[self.vector(0.0)] * (3 if plan.below else 1)]
        lanes = lax.fori_loop(jnp.int32(0), self.chunks, chunk, tuple(start))
        largest = self.joined(lanes[0], jnp.max)
        scaled, *more = self.rescaled(lanes, largest)
        others = self.joined(scaled, jnp.sum)
        numbers = [largest, others, *(self.joined(x, jnp.sum) for x in more)]
        return self.over_parts(parity, label, numbers)

    def mask_columns(self, load: jax.Array, i: jax.Array) -> None:
        """Writes `-inf` over what lies beyond the classes, in the row's last chunks."""
        plan = self.plan
        whole = plan.classes // plan.chunk
        if whole == plan.chunks:
            return
        chunk = i * plan.parts + self.part

        @pl.when(chunk >= whole)
        def _() -> None:
            # Vectors before this one are whole in each of these chunks.
            first = max(0, plan.classes - (plan.chunks - 1) * plan.chunk) // plan.vector
            for u in range(first, plan.vectors):
                ref = self.vector_of(load, u)
                z = self.load(ref).astype(jnp.float32)
                beyond = self.columns() >= plan.classes - u * plan.vector - chunk * plan.chunk
                ref[...] = jnp.where(beyond, -jnp.inf, z).astype(plan.dtype)

    def add(self, lanes: Any, vectors: list[jax.Array]) -> Any:
        """Each lane's maximum and sums, with a chunk's vectors added."""
        largest = functools.reduce(jnp.maximum, vectors, lanes[0])
        shift = finite_shift(largest)
        total, *more = self.rescaled(lanes, largest)
        total += sum(self.exp(z, shift) for z in vectors)
        if more:
            below, counted = more
            for z in vectors:
                never = z == -jnp.inf
                below += jnp.where(never, 0, shift - z)
                counted += jnp.where(never, 0, 1.0)
            more = [below, counted]
        return (largest, total, *more)

    def rescaled(self, lanes: Any, largest: jax.Array) -> list[jax.Array]:
        """The lanes' sums, relative to a new `largest`."""
        before, total, *more = lanes
        shift = finite_shift(largest)
        scaled = [total * self.exp(before, shift)]
        if more:
            below, counted = more
            scaled += [below + counted * (shift - finite_shift(before)), counted]
        return scaled

    def over_parts(self, parity: jax.Array, label: jax.Array, numbers: list[jax.Array]) -> RowShare:
        """The share of all parts, from each one's."""
        plan = self.plan
        # Two rows' numbers take turns: a part may be a row ahead of another.
        here = self.of_parts.at[parity]
        for quantity, value in zip(_NUMBERS, numbers, strict=False):
            here[quantity, self.part] = value
        plgpu.commit_smem()
        if self.ready is not None:
            plgpu.barrier_arrive(self.ready)
            plgpu.barrier_wait(self.ready)
        read = [[here[q, part] for q in range(len(numbers) + 1)] for part in range(plan.parts)]
        logits = [own for own, *_ in read]
        label_logit = jnp.where(label < 0, 0, functools.reduce(jnp.maximum, logits))
        largest = functools.reduce(jnp.maximum, [x[_LARGEST] for x in read])
        sums = [self.rescaled(x[_LARGEST:], largest) for x in read]
        others, *more = [functools.reduce(jnp.add, x) for x in zip(*sums, strict=True)]
        if not more:
            return RowShare(largest, label_logit, others)
        below, counted = more
        # A class that cannot happen is infinitely far below.
        finite = counted == plan.classes - jnp.where(label < 0, 0, 1)
        return RowShare(largest, label_logit, others, jnp.where(finite, below, jnp.inf))

    # Second pass

    def write(
        self,
        row: jax.Array,
        label: jax.Array,
        found: Coefficients,
        base: jax.Array,
        i: jax.Array,
        load: jax.Array,
        again: bool,
    ) -> None:
        """Writes the gradient of chunk `i` of the row, and frees a slot."""
        plan = self.plan
        at, within = self.place(label)
        if again:
            plgpu.barrier_wait(self.barrier(load))
            self.mask_columns(load, i)
        written = self.ring.at[self.part, self.slot(load)]
        if plan.staged:
            # What it had before may still be on its way out.
            plgpu.wait_smem_to_gmem(1, wait_read_only=True)
            written = self.staged.at[self.part, rem(load, 2)]
        for u in range(plan.vectors):
            values = self.elements(self.values(load, u), found)
            written[pl.ds(u * plan.vector, plan.vector)] = values.astype(plan.gradient)

        @pl.when(i == at)
        def _() -> None:
            plgpu.commit_smem()
            written[within] = found.at_label.astype(plan.gradient)

        plgpu.commit_smem()

        def copy(first: jax.Array, width: int) -> None:
            plgpu.copy_smem_to_gmem(
                written if width == plan.chunk else written.at[pl.ds(0, width)],
                self.gradient.at[row, pl.ds(first, width)],
            )

        self.at_chunk(i, copy)
        if plan.staged:
            # The commit came after all threads had read the slot.
            self.fetch(load + plan.slots)
            return
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
        # What was written before this chunk, perhaps in the row before, and is not freed yet.
        first = base + self.again if plan.freed_by_row else 0

        @pl.when(load > first)
        def _() -> None:
            self.fetch(load - 1 + plan.slots)

    def elements(self, z: jax.Array, found: Coefficients) -> jax.Array:
        """The gradient of a vector of logits."""
        exact = self.plan.dtype == jnp.float32 == self.plan.gradient
        exp = compensated.exp_of_difference if exact else self.exp
        value = exp(z, found.shift) * found.scale
        if found.offset is not None:
            value -= jnp.where(z == -jnp.inf, 0, found.offset)
        if found.keep is None:
            return value
        # The compiler has no select of vectors by a number.
        keep = lax.broadcast(found.keep.astype(jnp.int32), z.shape)
        return jnp.where(keep != 0, value, 0)
