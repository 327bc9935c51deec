"""The losses of a layer and its teacher: those of the logits, in blocks, at the cost of blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from tests.grids import pairwise
from tests.ops.test_linear_memory import CLASSES as MANY
from tests.ops.test_linear_memory import LOGITS, WIDTH, on_cpu, shapes
from tests.ops.test_linear_memory import ROWS as MANY_ROWS
from tests.ops.test_linear_products import products
from tests.tolerances import assert_close

ROWS, D, E, CLASSES, NAMED = 13, 5, 4, 37, 6
DIRECTIONS = ("forward", "reverse", "js")
RESTS = ("ignore", "uniform", "renormalise")
both_rules = pytest.mark.parametrize("rule", ["vjp", "jvp"])


def layer(rng, width, rows=(ROWS,), classes=CLASSES, dtype=np.float32):
    sizes = ((*rows, width), (width, classes), (classes,))
    return tuple(rng.standard_normal(size).astype(dtype) for size in sizes)


def logits_of(arrays):
    x, k, b = arrays
    return x @ k + b.reshape((1,) * (x.ndim - 1) + b.shape)


def divergence(arrays, teacher, layouts=("dv", "dv"), **options):
    """Of two layers, by the kernels' layouts."""
    (x, k, b), (tx, tk, tb) = arrays, teacher
    k, tk = (a if layout == "dv" else a.T for a, layout in zip((k, tk), layouts, strict=True))
    names = {"kernel_layout": layouts[0], "teacher_kernel_layout": layouts[1]}
    return ops.linear_kl_divergence(x, k, tx, tk, bias=b, teacher_bias=tb, **names, **options)


def divergence_of_logits(arrays, teacher, **options):
    return ops.softmax_kl_divergence(logits_of(arrays), logits_of(teacher), **options)


def named_by(rng, rows=(ROWS,), dtype=np.float32):
    found = ops.top_k_log_probs(logits_of(layer(rng, E, rows, dtype=dtype)), NAMED)
    return tuple(map(np.asarray, found))


def top_k(arrays, named, layout="dv", **options):
    x, k, b = arrays
    k = k if layout == "dv" else k.T
    return ops.linear_top_k_cross_entropy(x, k, *named, bias=b, kernel_layout=layout, **options)


def top_k_of_logits(arrays, named, rest="ignore", temperature=1.0, sample_weight=1.0, mean=False):
    """As written: dense targets, `log_softmax`."""
    z = logits_of(arrays) / temperature
    masses, index = jnp.exp(named[0]), named[1]
    total = jnp.sum(masses, -1, keepdims=True)
    unnamed = max(z.shape[-1] - index.shape[-1], 1)
    each = (1 - total) / unnamed if rest == "uniform" else 0 * total
    masses = masses / total if rest == "renormalise" else masses
    targets = jnp.put_along_axis(jnp.broadcast_to(each, z.shape), index, masses, -1, inplace=False)
    rows = -jnp.sum(targets * jax.nn.log_softmax(z), -1) * sample_weight
    weight = jnp.broadcast_to(jnp.asarray(sample_weight), rows.shape)
    return jnp.sum(rows) / jnp.sum(weight) if mean else rows


def pulled(f, arrays, g, *more):
    """The value, and the gradients of its product with g by the layer and by `more`."""

    @jax.jit
    def run(arrays, *more):
        value, pull = jax.vjp(f, arrays, *more)
        return value, pull(jnp.asarray(g, value.dtype))

    return run(arrays, *more)


def assert_trees_close(found, expected, dtype=np.float32):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(a, b, dtype, scale=max(1, float(np.abs(b).max(initial=0))))


def cotangent(rng, reduction, rows=(ROWS,)):
    return rng.standard_normal(rows if reduction == "none" else ()).astype(np.float32)


@pairwise(
    direction=DIRECTIONS,
    reduction=["none", "mean", "sum"],
    block=[4, (5, 16), None],
    rule=["vjp", "jvp"],
    layouts=[("dv", "dv"), ("vd", "dv"), ("dv", "vd")],
)
def test_a_divergence_is_that_of_the_logits(direction, reduction, block, rule, layouts, rng):
    arrays, teacher = layer(rng, D), layer(rng, E)
    weight = rng.random(ROWS).astype(np.float32)
    options = {"direction": direction, "reduction": reduction, "temperature": 1.5, "soft_cap": 4.0}
    g = cotangent(rng, reduction)

    def ours(arrays, weight):
        return divergence(
            arrays, teacher, layouts, rule=rule, block_size=block, sample_weight=weight, **options
        )

    def plain(arrays, weight):
        return divergence_of_logits(arrays, teacher, sample_weight=weight, **options)

    assert_trees_close(pulled(ours, arrays, g, weight), pulled(plain, arrays, g, weight))


@pairwise(
    rest=RESTS,
    reduction=["none", "mean"],
    block=[4, (5, 16), None],
    rule=["vjp", "jvp"],
    layout=["dv", "vd"],
)
def test_a_top_k_cross_entropy_is_as_written(rest, reduction, block, rule, layout, rng):
    arrays, named = layer(rng, D), named_by(rng)
    weight = rng.random(ROWS).astype(np.float32)
    g = cotangent(rng, reduction)
    options = {"rest": rest, "temperature": 0.7}

    def ours(arrays, weight):
        return top_k(
            arrays,
            named,
            layout,
            reduction=reduction,
            block_size=block,
            rule=rule,
            sample_weight=weight,
            **options,
        )

    def plain(arrays, weight):
        mean = reduction == "mean"
        return top_k_of_logits(arrays, named, sample_weight=weight, mean=mean, **options)

    assert_trees_close(pulled(ours, arrays, g, weight), pulled(plain, arrays, g, weight))


@pytest.mark.parametrize("rest", RESTS)
def test_a_teacher_that_names_every_class_gives_the_divergence_and_its_entropy(rest, rng):
    arrays, teacher = layer(rng, D), layer(rng, E)
    named = ops.top_k_log_probs(logits_of(teacher), CLASSES)
    entropy = -np.sum(np.exp(named[0]) * np.asarray(named[0]), -1)
    g = cotangent(rng, "none")
    value, (gradients,) = pulled(lambda a: top_k(a, named, rest=rest, reduction="none"), arrays, g)
    right, (expected,) = pulled(lambda a: divergence_of_logits(a, teacher), arrays, g)
    assert_close(value, right + entropy, np.float32)
    assert_trees_close(gradients, expected)


def test_a_mass_of_0_and_an_index_that_is_no_class(rng):
    arrays, (log_probs, indices) = layer(rng, D), named_by(rng)
    log_probs, indices = log_probs.copy(), indices.copy()
    log_probs[0, 2:], indices[1, 0] = -np.inf, CLASSES
    g = cotangent(rng, "none")
    value, (gradients,) = pulled(
        lambda a: top_k(a, (log_probs, indices), reduction="none", block_size=4), arrays, g
    )
    np.testing.assert_array_equal(np.isnan(value), np.arange(ROWS) == 1)
    np.testing.assert_array_equal(np.isnan(gradients[0]).any(-1), np.arange(ROWS) == 1)
    log_q = jax.nn.log_softmax(logits_of(arrays))[0]
    expected = -np.sum(np.exp(log_probs[0, :2]) * log_q[indices[0, :2]])
    assert_close(value[0], expected, np.float32)


@pytest.mark.parametrize("loss", [divergence, top_k])
@both_rules
def test_second_derivatives_and_forward_mode(loss, rule, x64, rng):
    x, k, b = layer(rng, D, (4,), 7, np.float64)
    if loss is divergence:
        given = layer(rng, E, (4,), 7, np.float64)
        plain = functools.partial(divergence_of_logits, rule=rule)
    else:
        given = ops.top_k_log_probs(rng.standard_normal((4, 7)), 3)
        plain = top_k_of_logits

    def total(f, **options):
        return lambda x: jnp.sum(jnp.square(f((x, k, b), given, **options)))

    ours = total(loss, rule=rule, reduction="none", block_size=2)
    found, right = (jax.jit(jax.hessian(f))(x) for f in (ours, total(plain)))
    assert_close(found, right, np.float64)
    if rule == "jvp":
        found, right = (jax.jit(jax.jacfwd(f))(x) for f in (ours, total(plain)))
        assert_close(found, right, np.float64)


# Rows that do not count, classes that cannot happen, NaN


@pytest.mark.parametrize("loss", [divergence, top_k])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_rows_that_are_left_out_may_hold_anything(loss, reduction, rng):
    arrays = layer(rng, D)
    given = layer(rng, E) if loss is divergence else named_by(rng)
    given = tuple(np.array(x) for x in given)
    where = np.arange(ROWS) % 3 != 1
    g = cotangent(rng, reduction)
    counted = lambda a: loss(a, given, where=where, reduction=reduction, block_size=4)  # noqa: E731
    expected = pulled(counted, arrays, g)
    arrays[0][~where] = np.nan
    given[0][~where] = np.nan
    value, (gradients,) = pulled(counted, arrays, g)
    if reduction == "none":
        np.testing.assert_array_equal(np.asarray(value)[~where], 0)
    np.testing.assert_array_equal(np.asarray(gradients[0])[~where], 0)
    jax.tree.map(np.testing.assert_array_equal, (value, (gradients,)), expected)


@pytest.mark.parametrize("direction", DIRECTIONS)
@both_rules
def test_classes_that_cannot_happen(direction, rule):
    z = np.float32([[0, -np.inf, 1], [0, 1, 2], [0, -np.inf, 1], [-np.inf] * 3, [0, 1, 2]])
    t = np.float32([[0, 2, 1], [0, -np.inf, 1], [1, -np.inf, 0], [0, 1, 2], [2, 1, 1]])
    f = functools.partial(ops.softmax_kl_divergence, direction=direction, rule=rule)
    value, gradients = pulled(f, z, np.float32([1, -2, 3, 4, 5]), t)
    infinite = {"forward": [0, 3], "reverse": [1, 3], "js": [3]}[direction]
    np.testing.assert_array_equal(np.flatnonzero(np.isposinf(value)), infinite)
    assert not np.isnan(value).any()
    for gradient in map(np.asarray, gradients):
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[infinite], 0)
        assert (gradient[4] != 0).all()
    for x, gradient in zip((z, t), gradients, strict=True):
        np.testing.assert_array_equal(np.asarray(gradient)[np.isneginf(x)], 0)
    # A class that neither has does not matter.
    both = ops.softmax_kl_divergence(z[2, [0, 2]], t[2, [0, 2]], direction=direction)
    assert_close(value[2], both, np.float32)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_stay_in_their_rows(direction, bad, rng):
    z, t = rng.standard_normal((2, 5, 8)).astype(np.float32)
    z[1, 3] = t[3, 0] = bad
    f = functools.partial(ops.softmax_kl_divergence, direction=direction)
    value, gradients = pulled(f, z, np.ones(5, np.float32), t)
    rows = np.isin(np.arange(5), [1, 3])
    np.testing.assert_array_equal(np.isnan(value), rows)
    for gradient in gradients:
        np.testing.assert_array_equal(np.isnan(gradient).any(-1), rows)


@pytest.mark.parametrize("loss", [divergence, top_k])
def test_empty_batches_and_no_weight_are_0(loss, rng):
    arrays = layer(rng, D, (0,))
    given = layer(rng, E, (0,)) if loss is divergence else named_by(rng, (0,))
    value, (gradients,) = pulled(lambda a: loss(a, given), arrays, 1.0)
    assert value == 0
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), gradients)
    assert loss(arrays, given, reduction="none").shape == (0,)
    arrays = layer(rng, D)
    given = layer(rng, E) if loss is divergence else named_by(rng)
    assert loss(arrays, given, sample_weight=np.zeros(ROWS, np.float32)) == 0


@pytest.mark.parametrize("loss", [divergence, top_k])
def test_vmap_and_rows_of_several_axes(loss, rng):
    x, k, b = layer(rng, D, (3, 4))
    given = layer(rng, E, (3, 4)) if loss is divergence else named_by(rng, (3, 4))
    of_rows = given[:1] if loss is divergence else given

    def of(x, *of_rows):
        whole = (*of_rows, *given[len(of_rows) :])
        return loss((x, k, b), whole, reduction="none", block_size=2)

    expected = of(x, *of_rows)
    flat = [a.reshape(12, -1) for a in (x, *of_rows)]
    assert_close(jax.jit(jax.vmap(of))(x, *of_rows), expected, np.float32)
    assert_close(of(*flat).reshape(3, 4), expected, np.float32)


def test_any_axis_and_vmap_of_logits(rng):
    z, t = rng.standard_normal((2, 3, 8, 2)).astype(np.float32)
    last = (np.moveaxis(x, 1, -1) for x in (z, t))
    expected = ops.softmax_kl_divergence(*last)
    assert_close(ops.softmax_kl_divergence(z, t, 1), expected, np.float32)
    mapped = jax.vmap(lambda z, t: ops.softmax_kl_divergence(z, t, 0))(z, t)
    assert_close(mapped, expected, np.float32)


# What it costs


@pytest.mark.parametrize(
    ("reduction", "wanted", "count"),
    [("mean", (), 2), ("mean", (0, 1), 4), ("mean", (1,), 3), ("none", (0, 1), 6)],
)
@both_rules
def test_the_products_of_a_divergence(reduction, wanted, count, rule, rng):
    """One for the teacher's logits, three for the student's; rows compute both again."""
    (x, k, _), (tx, tk, _) = layer(rng, D), layer(rng, E)

    def total(x, k):
        return jnp.sum(
            ops.linear_kl_divergence(x, k, tx, tk, reduction=reduction, block_size=4, rule=rule)
        )

    assert products(jax.value_and_grad(total, wanted) if wanted else total, x, k) == count


@both_rules
@pytest.mark.parametrize("rest", RESTS)
def test_the_products_of_a_top_k_cross_entropy(rest, rule, rng):
    (x, k, _), named = layer(rng, D), named_by(rng)

    def total(x, k):
        return ops.linear_top_k_cross_entropy(x, k, *named, rest=rest, block_size=4, rule=rule)

    assert products(total, x, k) == 1
    assert products(jax.value_and_grad(total, (0, 1)), x, k) == 3


@on_cpu
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_temporaries_are_of_a_block_and_the_kernels_gradient(reduction):
    """Of both logits, and none of either whole."""
    x, k, _ = shapes()

    def total(x, k, tx, tk):
        return jnp.sum(ops.linear_kl_divergence(x, k, tx, tk, reduction=reduction, block_size=32))

    compiled = jax.jit(jax.value_and_grad(total, (0, 1))).lower(x, k, x, k).compile()
    bound = 4 * (6 * 32 * MANY + 2 * WIDTH * MANY)
    assert bound < 0.75 * LOGITS
    assert compiled.memory_analysis().temp_size_in_bytes <= bound


@on_cpu
@pytest.mark.parametrize("rest", ["ignore", "uniform"])
def test_temporaries_of_a_top_k_cross_entropy(rest):
    x, k, _ = shapes()
    named = [jax.ShapeDtypeStruct((MANY_ROWS, NAMED), d) for d in (jnp.float32, jnp.int32)]

    def total(x, k, *named):
        return ops.linear_top_k_cross_entropy(x, k, *named, rest=rest, block_size=32)

    compiled = jax.jit(jax.value_and_grad(total, (0, 1))).lower(x, k, *named).compile()
    of_rows = MANY_ROWS * (WIDTH + 2 * NAMED)
    blocks = 3 if rest == "ignore" else 5  # the masses of the rest, and their gradient
    bound = 4 * (blocks * 32 * MANY + 2 * WIDTH * MANY + of_rows)
    assert compiled.memory_analysis().temp_size_in_bytes <= bound
