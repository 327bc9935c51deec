"""Derivatives of the fused loss: cotangents, both rules, second order, transforms, what is frozen.

Against JAX's derivatives of the definition on logits, in float64.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jax_softmax.ops import reference
from tests.ops.linear import (
    call,
    case,
    cotangents_for,
    exact,
    loss,
    outputs_and_gradients,
    quickly_compiled,
)
from tests.tolerances import CHECK_GRADS, HALF_GRADIENT_EPS, assert_close

both_rules = pytest.mark.parametrize("rule", ["vjp", "jvp"])
ROWS, WIDTH, CLASSES = 5, 3, 11
BLOCK = (2, 4)


def small(names=("bias",), rows=(ROWS,), dtype=np.float64):
    return case(names, rows, WIDTH, CLASSES, dtype)


def definition(arrays, labels):
    """The losses of rows, each weighted, by the textbook."""
    logits = arrays["features"] @ arrays["kernel"] + arrays["bias"][None]
    rows = reference.softmax_cross_entropy_with_integer_labels(logits, labels)
    return rows * arrays["sample_weight"] if "sample_weight" in arrays else rows


def assert_trees_close(actual, expected, dtype):
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, dtype)


# Cotangents


@both_rules
def test_total_under_any_cotangent(rule):
    """One compiled program, which gives the cotangent's multiple of the gradients."""
    made = case({"bias", "sample_weight"})
    for g in (1.0, 0.3, -2.0, 65536.0, 0.0):
        g = [np.float32(g)]
        _, gradients = outputs_and_gradients(made, g, rule=rule, block_size=4)
        expected = exact(made, g)[1]
        for name, gradient in gradients.items():
            scale = max(1, abs(g[0]))
            assert_close(gradient, expected[name], np.float32, scale=scale)


@both_rules
def test_losses_that_share_a_kernel(rule, x64):
    """A sum of two losses, scaled apart: each has its own cotangent."""
    made = small()
    other = case({"bias"}, (ROWS,), WIDTH, CLASSES, np.float64, seed=5)
    f = functools.partial(loss, rule=rule, block_size=BLOCK)

    @quickly_compiled
    def gradients(kernel, bias):
        def total(kernel, bias):
            first = f(made.arrays["features"], kernel, made.labels, bias=bias)
            second = f(other.arrays["features"], kernel, other.labels, bias=bias, reduction="sum")
            return 0.3 * first - 2 * second + first * second

        return jax.value_and_grad(total, (0, 1))(kernel, bias)

    arrays = made.arrays
    _, (by_kernel, by_bias) = gradients(arrays["kernel"], arrays["bias"])
    first, one = exact(made, [1.0])
    second, two = exact(other.changed(kernel=arrays["kernel"], bias=arrays["bias"]), [1.0], "sum")
    for actual, name in ((by_kernel, "kernel"), (by_bias, "bias")):
        expected = (0.3 + second[0]) * one[name] + (first[0] - 2) * two[name]
        assert_close(actual, expected, np.float64)


# Second derivatives


def second_derivatives(f, arrays, direction):
    """Reverse over reverse, of `<direction, gradient>`; and forward over reverse."""

    def slope(arrays):
        gradient = jax.grad(f)(arrays)
        terms = jax.tree.map(lambda d, g: jnp.sum(d * g), direction, gradient)
        return sum(jax.tree.leaves(terms))

    return jax.grad(slope)(arrays), jax.jvp(jax.grad(f), (arrays,), (direction,))[1]


@pytest.mark.parametrize(
    ("rule", "reduction", "block"),
    [
        ("vjp", "mean", (2, 4)),
        pytest.param("vjp", "none", 2, marks=pytest.mark.slow),
        pytest.param("jvp", "mean", 2, marks=pytest.mark.slow),
        pytest.param("jvp", "none", (2, 4), marks=pytest.mark.slow),
    ],
)
def test_gradient_of_gradient_both_ways(rule, reduction, block, x64, rng):
    made = small({"bias", "sample_weight"})
    arrays, labels = made.arrays, made.labels
    direction = {name: rng.standard_normal(x.shape) for name, x in arrays.items()}
    direction["sample_weight"][-1] = 0  # where the fused loss leaves the row out
    g = rng.standard_normal(ROWS) if reduction == "none" else 0.7
    static = {"rule": rule, "reduction": reduction, "block_size": block}

    def fused(arrays):
        return jnp.sum(g * call(static, arrays, labels))

    def textbook(arrays):
        rows = definition(arrays, labels)
        total = rows if reduction == "none" else jnp.sum(rows) / jnp.sum(arrays["sample_weight"])
        return jnp.sum(g * total)

    actual = quickly_compiled(functools.partial(second_derivatives, fused))(arrays, direction)
    expected = quickly_compiled(functools.partial(second_derivatives, textbook))(arrays, direction)
    for tree in (*actual, *expected):
        tree["sample_weight"] = tree["sample_weight"][:-1]
    assert_trees_close(actual, expected, np.float64)


@both_rules
def test_second_derivatives_where_classes_are_summed_in_chunks(rule, x64, rng):
    """jax 0.10 drops a `custom_jvp` inside a loop here: sums must be right without one."""
    made = case({"bias"}, (ROWS,), WIDTH, 40, np.float64)
    direction = {name: rng.standard_normal(x.shape) for name, x in made.arrays.items()}
    static = {"rule": rule, "block_size": 2}

    def fused(arrays):
        return call(static, arrays, made.labels)

    def textbook(arrays):
        return jnp.mean(definition(arrays, made.labels))

    actual = quickly_compiled(functools.partial(second_derivatives, fused))(made.arrays, direction)
    expected = quickly_compiled(functools.partial(second_derivatives, textbook))(
        made.arrays, direction
    )
    assert_trees_close(actual, expected, np.float64)


@pytest.mark.slow
@both_rules
def test_hessian_by_all_arrays(rule, x64):
    """Every block of it, those between two arrays as well."""
    made = small(rows=(2,))

    def fused(arrays):
        return call({"rule": rule, "block_size": (1, 4)}, arrays, made.labels)

    actual = quickly_compiled(jax.hessian(fused))(made.arrays)
    expected = quickly_compiled(jax.hessian(lambda a: jnp.mean(definition(a, made.labels))))(
        made.arrays
    )
    assert_trees_close(actual, expected, np.float64)


@pytest.mark.slow
def test_hessian_of_half_precision_is_that_of_its_float32_sums():
    """Gradients of features are kept as two halves: their tangents must be as well."""
    made = small(rows=(2,), dtype=jnp.bfloat16)
    features, kernel = made.arrays["features"], made.arrays["kernel"]

    @quickly_compiled
    def hessian(features, kernel):
        return jax.hessian(lambda x: 100 * loss(x, kernel, made.labels))(features)

    low = np.asarray(hessian(features, kernel), np.float64)
    full = hessian(features.astype(np.float32), kernel.astype(np.float32))
    # Of the largest: small ones are what is left of terms that cancel, rounded for the product.
    error = np.abs(low - np.asarray(full, np.float64)) / np.abs(full).max()
    assert error.max() <= HALF_GRADIENT_EPS * jnp.finfo(jnp.bfloat16).eps


@pytest.mark.slow
@pytest.mark.parametrize(("reduction", "block"), [("none", (2, 4)), ("mean", 2)])
def test_check_grads_to_second_order_in_both_modes(reduction, block, x64):
    made = small({"bias", "sample_weight"}, (3,))
    made.arrays["sample_weight"][-1] = 0.4
    static = {"label_smoothing": 0.1, "soft_cap": 3.0, "z_loss": 0.1, "rule": "jvp"}

    def f(features, kernel, bias, sample_weight):
        arrays = {"features": features, "kernel": kernel, "bias": bias}
        arrays["sample_weight"] = sample_weight
        return call({**static, "reduction": reduction, "block_size": block}, arrays, made.labels)

    args = [made.arrays[name] for name in ("features", "kernel", "bias", "sample_weight")]
    check_grads(jax.jit(f), args, order=2, modes=["fwd", "rev"], **CHECK_GRADS._asdict())


# Forward mode


@pytest.mark.parametrize(
    ("reduction", "block"), [("none", (2, 4)), pytest.param("mean", 2, marks=pytest.mark.slow)]
)
def test_jvp_linearize_and_jacfwd(reduction, block, x64, rng):
    """Of every array at once, and of the bias alone."""
    made = small({"bias", "sample_weight"})
    made.arrays["sample_weight"][-1] = 0.4
    arrays, labels = made.arrays, made.labels
    tangent = {name: rng.standard_normal(x.shape) for name, x in arrays.items()}

    def derivatives(f):
        @quickly_compiled
        def forward(arrays, tangent):
            value, linear = jax.linearize(f, arrays)
            by_bias = jax.jacfwd(lambda bias: f({**arrays, "bias": bias}))(arrays["bias"])
            return jax.jvp(f, (arrays,), (tangent,)), (value, linear(tangent)), by_bias

        return forward(arrays, tangent)

    def fused(arrays):
        return call({"rule": "jvp", "reduction": reduction, "block_size": block}, arrays, labels)

    def textbook(arrays):
        rows = definition(arrays, labels)
        return rows if reduction == "none" else jnp.sum(rows) / jnp.sum(arrays["sample_weight"])

    assert_trees_close(derivatives(fused), derivatives(textbook), np.float64)


def test_jvp_of_statistics(x64, rng):
    made = small()
    tangent = {name: rng.standard_normal(x.shape) for name, x in made.arrays.items()}

    @quickly_compiled
    def forward(arrays, tangent):
        def f(arrays):
            value, stats = call(
                {"rule": "jvp", "return_stats": True, "block_size": BLOCK}, arrays, made.labels
            )
            return value, stats[:3]

        return jax.jvp(f, (arrays,), (tangent,))[1]

    slope, slopes = forward(made.arrays, tangent)
    nothing = [0.0, *[None] * 3]

    def expected(cotangents, reduction="none"):
        gradients = exact(made, cotangents, reduction)[1]
        return sum(np.sum(gradients[name] * tangent[name]) for name in tangent)

    assert_close(slope, expected([1.0, None, None, None], "mean"), np.float64)
    for n in range(3):
        for row in range(ROWS):
            g = list(nothing)
            g[n + 1] = np.eye(ROWS)[row]
            assert_close(slopes[n][row], expected(g), np.float64)


def test_reverse_mode_rule_has_no_jvp_and_says_so():
    made = small(dtype=np.float32)
    x = made.arrays["features"]
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: loss(x, made.arrays["kernel"], made.labels), (x,), (x,))


# Transforms


TRANSFORM_STATIC = {"reduction": "none", "block_size": 2}


def directly(f, arrays, labels, g):
    return jax.grad(lambda arrays: jnp.sum(g * f(arrays, labels)))(arrays)


def under_checkpoint(f, arrays, labels, g):
    f = jax.checkpoint(f)
    return jax.grad(lambda arrays: jnp.sum(g * jnp.tanh(f(arrays, labels))))(arrays)


def under_scan(f, arrays, labels, g):
    """A row a step, differentiated from outside the loop."""
    rows = {name: arrays[name] for name in ("features", "sample_weight")}
    shared = {name: arrays[name] for name in ("kernel", "bias")}

    def total(rows, shared):
        def step(carry, row):
            one, label, g = row
            return carry + g * f({**shared, **one}, label), None

        return jax.lax.scan(step, jnp.zeros(()), (rows, labels, g))[0]

    by_rows, by_shared = jax.grad(total, (0, 1))(rows, shared)
    return {**by_rows, **by_shared}


def under_vmap(f, arrays, labels, g):
    """A row each, and the gradients of what they share summed afterwards."""
    axes = {"features": 0, "sample_weight": 0, "kernel": None, "bias": None}
    by_row = jax.vmap(jax.grad(f), (axes, 0))(arrays, labels)

    def weighed(x):
        return x * g.reshape(-1, *[1] * (x.ndim - 1))

    by_row = jax.tree.map(weighed, by_row)
    return {name: x if axes[name] == 0 else x.sum(0) for name, x in by_row.items()}


@pytest.mark.parametrize(
    ("transform", "rule"),
    [
        (under_scan, "vjp"),
        (under_vmap, "jvp"),
        pytest.param(under_scan, "jvp", marks=pytest.mark.slow),
        pytest.param(under_vmap, "vjp", marks=pytest.mark.slow),
    ],
)
def test_transform_gives_the_plain_gradient(transform, rule, x64):
    made = small({"bias", "sample_weight"})
    g = cotangents_for(made, "none", False)
    f = functools.partial(call, {**TRANSFORM_STATIC, "rule": rule})
    actual = quickly_compiled(functools.partial(transform, f))(made.arrays, made.labels, g[0])
    expected = exact(made, g, "none")[1]
    for name, gradient in actual.items():
        assert_close(gradient, expected[name], np.float64)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_checkpoint_gives_the_plain_gradient(reduction, x64):
    made = small({"bias", "sample_weight"})
    f = functools.partial(call, {**TRANSFORM_STATIC, "reduction": reduction})
    g = np.asarray(1.3)
    actual = quickly_compiled(functools.partial(under_checkpoint, f))(made.arrays, made.labels, g)
    value = exact(made, [1.0], reduction)[0][0]
    expected = exact(made, [g * (1 - np.tanh(value) ** 2)], reduction)[1]
    for name, gradient in actual.items():
        assert_close(gradient, expected[name], np.float64)


@pytest.mark.parametrize("reduction", ["mean", pytest.param("none", marks=pytest.mark.slow)])
def test_vmap_over_kernels(reduction, x64, rng):
    """An ensemble on the same features: an axis in front of the kernel, at the end of the bias."""
    made = small()
    kernels = rng.standard_normal((3, WIDTH, CLASSES))
    biases = rng.standard_normal((CLASSES, 3))
    g = rng.standard_normal(ROWS) if reduction == "none" else 1.7

    def one(kernel, bias):
        arrays = {**made.arrays, "kernel": kernel, "bias": bias}
        return jnp.sum(g * call({"reduction": reduction, "block_size": BLOCK}, arrays, made.labels))

    by_kernel, by_bias = quickly_compiled(jax.vmap(jax.grad(one, (0, 1)), (0, 1)))(kernels, biases)
    for n in range(3):
        expected = exact(made.changed(kernel=kernels[n], bias=biases[:, n]), [g], reduction)[1]
        assert_close(by_kernel[n], expected["kernel"], np.float64)
        assert_close(by_bias[n], expected["bias"], np.float64)


def test_jacobian_of_rows_by_the_kernel(x64):
    made = small(())
    features, labels = made.arrays["features"], made.labels

    @quickly_compiled
    def jacobian(kernel):
        return jax.jacrev(lambda k: loss(features, k, labels, reduction="none", block_size=2))(
            kernel
        )

    actual = jacobian(made.arrays["kernel"])
    for row in range(ROWS):
        expected = exact(made, [np.eye(ROWS)[row]], "none")[1]["kernel"]
        assert_close(actual[row], expected, np.float64)


# How many products, and none for what is frozen


def products(f, *args):
    """The matrix products in the program that is compiled."""
    lowered = jax.jit(f).lower(*args).as_text()
    functions = dict(re.findall(r"func\.func \w+ @(\w+)\((.*?)^  }$", lowered, re.S | re.M))

    def count(name):
        body = functions[name]
        called = re.findall(r"call @(\w+)\(", body)
        return body.count("stablehlo.dot_general") + sum(map(count, called))

    return count("main")


@pytest.mark.parametrize(
    ("reduction", "wanted", "count"),
    [
        ("mean", (), 1),
        ("mean", ("features", "kernel"), 3),
        ("mean", ("features",), 2),
        ("mean", ("kernel",), 2),
        ("mean", ("bias",), 1),
        ("none", (), 1),
        ("none", ("features", "kernel"), 4),
        ("none", ("features",), 3),
        ("none", ("kernel",), 3),
        ("none", ("bias",), 2),
    ],
)
@both_rules
def test_products_are_made_only_for_what_is_differentiated(reduction, wanted, count, rule):
    """One forward, one for each of features and kernel; without a total one more to recompute."""
    made = small(dtype=np.float32)
    static = {"reduction": reduction, "rule": rule, "block_size": 2}

    def total(part, rest):
        return jnp.sum(call(static, {**part, **rest}, made.labels))

    part = {name: made.arrays[name] for name in wanted}
    rest = {name: x for name, x in made.arrays.items() if name not in wanted}
    f = jax.value_and_grad(total) if wanted else total
    assert products(f, part, rest) == count


@pytest.mark.parametrize(
    ("used", "count"), [("loss", 3), ("logsumexp", 4), ("both", 4)], ids=["loss", "one", "both"]
)
def test_statistics_that_are_not_differentiated_cost_no_product(used, count):
    """A total's gradients are made with it; those of the statistics, if any, from new logits."""
    made = small(dtype=np.float32)

    def total(arrays):
        value, stats = call({"return_stats": True, "block_size": 2}, arrays, made.labels)
        terms = {"loss": value, "logsumexp": jnp.sum(stats.logsumexp)}
        return terms.get(used, sum(terms.values())), stats

    assert products(jax.value_and_grad(total, has_aux=True), made.arrays) == count


def test_a_frozen_array_has_the_others_gradients():
    made = small(dtype=np.float32)
    g = [np.float32(0.3)]
    expected = exact(made, g)[1]

    @quickly_compiled
    def alone(arrays):
        return {
            name: jax.grad(
                lambda x, name=name: (
                    g[0] * call({"block_size": BLOCK}, {**arrays, name: x}, made.labels)
                )
            )(arrays[name])
            for name in arrays
        }

    for name, gradient in alone(made.arrays).items():
        assert_close(gradient, expected[name], np.float32)


def test_weights_of_rows_alone_take_one_product(rng):
    made = small({"bias", "sample_weight"}, dtype=np.float32)
    arrays = dict(made.arrays)
    weight = arrays.pop("sample_weight")

    def total(weight):
        return call({"block_size": 2}, {**arrays, "sample_weight": weight}, made.labels)

    assert products(jax.value_and_grad(total), weight) == 1


@pytest.mark.parametrize("precision", ["highest", jax.lax.Precision.HIGH])
def test_precision_reaches_every_product(precision):
    made = small(dtype=np.float32)

    def total(arrays):
        return call({"precision": precision, "block_size": 2}, arrays, made.labels)

    lowered = jax.jit(jax.value_and_grad(total)).lower(made.arrays).as_text()
    name = jax.lax.Precision(precision).name
    dots = [line for line in lowered.splitlines() if "stablehlo.dot_general" in line]
    assert len(dots) >= 3
    assert all(line.count(name) == 2 for line in dots)


@pytest.mark.parametrize("layout", ["dv", "vd"])
def test_no_layout_transposes_the_kernel(layout):
    made = small(dtype=np.float32)
    kernel = made.arrays["kernel"] if layout == "dv" else made.arrays["kernel"].T.copy()

    def total(features, kernel):
        return loss(features, kernel, made.labels, kernel_layout=layout, block_size=2)

    f = jax.value_and_grad(total, (0, 1))
    jaxpr = str(jax.make_jaxpr(f)(made.arrays["features"], kernel))
    turned = f"f32[{','.join(map(str, kernel.shape[::-1]))}]"
    assert turned not in jaxpr


def test_tangent_of_the_bias_keeps_float64_beside_float32_features(x64, rng):
    made = small(dtype=np.float64)
    x, kernel = made.arrays["features"].astype(np.float32), made.arrays["kernel"]
    tangent = rng.standard_normal(CLASSES)

    def rows(bias):
        return loss(x, kernel, made.labels, bias=bias, rule="jvp", reduction="none")

    slope = jax.jvp(rows, (made.arrays["bias"],), (tangent,))[1]
    made = made.changed(features=x.astype(np.float64))
    for row in range(ROWS):
        gradient = exact(made, [np.eye(ROWS)[row]], "none")[1]["bias"]
        assert_close(slope[row], gradient @ tangent, np.float64)
