"""Explicit mesh axes over the classes: the result of one device, however classes are summed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_softmax import ops
from tests.grids import each_once
from tests.tolerances import assert_close

pytestmark = pytest.mark.skipif(
    jax.device_count() < 8, reason="needs 8 devices: tests/conftest.py simulates them on a CPU"
)
ROWS = 16


def of_softmax(z, y, q, g):
    p, vjp = jax.vjp(ops.softmax, z)
    return p, vjp(g)


def of_log_softmax(z, y, q, g):
    p, vjp = jax.vjp(ops.log_softmax, z)
    return p, vjp(g)


def integer(z, y, q, g):
    loss = ops.softmax_cross_entropy_with_integer_labels
    value, gradient = jax.value_and_grad(lambda z: loss(z, y, reduction="mean"))(z)
    rows, vjp = jax.vjp(lambda z: loss(z, y), z)
    return value, gradient, rows, vjp(jnp.sum(g, -1))


def integer_with_options(z, y, q, g):
    def total(z):
        loss, stats = ops.softmax_cross_entropy_with_integer_labels(
            z, y, label_smoothing=0.1, z_loss=0.01, reduction="mean", return_stats=True
        )
        return loss + jnp.sum(stats.entropy) + jnp.sum(stats.label_log_prob), stats

    return jax.value_and_grad(total, has_aux=True)(z)


def soft(z, y, q, g):
    loss = ops.softmax_cross_entropy
    value, gradient = jax.value_and_grad(lambda z, q: loss(z, q, reduction="mean"), (0, 1))(z, q)
    rows, vjp = jax.vjp(lambda z: loss(z, q), z)
    return value, gradient, rows, vjp(jnp.sum(g, -1))


LAYOUTS = {
    "classes": ({"model": 8}, None, "model"),
    "rows and classes": ({"data": 2, "model": 4}, "data", "model"),
}


FUNCTIONS = (of_softmax, of_log_softmax, integer, integer_with_options, soft)


@each_once(f={f.__name__: f for f in FUNCTIONS}, classes=[256, 384, 384], layout=list(LAYOUTS))
def test_explicit_axes_over_classes_give_the_result_of_one_device(f, classes, layout, rng):
    axes, of_rows, of_classes = LAYOUTS[layout]
    full = (ROWS, classes)
    args = (
        rng.standard_normal(full).astype(np.float32),
        rng.integers(0, classes, ROWS).astype(np.int32),
        rng.random(full).astype(np.float32) / classes,
        rng.standard_normal(full).astype(np.float32),
    )
    expected = jax.jit(f)(*args)
    types = (AxisType.Explicit,) * len(axes)
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=types)
    with jax.set_mesh(mesh):
        specs = [P(of_rows, of_classes) if x.ndim == 2 else P(of_rows) for x in args]
        spread = [
            jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(args, specs, strict=True)
        ]
        found = jax.jit(f)(*spread)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(a, b, np.float32)
