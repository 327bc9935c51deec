"""Log-probabilities of labels and the entropy: values, both gradients at once, what is left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from jax_softmax.testing.exact import tiny
from jax_softmax.testing.oracle import options_cross_entropy
from jax_softmax.testing.regimes import regime_rows
from tests.grids import pairwise
from tests.ops.test_sharding import collectives
from tests.tolerances import LOSS_EPS, assert_close, gradient_eps

IGNORED = -100
both_rules = pytest.mark.parametrize("rule", ["vjp", "jvp"])


@functools.partial(jax.jit, static_argnames=("f", "options"))
def pulled_back(f, z, labels, g, options=()):
    """The outputs of `f`, and the gradient for random cotangents of all of them at once."""
    out, vjp = jax.vjp(lambda z: f(z, labels, **dict(options)), z)
    return out, vjp(jax.tree.map(lambda g, x: g.astype(x.dtype), g, out))[0]


def run(z, labels, g, f=ops.label_log_probs, **options):
    return pulled_back(f, z, labels, g, tuple(sorted(options.items())))


class Exact:
    """From the oracle of one label a row, for labels `[N]` or `[N, K]`."""

    def __init__(self, logits, labels, **options):
        several = labels.reshape(len(labels), -1)
        rows = [options_cross_entropy(logits, y, **options) for y in several.T]
        self.log_probs = np.stack([row.label_log_prob.value for row in rows], -1)
        self.log_probs = self.log_probs.reshape(labels.shape)
        self.by_log_probs = np.stack([row.label_log_prob.gradient for row in rows], 1)  # [N, K, V]
        self.sizes = np.stack([row.label_log_prob.gradient_size for row in rows], 1)
        self.entropy, self.rows = rows[0].entropy, rows

    def gradient(self, g, g_entropy=None):
        """The derivative, and the sizes of the terms that it adds up."""
        g = np.asarray(g, np.float64).reshape(*self.by_log_probs.shape[:2], 1)
        value, size = (g * self.by_log_probs).sum(1), (np.abs(g) * self.sizes).sum(1)
        if g_entropy is not None:
            h = np.asarray(g_entropy, np.float64)[:, None]
            value = value + h * self.entropy.gradient
            size = size + np.abs(h) * self.entropy.gradient_size
        return value, size

    def seen(self, *g):
        """Where nothing underflows, `[N, V]`."""
        row = self.rows[0]
        least = 64 * tiny(np.float32)
        return np.minimum(row.probability, row.not_probability) > least


def worst(actual, expected, scale, dtype, seen):
    error = np.abs(np.asarray(actual, np.float64) - expected) / np.where(seen, scale, 1)
    return float(error[seen].max()) / float(jnp.finfo(dtype).eps)


def regimes(classes, labels, dtype):
    rng = np.random.default_rng(classes)
    logits, y, g = regime_rows(classes, 12, rng)
    logits = np.asarray(jnp.asarray(logits, dtype))
    if labels > 1:
        y = np.concatenate([y[:, None], rng.integers(0, classes, (len(y), labels - 1))], 1)
        y[::3, 1] = y[::3, 0]  # twice the same
        g = np.stack([g, *rng.standard_normal((labels - 1, len(g)))], -1).astype(np.float32)
    return logits, y.astype(np.int32), g, rng.standard_normal(len(logits)).astype(np.float32)


@pairwise(
    classes=[10, 1000, 1024],
    labels=[1, 3, 12],
    dtype=["float32", "bfloat16"],
    entropy=[False, True],
    options=[(), (("temperature", 0.7),)],
)
def test_the_contract(classes, labels, dtype, entropy, options):
    logits, y, g, h = regimes(classes, labels, dtype)
    exact = Exact(logits, y, **dict(options))
    out, gradient = run(
        logits, y, (g, h) if entropy else g, return_entropy=entropy, **dict(options)
    )
    log_probs = out[0] if entropy else out
    assert log_probs.dtype == np.float32 and gradient.dtype == logits.dtype
    least = tiny(np.float32)
    seen = np.abs(exact.log_probs) > least
    assert worst(log_probs, exact.log_probs, exact.log_probs, np.float32, seen) <= LOSS_EPS
    if entropy:
        right = exact.entropy.value
        seen = right > 1e3 * least  # p log p of what underflows is more than p
        assert worst(out[1], right, right, np.float32, seen) <= LOSS_EPS
    value, size = exact.gradient(g, h if entropy else None)
    seen = exact.seen() & (np.abs(value) > 64 * least)
    cancels = entropy or labels > 1
    if dtype == "float32":
        scale = size if cancels else np.abs(value)
        assert worst(gradient, value, scale, dtype, seen) <= gradient_eps(dtype)
    else:
        # One rounding of the value, and what float32 may be off by.
        slack = gradient_eps("float32") * np.finfo(np.float32).eps * size
        off = np.abs(np.asarray(gradient, np.float64) - value) - slack
        assert worst(np.maximum(off, 0), 0, np.abs(value), dtype, seen) <= gradient_eps(dtype)


@both_rules
def test_a_label_that_repeats_keeps_its_gradient_where_it_leads(rule):
    """The other labels' cotangents must not swallow `1 - p` of the one that has everything."""
    z = np.float32([[40, 0, 1, 2]])
    y, g = np.int32([[0, 0, 1]]), np.float32([[1e6, -3, 1e-12]])
    exact = Exact(z, y)
    value, size = exact.gradient(g)
    _, gradient = run(z, y, g, rule=rule)
    assert worst(gradient, value, size, np.float32, np.ones_like(z, bool)) <= 5
    assert gradient[0, 0] != 0


@both_rules
@pytest.mark.parametrize("several", [False, True])
def test_what_is_ignored_is_0_whatever_it_holds(several, rule, rng):
    z = rng.standard_normal((5, 7)).astype(np.float32)
    y = rng.integers(0, 7, (5, 3) if several else 5).astype(np.int32)
    z[1], y[1] = np.nan, IGNORED
    if several:
        y[2, 1] = IGNORED
    g, h = rng.standard_normal(y.shape).astype(np.float32), rng.standard_normal(5)
    (log_probs, entropy), gradient = run(
        z, y, (g, h), ignore_index=IGNORED, return_entropy=True, rule=rule
    )
    np.testing.assert_array_equal(np.asarray(log_probs)[y == IGNORED], 0)
    assert entropy[1] == 0
    np.testing.assert_array_equal(gradient[1], 0)
    kept = np.arange(5) != 1
    g = np.where(y == IGNORED, 0, g)
    exact = Exact(z[kept], np.where(y == IGNORED, 0, y)[kept])
    expected = np.where(y[kept] == IGNORED, 0, exact.log_probs)
    assert_close(np.asarray(log_probs)[kept], expected, np.float32)
    assert_close(entropy[kept], exact.entropy.value, np.float32)
    assert_close(np.asarray(gradient)[kept], exact.gradient(g[kept], h[kept])[0], np.float32)


@both_rules
@pytest.mark.parametrize("entropy", [False, True])
def test_impossible_classes_and_rows_of_nan(entropy, rule):
    z = np.float32([[0, -np.inf, 1], [-np.inf] * 3, [np.nan, 0, 1], [np.inf, 0, 1], [0, 1, 2]])
    y = np.int32([[0, 1], [0, 1], [1, 1], [0, 1], [0, 3]])
    g, h = np.ones(y.shape, np.float32), np.ones(5, np.float32)
    out, gradient = run(z, y, (g, h) if entropy else g, return_entropy=entropy, rule=rule)
    log_probs = np.asarray(out[0] if entropy else out)
    assert np.isneginf(log_probs[[0, 1, 1], [1, 0, 1]]).all()
    np.testing.assert_allclose(log_probs[0, 0], -np.log1p(np.e), rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(gradient)[[0, 1, 1, 1], [1, 0, 1, 2]], 0)
    assert np.isfinite(gradient[:2]).all()
    for bad in (2, 3):
        assert np.isnan(log_probs[bad]).all() and np.isnan(gradient[bad]).all()
    # 3 is no class: NaN for it, and for the row's gradient, not the value of another class.
    assert np.isfinite(log_probs[4, 0]) and np.isnan(log_probs[4, 1])
    assert np.isnan(gradient[4]).all()


@pytest.mark.parametrize("several", [1, 3, 12])
@pytest.mark.parametrize("options", [{}, {"soft_cap": 3.0, "temperature": 0.7}], ids=["", "cap"])
def test_forward_mode_is_the_transpose(several, options, x64, rng):
    z, v = rng.standard_normal((2, 4, 9))
    y = rng.integers(0, 9, (4, several))

    def f(z):
        return ops.label_log_probs(z, y, return_entropy=True, rule="jvp", **options)

    g = (rng.standard_normal(y.shape), rng.standard_normal(4))
    _, along = jax.jvp(f, (z,), (v,))
    (pulled,) = jax.vjp(functools.partial(f), z)[1](g)
    total = sum(np.sum(a * b) for a, b in zip(g, along, strict=True))
    np.testing.assert_allclose(total, np.sum(v * pulled), rtol=1e-12)
    exact = Exact(z, y, **options)
    assert_close(along[0], np.einsum("nkv,nv->nk", exact.by_log_probs, v), np.float64)
    assert_close(pulled, exact.gradient(*g)[0], np.float64)


@both_rules
def test_second_derivatives(rule, x64, rng):
    z, y = rng.standard_normal(6), np.array([2, 4, 2])
    z[3] += 4
    weights = rng.standard_normal(3)

    def total(z):
        log_probs, entropy = ops.label_log_probs(z, y, return_entropy=True, rule=rule)
        return weights @ log_probs + 0.3 * entropy

    def by_definition(z):
        log_p = jax.nn.log_softmax(z)
        return weights @ log_p[y] - 0.3 * jnp.sum(jnp.exp(log_p) * log_p)

    np.testing.assert_allclose(
        jax.hessian(total)(z), jax.hessian(by_definition)(z), rtol=1e-10, atol=1e-13
    )


def test_any_axis_and_vmap(rng):
    z = rng.standard_normal((3, 8, 2)).astype(np.float32)
    y = rng.integers(0, 8, (3, 2, 2)).astype(np.int32)
    expected = ops.label_log_probs(np.moveaxis(z, 1, -1), y, return_entropy=True)
    found = ops.label_log_probs(z, y, 1, return_entropy=True)
    jax.tree.map(lambda a, b: assert_close(a, b, np.float32), found, expected)
    mapped = jax.vmap(lambda z, y: ops.label_log_probs(z, y, 0, return_entropy=True))(z, y)
    jax.tree.map(lambda a, b: assert_close(a, b, np.float32), mapped, expected)


@pytest.mark.parametrize("several", [1, 3, 12])
def test_rows_that_jit_spreads_stay_on_their_devices(several, rng):
    z = rng.standard_normal((64, 1024)).astype(np.float32)
    y = rng.integers(0, 1024, (64, several)).astype(np.int32)
    g = (rng.standard_normal(y.shape).astype(np.float32), rng.standard_normal(64))
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    placed = jax.tree.map(lambda x: jax.device_put(np.float32(x), rows), (z, g))

    def f(z, g, y):
        out, vjp = jax.vjp(lambda z: ops.label_log_probs(z, y, return_entropy=True), z)
        return out, vjp(g)[0]

    compiled = jax.jit(f).lower(*placed, jax.device_put(y, rows)).compile()
    found = compiled(*placed, jax.device_put(y, rows))
    expected = run(z, y, placed[1], return_entropy=True)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(a, b, np.float32)
    sizes = [size for _, size in collectives(compiled.as_text())]
    assert max(sizes, default=0) <= 64 * several


def test_without_the_entropy_it_costs_what_the_loss_costs(rng):
    z, y = rng.standard_normal((8, 2000)).astype(np.float32), rng.integers(0, 2000, 8)

    def flops(f):
        total = jax.value_and_grad(lambda z: jnp.sum(jnp.arange(8.0) * f(z, y)))
        cost = jax.jit(total).lower(z).compile().cost_analysis()
        return cost["flops"], cost["bytes accessed"]

    found = flops(ops.label_log_probs)
    of_loss = flops(ops.softmax_cross_entropy_with_integer_labels)
    np.testing.assert_allclose(found, of_loss, rtol=1e-3)


def test_half_precision_labels_and_symbols_of_the_result(rng):
    z = jnp.asarray(rng.standard_normal((2, 6)), jnp.float16)
    log_probs, entropy = ops.label_log_probs(z, np.zeros((2, 4), np.int32), return_entropy=True)
    assert log_probs.shape == (2, 4) and entropy.shape == (2,)
    assert log_probs.dtype == entropy.dtype == np.float32


@pytest.mark.parametrize("shape", [(4,), (3, 2, 1), (3, 0), (1, 3)])
def test_labels_must_be_of_the_rows(shape):
    words = r"labels: expected shape \(3,\) \(the logits' \(3, 6\) without axis -1\), or with an"
    with pytest.raises(ValueError, match=words):
        ops.label_log_probs(np.zeros((3, 6), np.float32), np.zeros(shape, np.int32))


def test_labels_must_be_integers():
    with pytest.raises(TypeError, match="labels: expected an integer dtype, got float32; convert"):
        ops.label_log_probs(np.zeros((3, 6), np.float32), np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0}, "temperature: expected a number from 1e-6 to 1e6, got 0"),
        ({"soft_cap": -1}, "soft_cap: expected None or a number from 1e-30 to 1e30, got -1"),
        ({"rule": "x"}, "rule: expected 'vjp' or 'jvp', got 'x'"),
        ({"axis": 2}, r"axis: expected values in \[-2, 2\)"),
    ],
)
def test_bad_options_raise(options, words):
    with pytest.raises(ValueError, match=words):
        ops.label_log_probs(np.zeros((3, 6), np.float32), np.zeros(3, np.int32), **options)


def test_forward_mode_of_the_other_rule_names_the_one_to_take():
    z = np.zeros((3, 6), np.float32)
    with pytest.raises(TypeError, match='label_log_probs: rule="vjp", the default, has no forw'):
        jax.jvp(lambda z: ops.label_log_probs(z, np.zeros(3, np.int32)), (z,), (z,))
