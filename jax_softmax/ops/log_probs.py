"""Log-probabilities of labels, and the entropy, from logits or from features and a linear layer.

The formulas for a row are in `_math/log_probs.py`; a label's log-probability without the entropy is
minus its loss. The derivative rules are those of the losses.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple, Unpack, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_softmax.ops._arguments import (
    Axis,
    canonical_axes,
    check_ignore_index,
    check_labels_of_rows,
    classes_last,
    floating_array,
    label_array,
)
from jax_softmax.ops._autodiff import Inputs, build_rules, names_forward_mode
from jax_softmax.ops._jit import jitted
from jax_softmax.ops._linear.arguments import (
    check_layer,
    check_same,
)
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
from jax_softmax.ops._linear.rules import rows_jvp, rows_vjp
from jax_softmax.ops._math import integer_labels, log_probs
from jax_softmax.ops._math.row_data import Outputs, RowData
from jax_softmax.ops._mesh import AxisName, vary, varying_axes
from jax_softmax.ops._options import (
    LinearLogProbOptions,
    LogProbOptions,
    Options,
    Rule,
    check_options,
    check_rule,
)

_ONE = build_rules(integer_labels.LOSS)
_SEVERAL = build_rules(log_probs.LOSS)

LogProbs = jax.Array | tuple[jax.Array, jax.Array]


@overload
def label_log_probs(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    *,
    return_entropy: Literal[False] = False,
    **options: Unpack[LogProbOptions],
) -> jax.Array: ...


@overload
def label_log_probs(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    *,
    return_entropy: Literal[True],
    **options: Unpack[LogProbOptions],
) -> tuple[jax.Array, jax.Array]: ...


@overload
def label_log_probs(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    *,
    return_entropy: bool,
    **options: Unpack[LogProbOptions],
) -> LogProbs: ...


@names_forward_mode
def label_log_probs(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    *,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    ignore_index: int | None = None,
    return_entropy: bool = False,
    rule: Rule = "vjp",
) -> LogProbs:
    r"""Log-probabilities :math:`z_y - \log \sum_j e^{z_j}` of labels `y`, for logits `z`.

    With `return_entropy=True` also each row's entropy :math:`-\sum_j p_j \log p_j`. Both are of
    the logits as capped and divided by the temperature. Both have derivatives, which a backward
    pass computes together. Values are within 3 eps and gradients within 5 eps of the exact ones for
    the logits as given, even where a probability rounds to 1.

    Args:
      logits: `[..., V]` floating, classes along `axis`. `-inf` is a class that cannot happen.
      labels: `[...]` integers in `[0, V)`, or `[..., K]` for several classes of a row, which may
        repeat. A label that is no class gives NaN.
      axis: the class axis; for a tuple of axes (or None, all of them) a label is a flat index.
      temperature: what logits are divided by, after `soft_cap`.
      soft_cap: None, or `c > 0`: logits become `c * tanh(logits / c)`.
      ignore_index: None, or the label whose log-probability is to be 0, without a derivative. A row
        with no other label has an entropy of 0 too, whatever the row holds.
      return_entropy: return `(log_probs, entropy)`.
      rule: `"vjp"`, reverse mode (and forward over reverse), or `"jvp"`, which supports `jax.jvp`,
        `jax.jacfwd` and `jax.linearize` too.

    Returns:
      Log-probabilities shaped like `labels` (natural log), float32 for half-precision logits, else
      in the logits' dtype; with `return_entropy=True` the entropy `[...]` beside them. A row with a
      NaN or `+inf` logit is NaN.

    Raises:
      TypeError: if `logits` is not floating, `labels` is not an integer array, or an option is
        traced or not a number.
      ValueError: if shapes, `axis` or an option do not fit.

    See Also:
      `linear_label_log_probs` without the logits; `top_k_log_probs`; `log_softmax` for all classes.

    Source: PPO, Schulman et al., arXiv:1707.06347; GRPO, Shao et al., arXiv:2402.03300.

    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[1.2, -0.8, -0.5], [40.0, 0.0, 0.0]])
    >>> log_probs, entropy = label_log_probs(logits, jnp.array([2, 0]), return_entropy=True)
    >>> with jnp.printoptions(precision=4):
    ...     print(log_probs, entropy)
    [-1.9761e+00 -8.4967e-18] [7.1712e-01 3.4837e-16]
    """
    check_rule(rule)
    z = floating_array("logits", logits)
    shape, axes = z.shape, canonical_axes(axis, z.ndim)
    z = classes_last(z, axes)
    if z.shape[-1] == 0:
        raise ValueError(
            f"logits: expected at least one class along axis {axis}, got shape {shape}."
        )
    index = label_array(labels, ignore_index)
    check_labels_of_rows(index, z.shape[:-1], f"the logits' {shape} without axis {axis}")
    check_ignore_index(ignore_index, index.dtype)
    options = check_options(0.0, 0.0, soft_cap, temperature, return_entropy, None)
    moved = axes != (len(shape) - 1,)
    found: LogProbs = _of_logits(_Call(options._replace(moved=moved), rule, ignore_index), z, index)
    return found


class _Call(NamedTuple):
    """What is constant in the compiled program."""

    options: Options
    rule: Rule
    ignore_index: int | None


class _Labels(NamedTuple):
    """Labels of rows, as the rules take them.

    Attributes:
      classes: `[...]`, or `[..., K]` for the formulas of several labels.
      wanted: None for all, or booleans shaped like `classes`: those that are not ignored.
      counted: None for all, or `[...]`: the rows with a label that is wanted.
    """

    classes: jax.Array
    wanted: jax.Array | None
    counted: jax.Array | None


def _wanted_labels(labels: jax.Array, ignore_index: int | None, together: bool) -> _Labels:
    """The labels, `[..., 1]` for one a row if `together` with the entropy or others."""
    wanted = None if ignore_index is None else labels != ignore_index
    if wanted is not None:
        # The label of a row that does not count must not matter, not even through 0 * NaN.
        labels = jnp.where(wanted, labels, 0)
    if not together:
        return _Labels(labels, wanted, wanted)
    return _Labels(labels, wanted, None if wanted is None else jnp.any(wanted, -1))


def _together(labels: jax.Array, rows: int, options: Options) -> bool:
    """Whether the formulas are those of several labels and the entropy."""
    return labels.ndim > rows or options.stats


@jitted(0)
def _of_logits(call: _Call, logits: jax.Array, labels: jax.Array) -> LogProbs:
    rows = logits.ndim - 1
    together, alone = _together(labels, rows, call.options), labels.ndim == rows
    given = _wanted_labels(
        labels[..., None] if together and alone else labels, call.ignore_index, together
    )
    index, valid = integer_labels.class_index(given.classes, logits.shape[-1])
    data = RowData(column=index, valid=valid, counted=given.counted)
    inputs = Inputs(vary(logits, varying_axes(logits, index, valid)))
    data = jax.tree.map(lambda x: vary(x, varying_axes(logits, index, valid)), data)
    rules = _SEVERAL if together else _ONE
    by_rows = rules.rows_vjp if call.rule == "vjp" else rules.rows_jvp
    return _found(call.options, by_rows(call.options, inputs, data), given, together and alone)


def _found(options: Options, outputs: Outputs, given: _Labels, alone: bool) -> LogProbs:
    """What is returned: 0 for what is ignored; `alone` says that one label a row was made K."""
    # Not -loss, which is -0 for a certain label.
    found: jax.Array
    found = 0 - outputs.loss if outputs.label_log_prob is None else outputs.label_log_prob
    if given.wanted is not None:
        found = jnp.where(given.wanted, found, 0)
    found = found[..., 0] if alone else found
    if not options.stats:
        return found
    entropy: jax.Array = outputs.entropy
    return found, entropy if given.counted is None else jnp.where(given.counted, entropy, 0)


@overload
def linear_label_log_probs(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    return_entropy: Literal[False] = False,
    **options: Unpack[LinearLogProbOptions],
) -> jax.Array: ...


@overload
def linear_label_log_probs(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    return_entropy: Literal[True],
    **options: Unpack[LinearLogProbOptions],
) -> tuple[jax.Array, jax.Array]: ...


@overload
def linear_label_log_probs(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    return_entropy: bool,
    **options: Unpack[LinearLogProbOptions],
) -> LogProbs: ...


@names_forward_mode
def linear_label_log_probs(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    kernel_layout: KernelLayout = "dv",
    temperature: float = 1.0,
    soft_cap: float | None = None,
    ignore_index: int | None = None,
    return_entropy: bool = False,
    precision: jax.lax.PrecisionLike = None,
    block_size: int | tuple[int, int] | None = None,
    axis_name: AxisName = None,
    data_axis_name: AxisName = None,
    num_classes: int | None = None,
    rule: Rule = "vjp",
) -> LogProbs:
    r"""`label_log_probs` of the logits `features @ kernel + bias`, which are never held whole.

    They are :math:`z_y - \log \sum_j e^{z_j}`. A block of rows of logits is computed, used and
    dropped. Values take one matrix product; with gradients there are four in all, since the
    backward pass computes the logits again. A block whose labels are all ignored is left out: it
    takes none. Blocks are adjacent rows of the last axes, so sort rows, or pack what is ignored
    together, to gain by that. (Under `jit` of several devices outside `jax.shard_map` a block is
    every n-th row, which leaves rows on their devices.)

    Args:
      features: `[..., D]` floating.
      kernel: `[D, V]` floating.
      labels: `[...]` integers in `[0, V)`, or `[..., K]` for several classes of a row.
      bias: None, or `[V]`.
      kernel_layout: `"dv"`, or `"vd"` for a kernel `[V, D]`, such as tied embeddings.
      temperature: what logits are divided by, after `soft_cap`.
      soft_cap: None, or `c > 0`: logits become `c * tanh(logits / c)`.
      ignore_index: None, or the label whose log-probability is to be 0, without a derivative. A row
        with no other label has an entropy of 0 too, whatever its features hold.
      return_entropy: return `(log_probs, entropy)`.
      precision: of the products, as in `jnp.matmul`.
      block_size: as in `linear_softmax_cross_entropy`.
      axis_name: inside `jax.shard_map`, the mesh axis over which the classes are spread: `kernel`
        and `bias` are this device's slice, in the order of the devices.
      data_axis_name: inside `jax.shard_map`, the mesh axis over which the rows are spread. It is
        checked and changes nothing: each row has a value of its own.
      num_classes: how many classes there are if the slices are padded.
      rule: `"vjp"` or `"jvp"`, as in `label_log_probs`.

    Returns:
      Log-probabilities shaped like `labels`, float32 for half precision, else in the logits' dtype;
      with `return_entropy=True` the entropy `[...]` beside them.

    Raises:
      TypeError: if an array's or option's type does not fit, or an option is traced.
      ValueError: if shapes, an option or a mesh axis do not fit.

    See Also:
      `label_log_probs` for logits; `linear_top_k_log_probs`; `causal_cross_entropy` for a loss.

    Source: PPO, Schulman et al., arXiv:1707.06347; GRPO, Shao et al., arXiv:2402.03300.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> features = jax.random.normal(jax.random.key(0), (2, 3, 4))
    >>> kernel = jax.random.normal(jax.random.key(1), (4, 10))
    >>> tokens = jnp.array([[1, 2, -100], [3, 4, 5]])
    >>> log_probs, entropy = linear_label_log_probs(
    ...     features, kernel, tokens, temperature=0.7, ignore_index=-100, return_entropy=True
    ... )
    >>> log_probs.shape, entropy.shape, float(log_probs[0, 2])
    ((2, 3), (2, 3), 0.0)
    """
    linear = check_layer(features, kernel, bias, kernel_layout)
    index = label_array(labels, ignore_index)
    whose = f"the features' {linear.features.shape} without the last axis"
    check_labels_of_rows(index, linear.features.shape[:-1], whose)
    check_ignore_index(ignore_index, index.dtype)
    options = check_options(0.0, 0.0, soft_cap, temperature, return_entropy, None)
    together = _together(index, linear.features.ndim - 1, options)
    call = LayerCall(
        (log_probs if together else integer_labels).LOSS,
        options,
        Product(kernel_layout, precision),
        rule,
        ignore_index=ignore_index,
        axis_name=axis_name,
        data_axis_name=data_axis_name,
    )
    call = check_call(call, linear, block_size, num_classes)
    check_same(call.axis_name, labels=index)

    def results(rows: Any, _: Any) -> Any:
        return (rows, rows) if return_entropy else rows

    return placed(partial(_of_layer, call), linear, results)(linear, index)


@jitted(0)
def _of_layer(call: LayerCall, linear: Linear, labels: jax.Array) -> LogProbs:
    linear, _, call = padded(call, linear, Rows())
    rows = linear.features.ndim - 1
    together, alone = _together(labels, rows, call.options), labels.ndim == rows
    given = _wanted_labels(
        labels[..., None] if together and alone else labels, call.ignore_index, together
    )
    data = row_data(call, linear, Rows(given.classes))._replace(counted=given.counted)
    weight = jnp.ones(linear.features.shape[:-1], sums_dtype(linear))
    linear, _ = varied(call, linear, data, weight)
    static = static_of(call, linear, data)
    outputs = (rows_vjp if call.rule == "vjp" else rows_jvp)(static, linear, data)
    return _found(call.options, outputs, given, together and alone)
