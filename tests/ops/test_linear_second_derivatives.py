"""Second derivatives of the fused loss, both ways, against those of the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.grids import pairwise
from tests.ops.linear import (
    call,
    case,
    loss,
)
from tests.ops.small_layer import ROWS, WIDTH, assert_trees_close, definition, small
from tests.tolerances import HALF_GRADIENT_EPS

both_rules = pytest.mark.parametrize("rule", ["vjp", "jvp"])


def second_derivatives(f, arrays, direction):
    """Reverse over reverse, of `<direction, gradient>`; and forward over reverse."""

    def slope(arrays):
        gradient = jax.grad(f)(arrays)
        terms = jax.tree.map(lambda d, g: jnp.sum(d * g), direction, gradient)
        return sum(jax.tree.leaves(terms))

    return jax.grad(slope)(arrays), jax.jvp(jax.grad(f), (arrays,), (direction,))[1]


@pairwise(rule=["vjp", "jvp"], reduction=["mean", "none"], block=[(2, 4), 2])
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

    actual = jax.jit(functools.partial(second_derivatives, fused))(arrays, direction)
    expected = jax.jit(functools.partial(second_derivatives, textbook))(arrays, direction)
    for tree in (*actual, *expected):
        tree["sample_weight"] = tree["sample_weight"][:-1]
    assert_trees_close(actual, expected, np.float64)


@both_rules
def test_second_derivatives_where_classes_are_summed_in_chunks(rule, x64, rng):
    """jax 0.10 drops a `custom_jvp` inside a loop here: sums must be right without one."""
    made = case({"bias"}, (ROWS,), WIDTH, 384, np.float64)
    direction = {name: rng.standard_normal(x.shape) for name, x in made.arrays.items()}
    static = {"rule": rule, "block_size": 2}

    def fused(arrays):
        return call(static, arrays, made.labels)

    def textbook(arrays):
        return jnp.mean(definition(arrays, made.labels))

    actual = jax.jit(functools.partial(second_derivatives, fused))(made.arrays, direction)
    expected = jax.jit(functools.partial(second_derivatives, textbook))(made.arrays, direction)
    assert_trees_close(actual, expected, np.float64)


@both_rules
def test_hessian_by_all_arrays(rule, x64):
    """Every block of it, those between two arrays as well."""
    made = small(rows=(2,))

    def fused(arrays):
        return call({"rule": rule, "block_size": (1, 4)}, arrays, made.labels)

    actual = jax.jit(jax.hessian(fused))(made.arrays)
    expected = jax.jit(jax.hessian(lambda a: jnp.mean(definition(a, made.labels))))(made.arrays)
    assert_trees_close(actual, expected, np.float64)


def test_hessian_of_half_precision_is_that_of_its_float32_sums():
    """Gradients of features are kept as two halves: their tangents must be as well."""
    made = small(rows=(2,), dtype=jnp.bfloat16)
    features, kernel = made.arrays["features"], made.arrays["kernel"]

    @jax.jit
    def hessian(features, kernel):
        return jax.hessian(lambda x: 100 * loss(x, kernel, made.labels))(features)

    low = np.asarray(hessian(features, kernel), np.float64)
    full = hessian(features.astype(np.float32), kernel.astype(np.float32))
    # Of the largest: small ones are what is left of terms that cancel, rounded for the product.
    error = np.abs(low - np.asarray(full, np.float64)) / np.abs(full).max()
    assert error.max() <= HALF_GRADIENT_EPS * jnp.finfo(jnp.bfloat16).eps
