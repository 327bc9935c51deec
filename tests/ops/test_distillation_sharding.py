"""The losses of a teacher over devices: the result of one, and no logits that are sent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_softmax import ops
from tests.ops.test_sharding import collectives
from tests.tolerances import assert_close

pytestmark = pytest.mark.skipif(
    jax.device_count() < 8, reason="needs 8 devices: tests/conftest.py simulates them on a CPU"
)

ROWS, D, E, CLASSES, HELD, NAMED = 16, 5, 3, 37, 40, 4
MESHES = {
    "rows": ({"data": 8}, "data", None),
    "classes": ({"model": 8}, None, "model"),
    "both": ({"data": 2, "model": 4}, "data", "model"),
}


def arrays_of(rng):
    sizes = ((ROWS, D), (D, HELD), (ROWS, E), (E, HELD))
    return [rng.standard_normal(size).astype(np.float32) for size in sizes]


def check(mesh_name, f, arrays, specs, one, **names):
    """Values and gradients by features and kernel, and the largest array that is sent."""
    axes, rows, classes = MESHES[mesh_name]
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    names |= {"axis_name": classes, "data_axis_name": rows, "num_classes": CLASSES}
    spread = jax.shard_map(
        functools.partial(f, **names), mesh=mesh, in_specs=specs(rows, classes), out_specs=P()
    )
    compiled = jax.jit(jax.value_and_grad(spread, (0, 1))).lower(*arrays).compile()
    value, (by_features, by_kernel) = compiled(*arrays)
    expected, (right_features, right_kernel) = jax.jit(jax.value_and_grad(one, (0, 1)))(*arrays)
    assert_close(value, expected, np.float32)
    assert_close(by_features, right_features, np.float32)
    assert_close(by_kernel[:, :CLASSES], right_kernel[:, :CLASSES], np.float32)
    np.testing.assert_array_equal(by_kernel[:, CLASSES:], 0)
    sent = list(collectives(compiled.as_text()))
    assert not any("all-gather" in kind for kind, _ in sent)
    # The kernel's gradient, and a few numbers a row.
    assert max(size for _, size in sent) <= D * HELD + 8 * ROWS < ROWS * HELD


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "js"])
def test_a_divergence_over_devices(mesh, direction, rng):
    def f(x, k, tx, tk, **names):
        return ops.linear_kl_divergence(x, k, tx, tk, direction=direction, block_size=2, **names)

    def one(x, k, tx, tk):
        z, t = x @ k[:, :CLASSES], tx @ tk[:, :CLASSES]
        return ops.softmax_kl_divergence(z, t, direction=direction, reduction="mean")

    def specs(rows, classes):
        return P(rows), P(None, classes), P(rows), P(None, classes)

    check(mesh, f, arrays_of(rng), specs, one)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("rest", ["ignore", "uniform", "renormalise"])
def test_a_top_k_cross_entropy_over_devices(mesh, rest, rng):
    x, k, tx, tk = arrays_of(rng)
    named = ops.linear_top_k_log_probs(tx, tk[:, :CLASSES], NAMED)

    def f(x, k, *named, **names):
        return ops.linear_top_k_cross_entropy(x, k, *named, rest=rest, block_size=2, **names)

    def one(x, k, *named):
        return ops.linear_top_k_cross_entropy(x, k[:, :CLASSES], *named, rest=rest)

    def specs(rows, classes):
        return P(rows), P(None, classes), P(rows), P(rows)

    check(mesh, f, [x, k, *map(np.asarray, named)], specs, one)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_rows_of_logits_stay_on_their_devices_under_jit(kind, rng):
    z, t = rng.standard_normal((2, ROWS, 300)).astype(np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))

    def f(z, t):
        return ops.softmax_kl_divergence(z, t, reduction="mean")

    run = jax.jit(jax.value_and_grad(f, (0, 1)))
    expected = run(z, t)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, NamedSharding(mesh, P("data"))) for x in (z, t)]
        compiled = jax.jit(jax.value_and_grad(f, (0, 1))).lower(*placed).compile()
        found = compiled(*placed)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(np.asarray(a), np.asarray(b), np.float32)
    assert all(size <= ROWS for _, size in collectives(compiled.as_text()))


def test_a_teachers_kernel_that_is_not_spread_is_refused(rng):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    x, k, tx, tk = arrays_of(rng)

    def f(x, k, tx, tk):
        tk = jnp.asarray(tk)[:, : k.shape[1]]
        return ops.linear_kl_divergence(x, k, tx, tk, axis_name="model")

    specs = P(), P(None, "model"), P(), P()
    spread = jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=P())
    with pytest.raises(ValueError, match="axis_name='model': expected teacher_kernel to be this"):
        spread(x, k, tx, tk)
