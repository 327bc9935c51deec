"""The numerical contract of the kernel, in every regime and shape of row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from tests.ops.gpu.kernel import IMPLEMENTATION, needs_kernel, uses_kernel
from tests.ops.one_device.exact import (
    REGIMES,
    assert_within,
    eps_of,
    gradient_bound,
    in_regimes,
    integer_loss,
    lost,
)

pytestmark = needs_kernel

# A row in one chunk, with a tail; in a few; shared by four warpgroups; and one that does not fit.
WIDTHS = {
    "float32": (1004, 4496, 10_000, 70_000),
    "bfloat16": (2008, 4104, 30_000),
    "float16": (2056,),
}
CASES = [(name, width) for name, widths in WIDTHS.items() for width in widths]
each_case = pytest.mark.parametrize(("name", "width"), CASES)


def count_rows(width):
    """On a card every program has more than one: there are six times as many for short rows."""
    times = 1 if IMPLEMENTATION else 140 if width < 10_000 else 30
    return times * len(REGIMES)


def rows_of(name, width):
    """Logits in every regime, labels and cotangents; half of the labels lead."""
    rng = np.random.default_rng(width)
    rows = count_rows(width)
    z, y, _ = in_regimes(rng, rows, width)
    y[1::4] = z[1::4].argmax(-1)
    return jnp.asarray(z.astype(jnp.dtype(name))), y, rng.standard_normal(rows, np.float32)


def integer(z, y, **options):
    return ops.softmax_cross_entropy_with_integer_labels(
        z, y, implementation=IMPLEMENTATION, **options
    )


def check_gradient(gradient, exact, g, name, factor=1.0):
    """A probability below the least float32 is lost, whatever it is multiplied by."""
    wanted = g[:, None].astype(np.float64) * exact.gradient
    bound = gradient_bound(wanted, np.abs(wanted), name)
    assert_within(np.asarray(gradient), wanted, bound, lost(name) + factor * lost("float32"))


@each_case
def test_losses_of_rows_and_their_gradients(name, width):
    """At most 3 and 5 eps, for any cotangent; half precision rounded once."""
    z, y, g = rows_of(name, width)
    loss, pull_back = jax.vjp(lambda z: integer(z, y), z)
    exact = integer_loss(z, y)
    bound = 3 * eps_of("float32") * exact.loss
    assert_within(loss, exact.loss, bound, lost("float32"))
    check_gradient(pull_back(jnp.asarray(g))[0], exact, g, name)


@pytest.mark.parametrize(
    ("name", "width", "factor"),
    [(*case, 1) for case in CASES] + [("float32", 4496, 0.3), ("float16", 2056, 2.0**12)],
)
def test_a_total_and_its_gradient(name, width, factor):
    """The kernel writes the gradient for a cotangent of 1; for any other it is rounded once too."""
    z, y, g = rows_of(name, width)

    def total(z):
        return factor * integer(z, y, sample_weight=g, reduction="sum")

    assert uses_kernel(total, z)
    value, gradient = jax.jit(jax.value_and_grad(total))(z)
    exact = integer_loss(z, y)
    np.testing.assert_allclose(
        value,
        factor * (g * exact.loss).sum(),
        atol=factor * 1e-6 * np.abs(g * exact.loss).sum(),
    )
    # The factor times a weight is float32's.
    check_gradient(gradient, exact, (np.float32(factor) * g).astype(np.float32), name, factor)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_shift_changes_no_bit(name):
    """Where adding it to the logits is exact."""
    rng = np.random.default_rng(0)
    rows = count_rows(2056)
    z = jnp.asarray(rng.integers(-60, 60, (rows, 2056)), name)
    y = rng.integers(0, 2056, rows)
    f = jax.value_and_grad(lambda z: integer(z, y, reduction="sum"))
    for a, b in zip(jax.tree.leaves(f(z)), jax.tree.leaves(f(z + 64)), strict=True):
        np.testing.assert_array_equal(a, b)
