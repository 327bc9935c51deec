"""Formulas in a kernel, where the compiler lacks a few of JAX's primitives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal

P = ParamSpec("P")
R = TypeVar("R")


def _log1p(x: jax.Array) -> jax.Array:
    """`log1p` to a few eps: the rounding of `1 + x` cancels in the quotient (Kahan)."""
    near = 1 + x
    away = jnp.where(near == 1, 1, near - 1)
    return jnp.where(near == 1, x, jnp.where(jnp.abs(x) < jnp.inf, jnp.log(near) * (x / away), x))


_REPLACED: dict[str, Callable[..., jax.Array]] = {
    "stop_gradient": lambda x: x,
    "is_finite": lambda x: jnp.abs(x) < jnp.inf,
    "log1p": _log1p,
}


def lowerable(f: Callable[P, R]) -> Callable[P, R]:
    """`f` without the primitives that Mosaic GPU cannot lower; not to be differentiated."""

    def replaced(*args: P.args, **kwargs: P.kwargs) -> R:
        traced, shape = jax.make_jaxpr(f, return_shape=True)(*args, **kwargs)
        leaves = jax.tree.leaves((args, kwargs))
        found = _evaluate(traced.jaxpr, traced.consts, leaves)
        result: R = jax.tree.unflatten(jax.tree.structure(shape), found)
        return result

    return replaced


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(x: Any) -> Any:
        return x.val if isinstance(x, Literal) else values[x]

    for eqn in jaxpr.eqns:
        inputs = [read(x) for x in eqn.invars]
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
        if eqn.primitive.name in _REPLACED:
            found = [_REPLACED[eqn.primitive.name](*inputs)]
        elif inner is not None:
            found = _evaluate(inner.jaxpr, inner.consts, inputs)
        else:
            found = eqn.primitive.bind(*inputs, **eqn.params)
            found = found if eqn.primitive.multiple_results else [found]
        values.update(zip(eqn.outvars, found, strict=True))
    return [read(x) for x in jaxpr.outvars]
