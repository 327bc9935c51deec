"""A warpgroup of the Mosaic GPU kernel: its vectors in registers, and the ring it reads from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jax_softmax.ops._backends.mosaic_plan import THREADS, Plan

_LOG2_E = math.log2(math.e)


def div(x: Any, y: int) -> jax.Array:
    """`x // y` of int32 numbers that are not negative."""
    return lax.div(_int(x), _int(y))


def rem(x: Any, y: int) -> jax.Array:
    """`x % y` of such numbers."""
    return lax.rem(_int(x), _int(y))


def _int(x: Any) -> jax.Array:
    return jnp.asarray(x, jnp.int32)


def loop(start: Any, stop: Any, f: Callable[[jax.Array], None]) -> None:
    """`f(i)` for i from `start` to before `stop`."""
    lax.fori_loop(_int(start), _int(stop), lambda i, _: f(i), None)


class Warpgroup:
    """Which rows and chunks of `logits` a warpgroup takes, and how they come into shared memory.

    Attributes:
      part: which of the warpgroups that share a row this is.
      first: its first row; each `plan.programs`-th is its own.
      rows: how many it has.
      chunks: how many chunks of a row.
      again: how many of these are read again for the gradient.
      loads: of a row: both together.
    """

    def __init__(
        self, plan: Plan, interpreted: bool, logits: Any, ring: Any, lanes: Any, arrived: Any
    ) -> None:
        self.plan, self.interpreted = plan, interpreted
        self.logits, self.ring, self.lanes, self.arrived = logits, ring, lanes, arrived
        zero = jnp.int32(0)
        self.part = lax.axis_index("part") if plan.parts > 1 else zero
        self.first = lax.axis_index("program")
        self.rows = div(plan.rows - 1 - self.first + plan.programs, plan.programs)
        self.chunks = div(plan.chunks - 1 - self.part + plan.parts, plan.parts)
        again = plan.gradient is not None
        self.again = jnp.maximum(self.chunks - plan.slots, 0) if again else zero
        self.loads = self.chunks + self.again
        self.total = self.rows * self.loads

    # Vectors in registers

    def vector(self, value: float) -> jax.Array:
        """A vector of `value`."""
        filled = jnp.full((self.plan.vector,), value, jnp.float32)
        if self.interpreted:
            return filled
        placed: jax.Array = plgpu.layout_cast(filled, self.layout())
        return placed

    def columns(self) -> jax.Array:
        """0, 1, ... as a vector."""
        shape = (self.plan.vector,)
        if self.interpreted:
            return jnp.arange(*shape)
        return plgpu.broadcasted_iota(jnp.int32, shape, 0, layout=self.layout())

    def layout(self) -> Any:
        """Of a vector: 16 bytes of logits, side by side, in a thread."""
        width = self.plan.vector // THREADS
        return plgpu.Layout.WG_STRIDED((self.plan.vector,), vec_size=width)

    def exp(self, z: jax.Array, shift: jax.Array) -> jax.Array:
        """`exp(z - shift)` for sums and half precision, where the distance's rounding is small."""
        x = (z - shift) * _LOG2_E
        if self.interpreted or x.ndim == 0:
            return jnp.exp2(x)
        # One instruction of the processor. It gives 0 below the least normal number; what the
        # compiler makes of exp2 takes three more, for those.
        kind = plgpu.ShapeDtypeStruct(x.shape, x.dtype, layout=self.layout())
        inline = plgpu.inline_mgpu(arg_types=(self.layout(),), return_type=kind)
        found: jax.Array = inline(lambda _, x: x.exp2(approx=True))(x)
        return found

    def load(self, ref: Any, layout: Any = None) -> jax.Array:
        """A vector from shared memory."""
        if self.interpreted:
            found: jax.Array = ref[...]
            return found
        load: Callable[..., jax.Array] = plgpu.load  # jax 0.10 has another signature
        return load(ref, layout=layout or self.layout(), optimized=True)

    def joined(self, lanes: jax.Array, join: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """All lanes' numbers joined to one, which every thread of the warpgroup gets."""
        plgpu.commit_smem()
        self.lanes[self.part] = lanes
        plgpu.commit_smem()
        # Each warp reads all of them: it then needs no other warp.
        replicated = plgpu.Layout.TILED(
            plgpu.Tiling(((128,), (4,))),
            warp_dims=(plgpu.Replicated(4),),
            lane_dims=(-2,),
            vector_dim=-1,
        )
        return join(self.load(self.lanes.at[self.part], replicated))

    # Loads: the n-th of this part goes to slot n mod slots

    def slot(self, load: jax.Array) -> jax.Array:
        return rem(load, self.plan.slots)

    def barrier(self, load: jax.Array) -> Any:
        return self.arrived.at[self.part * self.plan.slots + self.slot(load)]

    def fetch(self, load: jax.Array) -> None:
        """Starts a load, if there is such a one. Its slot must be free."""
        plan = self.plan

        @pl.when(load < self.total)
        def _() -> None:
            turn = lax.div(load, self.loads)
            chunk = load - turn * self.loads
            chunk = jnp.where(chunk >= self.chunks, chunk - self.chunks, chunk)
            row = self.first + turn * plan.programs
            slot, arrived = self.ring.at[self.part, self.slot(load)], self.barrier(load)

            def copy(start: jax.Array, width: int) -> None:
                plgpu.copy_gmem_to_smem(
                    self.logits.at[row, pl.ds(start, width)],
                    slot if width == plan.chunk else slot.at[pl.ds(0, width)],
                    arrived,
                    oob_mode=plgpu.OOBFillMode.PROMISE_IN_BOUNDS,
                )

            self.at_chunk(chunk, lambda first, width: copy(first, width))

    def at_chunk(self, chunk: jax.Array, f: Callable[[jax.Array, int], None]) -> None:
        """`f(first column, width)` of this part's chunk; the width of the last may differ."""
        plan = self.plan
        chunk = chunk * plan.parts + self.part
        first, tail = chunk * plan.chunk, plan.columns - (plan.chunks - 1) * plan.chunk
        if tail == plan.chunk:
            f(first, tail)
            return

        @pl.when(chunk < plan.chunks - 1)
        def _() -> None:
            f(first, plan.chunk)

        @pl.when(chunk == plan.chunks - 1)
        def _() -> None:
            f(first, tail)

    def values(self, load: jax.Array, u: int) -> jax.Array:
        """Vector `u` of a chunk, widened."""
        return self.load(self.vector_of(load, u)).astype(jnp.float32)

    def vector_of(self, load: jax.Array, u: int) -> Any:
        """Vector `u` of a chunk, in shared memory."""
        width = self.plan.vector
        return self.ring.at[self.part, self.slot(load), pl.ds(u * width, width)]
