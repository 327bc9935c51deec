"""The fused loss of class probabilities: that of the logits it never holds, and its derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jax_softmax import ops
from tests.grids import each_once, pairwise
from tests.tolerances import assert_close

fused = ops.linear_softmax_cross_entropy
ROWS, WIDTH, CLASSES = 13, 5, 37
NAMES = ("features", "kernel", "bias", "labels", "sample_weight")

needs_devices = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


def made(rng, dtype=np.float32, rows=(ROWS,), classes=CLASSES):
    """Labels that are no distribution, with zeros; one row of weight 0."""
    wide = jnp.promote_types(dtype, np.float32)
    labels = 2 * rng.random((*rows, classes))
    labels[rng.random(labels.shape) < 0.3] = 0
    weight = 0.1 + 2 * rng.random(rows)
    weight.reshape(-1)[-1] = 0
    return {
        "features": rng.standard_normal((*rows, WIDTH)).astype(dtype),
        "kernel": rng.standard_normal((WIDTH, classes)).astype(dtype),
        "bias": rng.standard_normal(classes).astype(dtype),
        "labels": labels.astype(wide),
        "sample_weight": weight.astype(wide),
    }


def by_layer(arrays, *, kernel_layout="dv", loss=fused, **options):
    arrays = dict(arrays)
    kernel = arrays.pop("kernel")
    kernel = kernel.T if kernel_layout == "vd" else kernel
    return loss(
        arrays.pop("features"),
        kernel,
        arrays.pop("labels"),
        kernel_layout=kernel_layout,
        **arrays,
        **options,
    )


def by_logits(arrays, **options):
    arrays = dict(arrays)
    logits = jnp.matmul(arrays.pop("features"), arrays.pop("kernel"), precision="highest")
    bias = arrays.pop("bias", None)
    if bias is not None:
        logits = logits + bias.reshape((1,) * (logits.ndim - 1) + bias.shape)
    options = {"reduction": "mean", **options}
    return ops.softmax_cross_entropy(logits, arrays.pop("labels"), **arrays, **options)


def outputs_and_gradients(op, arrays, **options):
    """All outputs, and the derivatives of their weighted sum by every array."""
    if op is by_logits:  # which is the same for all of them: one program
        options.pop("kernel_layout", None)
        options.pop("block_size", None)
    others = {
        name: x for name, x in options.items() if isinstance(x, np.ndarray | jax.sharding.Mesh)
    }
    if others:  # no keys of a program
        op = functools.partial(op, **others)
    static = tuple(sorted((name, x) for name, x in options.items() if name not in others))
    return _outputs_and_gradients(op, static, arrays)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outputs_and_gradients(op, static, arrays):
    def total(arrays):
        out = op(arrays, **dict(static))
        leaves = [x for x in jax.tree.leaves(out) if jnp.issubdtype(x.dtype, jnp.floating)]
        terms = (jnp.sum(jnp.cos(jnp.arange(x.size, dtype=x.dtype)) * x.ravel()) for x in leaves)
        return sum(terms), out

    gradients, out = jax.grad(total, has_aux=True)(arrays)
    return out, gradients


def check(arrays, dtype, **options):
    found, gradients = outputs_and_gradients(by_layer, arrays, **options)
    expected, by = outputs_and_gradients(by_logits, arrays, **options)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert_close(a, b, dtype)
    for name, gradient in gradients.items():
        assert gradient.dtype == arrays[name].dtype
        size = max(1, float(np.max(np.abs(by[name]), initial=0)))
        assert_close(gradient, by[name], dtype, scale=size)


@pairwise(reduction=["none", "sum", "mean"], rule=["vjp", "jvp"], dtype=["float32", "float64"])
def test_loss_and_derivatives_are_those_of_the_logits(rule, reduction, dtype, rng):
    """By features, kernel, bias, labels and weights of rows."""
    with jax.enable_x64(dtype == "float64"):
        check(made(rng, dtype), dtype, rule=rule, reduction=reduction)


WEIGHTS = np.linspace(0, 2, CLASSES, dtype=np.float32)
OPTIONS = {
    "smoothing": {"label_smoothing": 0.1},
    "class weights": {"class_weights": WEIGHTS},
    "z_loss": {"z_loss": 0.03},
    "soft_cap": {"soft_cap": 2.5},
    "statistics": {"return_stats": True},
    "all": {
        "label_smoothing": 0.1,
        "class_weights": WEIGHTS,
        "z_loss": 0.03,
        "soft_cap": 2.5,
        "return_stats": True,
    },
}


@each_once(options=OPTIONS, reduction=["none", "mean", "sum"], rule=["vjp", "jvp"])
def test_every_option(options, rule, reduction, rng):
    check(made(rng), np.float32, rule=rule, reduction=reduction, **options)


@each_once(
    layout=["dv", "vd"],
    block_size=[4, (4, 10), (5, 1), 100, 13, (13, 37)],
    reduction=["none", "mean", "sum"],
)
def test_blocks_and_layouts_change_nothing(layout, block_size, reduction, rng):
    options = {"label_smoothing": 0.1, "kernel_layout": layout, "block_size": block_size}
    check(made(rng), np.float32, reduction=reduction, **options)


@each_once(rows=[(), (3, 4), (2, 1, 3), (0,)], reduction=["none", "mean"])
def test_any_leading_shape(rows, reduction, rng):
    arrays = made(rng, rows=(1,) if rows == () else rows) if rows != (0,) else None
    if rows == (0,):
        arrays = {name: x[:0] if x.shape[0] == ROWS else x for name, x in made(rng).items()}
    if rows == ():
        row = made(rng)
        arrays = {name: x[0] if x.shape[0] == ROWS else x for name, x in row.items()}
    check(arrays, np.float32, reduction=reduction)


def test_values_and_derivatives_by_hand(x64, rng):
    """From the definition, in NumPy."""
    a = made(rng, np.float64)
    z = a["features"] @ a["kernel"] + a["bias"]
    lse = np.log(np.exp(z).sum(-1))
    log_p = z - lse[:, None]
    rows = -(a["labels"] * log_p).sum(-1)
    by_logits = np.exp(log_p) * a["labels"].sum(-1, keepdims=True) - a["labels"]
    by_logits *= a["sample_weight"][:, None] / a["sample_weight"].sum()
    value, by = jax.value_and_grad(by_layer)(a)
    mean = (a["sample_weight"] * rows).sum() / a["sample_weight"].sum()
    np.testing.assert_allclose(value, mean, rtol=1e-12)
    expected = {
        "features": by_logits @ a["kernel"].T,
        "kernel": a["features"].T @ by_logits,
        "bias": by_logits.sum(0),
        "labels": -log_p * (a["sample_weight"] / a["sample_weight"].sum())[:, None],
        "sample_weight": (rows - mean) / a["sample_weight"].sum(),
    }
    for name in NAMES:
        np.testing.assert_allclose(by[name], expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", ["onehot int", "onehot bool", "rank"])
def test_integer_and_bool_probabilities(kind, rng):
    """Of the rank of logits they are class probabilities; one less, and they are labels."""
    a = made(rng)
    y = rng.integers(0, CLASSES, ROWS)
    onehot = np.arange(CLASSES) == y[:, None]
    given = {"onehot int": onehot.astype(np.int32), "onehot bool": onehot, "rank": y}[kind]
    found = fused(a["features"], a["kernel"], given, bias=a["bias"])
    assert_close(found, fused(a["features"], a["kernel"], y, bias=a["bias"]), np.float32)


@pytest.mark.parametrize("shape", [(1, CLASSES), (ROWS, 1)])
def test_labels_broadcast_to_the_logits(shape, rng):
    a = made(rng)
    labels = rng.random(shape).astype(np.float32)
    if shape == (ROWS, 1):
        labels = np.broadcast_to(labels, (ROWS, CLASSES))
    found = by_layer(a | {"labels": labels})
    assert_close(
        found, by_layer(a | {"labels": np.broadcast_to(labels, (ROWS, CLASSES))}), np.float32
    )


@each_once(dtype=["bfloat16", "float16"], reduction=["none", "mean"])
def test_half_precision_is_rounded_once(dtype, reduction, rng):
    """Losses are float32; gradients are rounded once, and those of products as the logits' is."""
    half = made(rng, jnp.dtype(dtype))
    full = {name: np.asarray(x, np.float32) for name, x in half.items()}
    found, gradients = outputs_and_gradients(by_layer, half, reduction=reduction, block_size=4)
    expected, by = outputs_and_gradients(by_logits, full, reduction=reduction)
    assert found.dtype == np.float32
    assert_close(found, expected, np.float32)
    eps = float(jnp.finfo(dtype).eps)
    for name, gradient in gradients.items():
        assert gradient.dtype == half[name].dtype
        wanted = np.asarray(by[name], np.float64)
        allowed = 0.51 * eps * np.abs(wanted) if gradient.dtype == dtype else 0
        allowed += 1e-5 * max(1, np.abs(wanted).max())
        if name in ("features", "kernel"):  # sums of products with the logits' rounded gradient
            allowed += eps * np.abs(wanted).max()
        assert np.all(np.abs(np.asarray(gradient, np.float64) - wanted) <= allowed), name


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_second_derivatives(rule, x64, rng):
    a = made(rng, np.float64, (4,), 6)
    direction = {name: rng.standard_normal(x.shape) for name, x in a.items()}

    def product(f):
        return jax.jit(
            lambda a, v: jax.jvp(jax.grad(lambda a: f(a, rule=rule, reduction="mean")), (a,), (v,))
        )(a, direction)[1]

    found, expected = product(by_layer), product(by_logits)
    for name in NAMES:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_forward_mode(reduction, x64, rng):
    a = made(rng, np.float64)
    direction = {name: rng.standard_normal(x.shape) for name, x in a.items()}

    def tangent(op):
        f = functools.partial(op, rule="jvp", reduction=reduction)
        return jax.jit(lambda a, v: jax.jvp(f, (a,), (v,)))(a, direction)

    for found, expected in zip(tangent(by_layer), tangent(by_logits), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_a_row_mask_and_rows_of_nan(rng):
    a = made(rng)
    del a["sample_weight"]
    mask = np.arange(ROWS) % 3 != 1
    kept = {n: x[mask] if n in ("features", "labels") else x for n, x in a.items()}
    a["features"][~mask] = np.nan
    a["labels"][~mask] = np.inf
    value, by = jax.value_and_grad(lambda a: by_layer(a, where=mask))(a)
    expected, wanted = jax.value_and_grad(by_layer)(kept)
    assert_close(value, expected, np.float32)
    for name in a:
        found = np.asarray(by[name])
        if name in ("features", "labels"):
            np.testing.assert_array_equal(found[~mask], 0)
            found = found[mask]
        assert_close(found, wanted[name], np.float32)


def test_a_confident_layer_keeps_its_derivatives(rng):
    """`p - q` at a label that leads by 30 is not 0: as the loss on logits has it."""
    k = np.eye(6, dtype=np.float32)
    x = rng.standard_normal((4, 6)).astype(np.float32)
    x[:, 2] += 30
    q = np.eye(6, dtype=np.float32)[[2] * 4]
    found = jax.grad(lambda x: fused(x, k, q, reduction="sum"))(x)
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True).astype(np.float64))
    e[:, 2] = 0
    expected = e / (1 + e.sum(-1, keepdims=True))
    expected[:, 2] = -expected.sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# Mistakes


@pytest.mark.parametrize("shape", [(ROWS, CLASSES - 1), (ROWS - 1, CLASSES), (2, ROWS, CLASSES)])
def test_labels_must_fit_the_logits(shape, rng):
    a = made(rng)
    words = rf"^labels: expected .*\({ROWS}, {CLASSES}\).*got .*{shape[0]}"
    with pytest.raises(ValueError, match=words):
        fused(a["features"], a["kernel"], np.ones(shape, np.float32))


def test_there_is_no_ignore_index_of_probabilities(rng):
    a = made(rng)
    with pytest.raises(ValueError, match="ignore_index: .*(where|sample_weight)"):
        by_layer(a, ignore_index=0)


def test_complex_probabilities_are_refused(rng):
    a = made(rng)
    with pytest.raises(TypeError, match="^labels: expected real numbers, got complex"):
        by_layer(a | {"labels": a["labels"] * 1j})


# Over devices

HELD, REAL = 40, 37  # of which the last device's slice is padding in part


@needs_devices
@each_once(
    reduction=["none", "mean"],
    options={
        "plain": {},
        "smoothing and statistics": {"label_smoothing": 0.1, "return_stats": True},
        "blocks": {"block_size": (3, 2), "z_loss": 0.1},
    },
)
def test_slices_of_the_classes_give_the_result_of_one_device(reduction, options, rng):
    """Labels are this device's slice, as the kernel is; what pads both does not count."""
    a = made(rng, rows=(16,))
    padded = dict(a)
    missing = HELD - REAL
    for name in ("kernel", "bias", "labels"):
        filler = 3 * rng.standard_normal((*a[name].shape[:-1], missing))
        padded[name] = np.concatenate([a[name], filler], -1, dtype=np.float32)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    specs = {
        "features": P("data"),
        "kernel": P(None, "model"),
        "bias": P("model"),
        "labels": P("data", "model"),
        "sample_weight": P("data"),
    }
    by_row = P("data") if reduction == "none" else P()
    stats = ops.SoftmaxStats(*[P("data")] * 6)
    mapped = jax.shard_map(
        lambda a: by_layer(
            a,
            reduction=reduction,
            axis_name="model",
            data_axis_name="data",
            num_classes=REAL,
            **options,
        ),
        mesh=mesh,
        in_specs=(specs,),
        out_specs=(by_row, stats) if "return_stats" in options else by_row,
    )
    found, gradients = outputs_and_gradients(mapped, padded)
    expected, by = outputs_and_gradients(by_layer, a, reduction=reduction, **options)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(x, y, np.float32)
    for name in NAMES:
        gradient = np.asarray(gradients[name])
        if name in ("kernel", "bias", "labels"):
            np.testing.assert_array_equal(gradient[..., REAL:], 0)
            gradient = gradient[..., :REAL]
        size = max(1, float(np.max(np.abs(by[name]), initial=0)))
        assert_close(gradient, by[name], np.float32, scale=size)


@needs_devices
def test_labels_that_are_not_this_devices_slice_raise(rng):
    a = made(rng, classes=HELD)
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        lambda k, q: fused(a["features"], k, q, axis_name="model"),
        mesh=mesh,
        in_specs=(P(None, "model"), P()),
        out_specs=P(),
    )
    with pytest.raises(ValueError, match="^labels: expected .*5.*got .*40"):
        mapped(a["kernel"], a["labels"])


@needs_devices
@pairwise(
    kind=[AxisType.Auto, AxisType.Explicit], reduction=["none", "mean"], rows=[(13,), (16, 3)]
)
def test_the_entry_outside_shard_map_takes_them(kind, reduction, rows, rng):
    a = made(rng, rows=rows)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
    options = {"reduction": reduction, "label_smoothing": 0.1}
    expected, by = outputs_and_gradients(by_layer, a, **options)
    with jax.set_mesh(mesh):
        found, gradients = outputs_and_gradients(
            by_layer,
            a,
            loss=ops.sharded_linear_softmax_cross_entropy,
            mesh=mesh,
            axis_name="model",
            data_axis_name="data",
            **options,
        )
    assert_close(found, expected, np.float32)
    for name in NAMES:
        size = max(1, float(np.max(np.abs(by[name]), initial=0)))
        assert_close(gradients[name], by[name], np.float32, scale=size)


# Memory

MANY, WIDE, VOCABULARY, BLOCK = 1024, 16, 8192, 32


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the bounds are XLA:CPU's")
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32, jnp.bool_])
def test_temporaries_are_a_few_blocks_and_the_kernels_gradient(reduction, dtype):
    """Where labels are not differentiated; neither are labels of another dtype converted whole."""
    shapes = [(MANY, WIDE), (WIDE, VOCABULARY), (MANY, VOCABULARY)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    arguments[2] = jax.ShapeDtypeStruct(shapes[2], dtype)

    def total(x, k, q):
        return jnp.sum(fused(x, k, q, reduction=reduction, block_size=BLOCK))

    compiled = jax.jit(jax.value_and_grad(total, (0, 1))).lower(*arguments).compile()
    bound = 4 * (4 * BLOCK * VOCABULARY + 2 * WIDE * VOCABULARY)
    if jax.__version_info__ >= (0, 12):
        # It keeps 6.03 blocks of a total where 0.10 keeps 4.03.
        bound += 4 * BLOCK * VOCABULARY * 3 // 2
    assert bound < 0.5 * 4 * MANY * VOCABULARY
    assert compiled.memory_analysis().temp_size_in_bytes <= bound


def test_booleans_of_one_class_are_class_probabilities():
    features, kernel = np.ones((2, 3), np.float32), np.ones((3, 1), np.float32)
    loss = fused(features, kernel, np.ones((2, 1), bool), z_loss=0.1, reduction="none")
    np.testing.assert_allclose(loss, [0.9, 0.9], rtol=1e-6)
