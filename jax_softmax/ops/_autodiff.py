"""Turns a row's loss into differentiable functions of logits.

There are four: `rows_vjp`, `rows_jvp` and, for a weighted sum, `total_vjp` and `total_jvp`. All of
them use the loss's forward pass and its gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jax_softmax.ops._backends.dispatch import backend_of
from jax_softmax.ops._backends.interface import Backend
from jax_softmax.ops._backends.sums import row_sum
from jax_softmax.ops._jit import absent, is_absent
from jax_softmax.ops._math.row_data import (
    NOT_DIFFERENTIABLE,
    Outputs,
    Residuals,
    RowData,
    differentiated_where,
    output_of,
    unit_cotangents,
)
from jax_softmax.ops._math.row_loss import RowLoss
from jax_softmax.ops._math.slices import whole
from jax_softmax.ops._mesh import vary, varying_axes
from jax_softmax.ops._options import Options
from jax_softmax.ops._reduction import times_slope, totalled

P = ParamSpec("P")
R = TypeVar("R")


class Inputs(NamedTuple):
    """The differentiated arrays, `[..., V]` each; `labels` are class probabilities, or None."""

    logits: Any
    labels: Any = None


class Kept(NamedTuple):
    """What the forward pass keeps for the backward pass."""

    inputs: Inputs
    data: RowData
    residuals: Residuals


class TotalKept(NamedTuple):
    """The same for a total, whose gradient is known but for a factor.

    Attributes:
      gradient: of the logits, for a cotangent of 1; absent if it is not wanted.
      loss: `[...]`, of the rows.
      weights: `[...]`.
      rows: for other cotangents, what the gradient is computed from again.
    """

    gradient: jax.Array
    loss: jax.Array
    weights: jax.Array
    rows: Kept


class Rules(NamedTuple):
    """`rows_vjp` and `rows_jvp` return outputs of rows, the others the weighted sum of losses.

    `total_vjp` gains only where the loss `reads_once(options, inputs, data)`.
    """

    rows_vjp: Callable[[Options, Inputs, RowData], Outputs]
    rows_jvp: Callable[[Options, Inputs, RowData], Outputs]
    total_vjp: Callable[[Options, Inputs, RowData, jax.Array], Outputs]
    total_jvp: Callable[[Options, Inputs, RowData, jax.Array], Outputs]
    reads_once: Callable[[Options, Inputs, RowData], bool]


def build_rules(loss: RowLoss) -> Rules:
    """The differentiable functions of a row's loss."""

    def reads_once(options: Options, inputs: Inputs, data: RowData) -> bool:
        backend, logits = backend_of(options.implementation), inputs.logits
        return loss.reads_once(backend, options, logits, data, logits.dtype)

    return Rules(_rows_vjp(loss), _rows_jvp(loss), _total_vjp(loss), _total_jvp(loss), reads_once)


def _forward(
    loss: RowLoss, options: Options, inputs: Inputs, data: RowData
) -> tuple[Outputs, Residuals]:
    def of_rows(backend: Backend, given: tuple[Inputs, RowData]) -> tuple[Outputs, Residuals]:
        (logits, labels), data = given
        data = data._replace(labels=labels)
        return loss.forward(options, whole(backend, logits, data, options), data)

    if data.counted is not None:
        inputs = inputs._replace(logits=differentiated_where(data.counted, inputs.logits))
    backend = backend_of(options.implementation)
    return backend.by_rows(of_rows, (inputs, data), inputs.logits.shape[:-1])


def _gradients(loss: RowLoss, options: Options, kept: Kept, cotangents: Outputs) -> Inputs:
    (logits, labels), data, residuals = kept
    data = data._replace(labels=labels)
    backend = backend_of(options.implementation)
    return Inputs(*loss.gradients(backend, options, logits, data, residuals, cotangents, True))


def _rows_vjp(loss: RowLoss) -> Callable[..., Outputs]:
    """Reverse mode: keeps the residuals. An unused output costs nothing."""

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def rows(options: Options, inputs: Inputs, data: RowData) -> Outputs:
        return _forward(loss, options, inputs, data)[0]

    def fwd(options: Options, inputs: Any, data: Any) -> tuple[Outputs, Kept]:
        inputs, data = jax.tree.map(lambda primal: primal.value, (inputs, data))
        outputs, residuals = _forward(loss, options, inputs, data)
        return outputs, Kept(inputs, data, residuals)

    def bwd(options: Options, kept: Kept, cotangents: Outputs) -> tuple[Inputs, None]:
        wide = _gradients(loss, options, kept, used(cotangents))
        return jax.tree.map(lambda g, x: g.astype(x.dtype), wide, kept.inputs), None

    rows.defvjp(fwd, bwd, symbolic_zeros=True)
    return rows


def _rows_jvp(loss: RowLoss) -> Callable[..., Outputs]:
    """Both modes: the tangent of a row is its gradient times the inputs' tangents.

    The gradient is rematerialised when the tangent is transposed, so reverse mode keeps no more
    than `rows_vjp` does.
    """

    @partial(jax.custom_jvp, nondiff_argnums=(0,))
    def rows(options: Options, inputs: Inputs, data: RowData) -> Outputs:
        return _forward(loss, options, inputs, data)[0]

    def jvp(
        options: Options, primals: tuple[Inputs, RowData], tangents: tuple[Inputs, Any]
    ) -> tuple[Outputs, Outputs]:
        outputs, residuals = _forward(loss, options, *primals)
        like = residuals.rows.total
        # Widened here, once, so that reverse mode sums the outputs' shares before it rounds them.
        dots = known(tangents[0], like.dtype)

        def tangent(name: str, kept: Kept, dots: Inputs) -> jax.Array:
            each = [
                _along(_gradients(loss, options, kept, one), dots, row_sum, like)
                for one in unit_cotangents(name, jnp.ones_like(like), kept.data)
            ]
            return output_of(name, each, kept.data)

        kept = Kept(*primals, residuals)
        along = {
            name: jax.checkpoint(partial(tangent, name))(kept, dots)
            for name in loss.outputs(options)
        }
        return outputs, with_no_tangent(Outputs(**along), outputs)

    rows.defjvp(jvp, symbolic_zeros=True)
    return rows


def _total_vjp(loss: RowLoss) -> Callable[..., Outputs]:
    """Reverse mode, for a scalar: the forward rule computes the gradient in the same pass.

    The cotangent is nearly always 1, and a product with it costs nothing. In half precision the
    gradient is rounded once, after the cotangent: unless that is 1 it is computed again, which
    reads and writes no more than a product with the one that was kept.
    """

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def total(options: Options, inputs: Inputs, data: RowData, weights: jax.Array) -> Outputs:
        return totalled(weights, _forward(loss, options, inputs, data)[0])

    def fwd(options: Options, inputs: Any, data: Any, weights: Any) -> tuple[Outputs, TotalKept]:
        wanted = inputs.logits.perturbed
        inputs, data, weights = jax.tree.map(lambda primal: primal.value, (inputs, data, weights))
        gradient, logits = absent(), inputs.logits
        if data.counted is not None:
            logits = differentiated_where(data.counted, logits)
        if wanted and loss.at_once is not None:
            outputs, residuals, gradient = loss.at_once(
                backend_of(options.implementation), options, logits, data, weights, logits.dtype
            )
        else:
            outputs, residuals = _forward(loss, options, inputs, data)
        rows = Kept(inputs, data, residuals)
        kept = TotalKept(gradient, outputs.loss, weights, rows)
        return totalled(weights, outputs), kept

    def bwd(
        options: Options, kept: TotalKept, cotangents: Outputs
    ) -> tuple[Inputs, None, jax.Array | None]:
        g = used(cotangents).loss
        if g is None:
            return Inputs(None), None, None
        by_weights = times_slope(g, kept.weights, kept.loss)
        if is_absent(kept.gradient):
            return Inputs(None), None, by_weights
        if kept.gradient.dtype == g.dtype:
            return Inputs(g * kept.gradient), None, by_weights
        # Their types must agree on the mesh axes that they vary over.
        axes = varying_axes(g, kept.gradient)
        gradient = vary(kept.gradient, axes)

        def again() -> jax.Array:
            wide = _gradients(loss, options, kept.rows, Outputs(g * kept.weights)).logits
            return vary(wide.astype(gradient.dtype), axes)

        kept_gradient = lax.cond(g == 1, lambda: _times_one(g, gradient), again)
        return Inputs(kept_gradient), None, by_weights

    total.defvjp(fwd, bwd, symbolic_zeros=True)
    return total


@jax.custom_jvp
def _times_one(one: jax.Array, x: jax.Array) -> jax.Array:
    """`one * x` for a factor that is 1 but may have a derivative."""
    return x


@_times_one.defjvp
def _times_one_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    one, x = primals
    return x, (tangents[0] * x + one * tangents[1]).astype(x.dtype)


def _total_jvp(loss: RowLoss) -> Callable[..., Outputs]:
    """Both modes, for a scalar: the gradient is computed once and kept, since it will be used."""

    @partial(jax.custom_jvp, nondiff_argnums=(0,))
    def total(options: Options, inputs: Inputs, data: RowData, weights: jax.Array) -> Outputs:
        return totalled(weights, _forward(loss, options, inputs, data)[0])

    def jvp(
        options: Options,
        primals: tuple[Inputs, RowData, jax.Array],
        tangents: tuple[Inputs, Any, Any],
    ) -> tuple[Outputs, Outputs]:
        inputs, data, weights = primals
        outputs, residuals = _forward(loss, options, inputs, data)
        kept = Kept(inputs, data, residuals)
        computed = _gradients(loss, options, kept, Outputs(weights))
        found = totalled(weights, outputs)
        # Inputs that are not differentiated are left out: 0 times an infinite loss would be NaN.
        dots = known(tangents[0], found.loss.dtype)
        tangent = _along(computed, dots, jnp.sum, found.loss)
        if not isinstance(tangents[2], SymbolicZero):
            tangent += jnp.sum(times_slope(tangents[2], weights, outputs.loss))
        return found, with_no_tangent(Outputs(tangent), found)

    total.defjvp(jvp, symbolic_zeros=True)
    return total


def _along(
    gradients: Inputs,
    dots: Inputs,
    add_up: Callable[[jax.Array], jax.Array],
    like: jax.Array,
) -> jax.Array:
    """The sum of gradients times tangents, for the inputs that have a tangent."""
    pairs = zip(gradients, dots, strict=True)
    return sum((add_up(g * dot) for g, dot in pairs if dot is not None), jnp.zeros_like(like))


def used(cotangents: Outputs) -> Outputs:
    """The cotangents, with None for outputs that nothing depends on."""
    known = (None if isinstance(g, SymbolicZero) else g for g in cotangents)
    return Outputs(*known)._replace(argmax=None, label_rank=None, finite=None)


def known(tangents: Inputs, dtype: jnp.dtype) -> Inputs:
    """The tangents in `dtype`, with None for inputs that are not differentiated.

    Zeros instead would be kept in memory, as large as the inputs.
    """
    return Inputs(
        *(
            None if dot is None or isinstance(dot, SymbolicZero) else dot.astype(dtype)
            for dot in tangents
        )
    )


def with_no_tangent(tangents: Outputs, outputs: Outputs) -> Outputs:
    """The tangents of outputs, with zeros for the integers and booleans."""
    values = {name: getattr(outputs, name) for name in NOT_DIFFERENTIABLE}
    zeros = {
        name: SymbolicZero(jax.typeof(value).to_tangent_aval())
        for name, value in values.items()
        if value is not None
    }
    return tangents._replace(**zeros)


def names_forward_mode(f: Callable[P, R]) -> Callable[P, R]:
    """`f`, but suggesting `rule="jvp"` when JAX says that a custom_vjp has no forward mode."""

    @functools.wraps(f)
    def explained(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return f(*args, **kwargs)
        except TypeError as error:
            if "can't apply forward-mode" not in str(error):
                raise
            name = getattr(f, "__name__", "this function")
            raise TypeError(
                f'{name}: rule="vjp", the default, has no forward-mode derivative (jax.jvp, '
                f'jax.jacfwd, jax.linearize); pass rule="jvp", which has both modes.'
            ) from error

    return explained
