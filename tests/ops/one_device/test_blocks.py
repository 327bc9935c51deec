"""Rows in blocks and rows at once, `implementation="cpu"` and `"xla"`: the same numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from tests.compiler import UNOPTIMISED
from tests.ops.one_device.exact import many_rows
from tests.ops.options import LOSSES, NAMES, case, integer_loss
from tests.ops.pairs import PAIRS
from tests.tolerances import assert_close

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="blocks are for CPUs")
CLASSES = 512
ROWS = many_rows(CLASSES)
WAYS = ("cpu", "xla")


def in_blocks(f, *args):
    return "scan[" in str(jax.make_jaxpr(f)(*args))


def both_ways(f, *args):
    """What `f(implementation, *args)` gives by blocks of rows, and by all of them at once."""
    blocks, at_once = (functools.partial(f, way) for way in WAYS)
    assert in_blocks(blocks, *args) and not in_blocks(at_once, *args)
    return tuple(jax.jit(f, compiler_options=UNOPTIMISED)(*args) for f in (blocks, at_once))


def assert_same(ways):
    found, expected = map(jax.tree.leaves, ways)
    assert found
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, np.float32)


def derivatives(f, z, g):
    """Value, gradient, and the gradient's tangent."""

    def gradient_at(z):
        return jax.vjp(f, z)[1](g)[0]

    gradient, tangent = jax.jvp(gradient_at, (z,), (jnp.cos(z),))
    return f(z), gradient, tangent


@pytest.mark.parametrize("name", PAIRS)
def test_blocks_of_rows_change_nothing(name, rng):
    pair, shape = PAIRS[name], (ROWS, CLASSES)
    logits = 5 * rng.standard_normal(shape, np.float32)
    for at in (0, ROWS // 2, ROWS - 9):
        logits[at + 3, 7], logits[at + 5], logits[at + 6, 2] = -np.inf, -np.inf, np.nan
    labels, g = pair.labels(shape, np.float32, rng), pair.cotangent(shape, np.float32, rng)

    def f(way, z, labels, g):
        loss = {"none": (), "integer": (labels,), "soft": (labels,)}[pair.kind]
        op = {"softmax": ops.softmax, "log_softmax": ops.log_softmax}.get(name, pair.op)
        return derivatives(lambda z: op(z, *loss, implementation=way), z, g)

    assert_same(both_ways(f, logits, labels, g))


@pytest.mark.parametrize(
    ("kind", "names", "rule"),
    [
        ("integer", NAMES[:5], "vjp"),
        ("integer", ("soft_cap", "where classes"), "jvp"),
        ("soft", NAMES[:5], "jvp"),
    ],
    ids=["integer", "integer masked", "soft"],
)
def test_blocks_of_rows_know_every_option(kind, names, rule, rng):
    """In an array of three dimensions, whose rows are numbered through."""
    leading = (7, -(-ROWS // 7))
    rows = leading[0] * leading[1]
    logits, labels, options = case(LOSSES[kind], names, (rows, CLASSES), np.float32, rng)
    g = rng.standard_normal(rows).astype(np.float32)
    logits, labels, g = (x.reshape(*leading, *x.shape[1:]) for x in (logits, labels, g))
    for name in {"where", "sample_weight"} & set(options):
        options[name] = options[name].reshape(*leading, *options[name].shape[1:])
    arrays = {k: v for k, v in options.items() if np.ndim(v)}
    numbers = {k: v for k, v in options.items() if not np.ndim(v)}

    def f(way, z, labels, arrays, g):
        loss = functools.partial(
            LOSSES[kind], labels=labels, **arrays, **numbers, rule=rule, implementation=way
        )

        def outputs(z):
            loss_, stats = loss(z, return_stats=True)
            return loss_ + stats.logsumexp - stats.label_log_prob + 0.3 * stats.entropy

        mean = jax.value_and_grad(lambda z: loss(z, reduction="mean"))(z)
        forward = jax.jvp(outputs, (z,), (z,))[1] if rule == "jvp" else ()
        return derivatives(outputs, z, g), mean, forward

    assert_same(both_ways(f, logits, labels, arrays, g))


@pytest.mark.parametrize("shape", [(CLASSES,), (1, CLASSES), (ROWS, CLASSES), (ROWS, 1)])
def test_masks_broadcast_to_blocks(shape, rng):
    logits = rng.standard_normal((ROWS, CLASSES), np.float32)
    mask = np.broadcast_to(rng.random(shape) < 0.6, (ROWS, CLASSES)) if len(shape) == 1 else None
    mask = rng.random(shape) < 0.6 if mask is None else mask
    assert_same(both_ways(lambda way, z: ops.softmax(z, where=mask, implementation=way), logits))


def gradient_of_rows(way, z, y):
    return jax.grad(lambda z: jnp.sum(jnp.cos(y) * integer_loss(z, y, implementation=way)))(z)


@pytest.fixture
def rows(rng):
    z = rng.standard_normal((ROWS, CLASSES), np.float32)
    return z, rng.integers(0, CLASSES, ROWS).astype(np.int32)


def under_vmap(way, z, y):
    return jax.vmap(functools.partial(gradient_of_rows, way))(jnp.stack([z, -z]), jnp.stack([y, y]))


def under_checkpoint(way, z, y):
    loss = jax.checkpoint(functools.partial(integer_loss, implementation=way))
    return jax.grad(lambda z: jnp.sum(jnp.cos(y) * loss(z, y)))(z)


def inside_shard_map(way, z, y):
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    over = jax.sharding.PartitionSpec("rows")
    return jax.shard_map(
        functools.partial(gradient_of_rows, way), mesh=mesh, in_specs=(over, over), out_specs=over
    )(z, y)


@pytest.mark.parametrize("transform", [under_vmap, under_checkpoint, inside_shard_map])
def test_blocks_of_rows_under_transforms(transform, rows):
    assert_same(both_ways(transform, *rows))


def test_fewer_rows_are_taken_at_once(rng):
    z = jax.ShapeDtypeStruct((many_rows(CLASSES) // 2, CLASSES), jnp.float32)
    assert not in_blocks(functools.partial(ops.softmax, implementation="cpu"), z)


# The label's derivative is written into the gradient's own memory


def scatters(f, *args):
    return "scatter" in str(jax.make_jaxpr(f)(*args))


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "writes"),
    [
        ((ROWS, CLASSES), jnp.float32, {}, True),
        # With more to do to the gradient it would be one more pass.
        ((ROWS, CLASSES), jnp.float32, {"label_smoothing": 0.1}, False),
        ((ROWS, CLASSES), jnp.bfloat16, {}, False),
        ((8, CLASSES), jnp.float32, {}, False),
    ],
)
def test_labels_derivative_is_written_where_that_is_all_that_is_left(shape, dtype, options, writes):
    z = jax.ShapeDtypeStruct(shape, dtype)
    y = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    gradient = jax.grad(lambda z, y: integer_loss(z, y, **options).sum())
    assert scatters(gradient, z, y) == writes


def test_a_layer_leaves_its_gradient_in_the_memory_of_its_logits():
    x, k = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2048, 4), (4, CLASSES)))
    y = jax.ShapeDtypeStruct((2048,), jnp.int32)
    assert not scatters(jax.grad(ops.linear_softmax_cross_entropy), x, k, y)
