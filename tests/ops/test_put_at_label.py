"""A label's element written where it belongs, and a select over all, are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_softmax.ops._statistics import put_at_label, select_at_label

from jax_softmax.ops import _statistics, linear_softmax_cross_entropy
from jax_softmax.ops.cross_entropy import _integer
from tests.ops.pairs import PAIRS
from tests.tolerances import assert_close


@pytest.fixture
def written(monkeypatch):
    """As for a large array in a process with one device; there are 8 here."""
    _integer.clear_cache()  # traced before, it does not know
    monkeypatch.setattr(_statistics, "on_one_device", lambda *arrays: True)
    monkeypatch.setattr(_statistics, "_LARGE", 0)
    yield
    _integer.clear_cache()


def scatters(f, *args):
    # Anew: a function that was traced is not traced again.
    return "scatter" in str(jax.make_jaxpr(lambda *args: f(*args))(*args))


@pytest.mark.parametrize("rows", [(), (5,), (2, 3), (0,)])
def test_written_is_selected(rows, written, rng):
    x, value = (rng.standard_normal(s).astype(np.float32) for s in ((*rows, 7), rows))
    index = rng.integers(-2, 9, rows).astype(np.int32)  # of other slices' classes too
    assert 0 in rows or scatters(put_at_label, x, index, value)
    found = jax.jit(put_at_label)(x, index, value)
    np.testing.assert_array_equal(found, select_at_label(x, index, value))
    many = [np.stack([a, 2 * a]) for a in (x, index, value)]
    expected = [select_at_label(*one) for one in zip(*many, strict=True)]
    np.testing.assert_array_equal(jax.vmap(put_at_label)(*many), expected)


def test_derivatives_are_those_of_the_select(written, rng):
    x, g = (rng.standard_normal((4, 7)).astype(np.float32) for _ in range(2))
    value, index = x[:, 0], np.array([0, 6, -1, 7], np.int32)

    def both(f):
        def place(x, value):
            return f(x, index, value)

        return jax.jvp(place, (x, value), (g, g[:, 1]))[1], jax.vjp(place, x, value)[1](g)

    jax.tree.map(np.testing.assert_array_equal, both(put_at_label), both(select_at_label))


def test_a_small_array_asks_for_no_devices(monkeypatch):
    def no_call(*arrays):
        raise AssertionError("asked for the devices, which starts JAX's backend")

    monkeypatch.setattr(_statistics, "on_one_device", no_call)
    x = jnp.zeros((8, 7))
    assert not scatters(put_at_label, x, jnp.zeros(8, jnp.int32), x[:, 0])


def test_not_where_rows_may_be_over_devices(monkeypatch):
    monkeypatch.setattr(_statistics, "_LARGE", 0)
    x = jnp.zeros((8, 7))
    assert not scatters(put_at_label, x, jnp.zeros(8, jnp.int32), x[:, 0])


@pytest.mark.parametrize("shape", [(6, 40), (2, 3, 5)])
def test_gradient_and_hessian_with_it(shape, written, rng):
    pair = PAIRS["integer_labels"]
    logits, g = (rng.standard_normal(s).astype(np.float32) for s in (shape, shape[:-1]))
    labels = pair.labels(shape, np.float32, rng)

    def gradient_of(f, **options):
        return lambda z: jax.vjp(lambda z: f(z, labels, **options), z)[1](g)[0]

    assert scatters(gradient_of(pair.op), logits)
    for ours, reference in zip(
        *(
            (gradient(logits), jax.jvp(gradient, (logits,), (jnp.cos(logits),))[1])
            for gradient in (gradient_of(pair.op), gradient_of(pair.reference))
        ),
        strict=True,
    ):
        assert_close(ours, reference, np.float32)
    # With more to do to the gradient it would be one more pass.
    assert not scatters(gradient_of(pair.op, label_smoothing=0.1), logits)
    assert not scatters(gradient_of(pair.op), logits.astype(jnp.bfloat16))


def test_a_layer_leaves_its_gradient_in_the_memory_of_its_logits(written, rng):
    features, kernel = (rng.standard_normal(s).astype(np.float32) for s in ((6, 4), (4, 40)))
    labels = rng.integers(0, 40, 6)
    assert not scatters(jax.grad(linear_softmax_cross_entropy), features, kernel, labels)
