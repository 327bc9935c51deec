"""Many rows on one device: memory, second derivatives, and rows with sharp edges among them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from tests.ops.one_device.exact import CLASSES, many_rows

integer, soft = ops.softmax_cross_entropy_with_integer_labels, ops.softmax_cross_entropy
ROWS = many_rows()
MANY = 4 * ROWS
on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the bounds are XLA:CPU's")


@functools.cache
def drawn():
    rng = np.random.default_rng(5)
    z = 3 * rng.standard_normal((ROWS, CLASSES), np.float32)
    return z, rng.integers(0, CLASSES, ROWS).astype(np.int32), rng.standard_normal(ROWS, np.float32)


def as_rows(z, y):
    """Of soft labels, from integer ones: compiled as a comparison, which is no array."""
    return jax.nn.one_hot(y, z.shape[-1], dtype=jnp.float32)


FUNCTIONS = {
    "softmax": lambda z, y: ops.softmax(z),
    "log_softmax": lambda z, y: ops.log_softmax(z),
    "integer": lambda z, y: integer(z, y),
    "integer mean": lambda z, y: integer(z, y, reduction="mean"),
    "integer jvp": lambda z, y: integer(z, y, rule="jvp"),
    "integer smoothing": lambda z, y: integer(z, y, label_smoothing=0.1),
    "integer statistics": lambda z, y: sum(integer(z, y, return_stats=True)[1][:3]),
}


def temporaries(f, *arguments):
    compiled = jax.jit(f).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@on_cpu
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, jnp.float32) for name in FUNCTIONS),
        *((name, jnp.bfloat16) for name in ("softmax", "integer", "integer smoothing")),
    ],
)
def test_temporaries_are_below_a_quarter_of_the_logits(name, dtype):
    """Of four times as many rows: a block is then 1/36 of them, in float32."""
    rows = MANY
    f = FUNCTIONS[name]
    z = jax.ShapeDtypeStruct((rows, CLASSES), dtype)
    y = jax.ShapeDtypeStruct((rows,), jnp.int32)
    bound = rows * CLASSES * np.dtype(dtype).itemsize / 4
    assert temporaries(f, z, y) < bound

    def gradient(z, y, g):
        return jax.vjp(lambda z: f(z, y), z)[1](g)[0]

    out = jax.eval_shape(f, z, y)
    assert temporaries(gradient, z, y, out) < bound


@on_cpu
def test_temporaries_of_soft_labels_are_below_a_quarter_of_the_logits():
    rows = MANY
    z = jax.ShapeDtypeStruct((rows, CLASSES), jnp.float32)
    bound = rows * CLASSES
    assert temporaries(soft, z, z) < bound
    both = jax.value_and_grad(lambda z, q: soft(z, q, reduction="mean"), (0, 1))
    assert temporaries(both, z, z) < bound


SOME = np.arange(0, ROWS, ROWS // 40)


@pytest.mark.parametrize("loss", [integer, soft])
def test_second_derivatives(loss):
    """Forward over reverse: `g_i (p v - p (p . v))`, of rows taken in blocks."""
    z, y, g = drawn()
    v = np.cos(z)

    def gradient(z):
        labels = y if loss is integer else as_rows(z, y)
        return jax.grad(lambda z: jnp.vdot(g, loss(z, labels)))(z)

    found = jax.jit(lambda z, v: jax.jvp(gradient, (z,), (v,))[1])(z, v)
    wide = z[SOME].astype(np.float64)
    p = np.exp(wide - wide.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    pv = p * v[SOME]
    expected = g[SOME, None] * (pv - p * pv.sum(-1, keepdims=True))
    np.testing.assert_allclose(np.asarray(found)[SOME], expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_second_derivatives_of_softmax(function):
    z, _, g = drawn()
    f = getattr(ops, function)
    v = np.cos(z)

    def gradient(f, z, g):
        return jax.grad(lambda z: jnp.sum(g * jnp.square(f(z))))(z)

    def tangent(f, z, v, g):
        return jax.jvp(lambda z: gradient(f, z, g), (z,), (v,))[1]

    found = jax.jit(functools.partial(tangent, f))(z, v, g[:, None])
    with jax.enable_x64(True):
        wide = functools.partial(getattr(jax.nn, function), axis=-1)
        some = (z[SOME].astype(np.float64), v[SOME].astype(np.float64), g[SOME, None])
        expected = jax.jit(functools.partial(tangent, wide))(*some)
    size = float(np.abs(expected).max())
    np.testing.assert_allclose(np.asarray(found)[SOME], expected, rtol=1e-3, atol=1e-5 * size)


# One row of each kind in the first block, in the middle, and in the last rows

PLACES = (3, ROWS // 2, ROWS - 9)


@functools.cache
def sharp():
    """Logits with edges; row `place + k` has the k-th."""
    z, y, g = (x.copy() for x in drawn())
    y[:] = np.where(y == 7, 8, y)
    for at in PLACES:
        z[at, 7] = -np.inf  # a class that cannot happen
        z[at + 1, 8] = -np.inf  # the label's: an infinite loss
        y[at + 1] = 8
        z[at + 2] = -np.inf  # nothing can happen
        z[at + 3, 5] = np.nan
        z[at + 4, 5] = np.inf
        y[at + 5] = CLASSES + 3  # no class
        y[at + 6] = -1  # ignored
        z[at + 6] = np.nan
    return z, y, g


def places(k):
    return [at + k for at in PLACES]


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_sharp_edges_stay_in_their_rows(rule):
    z, y, g = sharp()

    @jax.jit
    def both(z):
        out, vjp = jax.vjp(lambda z: integer(z, y, ignore_index=-1, rule=rule), z)
        return out, vjp(g)[0]

    loss, gradient = map(np.asarray, both(z))
    assert np.isfinite(loss[places(0)]).all()
    np.testing.assert_array_equal(gradient[places(0), 7], 0)
    for k in (1, 2):
        assert np.isposinf(loss[places(k)]).all()
        assert np.isfinite(gradient[places(k)]).all()
    for k in (3, 4, 5):
        assert np.isnan(loss[places(k)]).all()
        assert np.isnan(gradient[places(k)]).all()
    np.testing.assert_array_equal(loss[places(6)], 0)
    np.testing.assert_array_equal(gradient[places(6)], 0)
    odd = np.concatenate([places(k) for k in range(7)])
    plain = np.setdiff1d(np.arange(ROWS), odd)
    assert np.isfinite(loss[plain]).all() and np.isfinite(gradient[plain]).all()
    assert np.all(loss[plain] > 0)


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_sharp_edges_of_softmax_stay_in_their_rows(function):
    z, _, _ = sharp()
    f = getattr(ops, function)
    g = np.where(np.isneginf(z), 0, np.cos(np.arange(CLASSES, dtype=np.float32)))

    @jax.jit
    def both(z, g):
        out, vjp = jax.vjp(f, z)
        return out, vjp(g)[0]

    out, gradient = map(np.asarray, both(z, g))
    bad = np.concatenate([places(k) for k in (3, 4, 6)])
    assert np.isnan(out[bad]).all() and np.isnan(gradient[bad]).all()
    good = np.setdiff1d(np.arange(ROWS), bad)
    assert not np.isnan(out[good]).any()
    assert np.isfinite(gradient[good]).all()
    np.testing.assert_array_equal(gradient[np.isneginf(z)], 0)
    impossible = 0 if function == "softmax" else -np.inf
    np.testing.assert_array_equal(out[np.isneginf(z)], impossible)


def test_masks_and_weights_leave_rows_out():
    """Whatever these hold; the mean divides by those that are left."""
    z, y, _ = (x.copy() for x in drawn())
    out = np.arange(ROWS) % 5 == 2
    z[out] = np.nan
    mean = jax.jit(
        lambda z, where, w: jax.value_and_grad(
            lambda z: integer(z, y, where=where, sample_weight=w, reduction="mean")
        )(z)
    )
    by_mask, gradient = mean(z, ~out, np.ones(ROWS, np.float32))
    by_weight, by = mean(z, np.ones(ROWS, bool), (~out).astype(np.float32))
    wide = z[~out].astype(np.float64)
    top = wide.max(-1)
    lse = top + np.log(np.exp(wide - top[:, None]).sum(-1))
    expected = (lse - wide[np.arange(len(wide)), y[~out]]).mean()
    for value in (by_mask, by_weight):
        np.testing.assert_allclose(value, expected, rtol=2e-6)
    for found in (gradient, by):
        np.testing.assert_array_equal(np.asarray(found)[out], 0)
        assert np.isfinite(found).all()


def test_a_mask_of_classes():
    z, y, g = drawn()
    mask = np.broadcast_to(np.arange(CLASSES) % 3 != 1, z.shape)
    labels = y - (y % 3 == 1)
    loss, gradient = jax.jit(
        lambda z, mask: (lambda out, vjp: (out, vjp(g)[0]))(
            *jax.vjp(lambda z: integer(z, labels, where=mask), z)
        )
    )(z, mask)
    wide = np.where(mask[SOME], z[SOME].astype(np.float64), -np.inf)
    lse = np.log(np.exp(wide).sum(-1))
    expected = lse - wide[np.arange(len(SOME)), labels[SOME]]
    np.testing.assert_allclose(np.asarray(loss)[SOME], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(gradient)[~mask], 0)


def test_statistics_of_many_rows():
    z, y, _ = drawn()
    loss, stats = jax.jit(functools.partial(integer, return_stats=True))(z, y)
    wide = z[SOME].astype(np.float64)
    lse = np.log(np.exp(wide).sum(-1))
    p = np.exp(wide - lse[:, None])
    of = functools.partial(np.testing.assert_allclose, rtol=3e-6, atol=1e-6)
    of(np.asarray(stats.logsumexp)[SOME], lse)
    of(np.asarray(stats.entropy)[SOME], (p * (lse[:, None] - wide)).sum(-1))
    of(np.asarray(stats.label_log_prob)[SOME], -np.asarray(loss)[SOME])
    np.testing.assert_array_equal(np.asarray(stats.argmax)[SOME], wide.argmax(-1))
