"""Programs exported for any number of rows and classes give what is computed at each size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_softmax import ops
from tests.grids import each_once

SIZES = [(3, 5), (16, 384)]
WIDTH = 4


def logits_and(kind, rows, classes, rng):
    """Arguments of the functions below, arrays of NumPy."""
    z = (3 * rng.standard_normal((rows, classes))).astype(np.float32)
    by_kind = {
        "none": (),
        "integer": (rng.integers(0, classes, rows).astype(np.int32),),
        "soft": (rng.random((rows, classes)).astype(np.float32),),
    }
    return (z, *by_kind[kind])


def of_softmax(z):
    return ops.softmax(z)


def of_log_softmax(z):
    return ops.log_softmax(z)


def masked(z):
    return ops.softmax(z, where=z > -2)


def integer(z, y):
    return ops.softmax_cross_entropy_with_integer_labels(z, y)


def integer_mean(z, y):
    return ops.softmax_cross_entropy_with_integer_labels(z, y, reduction="mean", rule="jvp")


def integer_options(z, y):
    loss, stats = ops.softmax_cross_entropy_with_integer_labels(
        z,
        y,
        label_smoothing=0.1,
        z_loss=0.01,
        soft_cap=5.0,
        class_weights=jnp.arange(1, z.shape[-1] + 1) / 7,
        sample_weight=jnp.arange(1, z.shape[0] + 1) / 3,
        ignore_index=0,
        return_stats=True,
    )
    return loss + stats.logsumexp + stats.entropy + stats.label_log_prob + stats.argmax


def soft(z, q):
    return ops.softmax_cross_entropy(z, q)


def soft_options(z, q):
    loss, stats = ops.softmax_cross_entropy(
        z, q, label_smoothing=0.1, z_loss=0.01, soft_cap=5.0, return_stats=True, reduction="sum"
    )
    return loss + stats.logsumexp + stats.entropy


def log_probs(z, y):
    several = jnp.stack([y, y * 0], -1)
    found, entropy = ops.label_log_probs(z, several, temperature=0.7, return_entropy=True)
    return found[:, 0] + found[:, 1] + entropy


FUNCTIONS = {
    log_probs: "integer",
    of_softmax: "none",
    of_log_softmax: "none",
    masked: "none",
    integer: "integer",
    integer_mean: "integer",
    integer_options: "integer",
    soft: "soft",
    soft_options: "soft",
}


def with_gradients(f, count):
    """Value and gradient of a function, its outputs weighted differently."""

    def value_and_gradients(*args):
        def total(*args):
            out = f(*args)
            weights = 1 + jnp.arange(out.size, dtype=out.dtype).reshape(out.shape) % 3
            return jnp.sum(weights * out), out

        gradients, out = jax.grad(total, tuple(range(count)), has_aux=True)(*args)
        return out, gradients

    return value_and_gradients


def check(f, symbols, made):
    """`f` exported for arguments of symbolic sizes, called at each size of `made`."""
    exported = jax.export.export(jax.jit(f))(*symbols)
    for args in made:
        found, expected = exported.call(*args), jax.jit(f)(*args)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


def shapes(kind, rows, classes):
    z = jax.ShapeDtypeStruct((rows, classes), jnp.float32)
    return {
        "none": (z,),
        "integer": (z, jax.ShapeDtypeStruct((rows,), jnp.int32)),
        "soft": (z, z),
    }[kind]


@each_once(f={f.__name__: f for f in FUNCTIONS}, sizes=["b, v", "6, v", "b, 10"])
def test_logits_of_any_size(f, sizes, rng):
    rows, classes = jax.export.symbolic_shape(sizes)
    kind = FUNCTIONS[f]
    made = [
        logits_and(
            kind,
            rows if isinstance(rows, int) else n,
            classes if isinstance(classes, int) else v,
            rng,
        )
        for n, v in SIZES
    ]
    count = 2 if kind == "soft" else 1
    check(with_gradients(f, count), shapes(kind, rows, classes), made)


def layer(rows, classes, rng=None):
    """Features, kernel, bias and labels, as arrays or as their shapes."""
    dims = ((rows, WIDTH), (WIDTH, classes), (classes,))
    if rng is None:
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in dims]
        return (*arrays, jax.ShapeDtypeStruct((rows,), jnp.int32))
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in dims]
    return (*arrays, rng.integers(0, classes, rows).astype(np.int32))


def fused(x, k, b, y, **options):
    return ops.linear_softmax_cross_entropy(x, k, y, bias=b, **options)


@each_once(
    sizes=["b, v", "b, 130", "6, v"],
    options={
        "mean": {},
        "none": {"reduction": "none"},
        "sum": {"reduction": "sum", "rule": "jvp", "label_smoothing": 0.1, "ignore_index": 0},
    },
)
def test_a_layer_of_any_size(sizes, options, rng):
    rows, classes = jax.export.symbolic_shape(sizes)
    made = [
        layer(rows if isinstance(rows, int) else n, classes if isinstance(classes, int) else v, rng)
        for n, v in SIZES
    ]
    f = functools.partial(fused, **options)
    check(with_gradients(f, 3), layer(rows, classes), made)
