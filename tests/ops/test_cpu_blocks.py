"""Rows taken in blocks on a CPU: the same numbers, and no temporaries as large as the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from jax_softmax.ops import _cpu_blocks, _statistics
from jax_softmax.ops.cross_entropy import _integer, _soft
from jax_softmax.ops.softmax import _jitted
from tests.ops.options import LOSSES, NAMES, case, integer_loss, soft_loss
from tests.ops.pairs import PAIRS
from tests.tolerances import assert_close

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA:CPU needs")


def forget_traces():
    for known in (_integer, _soft, _jitted):
        known.clear_cache()


@pytest.fixture
def blocks(monkeypatch):
    """Has rows taken in blocks of as many as it is called with, though there are 8 devices here."""

    def of(rows):
        forget_traces()  # which do not know
        monkeypatch.setattr(_cpu_blocks, "_rows_of_block", lambda classes: rows)
        for module in (_cpu_blocks, _statistics):
            monkeypatch.setattr(module, "on_one_device", lambda *arrays: True)
        monkeypatch.setattr(_statistics, "_LARGE", 0)

    yield of
    forget_traces()


def loops(f, *args):
    return str(jax.make_jaxpr(lambda *args: f(*args))(*args)).count("scan[")


def jitted(f, *args):
    """Traced anew: a function that was is not traced again."""
    return jax.jit(lambda *args: f(*args))(*args)


def value_and_derivatives(f, logits, g):
    """Value, gradient, and the gradient's tangent."""
    gradient = jax.vjp(f, logits)[1]

    def gradient_at(z):
        return jax.vjp(f, z)[1](g)[0]

    return f(logits), gradient(g)[0], jax.jvp(gradient_at, (logits,), (jnp.cos(logits),))[1]


@pytest.mark.parametrize("rows", [26, pytest.param(24, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PAIRS)
def test_blocks_of_rows_change_nothing(name, rows, blocks, rng):
    pair, shape = PAIRS[name], (rows, 40)
    logits = (5 * rng.standard_normal(shape)).astype(np.float32)
    logits[3, 7], logits[5], logits[6, 2] = -np.inf, -np.inf, np.nan
    labels, g = pair.labels(shape, np.float32, rng), pair.cotangent(shape, np.float32, rng)

    def both(z, g):
        return value_and_derivatives(lambda z: pair.op(z, labels), z, g)

    assert not loops(both, logits, g)
    expected = jitted(both, logits, g)
    blocks(3)
    assert loops(both, logits, g)
    for actual, wanted in zip(jitted(both, logits, g), expected, strict=True):
        assert_close(actual, wanted, np.float32)


@pytest.mark.parametrize("rule", ["vjp", pytest.param("jvp", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "names", [NAMES[:5], ("soft_cap", "where classes")], ids=["all but a mask", "a mask"]
)
@pytest.mark.parametrize("kind", LOSSES)
def test_blocks_of_rows_know_every_option(kind, names, rule, blocks, rng):
    logits, labels, options = case(LOSSES[kind], names, (5 * 7, 40), np.float32, rng)
    logits, labels, g = (
        x.reshape(5, 7, *x.shape[1:])
        for x in (logits, labels, rng.standard_normal(35).astype(np.float32))
    )
    for name in {"where", "sample_weight"} & set(options):
        options[name] = options[name].reshape(5, 7, *options[name].shape[1:])

    def outputs(z):
        loss, stats = LOSSES[kind](z, labels, **options, rule=rule, return_stats=True)
        return loss + stats.logsumexp - stats.label_log_prob + 0.3 * stats.entropy

    def everything(z, g):
        mean = jax.value_and_grad(
            lambda z: LOSSES[kind](z, labels, **options, rule=rule, reduction="mean")
        )
        found = (*value_and_derivatives(outputs, z, g), *mean(z))
        return (*found, jax.jvp(outputs, (z,), (z,))[1]) if rule == "jvp" else found

    expected = jitted(everything, logits, g)
    blocks(4)
    assert loops(everything, logits, g)
    for actual, wanted in zip(jitted(everything, logits, g), expected, strict=True):
        assert_close(actual, wanted, np.float32)


@pytest.mark.parametrize("shape", [(40,), (7, 40), (1, 7, 40), (5, 1, 40)])
def test_masks_broadcast_to_blocks(shape, blocks, rng):
    logits = rng.standard_normal((5, 7, 40)).astype(np.float32)
    mask = np.broadcast_to(rng.random(shape) < 0.6, (5, 7, 40)) if len(shape) < 3 else None
    mask = rng.random(shape) < 0.6 if mask is None else mask
    expected = ops.softmax(logits, where=mask)
    blocks(3)
    assert loops(lambda z: ops.softmax(z, where=mask), logits)
    assert_close(ops.softmax(logits, where=mask), expected, np.float32)


def test_blocks_of_rows_under_vmap_and_checkpoint(blocks, rng):
    logits = rng.standard_normal((2, 30, 40)).astype(np.float32)
    labels = rng.integers(0, 40, (2, 30)).astype(np.int32)

    def gradients(z, y):
        return jax.vmap(
            jax.grad(lambda z, y: jax.checkpoint(lambda z, y: integer_loss(z, y))(z, y).sum())
        )(z, y)

    expected = gradients(logits, labels)
    blocks(3)
    assert loops(gradients, logits, labels)
    assert_close(gradients(logits, labels), expected, np.float32)


def test_blocks_of_rows_inside_shard_map(blocks, rng):
    logits = rng.standard_normal((16 * 8, 40)).astype(np.float32)
    labels = rng.integers(0, 40, 16 * 8).astype(np.int32)
    expected = jax.grad(lambda z: integer_loss(z, labels).sum())(logits)
    blocks(2)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("rows")

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=(rows, rows), out_specs=rows)
    def gradient(z, y):
        return jax.grad(lambda z: integer_loss(z, y).sum())(z)

    assert loops(gradient, logits, labels)
    assert_close(gradient(logits, labels), expected, np.float32)


def test_rows_that_may_be_over_devices_are_not_taken_in_blocks(monkeypatch):
    monkeypatch.setattr(_cpu_blocks, "_rows_of_block", lambda classes: 2)
    assert jax.device_count() > 1
    logits, labels = jnp.zeros((46, 40)), jnp.zeros(46, int)
    assert not loops(lambda z: integer_loss(z, labels), logits)


ROWS, CLASSES = 512, 32768
BLOCKS = 16


def integer_case(**options):
    return lambda z: integer_loss(z, np.zeros(ROWS, np.int32), reduction="mean", **options)


def masked_case(**options):
    """The mask an argument: XLA folds a constant one away."""
    labels = np.zeros(ROWS, np.int32)
    return lambda z, mask: integer_loss(z, labels, where=mask, reduction="mean", **options)


def of_statistics(z):
    loss, stats = integer_loss(z, np.zeros(ROWS, np.int32), return_stats=True)
    return jnp.sum(loss + stats.entropy + stats.logsumexp)


def soft_case(**options):
    return lambda z, q: soft_loss(z, q, reduction="mean", **options)


# The loss, by how many arrays of the logits' shape it is differentiated, and the dtypes of others.
WEIGHTS = np.ones(CLASSES, np.float32)
CASES = {
    "no option": (integer_case(), 1, ()),
    "smoothing and weights": (integer_case(label_smoothing=0.1, class_weights=WEIGHTS), 1, ()),
    "soft_cap and z_loss": (integer_case(soft_cap=30.0, z_loss=0.1), 1, ()),
    "where": (masked_case(), 1, (bool,)),
    "where and smoothing": (masked_case(label_smoothing=0.1), 1, (bool,)),
    "rule": (integer_case(ignore_index=0, rule="jvp"), 1, ()),
    "statistics": (of_statistics, 1, ()),
    "soft labels": (soft_case(label_smoothing=0.1, soft_cap=30.0), 2, ()),
    "softmax": (ops.softmax, 0, ()),
    "log_softmax": (ops.log_softmax, 0, ()),
}


FAST = [
    ("no option", jnp.float32),
    ("no option", jnp.bfloat16),
    ("where and smoothing", jnp.float32),
    ("where and smoothing", jnp.bfloat16),
    ("soft_cap and z_loss", jnp.float32),
    ("soft labels", jnp.bfloat16),
]


def temporaries(f, dtypes):
    """What a compiled program needs beside arguments and results, over the size of the first."""
    arguments = [jax.ShapeDtypeStruct((ROWS, CLASSES), dtype) for dtype in dtypes]
    memory = jax.jit(f).lower(*arguments).compile().memory_analysis()
    return memory.temp_size_in_bytes / (ROWS * CLASSES * np.dtype(dtypes[0]).itemsize)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if (name, dtype) in FAST else pytest.mark.slow)
        for name in CASES
        for dtype in (jnp.float32, jnp.bfloat16)
    ],
)
def test_no_temporaries_as_large_as_the_logits(name, dtype, blocks):
    """Those of a few blocks, in float32."""
    blocks(ROWS // BLOCKS)
    f, count, others = CASES[name]
    bound = 5 / BLOCKS * 4 / np.dtype(dtype).itemsize
    if count == 0:
        assert temporaries(f, [dtype]) < bound
        assert temporaries(lambda x, g: jax.vjp(f, x)[1](g)[0], [dtype, dtype]) < bound
        return
    dtypes = [*[dtype, jnp.float32][:count], *others]
    assert temporaries(f, dtypes) < bound
    assert temporaries(jax.value_and_grad(f, tuple(range(count))), dtypes) < bound
