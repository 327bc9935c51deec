"""Derivatives of the fused loss: cotangents, both rules, both modes, transforms.

Against JAX's derivatives of the definition on logits, in float64.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.grids import each_once, pairwise
from tests.ops.linear import (
    call,
    case,
    cotangents_for,
    exact,
    loss,
    outputs_and_gradients,
)
from tests.ops.small_layer import BLOCK, CLASSES, ROWS, WIDTH, assert_trees_close, definition, small
from tests.tolerances import assert_close

both_rules = pytest.mark.parametrize("rule", ["vjp", "jvp"])

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

    @jax.jit
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


# Forward mode


@each_once(reduction=["none", "mean"], block=[(2, 4), 2])
def test_jvp_linearize_and_jacfwd(reduction, block, x64, rng):
    """Of every array at once, and of the bias alone."""
    made = small({"bias", "sample_weight"})
    made.arrays["sample_weight"][-1] = 0.4
    arrays, labels = made.arrays, made.labels
    tangent = {name: rng.standard_normal(x.shape) for name, x in arrays.items()}

    def derivatives(f):
        @jax.jit
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

    @jax.jit
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


@pairwise(transform=[under_scan, under_vmap], rule=["vjp", "jvp"])
def test_transform_gives_the_plain_gradient(transform, rule, x64):
    made = small({"bias", "sample_weight"})
    g = cotangents_for(made, "none", False)
    f = functools.partial(call, {**TRANSFORM_STATIC, "rule": rule})
    actual = jax.jit(functools.partial(transform, f))(made.arrays, made.labels, g[0])
    expected = exact(made, g, "none")[1]
    for name, gradient in actual.items():
        assert_close(gradient, expected[name], np.float64)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_checkpoint_gives_the_plain_gradient(reduction, x64):
    made = small({"bias", "sample_weight"})
    f = functools.partial(call, {**TRANSFORM_STATIC, "reduction": reduction})
    g = np.asarray(1.3)
    actual = jax.jit(functools.partial(under_checkpoint, f))(made.arrays, made.labels, g)
    value = exact(made, [1.0], reduction)[0][0]
    expected = exact(made, [g * (1 - np.tanh(value) ** 2)], reduction)[1]
    for name, gradient in actual.items():
        assert_close(gradient, expected[name], np.float64)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_vmap_over_kernels(reduction, x64, rng):
    """An ensemble on the same features: an axis in front of the kernel, at the end of the bias."""
    made = small()
    kernels = rng.standard_normal((3, WIDTH, CLASSES))
    biases = rng.standard_normal((CLASSES, 3))
    g = rng.standard_normal(ROWS) if reduction == "none" else 1.7

    def one(kernel, bias):
        arrays = {**made.arrays, "kernel": kernel, "bias": bias}
        return jnp.sum(g * call({"reduction": reduction, "block_size": BLOCK}, arrays, made.labels))

    by_kernel, by_bias = jax.jit(jax.vmap(jax.grad(one, (0, 1)), (0, 1)))(kernels, biases)
    for n in range(3):
        expected = exact(made.changed(kernel=kernels[n], bias=biases[:, n]), [g], reduction)[1]
        assert_close(by_kernel[n], expected["kernel"], np.float64)
        assert_close(by_bias[n], expected["bias"], np.float64)


def test_jacobian_of_rows_by_the_kernel(x64):
    made = small(())
    features, labels = made.arrays["features"], made.labels

    @jax.jit
    def jacobian(kernel):
        return jax.jacrev(lambda k: loss(features, k, labels, reduction="none", block_size=2))(
            kernel
        )

    actual = jacobian(made.arrays["kernel"])
    for row in range(ROWS):
        expected = exact(made, [np.eye(ROWS)[row]], "none")[1]["kernel"]
        assert_close(actual[row], expected, np.float64)


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
