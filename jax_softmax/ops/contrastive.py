"""The contrastive loss of two towers (InfoNCE, CLIP), whose similarities are never held whole.

It is `linear_softmax_cross_entropy` with the other tower as the kernel: each row's own partner is
the label among all partners.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jax_softmax.ops._arguments import floating_array, real_array
from jax_softmax.ops._linear.arguments import check_row_mask, check_varies
from jax_softmax.ops._math.logits import statistics_dtype
from jax_softmax.ops._mesh import AxisName, axis_names, varying_axes
from jax_softmax.ops._options import Implementation, Reduction, Rule, check_options
from jax_softmax.ops.linear_cross_entropy import linear_softmax_cross_entropy


def contrastive_cross_entropy(
    a: ArrayLike,
    b: ArrayLike,
    *,
    temperature: float = 1.0,
    logit_scale: ArrayLike | None = None,
    symmetric: bool = True,
    label_smoothing: float = 0.0,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    rule: Rule = "vjp",
    reduction: Reduction = "mean",
    precision: jax.lax.PrecisionLike = None,
    block_size: int | tuple[int, int] | None = None,
    axis_name: AxisName = None,
    implementation: Implementation | None = None,
) -> jax.Array:
    r"""Cross-entropy of the similarities `a @ b.T / temperature`, with the diagonal as labels.

    The loss of row `i` is :math:`\log \sum_j e^{s_{ij}} - s_{ii}`. With `symmetric=True` it is the
    mean of that and of the same for the columns, as in CLIP; else the rows' alone (InfoNCE). Towers
    are taken as they are: divide by their norms first, if cosines are meant.

    The `N x N` similarities are computed, used and dropped a block of rows at a time: a direction
    takes one matrix product, or three with its gradients.

    Args:
      a: `[N, D]` floating, one tower's features.
      b: `[N, D]` floating, the other's; row `i` is the partner of row `i` of `a`.
      temperature: what similarities are divided by, a Python number.
      logit_scale: None, or a number that multiplies them instead, which may be traced and has a
        derivative: CLIP's `exp(t)`. Half-precision towers are then multiplied in float32.
      symmetric: whether columns count as rows do.
      label_smoothing: in [0, 1], as in `linear_softmax_cross_entropy`.
      where: None, or booleans that broadcast to `[N]`: the pairs that count, whatever the others
        hold. The others are no negatives either.
      sample_weight: None, or factors of the pairs that broadcast to `[N]`, with a derivative. A
        pair of weight 0 remains a negative of the others.
      rule: `"vjp"` or `"jvp"`, as in `linear_softmax_cross_entropy`.
      reduction: `"none"`, `"sum"`, or `"mean"`: the sum divided by the sum of `sample_weight`.
      precision: of the products, as in `jnp.matmul`.
      block_size: as in `linear_softmax_cross_entropy`.
      axis_name: inside `jax.shard_map`, the mesh axis over which the pairs are spread. Each device
        gathers the other tower, `[N, D]`, and no similarities; a total is over all pairs. Without
        it towers that differ between devices raise; pass `()` if each device's are meant alone.
      implementation: as in `linear_softmax_cross_entropy`.

    Returns:
      `[N]` losses of pairs (natural log), or a scalar; float32 for half precision, else in the
      towers' dtype.

    Raises:
      TypeError: if a tower is not floating, or an option is traced or not a number.
      ValueError: if shapes, an option or a mesh axis do not fit, if both a temperature and a
        `logit_scale` are given, or both `where` and label smoothing, which has no mass for pairs
        that do not count.

    See Also:
      `linear_softmax_cross_entropy`, for classes that are no partners.

    Source: InfoNCE, van den Oord et al., arXiv:1807.03748; CLIP, Radford et al.,
    arXiv:2103.00020.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> images, texts = jax.random.normal(jax.random.key(0), (2, 8, 16))
    >>> images, texts = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts))
    >>> def loss(t):
    ...     return contrastive_cross_entropy(images, texts, logit_scale=jnp.exp(t))
    >>> value, slope = jax.value_and_grad(loss)(jnp.log(1 / 0.07))
    >>> value.shape, slope.shape
    ((), ())
    """
    first, second = floating_array("a", a), floating_array("b", b)
    for name, x, other in (("a", first, second), ("b", second, first)):
        if x.ndim != 2 or x.shape != other.shape:
            raise ValueError(
                f"{name}: expected two towers of one shape [N, D], got {first.shape} and "
                f"{second.shape}."
            )
    if len(first) == 0:
        raise ValueError(f"a: expected at least one pair, got shape {first.shape}.")
    temperature = check_options(
        label_smoothing, 0.0, None, temperature, False, implementation
    ).temperature
    scale = _scale(logit_scale, temperature)
    mask = None if where is None else check_row_mask(where, first.shape[:1], len(first))
    if mask is not None and label_smoothing:
        raise ValueError(
            f"label_smoothing: expected 0 beside where, got {label_smoothing}; leave out the pairs "
            f"that do not count before the call."
        )
    _check_axis(axis_name, first, second)
    axis_name = axis_name or None
    bias = None
    if mask is not None:
        first, second = (jnp.where(mask[:, None], x, 0) for x in (first, second))
        bias = jnp.where(mask, 0, -jnp.inf).astype(statistics_dtype(first.dtype))
        if axis_name is not None:
            bias = lax.all_gather(bias, axis_name, axis=0, tiled=True)

    def direction(rows: jax.Array, classes: jax.Array) -> jax.Array:
        labels = jnp.arange(len(rows), dtype=jnp.int32)
        if axis_name is not None:
            classes = lax.all_gather(classes, axis_name, axis=0, tiled=True)
            labels = labels + lax.axis_index(axis_name) * len(rows)
        if scale is not None:
            wide = statistics_dtype(rows.dtype)
            rows, classes = rows.astype(wide) * scale.astype(wide), classes.astype(wide)
        return linear_softmax_cross_entropy(
            rows,
            classes,
            labels,
            kernel_layout="vd",
            bias=bias,
            where=mask,
            label_smoothing=label_smoothing,
            sample_weight=sample_weight,
            temperature=temperature,
            rule=rule,
            reduction=reduction,
            precision=precision,
            block_size=block_size,
            data_axis_name=axis_name,
            implementation=implementation,
        )

    loss = direction(first, second)
    return (loss + direction(second, first)) / 2 if symmetric else loss


def _scale(logit_scale: ArrayLike | None, temperature: float) -> jax.Array | None:
    if logit_scale is None:
        return None
    if temperature != 1:
        raise ValueError(
            f"logit_scale: expected None beside a temperature ({temperature}), got both; pass "
            f"logit_scale / temperature as the one."
        )
    scale = real_array("logit_scale", logit_scale)
    if scale.ndim:
        raise ValueError(f"logit_scale: expected a number, got an array of shape {scale.shape}.")
    return scale


def _check_axis(axis_name: AxisName, *towers: jax.Array) -> None:
    """Raises ValueError if the towers are not spread over `axis_name`, or over more than that."""
    for name, x in zip(("a", "b"), towers, strict=True):
        check_varies("axis_name", axis_name or None, name, x)
    over = sorted(varying_axes(*towers) - set(axis_names(axis_name or None)))
    if over and axis_name != ():
        raise ValueError(
            f"axis_name: expected the axes of the pairs, got {axis_name!r} for towers that differ "
            f"along {over}: the pairs of other devices would be no negatives. Pass them all, or "
            f"axis_name=() if each device's pairs are meant alone."
        )
