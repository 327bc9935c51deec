"""Chooses the backend: the one that was asked for, or each platform's own.

Only this module uses `platform_dependent`, which decides when a program is lowered: one trace
serves a CPU and an accelerator, even an accelerator that is not present.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
from jax import lax

from jax_softmax.ops._backends.cpu import CPU, block_rows, writes_over
from jax_softmax.ops._backends.gpu import GPU, MOSAIC_GPU, available, compiled_for_a_gpu
from jax_softmax.ops._backends.interface import (
    Arrays,
    Backend,
    Logits,
    OfShare,
    Pass,
    Results,
    RowShare,
    T,
)
from jax_softmax.ops._backends.xla import XLA
from jax_softmax.ops._options import Implementation

R = TypeVar("R")

_NAMED: dict[str, Backend] = {"xla": XLA, "cpu": CPU, "mosaic_gpu": MOSAIC_GPU}


def _by_platform(*operands: Any, **platforms: Callable[..., R]) -> R:
    found: R = lax.platform_dependent(*operands, **platforms)
    return found


def _cuda() -> Backend:
    """The backend of NVIDIA GPUs: with the kernel, where this process has one for it."""
    return MOSAIC_GPU if available() else GPU


class _ByPlatform:
    """Calls each primitive of the platform's own backend."""

    def again(self, x: T) -> T:
        apart: T = lax.platform_dependent(x, cpu=CPU.again, default=XLA.again)
        return apart

    def likeliest(self, z: jax.Array) -> jax.Array:
        return _by_platform(z, cpu=CPU.likeliest, default=XLA.likeliest)

    def top_k(self, x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
        cpu, default = (partial(of.top_k, k=k) for of in (CPU, XLA))
        return _by_platform(x, cpu=cpu, default=default)

    def share(self, logits: Logits, index: jax.Array) -> RowShare:
        def of(backend: Backend, stored: jax.Array, index: jax.Array) -> RowShare:
            return backend.share(logits.of(stored), index)

        return _by_platform(logits.stored, index, **_each(of))

    def share_and_below(self, logits: Logits, index: jax.Array) -> RowShare:
        def of(backend: Backend, stored: jax.Array, index: jax.Array) -> RowShare:
            return backend.share_and_below(logits.of(stored), index)

        return _by_platform(logits.stored, index, **_each(of))

    def pick(self, x: jax.Array, index: jax.Array) -> jax.Array:
        return _by_platform(x, index, cpu=CPU.pick, default=XLA.pick)

    def pick_several(self, x: jax.Array, index: jax.Array) -> jax.Array:
        return _by_platform(x, index, cpu=CPU.pick_several, default=XLA.pick_several)

    def sum_apart(self, x: jax.Array, index: jax.Array) -> jax.Array:
        return _by_platform(x, index, cpu=CPU.sum_apart, default=XLA.sum_apart)

    def exponentials(self, z: jax.Array, shift: jax.Array, *, rounded: bool) -> jax.Array:
        if not rounded:
            return XLA.exponentials(z, shift, rounded=False)
        cuda, default = (partial(of.exponentials, rounded=True) for of in (GPU, XLA))
        return _by_platform(z, shift, cuda=cuda, default=default)

    def reads_once(self, logits: Logits, index: jax.Array, to_do: Pass) -> bool:
        likely = CPU if _platform() == "cpu" else _cuda()
        return likely.reads_once(logits, index, to_do)

    def share_and_gradient(
        self,
        logits: Logits,
        index: jax.Array,
        of_share: OfShare,
        given: Sequence[jax.Array],
        to_do: Pass,
    ) -> tuple[RowShare, jax.Array]:
        def of(
            backend: Backend, stored: jax.Array, index: jax.Array, given: Sequence[jax.Array]
        ) -> tuple[RowShare, jax.Array]:
            return backend.share_and_gradient(logits.of(stored), index, of_share, given, to_do)

        return _by_platform(logits.stored, index, tuple(given), **_each(of))

    def put_at_label(
        self, x: jax.Array, index: jax.Array, value: jax.Array, *, final: bool
    ) -> jax.Array:
        if not (final and writes_over(x, index, value)):
            return XLA.put_at_label(x, index, value, final=final)
        cpu, default = (partial(to.put_at_label, final=final) for to in (CPU, XLA))
        return _by_platform(x, index, value, cpu=cpu, default=default)

    def put_several(
        self, x: jax.Array, index: jax.Array, values: jax.Array, *, final: bool
    ) -> jax.Array:
        if index.shape[-1] == 1:
            return self.put_at_label(x, index[..., 0], values[..., 0], final=final)
        return XLA.put_several(x, index, values, final=final)

    def add_by_class(
        self,
        add: Callable[[jax.Array, jax.Array], jax.Array],
        total: jax.Array,
        gradient: jax.Array,
        axis: int,
    ) -> jax.Array:
        def by(backend: Backend, total: jax.Array, gradient: jax.Array) -> jax.Array:
            return backend.add_by_class(add, total, gradient, axis)

        return _by_platform(total, gradient, cpu=partial(by, CPU), default=partial(by, XLA))

    def by_rows(
        self, f: Callable[[Backend, Arrays], Results], arrays: Arrays, rows: tuple[int, ...]
    ) -> Results:
        if block_rows(arrays, rows) is None:
            return f(self, arrays)

        def of(backend: Backend, arrays: Arrays) -> Results:
            return backend.by_rows(f, arrays, rows)

        return _by_platform(arrays, **_each(of))


def _each(of: Callable[..., R]) -> dict[str, Callable[..., R]]:
    """`of(backend, ...)` for the backend of each platform."""
    return {"cpu": partial(of, CPU), "cuda": partial(of, _cuda()), "default": partial(of, XLA)}


_BY_PLATFORM = _ByPlatform()


def backend_of(implementation: Implementation | None) -> Backend:
    """The backend of that name, or each platform's own for None."""
    return _BY_PLATFORM if implementation is None else _NAMED[implementation]


def on_a_gpu(implementation: Implementation | None) -> bool:
    """Whether what is traced will most likely run on an NVIDIA GPU; only speed depends on it."""
    if implementation is not None:
        return implementation == "mosaic_gpu"
    return _platform() == "gpu" and available()


def on_a_cpu(implementation: Implementation | None) -> bool:
    """Whether what is traced will most likely run on a CPU; only speed and memory depend on it."""
    return implementation in (None, "cpu") and _platform() == "cpu"


def _platform() -> str:
    """The default device's."""
    device: Any = getattr(jax.config, "jax_default_device", None)
    name = str(getattr(device, "platform", device) or jax.default_backend())
    return {"cuda": "gpu"}.get(name, name)


def check_implementation(implementation: str | None) -> None:
    """Raises ValueError if there is no such implementation for the default device."""
    platform = _platform()
    there = compiled_for_a_gpu() or (platform == "gpu" and available())
    cannot = {"cpu": platform != "cpu", "mosaic_gpu": not there}
    possible = [name for name in _NAMED if not cannot.get(name)]
    if implementation is not None and implementation not in possible:
        known = ", ".join(map(repr, possible))
        raise ValueError(
            f"implementation: expected None or one of {known} (on {platform}), got "
            f"{implementation!r}."
        )
