"""`where=` of the fused loss: rows that it leaves out do not count, whatever they hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jax_softmax import ops
from tests.grids import each_once
from tests.tolerances import assert_close

fused = ops.linear_softmax_cross_entropy
ROWS, WIDTH, CLASSES = 13, 5, 37
MASK = np.arange(ROWS) % 3 != 1


@pytest.fixture
def layer(rng):
    x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    k = rng.standard_normal((WIDTH, CLASSES)).astype(np.float32)
    b = rng.standard_normal(CLASSES).astype(np.float32)
    return x, k, b, rng.integers(0, CLASSES, ROWS).astype(np.int32)


def outcome(f, x, k, b, g):
    def total(x, k, b):
        out = f(x, k, b)
        loss = out[0] if isinstance(out, tuple) else out
        value = jnp.sum(loss * (g[: loss.size] if loss.ndim else 1))
        return value + (jnp.sum(out[1].entropy) if isinstance(out, tuple) else 0), out

    both = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
    (_, out), gradients = both(x, k, b)
    return out, gradients


@each_once(
    rule=["vjp", "jvp"],
    reduction=["none", "sum", "mean"],
    options={
        "plain": {},
        "blocks": {"block_size": 4},
        "weights": {"class_weights": np.linspace(0.1, 2, CLASSES), "soft_cap": 3.0},
        "blocks of classes": {"block_size": (4, 10), "label_smoothing": 0.1, "z_loss": 0.1},
        "statistics": {"return_stats": True, "ignore_index": 0},
        "statistics of blocks": {"return_stats": True, "block_size": (4, 10)},
    },
)
def test_masked_rows_are_left_out(layer, rule, reduction, options, rng):
    """As the loss of the other rows alone."""
    x, k, b, y = layer
    g = rng.standard_normal(ROWS).astype(np.float32)
    options = {"rule": rule, "reduction": reduction, **options}
    bad, labels = x.copy(), y.copy()
    bad[~MASK] = np.nan
    bad[1] = np.inf
    labels[~MASK] = CLASSES + 5  # no class

    def masked(x, k, b):
        return fused(x, k, labels, bias=b, where=MASK, **options)

    def alone(x, k, b):
        return fused(x, k, y[MASK], bias=b, **options)

    out, (by_x, *by) = outcome(masked, bad, k, b, g)
    expected, (by_kept, *by_others) = outcome(alone, x[MASK], k, b, g[MASK])
    np.testing.assert_array_equal(by_x[~MASK], 0)
    assert_close(by_x[MASK], by_kept, np.float32)
    for found, wanted in zip(by, by_others, strict=True):
        assert_close(found, wanted, np.float32)
    for found, wanted in zip(jax.tree.leaves(out), jax.tree.leaves(expected), strict=True):
        if found.ndim:
            np.testing.assert_array_equal(found[~MASK], 0)
            found = found[MASK]
        assert_close(found, wanted, np.float32)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_nothing_left_is_0_with_derivatives_of_0(layer, reduction):
    x, k, b, y = layer
    x = np.full_like(x, np.nan)

    def f(x, k, b):
        return fused(x, k, y, bias=b, where=np.zeros(ROWS, bool), reduction=reduction)

    out, gradients = outcome(f, x, k, b, np.ones(ROWS, np.float32))
    np.testing.assert_array_equal(out, 0)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


def test_a_mask_broadcasts_to_the_rows(rng):
    x = rng.standard_normal((3, 4, WIDTH)).astype(np.float32)
    k = rng.standard_normal((WIDTH, CLASSES)).astype(np.float32)
    y = rng.integers(0, CLASSES, (3, 4)).astype(np.int32)
    mask = np.array([[True], [False], [True]])
    found = fused(x, k, y, where=mask, reduction="none")
    full = np.array(fused(x, k, y, reduction="none"))
    full[1] = 0
    assert_close(found, full, np.float32)


def test_a_mask_has_no_derivative_and_may_be_traced(layer):
    x, k, _, y = layer
    f = jax.jit(functools.partial(fused, reduction="mean"))
    found = f(x, k, y, where=MASK)
    assert_close(found, fused(x[MASK], k, y[MASK]), np.float32)
    assert_close(f(x, k, y, where=MASK.astype(np.int32)), found, np.float32)


def test_derivative_by_a_masked_rows_weight_is_0(layer):
    x, k, _, y = layer

    def total(w):
        return fused(x, k, y, where=MASK, sample_weight=w, reduction="sum")

    gradient = jax.grad(total)(np.ones(ROWS, np.float32))
    np.testing.assert_array_equal(gradient[~MASK], 0)
    assert_close(gradient[MASK], fused(x[MASK], k, y[MASK], reduction="none"), np.float32)


@pytest.mark.parametrize(
    "shape", [(ROWS, CLASSES), (1, CLASSES), (CLASSES,), (ROWS, 1), (ROWS, WIDTH)]
)
def test_a_mask_of_classes_is_refused_with_what_to_do(layer, shape):
    """A bias of `-inf`, or `num_classes`, leaves out classes of all rows."""
    x, k, _, y = layer
    words = rf"^where: expected .*rows.*\({ROWS},\).*got .*{shape[0]}.*(bias|num_classes)"
    with pytest.raises(ValueError, match=words) as raised:
        fused(x, k, y, where=np.ones(shape, bool))
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_mask_over_devices(rng, reduction):
    x = rng.standard_normal((16, WIDTH)).astype(np.float32)
    k = rng.standard_normal((WIDTH, 40)).astype(np.float32)
    y = rng.integers(0, 40, 16).astype(np.int32)
    mask = rng.random(16) < 0.6
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    expected = jax.value_and_grad(
        lambda x, k: fused(x, k, y, where=mask, reduction=reduction).sum(), (0, 1)
    )(x, k)
    sharded = functools.partial(
        ops.sharded_linear_softmax_cross_entropy,
        mesh=mesh,
        axis_name="model",
        data_axis_name="data",
        reduction=reduction,
    )
    found = jax.jit(jax.value_and_grad(lambda x, k: sharded(x, k, y, where=mask).sum(), (0, 1)))(
        x, k
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(a, b, np.float32)

    def on_device(x, k, y, mask):
        value = fused(
            x,
            k,
            y,
            where=mask,
            reduction=reduction,
            axis_name="model",
            data_axis_name="data",
        )
        return value if reduction == "mean" else jax.lax.psum(value.sum(), "data")

    mapped = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(P("data"), P(None, "model"), P("data"), P("data")),
        out_specs=P(),
    )
    value, gradients = jax.jit(jax.value_and_grad(mapped, (0, 1)))(x, k, y, mask)
    for a, b in zip((value, *gradients), jax.tree.leaves(expected), strict=True):
        assert_close(a, b, np.float32)
