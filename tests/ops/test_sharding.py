"""Rows sharded over devices: no gather of the logits, and the result of one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_softmax import ops
from tests.tolerances import assert_close

pytestmark = pytest.mark.skipif(
    jax.device_count() < 8, reason="needs 8 devices: tests/conftest.py simulates them on a CPU"
)

COLLECTIVE = re.compile(
    r"= (?P<result>.*?) (?P<kind>all-gather|all-to-all|collective-permute|collective-broadcast"
    r"|reduce-scatter|all-reduce)(-start)?\("
)

# The shape without the classes, the mesh, and how the rows lie on it.
LAYOUTS = {
    "rows": ((16,), {"data": 8}, P("data")),
    "batch": ((8, 6), {"data": 8}, P("data", None)),
    "batch and time": ((8, 6), {"data": 4, "time": 2}, P("data", "time")),
}


def integer_labels(logits, labels, q, where, g):
    loss, vjp = jax.vjp(lambda z: ops.softmax_cross_entropy_with_integer_labels(z, labels), logits)
    mean = jax.value_and_grad(
        lambda z: ops.softmax_cross_entropy_with_integer_labels(
            z, labels, where=where, reduction="mean"
        )
    )
    return loss, vjp(g[..., 0]), mean(logits)


def weighted_labels(logits, labels, q, where, g):
    weights = np.linspace(0.5, 2, logits.shape[-1], dtype=np.float32)
    placed = [weights, jnp.asarray(weights)]
    return [
        jax.value_and_grad(
            lambda z, w=w, reduction=reduction: jnp.sum(
                ops.softmax_cross_entropy_with_integer_labels(
                    z, labels, class_weights=w, label_smoothing=0.1, reduction=reduction
                )
            )
        )(logits)
        for w, reduction in zip(placed, ("none", "mean"), strict=True)
    ]


def soft_labels(logits, labels, q, where, g):
    def mean(z, q):
        return ops.softmax_cross_entropy(z, q, reduction="mean")

    return jax.value_and_grad(mean, (0, 1))(logits, q)


def probabilities(logits, labels, q, where, g):
    p, vjp = jax.vjp(ops.softmax, logits)
    log_p, log_vjp = jax.vjp(ops.log_softmax, logits)
    return p, vjp(g), log_p, log_vjp(g)


def collectives(hlo):
    """What a compiled program sends between devices: (kind, number of elements)."""
    for match in COLLECTIVE.finditer(hlo):
        shapes = re.findall(r"\[([\d,]*)\]", match["result"])
        sizes = [np.prod([int(n) for n in s.split(",") if n]) for s in shapes]
        yield match["kind"], int(sum(sizes))


def test_collectives_are_found_in_a_program():
    hlo = """
      %a = f32[8,1000]{1,0} all-gather(%x), dimensions={0}
      %b = (f32[], f32[16]{0}) all-reduce(%x, %y), to_apply=%add
      ROOT %c = (f32[2]{0}, f32[4]{0}) collective-permute-start(%x)
    """
    expected = [("all-gather", 8000), ("all-reduce", 17), ("collective-permute", 6)]
    assert list(collectives(hlo)) == expected


@pytest.mark.parametrize(
    ("f", "layout", "classes", "axis_type"),
    [
        (integer_labels, "rows", 1024, AxisType.Auto),
        (integer_labels, "batch", 1000, AxisType.Auto),
        (integer_labels, "batch and time", 1024, AxisType.Explicit),
        (weighted_labels, "rows", 1024, AxisType.Auto),
        (weighted_labels, "batch and time", 1000, AxisType.Explicit),
        (soft_labels, "batch and time", 1024, AxisType.Auto),
        (probabilities, "batch and time", 1024, AxisType.Explicit),
        (integer_labels, "rows", 1000, AxisType.Explicit),
        (integer_labels, "batch and time", 1000, AxisType.Auto),
    ],
)
def test_rows_stay_on_their_devices(f, layout, classes, axis_type, rng):
    rows, axes, spec = LAYOUTS[layout]
    full = (*rows, classes)
    args = (
        rng.standard_normal(full).astype(np.float32),
        rng.integers(0, classes, rows).astype(np.int32),
        rng.random(full).astype(np.float32) / classes,
        rng.random(rows) < 0.7,
        rng.standard_normal(full).astype(np.float32),
    )
    expected = jax.jit(f)(*args)
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(axis_type,) * len(axes))
    with jax.set_mesh(mesh):
        sharded = [jax.device_put(x, NamedSharding(mesh, spec)) for x in args]
        compiled = jax.jit(f).lower(*sharded).compile()
        actual = compiled(*sharded)
    for kind, size in collectives(compiled.as_text()):
        assert kind == "all-reduce"
        assert size <= np.prod(rows)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_close(a, b, np.float32)
