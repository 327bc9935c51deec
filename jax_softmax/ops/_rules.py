"""From a forward pass and its gradient to differentiable functions of rows.

Both losses are written as two functions, and share the three ways JAX can be told of them:

    forward(options, arrays, constants) -> (outputs, numbers)
    gradients(options, arrays, constants, numbers, cotangents) -> a gradient for each of arrays

`arrays` are what may be differentiated (logits, perhaps class probabilities), `constants` what may
not. `outputs` are `[...]`, a number a row; the first is the loss. `numbers` are a few more a row,
kept for the gradients. `cotangents` has an entry for each output: `[...]`, or None where nothing
depends on it. Gradients are in the dtype of the outputs, to be rounded once by whoever uses them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jax_softmax.ops._cpu_blocks import in_row_blocks
from jax_softmax.ops._options import Options
from jax_softmax.ops._row_sums import row_sum

Arrays = TypeVar("Arrays", bound=tuple[jax.Array, ...])
Constants = TypeVar("Constants")
Numbers = TypeVar("Numbers")

Outputs = tuple[jax.Array, ...]
Cotangents = list[jax.Array | None]
Forward = Callable[[Options, Arrays, Constants], tuple[Outputs, Numbers]]
Gradients = Callable[[Options, Arrays, Constants, Numbers, Cotangents], Arrays]


class Rules(NamedTuple):
    """`rows_vjp` and `rows_jvp` return all outputs; `total_jvp` the sum of weight times loss."""

    rows_vjp: Callable[..., tuple[jax.Array, ...]]
    rows_jvp: Callable[..., tuple[jax.Array, ...]]
    total_jvp: Callable[..., jax.Array]


def build_rules(
    forward: Forward[Arrays, Constants, Numbers],
    gradients: Gradients[Arrays, Constants, Numbers],
) -> Rules:
    """The three differentiable functions of one forward pass and its gradient."""

    def blockwise(
        options: Options, arrays: Arrays, constants: Constants
    ) -> tuple[Outputs, Numbers]:
        def of_rows(inputs: tuple[Arrays, Constants], in_cache: bool) -> tuple[Outputs, Numbers]:
            return forward(options._replace(in_cache=in_cache), *inputs)

        return in_row_blocks(of_rows, (arrays, constants), arrays[0].shape[:-1])

    return Rules(
        _rows_vjp(blockwise, gradients),
        _rows_jvp(blockwise, gradients),
        _total_jvp(blockwise, gradients),
    )


def _rows_vjp(
    forward: Forward[Arrays, Constants, Numbers], gradients: Gradients[Arrays, Constants, Numbers]
) -> Callable[..., Outputs]:
    """Reverse mode: keeps the residuals; an output that is not used costs nothing."""

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def rows(options: Options, arrays: Arrays, constants: Constants) -> Outputs:
        return forward(options, arrays, constants)[0]

    def fwd(
        options: Options, arrays: Any, constants: Any
    ) -> tuple[Outputs, tuple[Arrays, Constants, Numbers]]:
        arrays, constants = jax.tree.map(lambda primal: primal.value, (arrays, constants))
        outputs, numbers = forward(options, arrays, constants)
        return outputs, (arrays, constants, numbers)

    def bwd(
        options: Options,
        residuals: tuple[Arrays, Constants, Numbers],
        cotangents: tuple[jax.Array | SymbolicZero, ...],
    ) -> tuple[tuple[jax.Array, ...], None]:
        used = [None if isinstance(g, SymbolicZero) else g for g in cotangents]
        wide = gradients(options, *residuals, used)
        arrays = residuals[0]
        return tuple(g.astype(x.dtype) for g, x in zip(wide, arrays, strict=True)), None

    rows.defvjp(fwd, bwd, symbolic_zeros=True)
    return rows


def _rows_jvp(
    forward: Forward[Arrays, Constants, Numbers], gradients: Gradients[Arrays, Constants, Numbers]
) -> Callable[..., Outputs]:
    """Both modes: the tangent of a row is its gradient times the arrays' tangents.

    The gradient is rematerialised when the tangent is transposed, so reverse mode keeps no more
    than `rows_vjp` does.
    """

    @partial(jax.custom_jvp, nondiff_argnums=(0,))
    def rows(options: Options, arrays: Arrays, constants: Constants) -> Outputs:
        return forward(options, arrays, constants)[0]

    def jvp(
        options: Options,
        primals: tuple[Arrays, Constants],
        tangents: tuple[tuple[jax.Array | SymbolicZero, ...], Any],
    ) -> tuple[Outputs, Outputs]:
        outputs, numbers = forward(options, *primals)
        # An array that is not differentiated has no tangent: zeros would be kept, as large as it.
        # Widened here, once, so that in reverse the outputs' shares are summed before they round.
        wide = outputs[0].dtype
        dots = [None if isinstance(dot, SymbolicZero) else dot.astype(wide) for dot in tangents[0]]

        def tangent(
            i: int, arrays: Arrays, constants: Constants, numbers: Numbers, dots: Cotangents
        ) -> jax.Array:
            one: Cotangents = [None] * len(outputs)
            one[i] = jnp.ones_like(outputs[i])
            pairs = zip(gradients(options, arrays, constants, numbers, one), dots, strict=True)
            return sum(
                (row_sum(g * dot) for g, dot in pairs if dot is not None),
                start=jnp.zeros_like(outputs[i]),
            )

        return outputs, tuple(
            jax.checkpoint(partial(tangent, i))(*primals, numbers, dots)
            for i in range(len(outputs))
        )

    rows.defjvp(jvp, symbolic_zeros=True)

    return rows


def _total_jvp(
    forward: Forward[Arrays, Constants, Numbers], gradients: Gradients[Arrays, Constants, Numbers]
) -> Callable[..., jax.Array]:
    """Both modes, for a scalar: the gradient is computed once and kept, being what is asked for."""

    @partial(jax.custom_jvp, nondiff_argnums=(0,))
    def total(
        options: Options, arrays: Arrays, constants: Constants, weights: jax.Array
    ) -> jax.Array:
        return jnp.sum(multiply(weights, forward(options, arrays, constants)[0][0]))

    def jvp(
        options: Options,
        primals: tuple[Arrays, Constants, jax.Array],
        tangents: tuple[tuple[jax.Array | SymbolicZero, ...], Any, jax.Array | SymbolicZero],
    ) -> tuple[jax.Array, jax.Array]:
        arrays, constants, weights = primals
        (loss,), numbers = forward(options, arrays, constants)
        computed = gradients(options, arrays, constants, numbers, [weights])
        total = jnp.sum(multiply(weights, loss))
        # What is not differentiated is left out: 0 times an infinite loss would be NaN.
        products = [
            g * dot.astype(g.dtype)
            for g, dot in zip(computed, tangents[0], strict=True)
            if not isinstance(dot, SymbolicZero)
        ]
        if not isinstance(tangents[2], SymbolicZero):
            products.append(jnp.where(weights == 0, 0, loss) * tangents[2])
        return total, sum(map(jnp.sum, products), start=jnp.zeros_like(total))

    total.defjvp(jvp, symbolic_zeros=True)
    return total


def multiply(weight: jax.Array | float, x: jax.Array) -> jax.Array:
    """`weight * x` with `0 * inf = 0 * nan = 0`."""
    if isinstance(weight, float):
        return weight * x if weight else jnp.zeros_like(x)
    return jnp.where(weight == 0, 0, weight * x)


def drop_rows(
    kept: jax.Array, logits: jax.Array, numbers: Numbers, cotangents: Cotangents
) -> tuple[jax.Array, Numbers, Cotangents]:
    """The gradient's inputs with rows that do not count read as others and weighed by 0.

    Whatever such a row holds would meet a cotangent of 0, and 0 * NaN is NaN.
    """
    return (
        jnp.where(kept[..., None], logits, 0),
        jax.tree.map(lambda number: jnp.where(kept, number, 1), numbers),
        [None if g is None else jnp.where(kept, g, 0) for g in cotangents],
    )


def with_zeros(cotangents: Cotangents, like: jax.Array) -> list[jax.Array]:
    """Four cotangents, zeros where one is None or missing."""
    padded = [*cotangents, None, None, None][:4]
    return [jnp.zeros_like(like) if g is None else g for g in padded]
