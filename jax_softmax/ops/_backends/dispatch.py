"""Chooses the backend: the one that was asked for, or each platform's own.

Only this module uses `platform_dependent`, which decides when a program is lowered: one trace
serves a CPU and an accelerator, even an accelerator that is not present.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
from jax import lax

from jax_softmax.ops._backends.cpu import CPU, block_rows, writes_over
from jax_softmax.ops._backends.interface import Arrays, Backend, Logits, Results, RowShare, T
from jax_softmax.ops._backends.xla import XLA
from jax_softmax.ops._options import Implementation

R = TypeVar("R")

_NAMED: dict[str, Backend] = {"xla": XLA, "cpu": CPU}


def _by_platform(*operands: Any, cpu: Callable[..., R], default: Callable[..., R]) -> R:
    found: R = lax.platform_dependent(*operands, cpu=cpu, default=default)
    return found


class _ByPlatform:
    """Calls each primitive of the platform's own backend."""

    def again(self, x: T) -> T:
        apart: T = lax.platform_dependent(x, cpu=CPU.again, default=XLA.again)
        return apart

    def likeliest(self, z: jax.Array) -> jax.Array:
        return _by_platform(z, cpu=CPU.likeliest, default=XLA.likeliest)

    def share(self, logits: Logits, index: jax.Array) -> RowShare:
        def of(backend: Backend, stored: jax.Array, index: jax.Array) -> RowShare:
            return backend.share(logits.of(stored), index)

        return _by_platform(logits.stored, index, cpu=partial(of, CPU), default=partial(of, XLA))

    def pick(self, x: jax.Array, index: jax.Array) -> jax.Array:
        return _by_platform(x, index, cpu=CPU.pick, default=XLA.pick)

    def sum_apart(self, x: jax.Array, index: jax.Array) -> jax.Array:
        return _by_platform(x, index, cpu=CPU.sum_apart, default=XLA.sum_apart)

    def exponentials(self, z: jax.Array, shift: jax.Array) -> jax.Array:
        return XLA.exponentials(z, shift)

    def put_at_label(
        self, x: jax.Array, index: jax.Array, value: jax.Array, *, final: bool
    ) -> jax.Array:
        if not (final and writes_over(x, index, value)):
            return XLA.put_at_label(x, index, value, final=final)
        cpu, default = (partial(to.put_at_label, final=final) for to in (CPU, XLA))
        return _by_platform(x, index, value, cpu=cpu, default=default)

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
        return _by_platform(
            arrays,
            cpu=lambda arrays: CPU.by_rows(f, arrays, rows),
            default=lambda arrays: XLA.by_rows(f, arrays, rows),
        )


_BY_PLATFORM = _ByPlatform()


def backend_of(implementation: Implementation | None) -> Backend:
    """The backend of that name, or each platform's own for None."""
    return _BY_PLATFORM if implementation is None else _NAMED[implementation]


def check_implementation(implementation: str | None) -> None:
    """Raises ValueError if there is no such implementation for the default device."""
    device: Any = getattr(jax.config, "jax_default_device", None)
    platform = getattr(device, "platform", device) or jax.default_backend()
    possible = [name for name in _NAMED if name != "cpu" or platform == "cpu"]
    if implementation is not None and implementation not in possible:
        known = ", ".join(map(repr, possible))
        raise ValueError(
            f"implementation: expected None or one of {known} (on {platform}), got "
            f"{implementation!r}."
        )
