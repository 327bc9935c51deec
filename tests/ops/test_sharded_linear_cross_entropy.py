"""The entry for callers outside `jax.shard_map` gives what one device gives, padded or not."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jax_softmax import linear_softmax_cross_entropy, sharded_linear_softmax_cross_entropy
from tests.tolerances import assert_close

WIDTH, CLASSES = 6, 41  # which no mesh axis divides


def mesh_of(kind):
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)


LAYOUTS = [
    ((13,), "mean", False, "model", "data"),
    ((5, 7), "none", True, "model", "data"),
    ((13,), "sum", True, ("data", "model"), None),
    ((16,), "none", False, None, ("data", "model")),
]


@pytest.mark.parametrize(
    ("rows", "reduction", "stats", "axis_name", "data_axis_name", "kind"),
    [
        *((*layout, AxisType.Auto) for layout in LAYOUTS[:3]),
        *((*layout, AxisType.Explicit) for layout in LAYOUTS[1:]),
    ],
)
def test_the_mesh_gives_the_result_of_one_device(
    rng, kind, rows, reduction, stats, axis_name, data_axis_name
):
    x = rng.standard_normal((*rows, WIDTH), np.float32)
    kernel = rng.standard_normal((WIDTH, CLASSES), np.float32)
    bias = rng.standard_normal(CLASSES, np.float32)
    labels = rng.integers(0, CLASSES, rows).astype(np.int32)
    class_weights = rng.uniform(0.5, 2, CLASSES).astype(np.float32)
    g = rng.standard_normal(rows if reduction == "none" else (), np.float32)

    def outputs_and_gradients(op, **mesh):
        def scalar(x, kernel, bias):
            found = op(
                x,
                kernel,
                labels,
                bias=bias,
                class_weights=class_weights,
                label_smoothing=0.1,
                reduction=reduction,
                return_stats=stats,
                **mesh,
            )
            loss, of_rows = found if stats else (found, None)
            total = jnp.sum(g * loss)
            return (total + jnp.sum(of_rows.entropy) if stats else total), found

        return jax.jit(jax.value_and_grad(scalar, (0, 1, 2), has_aux=True))(x, kernel, bias)

    one = outputs_and_gradients(linear_softmax_cross_entropy)
    mesh = mesh_of(kind)
    inside = jax.set_mesh(mesh) if kind == AxisType.Explicit else contextlib.nullcontext()
    names = {"axis_name": axis_name, "data_axis_name": data_axis_name}
    with inside:
        spread = outputs_and_gradients(sharded_linear_softmax_cross_entropy, mesh=mesh, **names)
    pairs = zip(jax.tree.leaves(spread), jax.tree.leaves(one), strict=True)
    for actual, expected in pairs:
        assert actual.shape == expected.shape
        assert_close(np.asarray(actual), np.asarray(expected), np.float32)


X, K, Y = np.zeros((4, 3), np.float32), np.zeros((3, 8), np.float32), np.zeros(4, np.int32)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"axis_name": "heads"}, "axis_name: expected names of the mesh's axes .*got 'heads'"),
        ({"axis_name": "model", "data_axis_name": "model"}, "expected different mesh axes"),
        ({"features": X[0], "labels": Y[0]}, "features: expected at least one axis of rows"),
        ({"kernel": K[0]}, r"kernel: expected \[D, V\]"),
        ({"labels": Y[:3]}, "labels: expected shape"),
        ({"sample_weight": np.ones(3)}, "sample_weight: expected factors that broadcast"),
    ],
)
def test_mistakes_are_named_before_anything_is_spread(changed, words):
    given = {"features": X, "kernel": K, "labels": Y} | changed
    with pytest.raises(ValueError, match=words):
        sharded_linear_softmax_cross_entropy(mesh=mesh_of(AxisType.Auto), **given)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("jit", [True, False])
def test_the_mesh_of_set_mesh_is_taken_where_none_is_given(kind, jit, rng):
    x, kernel = (rng.standard_normal(size, np.float32) for size in ((12, WIDTH), (WIDTH, CLASSES)))
    labels = rng.integers(0, CLASSES, 12).astype(np.int32)
    names = {"axis_name": "model", "data_axis_name": "data"}

    def spread(x, kernel):
        return sharded_linear_softmax_cross_entropy(x, kernel, labels, **names)

    def one(x, kernel):
        return linear_softmax_cross_entropy(x, kernel, labels)

    run = jax.value_and_grad(spread, (0, 1))
    with jax.set_mesh(mesh_of(kind)):
        found = (jax.jit(run) if jit else run)(x, kernel)
    expected = jax.jit(jax.value_and_grad(one, (0, 1)))(x, kernel)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(np.asarray(a), np.asarray(b), np.float32)


def test_without_any_mesh_the_remedy_is_named():
    with pytest.raises(ValueError, match="mesh: expected .*jax.set_mesh"):
        sharded_linear_softmax_cross_entropy(X, K, Y, axis_name="model")
