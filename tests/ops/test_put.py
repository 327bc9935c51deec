"""A label's element written where it belongs, and one select, are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax.ops import _statistics
from jax_softmax.ops._statistics import put, selected
from jax_softmax.ops.cross_entropy import _integer
from tests.ops.pairs import PAIRS
from tests.tolerances import assert_close


@pytest.fixture
def alone(monkeypatch):
    """As in a process with one device; there are 8 here."""
    monkeypatch.setattr(_statistics, "on_one_device", lambda *arrays: True)


def traced(f, *args):
    """Traced anew, for what was traced before does not know."""
    return jax.jit(lambda *args: f(*args))(*args)


@pytest.mark.parametrize("rows", [(), (5,), (2, 3), (0,)])
def test_written_is_selected(rows, alone, rng):
    x, value = (rng.standard_normal(s).astype(np.float32) for s in ((*rows, 7), rows))
    index = rng.integers(-2, 9, rows).astype(np.int32)  # of other slices' classes too
    assert 0 in rows or "scatter" in str(jax.make_jaxpr(lambda *a: put(*a))(x, index, value))
    np.testing.assert_array_equal(traced(put, x, index, value), selected(x, index, value))
    many = [np.stack([a, 2 * a]) for a in (x, index, value)]
    np.testing.assert_array_equal(
        traced(jax.vmap(put), *many), [selected(*one) for one in zip(*many, strict=True)]
    )


def test_derivatives_are_those_of_the_select(alone, rng):
    x, g = (rng.standard_normal((4, 7)).astype(np.float32) for _ in range(2))
    value, index = x[:, 0], np.array([0, 6, -1, 7], np.int32)

    def both(f):
        def place(x, value):
            return f(x, index, value)

        return jax.jvp(place, (x, value), (g, g[:, 1]))[1], jax.vjp(place, x, value)[1](g)

    jax.tree.map(np.testing.assert_array_equal, both(put), both(selected))


def test_not_where_rows_may_be_over_devices(rng):
    x = jnp.zeros((8, 7))
    assert "scatter" not in str(jax.make_jaxpr(put)(x, jnp.zeros(8, jnp.int32), x[:, 0]))


@pytest.mark.parametrize("shape", [(6, 40), (2, 3, 5)])
def test_gradient_and_hessian_with_it(shape, alone, rng):
    pair = PAIRS["integer_labels"]
    logits, g = (rng.standard_normal(s).astype(np.float32) for s in (shape, shape[:-1]))
    labels = pair.labels(shape, np.float32, rng)

    def derivatives(f):
        def gradient(z):
            return jax.vjp(lambda z: f(z, labels), z)[1](g)[0]

        return gradient(logits), jax.jvp(gradient, (logits,), (jnp.cos(logits),))[1]

    _integer.clear_cache()  # traced before, it does not know
    pairs = zip(*(derivatives(f) for f in (pair.op, pair.reference)), strict=True)
    _integer.clear_cache()
    for ours, reference in pairs:
        assert_close(ours, reference, np.float32)
