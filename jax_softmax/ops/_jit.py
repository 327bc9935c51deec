"""`jax.jit` of the functions inside the losses, what JAX keeps of which can be dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import jax

P = ParamSpec("P")
R = TypeVar("R")

_jitted: list[jax.stages.Wrapped] = []


def jitted(*static_argnums: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`jax.jit` as a decorator, of a function whose arguments of these numbers are settings."""

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        wrapped = jax.jit(function, static_argnums=static_argnums)
        _jitted.append(wrapped)
        return cast("Callable[P, R]", wrapped)

    return wrap


def forget_traces() -> None:
    """Drops what JAX keeps of every shape that the losses were traced or compiled for.

    It keeps them for as long as the functions live, which is for ever. A program in use goes on; a
    loss that is called outside of one is compiled again.
    """
    for function in _jitted:
        function.clear_cache()  # type: ignore[attr-defined]
