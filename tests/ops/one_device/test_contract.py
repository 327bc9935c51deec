"""Values and derivatives of many rows, which one device takes in blocks, in every regime."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from tests.ops.one_device.exact import (
    CLASSES,
    assert_within,
    eps_of,
    gradient_bound,
    integer_loss,
    lost,
    many_rows,
    regime_rows,
)
from tests.ops.softmax_exact import FORWARD, REVERSE, assert_exact, probabilities

wider_than_float64 = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps
DTYPES = ["float32", "bfloat16", "float16", "float64"]
every_dtype = pytest.mark.parametrize("name", DTYPES)
integer, soft = ops.softmax_cross_entropy_with_integer_labels, ops.softmax_cross_entropy

rows_of = functools.cache(lambda name, classes=CLASSES: regime_rows(jnp.dtype(name), classes))


@pytest.fixture(autouse=True)
def x64_where_asked(request):
    name = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    if name == "float64" and not wider_than_float64:
        pytest.skip("needs a longdouble wider than float64")
    with jax.enable_x64(name == "float64"):
        yield


def losses_dtype(name):
    return np.dtype("float64" if name == "float64" else "float32")


def test_there_is_one_device():
    assert jax.device_count() == 1


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="blocks are for CPUs")
@pytest.mark.parametrize(
    "f",
    [
        ops.softmax,
        ops.log_softmax,
        lambda z: integer(z, jnp.zeros(z.shape[0], jnp.int32)),
        lambda z: soft(z, z),
    ],
    ids=["softmax", "log_softmax", "integer", "soft"],
)
def test_rows_are_taken_in_blocks(f):
    """Of what the processors that the process may use have in their caches: here one processor."""
    z = jax.ShapeDtypeStruct((many_rows(), CLASSES), jnp.float32)
    assert "scan[" in str(jax.make_jaxpr(lambda z: f(z))(z))


@every_dtype
def test_loss_of_integer_labels_and_its_gradient(name):
    """At most 3 and 5 eps of the true value, element by element."""
    r = rows_of(name)
    loss, gradient = jax.jit(
        lambda z: (lambda out, vjp: (out, vjp(r.g.astype(out.dtype))[0]))(
            *jax.vjp(lambda z: integer(z, r.labels), z)
        )
    )(r.logits)
    exact = integer_loss(r.logits[r.checked], r.labels[r.checked])
    assert loss.dtype == losses_dtype(name) and gradient.dtype == r.logits.dtype
    assert_within(
        np.asarray(loss)[r.checked],
        exact.loss,
        3 * eps_of(loss.dtype) * exact.loss,
        lost(loss.dtype),
    )
    wanted = r.g[r.checked, None].astype(np.float64) * exact.gradient
    bound = gradient_bound(wanted, np.abs(wanted), name)
    assert_within(np.asarray(gradient)[r.checked], wanted, bound, lost(name))


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_mean_of_integer_labels(name, rule):
    r = rows_of(name)
    w = np.abs(r.g)

    def mean(z):
        return integer(z, r.labels, sample_weight=w, reduction="mean", rule=rule)

    value, gradient = jax.jit(jax.value_and_grad(mean))(r.logits)
    z = np.asarray(r.logits, np.float64)
    top = z.max(-1)
    lse = top + np.log(np.exp(z - top[:, None]).sum(-1))
    exact_mean = (w.astype(np.float64) * (lse - z[np.arange(len(z)), r.labels])).sum() / w.sum(
        dtype=np.float64
    )
    np.testing.assert_allclose(value, exact_mean, rtol=2e-6)
    # The weights' sum is float32's.
    exact = integer_loss(r.logits[r.checked], r.labels[r.checked]).gradient
    wanted = exact * (w[r.checked, None].astype(np.float64) / w.sum(dtype=np.float64))
    bound = gradient_bound(wanted, 2 * np.abs(wanted), name)
    assert_within(np.asarray(gradient)[r.checked], wanted, bound, lost(name))


@every_dtype
def test_loss_of_class_probabilities_and_its_gradients(name):
    r = rows_of(name)
    q = np.random.default_rng(2).random(r.logits.shape, np.float32)
    q[:, ::3] = 0
    q /= CLASSES

    @jax.jit
    def everything(z, q):
        out, vjp = jax.vjp(soft, z, q)
        return out, *vjp(r.g.astype(out.dtype))

    loss, by_logits, by_labels = everything(r.logits, q)
    p, rest = probabilities(r.logits[r.checked])
    z = np.asarray(r.logits[r.checked], np.float64).astype(np.longdouble)
    t = q[r.checked].astype(np.longdouble)
    top = z.max(-1, keepdims=True)
    e = np.exp(z - top)
    np.put_along_axis(e, z.argmax(-1)[:, None], 0, -1)
    surprisal = (top - z) + np.log1p(e.sum(-1, keepdims=True))
    terms = t * surprisal
    eps = eps_of(losses_dtype(name))
    assert_within(np.asarray(loss)[r.checked], terms.sum(-1), 5 * eps * terms.sum(-1), eps)
    g = r.g[r.checked, None].astype(np.longdouble)
    # 1 - p where the class leads, summed from the others.
    others = t.sum(-1, keepdims=True) - t
    wanted = g * (p * others - rest * t)
    size = np.abs(g) * (p * t.sum(-1, keepdims=True) + t)
    bound = gradient_bound(wanted, size, name)
    assert_within(np.asarray(by_logits)[r.checked], wanted, bound, lost(name))
    wanted = g * surprisal
    allowed = 5 * eps_of(np.float32) * np.abs(wanted)
    assert_within(np.asarray(by_labels)[r.checked], wanted, allowed, 1e-37)


@every_dtype
@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_softmax_and_its_derivative(name, function):
    r = rows_of(name)
    f = getattr(ops, function)
    g = np.random.default_rng(3).standard_normal(r.logits.shape, np.float32)
    g[::2] += 8  # what cotangents share cancels in softmax
    g = g.astype(r.logits.dtype)

    @jax.jit
    def both(z, g):
        out, vjp = jax.vjp(f, z)
        return out, vjp(g)[0]

    out, gradient = both(r.logits, g)
    some = r.checked[::4]
    assert_exact(
        np.asarray(gradient)[some], REVERSE[function](r.logits[some], g[some]), g[some], name
    )
    p, _ = probabilities(r.logits[some])
    if function == "softmax":
        assert_within(np.asarray(out)[some], p, gradient_bound(p, p, name), lost(name))


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_forward_mode_of_softmax(name, function):
    r = rows_of(name)
    f = functools.partial(getattr(ops, function), rule="jvp")
    v = np.random.default_rng(4).standard_normal(r.logits.shape, np.float32)
    v = v.astype(r.logits.dtype)
    tangent = jax.jit(lambda z, v: jax.jvp(f, (z,), (v,))[1])(r.logits, v)
    some = r.checked[::4]
    exact = FORWARD[function](r.logits[some], v[some])
    assert_exact(np.asarray(tangent)[some], exact, v[some], name)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_many_rows_of_few_classes(name):
    """10 classes, where reading a row costs less than what is done with it."""
    r = rows_of(name, 10)
    loss, gradient = jax.jit(
        jax.value_and_grad(lambda z: (lambda x: (x.sum(), x))(integer(z, r.labels)), has_aux=True)
    )(r.logits)
    exact = integer_loss(r.logits[r.checked], r.labels[r.checked])
    loss = np.asarray(loss[1])[r.checked]
    assert_within(loss, exact.loss, 3 * eps_of(np.float32) * exact.loss, lost(np.float32))
    bound = gradient_bound(exact.gradient, np.abs(exact.gradient), name)
    assert_within(np.asarray(gradient)[r.checked], exact.gradient, bound, lost(name))


# The fused loss, on logits that its layer makes exactly: the kernel is the identity


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_fused_loss_and_its_gradient(name, reduction):
    classes = 384
    r = rows_of("float32", classes)
    some = np.arange(700)
    x = r.logits[some].astype(jnp.dtype(name))
    labels = r.labels[some]
    g = r.g[some] if reduction == "none" else np.ones(len(some), np.float32)
    kernel = jnp.eye(classes, dtype=x.dtype)

    @jax.jit
    def both(x):
        def total(x):
            loss = ops.linear_softmax_cross_entropy(
                x, kernel, labels, reduction=reduction, block_size=100
            )
            return jnp.sum(g * loss) if reduction == "none" else loss, loss

        return jax.grad(total, has_aux=True)(x)

    gradient, loss = both(x)
    exact = integer_loss(x, labels)
    if reduction == "none":
        assert_within(loss, exact.loss, 3 * eps_of(np.float32) * exact.loss, lost(np.float32))
    wanted = g[:, None].astype(np.float64) * exact.gradient
    bound = gradient_bound(wanted, np.abs(wanted), name)
    assert_within(gradient, wanted, bound, lost(name))
