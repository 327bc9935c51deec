"""The contrastive loss of two towers: that of dense similarities, which are never held."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jax_softmax import ops
from tests.ops.test_linear_memory import on_cpu
from tests.ops.test_sharding import collectives
from tests.tolerances import assert_close

PAIRS, WIDTH = 16, 5


def towers(rng, dtype=np.float32):
    a, b = rng.standard_normal((2, PAIRS, WIDTH))
    return jnp.asarray(a, dtype), jnp.asarray(b, dtype)


def dense(a, b, scale, weight, symmetric=True, smoothing=0.0, mean=True):
    """All similarities, whose labels are the diagonal."""
    z = (a @ b.T).astype(weight.dtype) * scale
    targets = (1 - smoothing) * jnp.eye(len(a)) + smoothing / len(a)
    rows = -jnp.sum(targets * jax.nn.log_softmax(z, -1), -1)
    if symmetric:
        rows = (rows - jnp.sum(targets * jax.nn.log_softmax(z, 0), 0)) / 2
    return jnp.sum(weight * rows) / jnp.sum(weight) if mean else weight * rows


def value_and_gradients(f, *args, g=1.0):
    @jax.jit
    def run(*args):
        value, pull = jax.vjp(f, *args)
        return value, pull(jnp.asarray(g, value.dtype))

    return run(*args)


def assert_trees_close(found, expected, dtype=np.float32):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(x, y, dtype)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("smoothing", "reduction", "rule", "block"),
    [(0.0, "mean", "vjp", None), (0.1, "none", "jvp", 3), (0.1, "mean", "jvp", (5, 4))],
)
def test_it_is_that_of_dense_similarities(symmetric, smoothing, reduction, rule, block, rng):
    """With gradients by both towers, the scale and the weights."""
    a, b = towers(rng)
    weight = rng.random(PAIRS).astype(np.float32)
    g = rng.standard_normal(PAIRS if reduction == "none" else ()).astype(np.float32)

    def ours(a, b, t, weight):
        return ops.contrastive_cross_entropy(
            a,
            b,
            logit_scale=jnp.exp(t),
            symmetric=symmetric,
            label_smoothing=smoothing,
            sample_weight=weight,
            reduction=reduction,
            rule=rule,
            block_size=block,
        )

    def plain(a, b, t, weight):
        return dense(a, b, jnp.exp(t), weight, symmetric, smoothing, reduction == "mean")

    given = (a, b, np.float32(0.3), weight)
    found, expected = (value_and_gradients(f, *given, g=g) for f in (ours, plain))
    assert_trees_close(found, expected)


def test_a_temperature_divides_and_a_sum_is_not_divided(rng):
    a, b = towers(rng)
    ones = np.ones(PAIRS, np.float32)
    found = ops.contrastive_cross_entropy(a, b, temperature=0.5)
    assert_close(found, dense(a, b, 2.0, ones), np.float32)
    total = ops.contrastive_cross_entropy(a, b, temperature=0.5, reduction="sum")
    assert_close(total, PAIRS * found, np.float32)
    assert_close(ops.contrastive_cross_entropy(a, b, logit_scale=2), found, np.float32)


def test_half_precision_is_multiplied_by_a_scale_in_float32(rng):
    """A bfloat16 product with the scale would round each similarity."""
    a, b = towers(rng, jnp.bfloat16)

    def ours(a, b, scale):
        return ops.contrastive_cross_entropy(a, b, logit_scale=scale)

    value, gradients = value_and_gradients(ours, a, b, np.float32(1.37))
    assert value.dtype == np.float32
    assert [x.dtype for x in gradients] == [jnp.bfloat16, jnp.bfloat16, np.float32]
    wide = [np.asarray(x, np.float32) for x in (a, b)]
    ones = np.ones(PAIRS, np.float32)
    expected, right = value_and_gradients(
        lambda a, b, s: dense(a, b, s, ones), *wide, np.float32(1.37)
    )
    assert_close(value, expected, np.float32)
    assert_close(gradients[2], right[2], np.float32)
    # The similarities' gradient is rounded, each direction's sum, and the sum of both: three halves
    # of an eps of the absolute terms.
    a, b = map(np.abs, wide)
    z = 1.37 * wide[0] @ wide[1].T
    terms = jax.nn.softmax(z, -1) + jax.nn.softmax(z, 0) + 2 * np.eye(PAIRS)
    terms = 1.37 * np.asarray(terms) / (2 * PAIRS)
    for x, y, size in zip(gradients[:2], right[:2], (terms @ b, terms.T @ a), strict=True):
        assert (np.abs(np.asarray(x, np.float32) - y) <= 1.5 * 2.0**-8 * size).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_same_over_devices_without_a_gather_of_similarities(symmetric, rng):
    a, b = towers(rng)
    ones = np.ones(PAIRS, np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P("data"), P("data"), P()), out_specs=P()
    )
    def spread(a, b, scale):
        return ops.contrastive_cross_entropy(
            a, b, logit_scale=scale, symmetric=symmetric, axis_name="data"
        )

    run = jax.jit(jax.value_and_grad(spread, (0, 1, 2)))
    compiled = run.lower(a, b, jnp.float32(1.3)).compile()
    found = compiled(a, b, jnp.float32(1.3))
    expected = value_and_gradients(
        lambda a, b, s: dense(a, b, s, ones, symmetric), a, b, np.float32(1.3)
    )
    assert_trees_close(found, expected)
    # The other tower, and at most both at once: 16 by 5. All similarities are 16 by 16.
    sizes = [size for _, size in collectives(compiled.as_text())]
    assert sizes and max(sizes) <= 2 * PAIRS * WIDTH < PAIRS * PAIRS


@on_cpu
@pytest.mark.parametrize("symmetric", [True, False])
def test_similarities_are_never_held_whole(symmetric):
    pairs, width = 2048, 16
    tower = jax.ShapeDtypeStruct((pairs, width), jnp.float32)

    def total(a, b):
        return ops.contrastive_cross_entropy(a, b, symmetric=symmetric, block_size=64)

    compiled = jax.jit(jax.value_and_grad(total, (0, 1))).lower(tower, tower).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 4 * pairs * pairs / 4


A = np.zeros((4, 3), np.float32)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        (
            {"b": A[:3]},
            ValueError,
            r"a: expected two towers of one shape \[N, D\], got \(4, 3\) and",
        ),
        ({"a": A[0], "b": A[0]}, ValueError, r"a: expected two towers of one shape \[N, D\]"),
        ({"b": A.astype(int)}, TypeError, "b: expected a floating"),
        ({"temperature": 0.5, "logit_scale": 2.0}, ValueError, "logit_scale: expected None beside"),
        ({"logit_scale": np.ones(4)}, ValueError, "logit_scale: expected a number, got an array"),
        ({"logit_scale": "x"}, TypeError, "logit_scale: expected an array, got str"),
        ({"a": A[:0], "b": A[:0]}, ValueError, "a: expected at least one pair, got shape"),
        (
            {"where": np.ones(4, bool), "label_smoothing": 0.1},
            ValueError,
            "label_smoothing: expected 0 beside where, got 0.1",
        ),
        ({"temperature": 0}, ValueError, "temperature: expected a number from 1e-6"),
        ({"axis_name": "data"}, ValueError, "axis_name: expected the name of a mesh axis, inside"),
        ({"label_smoothing": 2.0}, ValueError, "label_smoothing: expected"),
        ({"reduction": "x"}, ValueError, "reduction: expected"),
        ({"sample_weight": np.ones(3)}, ValueError, "sample_weight: expected factors that broad"),
    ],
)
def test_mistakes_are_named(changed, error, words):
    with pytest.raises(error, match=words):
        ops.contrastive_cross_entropy(**({"a": A, "b": A} | changed))


def test_towers_that_are_the_same_on_all_devices_are_refused():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def f(a, b):
        return ops.contrastive_cross_entropy(a, b, axis_name="data")

    spread = jax.shard_map(f, mesh=mesh, in_specs=(P("data"), P()), out_specs=P())
    with pytest.raises(ValueError, match="axis_name='data': expected b to be this device's part"):
        spread(np.zeros((32, 3), np.float32), A)


TOWER = np.random.default_rng(3).standard_normal((4, 3)).astype(np.float32)


def test_pairs_that_do_not_count_are_no_negatives():
    """Whatever they hold."""
    some, left = np.arange(4) > 0, jnp.asarray(TOWER).at[0].set(jnp.nan)

    def loss(a, b, where=None):
        return ops.contrastive_cross_entropy(a, b, where=where, logit_scale=2.0)

    value, gradients = jax.value_and_grad(loss, (0, 1))(left, left[:, ::-1], some)
    expected, alone = jax.value_and_grad(loss, (0, 1))(jnp.asarray(TOWER[1:]), TOWER[1:, ::-1])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for gradient, exact in zip(gradients, alone, strict=True):
        np.testing.assert_array_equal(gradient[0], 0)
        np.testing.assert_allclose(gradient[1:], exact, rtol=1e-5, atol=1e-7)


def test_towers_of_one_device_alone_must_be_meant():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

    def loss(axis_name):
        mapped = jax.shard_map(
            lambda a: jax.lax.pmean(
                ops.contrastive_cross_entropy(a, a, axis_name=axis_name), "data"
            ),
            mesh=mesh,
            in_specs=P("data"),
            out_specs=P(),
        )
        return mapped(TOWER)

    with pytest.raises(ValueError, match=r"axis_name: expected the axes of the pairs.*\['data'\]"):
        loss(None)
    halves = [ops.contrastive_cross_entropy(half, half) for half in (TOWER[:2], TOWER[2:])]
    np.testing.assert_allclose(loss(()), sum(halves) / 2, rtol=1e-6)
