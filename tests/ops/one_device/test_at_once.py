"""A total's value and gradient in one pass, which keeps the exponentials, on one device."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from tests.ops.one_device.exact import (
    assert_within,
    eps_of,
    gradient_bound,
    integer_loss,
    lost,
    regime_rows,
)
from tests.tolerances import assert_close

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="kept on CPUs")
integer = ops.softmax_cross_entropy_with_integer_labels
# Rows that are not divided, of few classes and of many; that are short; that are divided. Each has
# its own number of rows, since a trace is reused for another array of the same shape.
every_way = pytest.mark.parametrize("classes", [10, 131, 24, 128, 1000, 1024])


def total(z, y, w):
    return integer(z, y, sample_weight=w, reduction="sum")


@every_way
def test_losses_and_gradients_are_exact(classes):
    """A row's loss is the derivative by its weight."""
    r = regime_rows(jnp.dtype("float32"), classes)
    z, y, g, checked = r.logits, r.labels, r.g, r.checked
    gradient, loss = jax.jit(jax.grad(total, (0, 2)))(z, y, g)
    exact = integer_loss(z[checked], y[checked])
    eps, least = eps_of(jnp.float32), lost(jnp.float32)
    assert_within(np.asarray(loss)[checked], exact.loss, 3 * eps * exact.loss, least)
    expected = g[checked, None] * exact.gradient
    bound = gradient_bound(expected, np.abs(expected), jnp.float32)
    assert_within(np.asarray(gradient)[checked], expected, bound, least)


@every_way
def test_edges_and_second_derivatives_are_those_of_rows_by_themselves(classes, rng):
    rows = 2**20 // classes + 101
    z = 3 * rng.standard_normal((rows, classes), np.float32)
    y = rng.integers(0, classes, rows)
    w = rng.standard_normal(rows, np.float32)
    z[0, 3], z[1], z[2, 1], z[3, 2], z[4, y[4]], z[5, y[5]] = (
        np.nan,
        -np.inf,
        np.inf,
        -np.inf,
        84,
        500,
    )
    z[6, y[6]], z[7, y[7]], w[8:10], z[9] = np.nan, -np.inf, 0, np.nan

    # Of arguments: constants of such a size take the compiler's seconds to fold.
    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(f, z, y, w):
        def gradient(z, w):
            return jax.grad(lambda z, w: 3 * f(z, y, w), (0, 1))(z, w)

        along = jnp.cos(z), jnp.cos(w)
        forward = jax.jvp(gradient, (z, w), along)
        reverse = jax.vjp(gradient, z, w)[1](along)
        return forward, reverse

    found = derivatives(total, z, y, w)
    by_rows = derivatives(lambda z, y, w: jnp.sum(integer(z, y, sample_weight=w)), z, y, w)
    np.testing.assert_array_equal(np.isnan(found[0][0][0]), np.isnan(by_rows[0][0][0]))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(by_rows), strict=True):
        # The second derivative of a row of -inf may be NaN by itself, and 0 here.
        assert_close(np.where(np.isnan(b), b, a), b, np.float32)


@every_way
def test_nothing_as_large_as_the_logits_is_held_beside_the_gradient(classes):
    rows = 2**22 // classes + 103
    z = jax.ShapeDtypeStruct((rows, classes), jnp.float32)
    y = jax.ShapeDtypeStruct((rows,), jnp.int32)

    def mean(z, y):
        return integer(z, y, reduction="mean")

    compiled = jax.jit(jax.value_and_grad(mean)).lower(z, y).compile()
    a_row = 4 * rows
    assert compiled.memory_analysis().temp_size_in_bytes < 12 * a_row + 4 * rows * classes / 4


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_exponentials_are_written_in_short_rows(reduction):
    """A loop over 4096 classes is not unrolled, and takes half as long again."""
    z = jax.ShapeDtypeStruct((512, 4096), jnp.float32)
    y = jax.ShapeDtypeStruct((512,), jnp.int32)

    def mean(z, y):
        return jnp.mean(integer(z, y, reduction=reduction))

    compiled = jax.jit(jax.grad(mean)).lower(z, y).compile()
    found = re.findall(r"(\S+) = f32\[(\d+),(\d+)\]\S* fusion\(", compiled.as_text())
    large = {(int(n), int(v)) for name, n, v in found if "scatter" not in name and int(n) > 512}
    assert large == {(512 * 64, 64)}
    assert not [name for name, n, v in found if (n, v) == ("512", "4096") and "scatter" not in name]


@pytest.mark.parametrize(("classes", "axis", "kept"), [(10, -1, 1), (10, 0, 0), (1024, 0, 1)])
def test_few_classes_that_lie_apart_are_computed_again(classes, axis, kept):
    """They would be written one by one."""
    rows = 2**20 // classes + 107
    z = jax.ShapeDtypeStruct((rows, classes) if axis else (classes, rows), jnp.float32)
    y = jax.ShapeDtypeStruct((rows,), jnp.int32)
    _, residuals = jax.eval_shape(
        lambda z, y: jax.vjp(lambda z: integer(z, y, axis, reduction="sum"), z), z, y
    )
    large = [x for x in jax.tree.leaves(residuals) if x.shape in ((rows, classes), z.shape)]
    assert len(large) == 1 + kept
