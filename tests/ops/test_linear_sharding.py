"""The fused loss over devices: the result of one, and little that is sent between them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.grids import each_once
from tests.ops.linear import NAMES, call, case, cotangents_for, exact, loss, weighted
from tests.ops.test_sharding import collectives
from tests.tolerances import assert_close

pytestmark = pytest.mark.skipif(
    jax.device_count() < 8, reason="needs 8 devices: tests/conftest.py simulates them on a CPU"
)

ROWS, WIDTH, HELD, CLASSES = 16, 5, 40, 33  # the last device's slice of 5 is all padding

# The mesh, and the axes that the rows and the classes are spread over.
MESHES = {
    "model": ({"model": 8}, None, "model"),
    "data": ({"data": 8}, "data", None),
    "data and model": ({"data": 2, "model": 4}, "data", "model"),
    "two of each": ({"a": 2, "b": 2, "c": 2}, "a", ("b", "c")),
    "rows over two": ({"a": 2, "b": 2, "c": 2}, ("a", "b"), "c"),
    "an idle axis": ({"pipeline": 2, "data": 2, "model": 2}, "data", "model"),
}


def made_for(names, dtype=np.float32, classes=CLASSES, held=HELD):
    """A case of `classes` classes, and the same with padding up to `held` that must not matter."""
    made = case(names, (ROWS,), WIDTH, classes, dtype)
    missing = held - classes
    rng = np.random.default_rng(7)
    kernel = np.concatenate(
        [made.arrays["kernel"], 100 * rng.standard_normal((WIDTH, missing))], 1, dtype=dtype
    )
    padded = made.changed(kernel=kernel)
    if "bias" in names:
        bias = np.concatenate([made.arrays["bias"], np.full(missing, np.nan)], dtype=dtype)
        padded = padded.changed(bias=bias)
    if "class_weights" in names:
        weights = np.concatenate([made.options["class_weights"], np.full(missing, 1e6)])
        padded.options.update(class_weights=weights.astype(made.options["class_weights"].dtype))
        made = made._replace(
            options={**made.options, "class_weights": made.options["class_weights"][:classes]}
        )
    return made._replace(options={**made.options}), padded


def sharded(mesh_name, made, g, **static):
    """A jitted function of the arrays, and its arguments: outputs and gradients in shard_map."""
    axes, rows, classes = MESHES[mesh_name]
    types = (AxisType.Auto,) * len(axes)
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=types)
    options = dict(made.options)
    class_weights = options.pop("class_weights", None)
    static = {"axis_name": classes, "data_axis_name": rows, **options, **static}
    specs = {
        "features": P(rows),
        "kernel": P(None, classes),
        "bias": P(classes),
        "sample_weight": P(rows),
    }
    specs = {name: specs[name] for name in made.arrays}
    by_row = [P(rows) if x.ndim else P() for x in g]
    outputs = [by_row[0], *[P(rows)] * 4] if static.get("return_stats") else [by_row[0]]

    def f(arrays, labels, class_weights, g):
        def total(arrays):
            value, out = weighted(functools.partial(call, static), g, arrays, labels, class_weights)
            if g[0].ndim or len(g) > 1:  # what is a row each is not summed over devices by the op
                value = jnp.sum(g[0] * out[0]) if g[0].ndim else 0.0
                value += sum(jnp.sum(a * b) for a, b in zip(g[1:], out[1:], strict=False))
                value = value if rows is None else jax.lax.psum(value, rows)
                value = value if g[0].ndim else value + g[0] * out[0]
            return value, list(out)

        (_, out), gradients = jax.value_and_grad(total, has_aux=True)(arrays)
        return out, gradients

    f = jax.shard_map(
        f,
        mesh=mesh,
        in_specs=(specs, P(rows), None if class_weights is None else P(classes), by_row),
        out_specs=(outputs, specs),
    )
    return jax.jit(f), (made.arrays, made.labels, class_weights, g)


def check(mesh_name, names, dtype=np.float32, reduction="mean", stats=False, **static):
    made, padded = made_for(names, dtype)
    g = cotangents_for(made, reduction, stats)
    static = {"reduction": reduction, "return_stats": stats, **static}
    f, args = sharded(mesh_name, padded, g, num_classes=CLASSES, **static)
    compiled = f.lower(*args).compile()
    out, gradients = compiled(*args)
    expected, by = exact(made, g, reduction)
    for a, b in zip(out, expected, strict=False):
        assert_close(a, b, dtype)
    for name, gradient in gradients.items():
        actual = np.asarray(gradient)
        if name in ("kernel", "bias"):
            np.testing.assert_array_equal(actual[..., CLASSES:], 0)
            actual = actual[..., :CLASSES]
        assert_close(actual, by[name], dtype)
    return compiled.as_text(), padded


def check_collectives(hlo, made):
    """Sums alone: of a few numbers a row, and of the gradients of what devices share, at once."""
    shared = sum(made.arrays[name].size for name in ("kernel", "bias") if name in made.arrays)
    largest = max(8 * ROWS, made.arrays["features"].size, shared + 8)
    assert largest < ROWS * HELD  # the logits
    for kind, size in collectives(hlo):
        assert kind == "all-reduce"
        assert size <= largest


ALL_BUT_CAP = set(NAMES) - {"soft_cap"}


@pytest.mark.parametrize(
    ("mesh_name", "names", "reduction", "rule", "stats", "block", "dtype"),
    [
        ("model", set(NAMES), "mean", "vjp", False, None, "float32"),
        ("model", {"z_loss", "soft_cap"}, "sum", "jvp", False, 5, "float64"),
        ("data", {"bias", "sample_weight"}, "mean", "vjp", False, None, "float32"),
        ("data", set(NAMES), "none", "vjp", True, (3, 10), "float64"),
        ("data and model", ALL_BUT_CAP, "none", "jvp", True, None, "float32"),
        ("data and model", set(NAMES), "mean", "vjp", False, (3, 4), "float64"),
        ("rows over two", {"class_weights", "ignore_index"}, "mean", "jvp", True, 3, "float64"),
        ("two of each", {"label_smoothing", "class_weights"}, "mean", "vjp", True, 3, "float32"),
        ("an idle axis", set(NAMES), "mean", "vjp", True, (3, 7), "float64"),
    ],
)
def test_devices_give_the_result_of_one(mesh_name, names, reduction, rule, stats, block, dtype):
    """For any cotangents; classes that do not divide; the columns of padding hold anything."""
    static = {"reduction": reduction, "rule": rule, "stats": stats, "block_size": block}
    with jax.enable_x64(dtype == "float64"):
        hlo, made = check(mesh_name, names, np.dtype(dtype), **static)
    check_collectives(hlo, made)


def test_smoothing_counts_the_classes_of_all_devices_unlike_megatron_7452():
    """The loss of zero logits is ln V whatever the smoothing; of one shard's it would not be."""
    _, padded = made_for({"label_smoothing"})
    padded.arrays["features"][:] = 0
    f, args = sharded("model", padded, [np.float32(1)], num_classes=CLASSES, block_size=None)
    (value,), gradients = f(*args)
    assert_close(value, np.log(CLASSES), np.float32)
    np.testing.assert_array_equal(gradients["kernel"], 0)


def test_argmax_and_ties_are_of_all_devices():
    """The first class of the largest logit; a tie between devices goes to the lower class."""
    bias = np.zeros((3, HELD), np.float32)
    bias[1, [17, 30]] = 2
    bias[2, 32] = 1
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    x, k, y = np.zeros((4, 1), np.float32), np.zeros((1, HELD), np.float32), np.zeros(4, np.int32)

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P(None, "model"), P(None, "model")), out_specs=P()
    )
    def argmax(k, bias):
        def of(bias):
            return loss(
                x, k, y, bias=bias, return_stats=True, axis_name="model", num_classes=CLASSES
            )[1].argmax

        return jnp.stack([of(b) for b in bias])

    np.testing.assert_array_equal(argmax(k, bias), np.repeat([[0], [17], [32]], 4, 1))


def test_label_on_padding_is_no_class():
    _, padded = made_for(set())
    padded.labels[3] = CLASSES
    f, args = sharded(
        "model", padded, [np.ones(ROWS, np.float32)], reduction="none", num_classes=CLASSES
    )
    (value,), _ = f(*args)
    np.testing.assert_array_equal(np.isnan(value), np.arange(ROWS) == 3)


def test_without_a_data_axis_a_total_is_of_the_device_and_its_mean_the_users():
    """pmean of each device's mean over equally many rows."""
    made, _ = made_for({"bias"}, classes=HELD)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    specs = P("data"), P(None, "model"), P("model")

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(*specs, P("data")), out_specs=(P(), specs)
    )
    def value_and_gradients(x, k, b, y):
        def mean(x, k, b):
            return jax.lax.pmean(loss(x, k, y, bias=b, axis_name="model", block_size=3), "data")

        return jax.value_and_grad(mean, (0, 1, 2))(x, k, b)

    arrays = [made.arrays[name] for name in ("features", "kernel", "bias")]
    value, gradients = value_and_gradients(*arrays, made.labels)
    expected, by = exact(made, [1.0])
    assert_close(value, expected[0], np.float32)
    for actual, name in zip(gradients, ("features", "kernel", "bias"), strict=True):
        assert_close(actual, by[name], np.float32)


def test_second_derivatives_over_devices(x64, rng):
    """Forward over reverse and reverse over reverse, through the sums over devices."""
    made, _ = made_for({"bias"}, np.float64, HELD)
    direction = {name: rng.standard_normal(x.shape) for name, x in made.arrays.items()}
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    specs = {"features": P("data"), "kernel": P(None, "model"), "bias": P("model")}

    def products(f, arrays, direction):
        gradient = jax.grad(f)
        forward = jax.jvp(gradient, (arrays,), (direction,))[1]
        reverse = jax.vjp(gradient, arrays)[1](direction)[0]
        return forward, reverse

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(specs, specs, P("data")), out_specs=(specs, specs)
    )
    def over_devices(arrays, direction, labels):
        static = {"axis_name": "model", "data_axis_name": "data", "block_size": 3}
        return products(lambda a: call(static, a, labels), arrays, direction)

    actual = over_devices(made.arrays, direction, made.labels)
    expected = jax.jit(lambda a, d: products(lambda a: call({}, a, made.labels), a, d))(
        made.arrays, direction
    )
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_close(a, b, np.float64)


# Rows over devices under plain jit

LAYOUTS = {
    "rows": ((64,), {"data": 8}, P("data"), 16),
    "batch": ((8, 6), {"data": 8}, P("data", None), 16),
    "batch and time": ((8, 6), {"data": 4, "time": 2}, P("data", "time"), 16),
    "one block": ((64,), {"data": 8}, P("data"), None),
    # 4 blocks would divide the rows, but not those of a device: 13, and 25.
    "rows of a device that do not divide": ((104,), {"data": 8}, P("data"), 34),
    "an odd number on a device": ((200,), {"data": 8}, P("data"), 17),
}


@each_once(
    layout=list(LAYOUTS),
    reduction=["mean", "none"],
    axis_type=[AxisType.Auto, AxisType.Explicit, AxisType.Explicit],
)
def test_rows_stay_on_their_devices_under_jit(layout, reduction, axis_type):
    """No gather of features or logits: sums of the kernel's gradient, and of numbers."""
    rows, axes, spec, block = LAYOUTS[layout]
    made = case({"bias", "sample_weight", "label_smoothing"}, rows)
    g = cotangents_for(made, reduction, False)
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(axis_type,) * len(axes))
    static = {"reduction": reduction, "block_size": block, "label_smoothing": 0.1}

    def f(arrays, labels, g):
        total = functools.partial(weighted, functools.partial(call, static), g)
        (_, out), gradients = jax.value_and_grad(total, has_aux=True)(arrays, labels)
        return out, gradients

    def put(x, by_row=True):
        return jax.device_put(x, NamedSharding(mesh, spec if by_row else P()))

    arrays = {n: put(x, n in ("features", "sample_weight")) for n, x in made.arrays.items()}
    args = arrays, put(made.labels), [put(x, x.ndim > 0) for x in g]
    with jax.set_mesh(mesh):
        compiled = jax.jit(f).lower(*args).compile()
        out, gradients = compiled(*args)
    kernel = made.arrays["kernel"].size + made.arrays["bias"].size
    for kind, size in collectives(compiled.as_text()):
        assert kind == "all-reduce"
        assert size <= kernel + np.prod(rows)
    expected, by = exact(made, g, reduction)
    assert_close(out[0], expected[0], np.float32)
    for name, gradient in gradients.items():
        assert_close(gradient, by[name], np.float32)
