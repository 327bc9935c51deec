"""Log-probabilities from hidden states: those of the logits, in blocks and over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_softmax import ops
from tests.grids import pairwise
from tests.ops.test_linear_memory import CLASSES as MANY
from tests.ops.test_linear_memory import LOGITS, WIDTH, on_cpu, shapes
from tests.ops.test_linear_products import products
from tests.ops.test_sharding import collectives
from tests.tolerances import assert_close

ROWS, D, CLASSES, IGNORED = 13, 5, 37, -100
OPTIONS = {"temperature": 0.7, "soft_cap": 3.0}


def made(rng, labels=0, rows=(ROWS,), classes=CLASSES, dtype=np.float32):
    x = rng.standard_normal((*rows, D)).astype(dtype)
    k, b = (rng.standard_normal(shape).astype(dtype) for shape in ((D, classes), (classes,)))
    y = rng.integers(0, classes, (*rows, labels) if labels else rows).astype(np.int32)
    return (x, k, b), y


def cotangents(y, rng):
    rows = y.shape if y.ndim == 1 else y.shape[:-1]
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in (y.shape, rows))


def on_layer(arrays, y, **options):
    x, k, b = arrays
    k = k if options.get("kernel_layout") != "vd" else k.T
    return ops.linear_label_log_probs(x, k, y, bias=b, return_entropy=True, **options)


def on_logits(arrays, y, **options):
    x, k, b = arrays
    z = x @ k + b.reshape((1,) * (x.ndim - 1) + b.shape)
    return ops.label_log_probs(z, y, return_entropy=True, **options)


def pulled(f, arrays, y, g, **options):
    @jax.jit
    def run(arrays, y, g):
        out, vjp = jax.vjp(lambda arrays: f(arrays, y, **options), arrays)
        return out, vjp(jax.tree.map(lambda g, x: g.astype(x.dtype), g, out))[0]

    return run(arrays, y, g)


def assert_trees_close(found, expected, dtype=np.float32):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for a, b in pairs:
        assert_close(a, b, dtype, scale=max(1, float(np.abs(b).max())))


@pairwise(
    labels=[0, 1, 3, 10],
    rule=["vjp", "jvp"],
    block=[4, (5, 16), None],
    layout=["dv", "vd"],
    ignored=[False, True],
)
def test_values_and_gradients_are_those_of_the_logits(labels, rule, block, layout, ignored, rng):
    arrays, y = made(rng, labels)
    options = dict(OPTIONS)
    if ignored:
        y[4:10] = y[0] = IGNORED  # a whole block of 4 among them
        options["ignore_index"] = IGNORED
    g = cotangents(y, rng)
    expected = pulled(on_logits, arrays, y, g, **options)
    found = pulled(
        on_layer, arrays, y, g, rule=rule, block_size=block, kernel_layout=layout, **options
    )
    assert_trees_close(found, expected)


@pytest.mark.parametrize("labels", [0, 3])
def test_rows_of_several_axes(labels, rng):
    arrays, y = made(rng, labels, (3, 5))
    g = (rng.standard_normal(y.shape).astype(np.float32), rng.standard_normal((3, 5)))
    y[1] = IGNORED
    options = {"ignore_index": IGNORED, **OPTIONS}
    expected = pulled(on_logits, arrays, y, g, **options)
    assert_trees_close(pulled(on_layer, arrays, y, g, block_size=4, **options), expected)


def test_features_of_ignored_rows_do_not_matter(rng):
    arrays, y = made(rng)
    arrays[0][3:9], y[3:9] = np.nan, IGNORED
    g = cotangents(y, rng)
    out, gradients = pulled(on_layer, arrays, y, g, block_size=4, ignore_index=IGNORED)
    for x in jax.tree.leaves((out, gradients)):
        assert np.isfinite(x).all()
    np.testing.assert_array_equal(gradients[0][3:9], 0)


@pytest.mark.parametrize("labels", [0, 3])
def test_forward_mode(labels, x64, rng):
    arrays, y = made(rng, labels, dtype=np.float64)
    y[4:8] = IGNORED
    dots = jax.tree.map(lambda x: rng.standard_normal(x.shape), arrays)
    options = {"rule": "jvp", "ignore_index": IGNORED, **OPTIONS}

    def along(f, **more):
        return jax.jit(
            lambda arrays, dots: jax.jvp(
                lambda arrays: f(arrays, y, **options, **more), (arrays,), (dots,)
            )
        )(arrays, dots)

    assert_trees_close(along(on_layer, block_size=4), along(on_logits), np.float64)


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_second_derivatives(rule, x64, rng):
    (x, k, b), y = made(rng, 2, (4,), 7, np.float64)
    y[2:] = IGNORED

    def total(f, **options):
        def of(x):
            log_probs, entropy = f((x, k, b), y, ignore_index=IGNORED, rule=rule, **options)
            return jnp.sum(jnp.square(log_probs)) + jnp.sum(entropy)

        return jax.jit(jax.hessian(of))(x)

    assert_close(total(on_layer, block_size=2), total(on_logits), np.float64)


def test_vmap(rng):
    (x, k, b), y = made(rng, 2, (3, 4))
    y[1] = IGNORED

    def of(x, y):
        return on_layer((x, k, b), y, block_size=2, ignore_index=IGNORED)

    expected = on_logits((x, k, b), y, ignore_index=IGNORED)
    assert_trees_close(jax.jit(jax.vmap(of))(x, y), expected)


# What it costs


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("labels", [0, 3])
def test_one_product_and_with_gradients_four(entropy, labels, rng):
    (x, k, _), y = made(rng, labels)

    def total(x, k):
        found = ops.linear_label_log_probs(x, k, y, return_entropy=entropy, block_size=4)
        return sum(map(jnp.sum, found if entropy else (found,)))

    assert products(total, x, k) == 1
    assert products(jax.value_and_grad(total, (0, 1)), x, k) == 4
    assert products(jax.value_and_grad(total), x, k) == 3


@on_cpu
@pytest.mark.parametrize("labels", [0, 4, 10])
@pytest.mark.parametrize("ignored", [False, True])
def test_temporaries_are_of_a_block_and_the_kernels_gradient(labels, ignored):
    x, k, y = shapes()
    y = jax.ShapeDtypeStruct((*y.shape, labels) if labels else y.shape, y.dtype)

    def total(x, k, y):
        found = ops.linear_label_log_probs(
            x, k, y, return_entropy=True, block_size=32, ignore_index=-1 if ignored else None
        )
        return sum(map(jnp.sum, found))

    compiled = jax.jit(jax.value_and_grad(total, (0, 1))).lower(x, k, y).compile()
    bound = 4 * (3 * 32 * MANY + 2 * WIDTH * MANY)
    assert bound < 0.45 * LOGITS
    assert compiled.memory_analysis().temp_size_in_bytes <= bound


@on_cpu
def test_values_alone_hold_a_block_of_256_rows_by_default():
    """A tenth of the logits, which the plain way holds: half the rows of a block with gradients."""
    rows, width, classes = 4096, 16, 32768
    sizes = [((rows, width), jnp.float32), ((width, classes), jnp.float32), ((rows,), jnp.int32)]
    given = [jax.ShapeDtypeStruct(*size) for size in sizes]
    for f in (
        ops.linear_label_log_probs,
        functools.partial(ops.linear_softmax_cross_entropy, reduction="sum"),
    ):
        held, asked = (
            jax.jit(g).lower(*given).compile().memory_analysis().temp_size_in_bytes
            for g in (f, functools.partial(f, block_size=512))
        )
        block = 4 * 256 * classes
        assert block <= held < 1.6 * block <= 0.1 * 4 * rows * classes
        assert 2 * block <= asked  # what is asked for stays


def branches(text):
    return text.count(" conditional(")


def test_only_what_may_be_left_out_is_asked_for(rng):
    (x, k, _), y = made(rng)

    def text(**options):
        f = jax.jit(lambda x, k: ops.linear_label_log_probs(x, k, y, block_size=4, **options))
        return f.lower(x, k).compile().as_text()

    assert branches(text()) == 0
    assert branches(text(ignore_index=IGNORED)) == 1


def test_a_block_that_is_left_out_is_not_computed(rng):
    """Seen by what would be NaN: infinite features times a kernel of 0, in a debugged program."""
    (x, k, _), y = made(rng, rows=(16,))
    y[4:] = IGNORED
    counted = []

    def count(_):
        counted.append(1)

    @jax.custom_jvp
    def seen(k):
        jax.debug.callback(count, k[0, 0])
        return k

    seen.defjvp(lambda primals, dots: (seen(*primals), *dots))
    from jax_softmax.ops._linear.layer import Product

    plain = Product.logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Product,
            "logits",
            lambda self, linear: plain(self, linear._replace(kernel=seen(linear.kernel))),
        )
        run = jax.jit(
            lambda x, k, y: ops.linear_label_log_probs(
                x, k, y, block_size=2, ignore_index=IGNORED, precision="highest"
            )
        )
        mesh = jax.sharding.Mesh(jax.devices()[:1], ("one",))
        found = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=P(), out_specs=P()))(x, k, y)
        jax.block_until_ready(found)
        jax.effects_barrier()
    assert len(counted) == 2
    assert np.all(np.asarray(found)[:4] < 0)
    np.testing.assert_array_equal(found[4:], 0)


# Over devices

MESHES = {
    "rows": ({"data": 8}, "data", None),
    "classes": ({"model": 8}, None, "model"),
    "both": ({"data": 2, "model": 4}, "data", "model"),
}


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_the_same_over_devices(mesh, labels, rule, rng):
    axes, rows, classes = MESHES[mesh]
    arrays, y = made(rng, labels, (16,), 40)
    y[2:9] = IGNORED  # all of some devices' rows, whole blocks of others'
    g = cotangents(y, rng)
    options = {"ignore_index": IGNORED, "num_classes": 37, **OPTIONS}
    devices = np.reshape(jax.devices(), tuple(axes.values()))
    names = {"axis_name": classes, "data_axis_name": rows}

    @functools.partial(
        jax.shard_map,
        mesh=jax.sharding.Mesh(devices, tuple(axes)),
        in_specs=((P(rows), P(None, classes), P(classes)), P(rows)),
        out_specs=(P(rows), P(rows)),
    )
    def spread(arrays, y):
        return on_layer(arrays, y, rule=rule, block_size=2, **names, **options)

    def run(arrays, y, g):
        out, vjp = jax.vjp(lambda arrays: spread(arrays, y), arrays)
        return out, vjp(g)[0]

    def whole(arrays, y, **_):
        x, k, b = arrays
        where = np.where(np.arange(40) < 37, 0, -np.inf).astype(np.float32)
        return on_logits((x, k, b + where), y, **OPTIONS, ignore_index=IGNORED)

    y = np.where(y < 37, y, 0)
    compiled = jax.jit(run).lower(arrays, y, g).compile()
    assert_trees_close(compiled(arrays, y, g), pulled(whole, arrays, y, g))
    assert not any("all-gather" in name for name, _ in collectives(compiled.as_text()))


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_second_derivatives_over_devices_that_leave_out_different_blocks(rule, rng):
    """Their sums over devices must not stand in what only some of them compute: all would wait."""
    (x, k, b), y = made(rng, 0, (16,), 8)
    y[6:] = IGNORED
    mesh = jax.sharding.Mesh(np.reshape(jax.devices(), (4, 2)), ("data", "model"))
    v = rng.standard_normal(k.shape).astype(np.float32)

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P("data"), P(None, "model"), P("model"), P("data")),
        out_specs=P("data"),
    )
    def spread(x, k, b, y):
        return ops.linear_label_log_probs(
            x, k, y, bias=b, axis_name="model", ignore_index=IGNORED, block_size=2, rule=rule
        )

    def whole(x, k, b, y):
        return ops.label_log_probs(x @ k + b.reshape(1, -1), y, ignore_index=IGNORED)

    def along(f):
        def gradient(k):
            return jax.grad(lambda k: jnp.sum(jnp.square(f(x, k, b, y))))(k)

        # Reverse over reverse.
        return jax.jit(jax.grad(lambda k: jnp.sum(v * gradient(k))))(k)

    assert_trees_close(along(spread), along(whole))


def test_rows_that_jit_spreads_stay_on_their_devices(rng):
    arrays, y = made(rng, 3, (64,), 1000)
    y[16:] = IGNORED
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    placed = [jax.device_put(x, NamedSharding(mesh, P("data"))) for x in (arrays[0], y)]

    def f(x, y):
        return on_layer((x, *arrays[1:]), y, block_size=16, ignore_index=IGNORED)

    compiled = jax.jit(f).lower(*placed).compile()
    assert_trees_close(compiled(*placed), on_logits(arrays, y, ignore_index=IGNORED))
    for name, size in collectives(compiled.as_text()):
        assert size <= 64 * 3, name


@pytest.mark.parametrize("labels", [0, 3])
def test_explicit_mesh_axes(labels, rng):
    arrays, y = made(rng, labels, (16,), 40)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x, spread = (jax.device_put(a, NamedSharding(mesh, P("data"))) for a in (arrays[0], y))
        found = jax.jit(lambda x, y: on_layer((x, *arrays[1:]), y, block_size=4))(x, spread)
    assert_trees_close(found, on_logits(arrays, y))


# Words


@pytest.mark.parametrize("labels", [np.zeros((3, 1, 1), np.int32), np.zeros(2, np.int32)])
def test_labels_must_be_of_the_rows(labels):
    words = r"labels: expected shape \(3,\) \(the features' \(3, 4\) without the last axis\), or"
    with pytest.raises(ValueError, match=words):
        ops.linear_label_log_probs(
            np.zeros((3, 4), np.float32), np.zeros((4, 5), np.float32), labels
        )


def test_the_layer_must_fit():
    with pytest.raises(ValueError, match=r"kernel: expected \[D, V\] with D = 4"):
        ops.linear_label_log_probs(np.zeros((3, 4)), np.zeros((5, 6)), np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="axis_name: expected the name of a mesh axis, inside"):
        ops.linear_label_log_probs(
            np.zeros((3, 4)), np.zeros((4, 6)), np.zeros(3, np.int32), axis_name="model"
        )
