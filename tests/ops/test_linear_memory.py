"""What the fused loss keeps for the backward pass, and what a compiled program needs beside inputs.

The bounds on temporaries are XLA:CPU's.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.linear import loss
from tests.ops.test_memory import residuals

ROWS, WIDTH, CLASSES = 512, 64, 8192
on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the bounds are XLA:CPU's")


def shapes(rows=ROWS, dtype=jnp.float32, width=WIDTH, classes=CLASSES):
    return (
        jax.ShapeDtypeStruct((rows, width), dtype),
        jax.ShapeDtypeStruct((width, classes), dtype),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )


@functools.cache
def temporaries(rows, reduction, block, rule="vjp", dtype=jnp.float32):
    """Bytes beside arguments and results of the loss and its gradients."""

    def total(x, k, y):
        return jnp.sum(loss(x, k, y, reduction=reduction, block_size=block, rule=rule))

    compiled = jax.jit(jax.value_and_grad(total, (0, 1))).lower(*shapes(rows, dtype)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


LOGITS = 4 * ROWS * CLASSES  # 16 MiB


@on_cpu
@pytest.mark.parametrize(
    ("reduction", "block", "rule"),
    [
        ("mean", 32, "vjp"),
        ("none", 32, "vjp"),
        ("mean", (32, 1024), "vjp"),
        ("mean", 32, "jvp"),
    ],
)
def test_temporaries_are_a_few_blocks_and_the_kernels_gradient(reduction, block, rule):
    """A block of logits is 1/16 of them, or 1/128; the kernel's gradient an eighth."""
    rows, classes = block if isinstance(block, tuple) else (block, CLASSES)
    bound = 4 * (3 * rows * classes + 2 * WIDTH * CLASSES)
    assert bound < 0.45 * LOGITS
    assert temporaries(ROWS, reduction, block, rule) <= bound


@on_cpu
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_temporaries_grow_by_no_block_when_rows_double(reduction):
    """By what there is a row, which is the features and a few numbers."""
    more = temporaries(2 * ROWS, reduction, 32) - temporaries(ROWS, reduction, 32)
    assert more <= 4 * ROWS * (2 * WIDTH + 16)


@on_cpu
def test_temporaries_of_half_precision_are_of_its_blocks_too():
    """Its gradient sums are float32: the kernel's once, and a block's logits."""
    assert temporaries(ROWS, "mean", 32, dtype=jnp.bfloat16) <= 0.6 * LOGITS


@on_cpu
def test_value_alone_needs_a_block():
    def value(x, k, y):
        return loss(x, k, y, block_size=32)

    compiled = jax.jit(value).lower(*shapes()).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 4 * 32 * CLASSES * 2


def kept(reduction, rule="vjp", dtype=jnp.float32, wanted=(0, 1), **options):
    arrays = [jnp.zeros(s.shape, s.dtype) for s in shapes(16, dtype, 8, 1000)]
    labels = arrays.pop()

    def f(*part):
        given = list(arrays)
        for n, x in zip(wanted, part, strict=True):
            given[n] = x
        return loss(*given, labels, reduction=reduction, rule=rule, block_size=4, **options)

    sizes = residuals(f, *(arrays[n] for n in wanted))
    large = [x for x in sizes if np.prod(x[0]) >= 16 * 8]
    # Ten numbers a row at most, with statistics.
    assert sum(np.prod(x[0], dtype=int) for x in sizes if x not in large) <= 16 * 10
    return sorted((np.prod(shape), dtype.name) for shape, dtype in large)


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_total_keeps_its_gradients_and_neither_features_nor_kernel(reduction, rule):
    assert kept(reduction, rule) == [(16 * 8, "float32"), (8 * 1000, "float32")]
    assert kept(reduction, rule, wanted=(0,)) == [(16 * 8, "float32")]
    assert kept(reduction, rule, wanted=(1,)) == [(8 * 1000, "float32")]


def test_total_in_half_precision_keeps_what_float32_features_would():
    """In two halves, or as they are: until the cotangent has come nothing is rounded."""
    of_features = [x for x in kept("mean", dtype=jnp.bfloat16) if x[0] == 16 * 8]
    assert sum({"bfloat16": 2, "float32": 4}[name] for _, name in of_features) == 4


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
@pytest.mark.parametrize("stats", [False, True])
def test_rows_keep_their_inputs_and_a_few_numbers(rule, stats):
    found = kept("none", rule, return_stats=stats)
    assert found == [(16 * 8, "float32"), (8 * 1000, "float32")]


def test_total_with_statistics_keeps_its_gradients_and_its_inputs():
    """The gradients of the total, and what those of the statistics need should they be asked."""
    inputs = [(16 * 8, "float32"), (8 * 1000, "float32")]
    assert kept("mean", return_stats=True) == sorted(2 * inputs)


def test_more_logits_than_an_int32_counts():
    """2^20 rows and 2^18 classes: 2^38 logits are traced, with no index that overflows."""
    made = shapes(2**20, jnp.bfloat16, 8, 2**18)
    gradients = jax.eval_shape(jax.grad(lambda x, k, y: loss(x, k, y), (0, 1)), *made)
    assert [g.shape for g in gradients] == [(2**20, 8), (8, 2**18)]
