"""The loss of a layer on a GPU: blocks of logits for the kernel, their size, padded classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from jax_softmax.ops._linear.blocks import choose_gpu_block_size
from tests.ops.gpu.kernel import IMPLEMENTATION, needs_kernel, uses_kernel

pytestmark = needs_kernel

ROWS, WIDTH = 10, 16


def layer(name, classes, *, bias=False, layout="dv"):
    rng = np.random.default_rng(classes)
    x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    k = rng.standard_normal((WIDTH, classes)).astype(np.float32)
    b = jnp.asarray(rng.standard_normal(classes), name) if bias else None
    k = k if layout == "dv" else k.T
    return jnp.asarray(x, name), jnp.asarray(k, name), b, rng.integers(0, classes, ROWS)


def gradients(implementation, x, k, b, y, factor=1.0, **options):
    def total(x, k, b):
        return factor * ops.linear_softmax_cross_entropy(
            x, k, y, bias=b, implementation=implementation, **options
        )

    by = (0, 1) if b is None else (0, 1, 2)
    return jax.value_and_grad(total, by)(x, k, b)


def check(name, *arrays, **options):
    actual, wanted = (
        gradients(implementation, *arrays, **options) for implementation in (IMPLEMENTATION, "xla")
    )
    eps = float(jnp.finfo(name).eps)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=8 * eps, atol=8 * eps * np.abs(b).max())


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("classes", [2048, 2051], ids=["even", "padded"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_values_and_gradients(name, classes, bias):
    x, k, b, y = layer(name, classes, bias=bias)
    check(name, x, k, b, y, block_size=4)

    def loss(x):
        return ops.linear_softmax_cross_entropy(x, k, y, implementation=IMPLEMENTATION)

    assert uses_kernel(jax.grad(loss), x)


@pytest.mark.parametrize("classes", [2048, 2051], ids=["even", "padded"])
@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.1, "z_loss": 0.01, "ignore_index": 5},
        {"sample_weight": np.linspace(0, 2, ROWS, dtype=np.float32), "reduction": "sum"},
        {"where": np.arange(ROWS) % 2 == 0, "factor": 0.3},
        {"class_weights": 1, "kernel_layout": "vd"},
        {"class_weights": 1, "label_smoothing": 0.1},
    ],
    ids=["smoothing", "weights", "where", "vd", "spread"],
)
def test_options(classes, options):
    x, k, b, y = layer("float32", classes, layout=options.get("kernel_layout", "dv"))
    options = dict(options)
    if "class_weights" in options:
        options["class_weights"] = np.linspace(0, 2, classes, dtype=np.float32)
    check("float32", x, k, b, y, **options)


@pytest.mark.parametrize("classes", [2048, 2051], ids=["even", "padded"])
def test_rows_and_stats(classes):
    x, k, _, y = layer("float32", classes)

    def f(implementation):
        def losses(x, k):
            loss, stats = ops.linear_softmax_cross_entropy(
                x, k, y, reduction="none", return_stats=True, implementation=implementation
            )
            return jnp.sum(jnp.sin(loss) + stats.entropy), (loss, stats)

        return jax.value_and_grad(losses, (0, 1), has_aux=True)(x, k)

    for a, b in zip(*map(jax.tree.leaves, (f(IMPLEMENTATION), f("xla"))), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_padded_class_is_none():
    """It takes no part, though a kernel of zeros would make it the likeliest of these."""
    x, k, _, y = layer("float32", 2051)
    k = k - 100 * jnp.sign(x[0])[:, None]
    actual = ops.linear_softmax_cross_entropy(x, k, y, implementation=IMPLEMENTATION)
    wanted = ops.linear_softmax_cross_entropy(x, k, y, implementation="xla")
    np.testing.assert_allclose(actual, wanted, rtol=1e-5)


def test_many_columns_that_are_no_classes():
    """Whole chunks of them, of a row that is read again."""
    x, k, _, y = layer("float32", 70_000)
    check("float32", x[:3], k, None, y[:3] % 10_000, num_classes=10_000)


@pytest.mark.parametrize(
    ("rows", "classes", "memory", "block"),
    [
        (8192, 128256, 80e9, 4096),
        (100, 128256, 80e9, 100),
        (8192, 262144, 80e9, 4096),
        (8192, 128256, 16e9, 2598),
        (8192, 128256, 1e9, 512),  # the least of any platform
        (2**20, 1000, 80e9, 16777),  # as elsewhere: 64 MiB are more rows than that
    ],
)
def test_rows_in_a_block(rows, classes, memory, block):
    found = choose_gpu_block_size(rows, classes, 4, int(memory))
    assert found == (block, None)
