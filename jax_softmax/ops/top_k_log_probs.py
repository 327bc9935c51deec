"""The k likeliest classes and their log-probabilities, from logits or from a linear layer.

They are what a teacher keeps of its predictions: constants, without a derivative.
"""

from __future__ import annotations

import operator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jax_softmax.ops._arguments import Axis, canonical_axes, classes_last, floating_array
from jax_softmax.ops._backends.dispatch import backend_of
from jax_softmax.ops._jit import jitted
from jax_softmax.ops._linear.arguments import check_layer
from jax_softmax.ops._linear.call import Call as LayerCall
from jax_softmax.ops._linear.call import (
    Rows,
    check_call,
    padded,
    placed,
    row_data,
    static_of,
    varied,
)
from jax_softmax.ops._linear.layer import KernelLayout, Linear, Product, sums_dtype
from jax_softmax.ops._linear.sweeps import forward_sweep
from jax_softmax.ops._math import top_k
from jax_softmax.ops._math.row_data import RowData
from jax_softmax.ops._math.slices import whole
from jax_softmax.ops._mesh import AxisName
from jax_softmax.ops._options import Options, check_options


class _Call(NamedTuple):
    """What is constant in the compiled program."""

    k: int
    options: Options


def top_k_log_probs(
    logits: ArrayLike,
    k: int,
    axis: Axis = -1,
    *,
    temperature: float = 1.0,
    soft_cap: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""The `k` likeliest classes of each row: their log-probabilities, and which they are.

    Log-probabilities :math:`z_i - \log \sum_j e^{z_j}` are normalised over all classes, and
    likelier classes come first, of equal logits the lower class. They are constants: their gradient
    is 0.

    Args:
      logits: `[..., V]` floating, classes along `axis`.
      k: how many classes, from 1 to V.
      axis: the class axis; for a tuple of axes (or None, all of them) classes are flat indices.
      temperature: what logits are divided by, after `soft_cap`.
      soft_cap: None, or `c > 0`: logits become `c * tanh(logits / c)`.

    Returns:
      `(log_probs, indices)`, `[..., k]` each, whatever `axis` is: natural log, float32 for
      half-precision logits, else in their dtype; and int32. A row with a NaN or `+inf` logit is
      NaN.

    Raises:
      TypeError: if `logits` is not floating, `k` is not a Python integer, or an option is traced.
      ValueError: if `k`, `axis` or an option is out of range.

    See Also:
      `linear_top_k_log_probs` without the logits; `linear_top_k_cross_entropy`, which learns from
      them.

    Source: as a teacher's targets, Hinton, Vinyals and Dean, arXiv:1503.02531.

    >>> import jax.numpy as jnp
    >>> log_probs, indices = top_k_log_probs(jnp.array([0.5, 2.0, -1.0, 2.0]), 3)
    >>> with jnp.printoptions(precision=4):
    ...     print(log_probs, indices)
    [-0.8211 -0.8211 -2.3211] [1 3 0]
    """
    z = floating_array("logits", logits)
    z = classes_last(z, canonical_axes(axis, z.ndim))
    k = _check_k(k, z.shape[-1])
    options = check_options(0.0, 0.0, soft_cap, temperature, False, None)
    return _of_logits(_Call(k, options), lax.stop_gradient(z))


def _check_k(k: int, classes: int) -> int:
    try:
        number = None if isinstance(k, bool) else operator.index(k)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(
            f"k: expected a Python integer, got {k!r}; it is a constant of the compiled program."
        )
    if number < 1 or (isinstance(classes, int) and number > classes):
        raise ValueError(f"k: expected a number from 1 to the {classes} classes, got {k}.")
    return number


@jitted(0)
def _of_logits(call: _Call, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    slices = whole(backend_of(None), logits, RowData(), call.options)
    outputs, _ = top_k.loss_of(call.k).forward(call.options, slices, RowData())
    return outputs.label_log_prob, outputs.argmax


def linear_top_k_log_probs(
    features: ArrayLike,
    kernel: ArrayLike,
    k: int,
    *,
    bias: ArrayLike | None = None,
    kernel_layout: KernelLayout = "dv",
    temperature: float = 1.0,
    soft_cap: float | None = None,
    precision: jax.lax.PrecisionLike = None,
    block_size: int | tuple[int, int] | None = None,
    axis_name: AxisName = None,
    num_classes: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""`top_k_log_probs` of the logits `features @ kernel + bias`, which are never held whole.

    They are :math:`z_i - \log \sum_j e^{z_j}` of the likeliest. A block of rows of logits is
    computed, used and dropped: one matrix product. Where the classes are spread over devices, these
    exchange `k` candidates each and a few numbers a row.

    Args:
      features: `[..., D]` floating.
      kernel: `[D, V]` floating.
      k: how many classes, from 1 to V.
      bias: None, or `[V]`.
      kernel_layout: `"dv"`, or `"vd"` for a kernel `[V, D]`, such as tied embeddings.
      temperature: what logits are divided by, after `soft_cap`.
      soft_cap: None, or `c > 0`: logits become `c * tanh(logits / c)`.
      precision: of the product, as in `jnp.matmul`.
      block_size: as in `linear_softmax_cross_entropy`.
      axis_name: inside `jax.shard_map`, the mesh axis over which the classes are spread: `kernel`
        and `bias` are this device's slice, in the order of the devices.
      num_classes: how many classes there are if the slices are padded.

    Returns:
      `(log_probs, indices)`, `[..., k]` each, as from `top_k_log_probs`; indices are of all
      devices' classes.

    Raises:
      TypeError: if an array's or option's type does not fit, or an option is traced.
      ValueError: if `k`, shapes, an option or a mesh axis do not fit.

    See Also:
      `top_k_log_probs` for logits; `linear_top_k_cross_entropy`, which learns from them.

    Source: as a teacher's targets, Hinton, Vinyals and Dean, arXiv:1503.02531.

    >>> import jax
    >>> features = jax.random.normal(jax.random.key(0), (2, 3, 4))
    >>> kernel = jax.random.normal(jax.random.key(1), (4, 1000))
    >>> log_probs, indices = linear_top_k_log_probs(features, kernel, 8)
    >>> log_probs.shape, indices.shape, indices.dtype
    ((2, 3, 8), (2, 3, 8), dtype('int32'))
    """
    linear = check_layer(features, kernel, bias, kernel_layout)
    call = LayerCall(
        top_k.loss_of(1),
        check_options(0.0, 0.0, soft_cap, temperature, False, None),
        Product(kernel_layout, precision),
        axis_name=axis_name,
    )
    call = check_call(call, linear, block_size, num_classes)
    k = _check_k(k, call.classes)
    call = call._replace(loss=top_k.loss_of(k))
    linear = jax.tree.map(lax.stop_gradient, linear)
    return placed(partial(_of_layer, call), linear, lambda rows, _: (rows, rows))(linear)


@jitted(0)
def _of_layer(call: LayerCall, linear: Linear) -> tuple[jax.Array, jax.Array]:
    linear, _, call = padded(call, linear, Rows())
    data = row_data(call, linear, Rows())
    ones = jnp.ones(linear.features.shape[:-1], sums_dtype(linear))
    linear, _ = varied(call, linear, data, ones)
    outputs = forward_sweep(static_of(call, linear, data).for_values(), linear, data).outputs
    return outputs.label_log_prob, outputs.argmax
