"""The primitives on a GPU: plain XLA, and for logits that fit it the kernel of `mosaic_gpu`."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from jax_softmax.ops._backends.compensated import shifted_exp
from jax_softmax.ops._backends.interface import (
    Arrays,
    Backend,
    Coefficients,
    Logits,
    OfShare,
    Pass,
    Results,
    RowShare,
    finite_shift,
)
from jax_softmax.ops._backends.mosaic_plan import Plan, make_plan, suits
from jax_softmax.ops._backends.xla import XLA, Xla
from jax_softmax.ops._mesh import on_one_device, vary, varying_axes

# The versions of jax that the kernel's tests run on: from the first, to before the second.
_TESTED = ((0, 11, 2), (0, 13))
# Hopper and Blackwell of data centres, with a copy engine and the shared memory that is planned.
_CAPABILITIES = ("9", "10")
# Of an H100, where there is no device to ask.
_MULTIPROCESSORS = 132
_MEMORY = 80 * 10**9


class Gpu(Xla):
    """As plain XLA, but for half precision with plain exponentials."""

    def exponentials(self, z: jax.Array, shift: jax.Array, *, rounded: bool) -> jax.Array:
        """Uses `jnp.exp` for what is rounded to half precision: the polynomial takes as long again.

        Differences of two half-precision numbers are exact in float32 wherever they matter.
        """
        if not rounded:
            return XLA.exponentials(z, shift, rounded=rounded)
        return jnp.exp(z - shift[..., None])


class MosaicGpu(Gpu):
    """Reads the logits once, where the kernel suits them; elsewhere as `Gpu`.

    Attributes:
      interpret: None, or Pallas's parameters to simulate the kernel on a CPU.
    """

    def __init__(self, interpret: Any = None) -> None:
        self.interpret = interpret

    def reads_once(self, logits: Logits, index: jax.Array, to_do: Pass) -> bool:
        """Whether the kernel can take these logits, and has something to gain."""
        stored = logits.stored
        if not (logits.plain and suits(stored.shape, stored.dtype, to_do.dtype)):
            return False
        # The logits lie on the devices as their rows' labels do, or they are made there.
        if not on_one_device(index):
            return False
        return self.interpret is not None or _lowers(self._plan(stored, to_do))

    def share(self, logits: Logits, index: jax.Array) -> RowShare:
        """By the kernel; its derivatives are those of plain XLA."""
        return self._share(logits, index, False)

    def share_and_below(self, logits: Logits, index: jax.Array) -> RowShare:
        """By the kernel."""
        return self._share(logits, index, True)

    def _share(self, logits: Logits, index: jax.Array, below: bool) -> RowShare:
        plain = XLA.share_and_below if below else XLA.share
        to_do = Pass(None, below)
        if not self.reads_once(logits, index, to_do):
            return plain(logits, index)

        @jax.custom_jvp
        def share(stored: jax.Array, index: jax.Array) -> RowShare:
            return self._run(stored, index, None, (), to_do)[0]

        @share.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            stored, index = primals
            return jax.jvp(lambda x: plain(logits.of(x), index), (stored,), tangents[:1])

        return share(logits.stored, index)

    def share_and_gradient(
        self,
        logits: Logits,
        index: jax.Array,
        of_share: OfShare,
        given: Sequence[jax.Array],
        to_do: Pass,
    ) -> tuple[RowShare, jax.Array]:
        """By the kernel; its derivatives are those of plain XLA."""
        if not self.reads_once(logits, index, to_do):
            return GPU.share_and_gradient(logits, index, of_share, given, to_do)

        @jax.custom_jvp
        def at_once(
            stored: jax.Array, index: jax.Array, given: Sequence[jax.Array]
        ) -> tuple[RowShare, jax.Array]:
            share, gradient = self._run(stored, index, of_share, given, to_do)
            assert gradient is not None
            return share, gradient

        @at_once.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            _, index, _ = primals

            def of(stored: jax.Array, given: Any) -> Any:
                return GPU.share_and_gradient(logits.of(stored), index, of_share, given, to_do)

            return jax.jvp(of, primals[::2], tangents[::2])

        return at_once(logits.stored, index, tuple(given))

    def by_rows(
        self, f: Callable[[Backend, Arrays], Results], arrays: Arrays, rows: tuple[int, ...]
    ) -> Results:
        """Takes all rows at once."""
        return f(self, arrays)

    def _run(
        self,
        stored: jax.Array,
        index: jax.Array,
        of_share: OfShare | None,
        given: Sequence[jax.Array],
        to_do: Pass,
    ) -> tuple[RowShare, jax.Array | None]:
        from jax_softmax.ops._backends import mosaic_gpu

        plan, rows = self._plan(stored, to_do), index.shape
        axes = varying_axes(stored, index, *given)
        flat = vary(stored.reshape(plan.rows, plan.columns), axes)
        by_row = [vary(jnp.broadcast_to(x, rows).reshape(plan.rows), axes) for x in (index, *given)]
        share, gradient = mosaic_gpu.run(
            plan, flat, by_row[0], of_share, by_row[1:], self.interpret
        )
        # The kernel's results do not say that they vary as its arguments do.
        share = jax.tree.map(lambda x: vary(x.reshape(rows), axes), share)
        return share, None if gradient is None else vary(gradient.reshape(stored.shape), axes)

    def _plan(self, stored: jax.Array, to_do: Pass) -> Plan:
        *rows, columns = stored.shape
        return make_plan(
            math.prod(rows),
            columns,
            stored.dtype,
            to_do.dtype,
            classes=to_do.classes,
            below=to_do.below,
            multiprocessors=_multiprocessors(),
        )


GPU = Gpu()
MOSAIC_GPU = MosaicGpu()


def available() -> bool:
    """Whether this process has a GPU, and a jax, that the kernel was written for."""
    if not _TESTED[0] <= jax.__version_info__ < _TESTED[1]:
        return False
    capability = str(getattr(_device(), "compute_capability", ""))
    return capability.partition(".")[0] in _CAPABILITIES


def compiled_for_a_gpu() -> bool:
    """Whether this is traced for a GPU that need not be here (`jax.sharding.use_abstract_mesh`)."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return getattr(device, "platform", None) == "gpu"


@functools.cache
def _device() -> Any:
    """The first NVIDIA GPU of this process; None if there is none."""
    try:
        return jax.local_devices(backend="cuda")[0]
    except RuntimeError:  # no such backend
        return None


def gpu_memory() -> int:
    """The bytes that this process may use of the GPU."""
    device = _device()
    stats = None if device is None else device.memory_stats()
    return int((stats or {}).get("bytes_limit", _MEMORY))


def _multiprocessors() -> int:
    return int(getattr(_device(), "core_count", None) or _MULTIPROCESSORS)


@functools.cache
def _lowers(plan: Plan) -> bool:
    """Whether the kernel compiles here; warns, once, if it does not."""
    if _device() is None:
        return True  # compiled for a device that is not here
    try:
        # In a thread of its own, since what is being traced here is not part of it.
        with ThreadPoolExecutor(1) as apart:
            apart.submit(_compile, plan).result()
    except Exception as error:
        warnings.warn(
            f"jax_softmax: the Mosaic GPU kernel for {plan.rows} x {plan.columns} {plan.dtype} "
            f"logits does not compile here, so plain XLA is used, which is slower: "
            f"{type(error).__name__}: {error}",
            stacklevel=2,
        )
        return False
    return True


def _compile(plan: Plan) -> None:
    """For the GPU, whatever the default device is."""
    from jax_softmax.ops._backends import mosaic_gpu

    here = jax.sharding.SingleDeviceSharding(_device())

    def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

    def kernel(logits: jax.Array, index: jax.Array, given: jax.Array) -> Any:
        return mosaic_gpu.run(plan, logits, index, _of_share, (given,))

    rows, logits = (plan.rows,), (plan.rows, plan.columns)
    arrays = array(logits, plan.dtype), array(rows, jnp.int32), array(rows, jnp.float32)
    jax.jit(kernel).lower(*arrays).compile()


def _of_share(share: RowShare, given: Sequence[jax.Array]) -> Coefficients:
    """All that coefficients may be made of, whatever their value."""
    shift = jnp.maximum(finite_shift(share.largest_other), share.label_logit)
    scale = given[0] * jnp.log1p(share.others * shifted_exp(share.label_logit, shift))
    return Coefficients(shift, scale, jnp.log(scale), -scale, jnp.isfinite(scale))
