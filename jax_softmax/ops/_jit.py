"""`jax.jit` of the functions inside the losses, what JAX keeps of which can be dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp

P = ParamSpec("P")
R = TypeVar("R")

# JAX traces a jitted function once for all of its calls in a program. If its `custom_vjp` has a
# forward rule of symbolic zeros, that may run several times: once for each set of arguments that a
# call differentiates. But JAX keeps one tree of what it returned, the last (seen in 0.10 and 0.12):
# so what the rule returns must be a tree of the same form whatever is differentiated.


def absent() -> jax.Array:
    """What stands in a forward rule's result for an array that is not there."""
    return jnp.zeros((0,))


def is_absent(x: jax.Array) -> bool:
    """Whether that is `absent()`, and not an array of some rank or some length."""
    return x.shape == (0,)


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
