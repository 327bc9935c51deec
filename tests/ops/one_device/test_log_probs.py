"""Log-probabilities on one device: rows in blocks of the cache, nothing as large as the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from tests.tolerances import assert_close

ROWS, CLASSES = 8192 + 3, 1024


@pytest.mark.parametrize("labels", [1, 3, 10])
@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_blocks_of_rows_are_the_rows(labels, rule):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((ROWS, CLASSES)).astype(np.float32)
    y = rng.integers(0, CLASSES, (ROWS, labels)).astype(np.int32)
    g = tuple(rng.standard_normal(s).astype(np.float32) for s in (y.shape, ROWS))

    @jax.jit
    def run(z, y, g):
        out, vjp = jax.vjp(lambda z: ops.label_log_probs(z, y, return_entropy=True, rule=rule), z)
        return out, vjp(g)[0]

    found = run(z, y, g)
    some = np.r_[0:5, 4000:4005, ROWS - 5 : ROWS]
    expected = run(z[some], y[some], tuple(x[some] for x in g))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(np.asarray(a)[some], b, np.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("labels", "entropy"), [(0, False), (0, True), (4, True)])
def test_nothing_as_large_as_the_logits_is_held(labels, entropy, dtype):
    z = jax.ShapeDtypeStruct((ROWS, CLASSES), dtype)
    y = jax.ShapeDtypeStruct((ROWS, labels) if labels else (ROWS,), jnp.int32)

    def total(z, y):
        found = ops.label_log_probs(z, y, return_entropy=entropy)
        return sum(map(jnp.sum, found if entropy else (found,)))

    compiled = jax.jit(jax.value_and_grad(total)).lower(z, y).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.35 * ROWS * CLASSES * z.dtype.itemsize


def test_rows_left_out_side_by_side_are_blocks_left_out():
    """On one device blocks are adjacent rows where some may be left out."""
    rng = np.random.default_rng(0)
    x, k = (rng.standard_normal(s).astype(np.float32) for s in ((64, 8), (8, 100)))
    y = rng.integers(0, 100, 64).astype(np.int32)

    def flops(**options):
        f = jax.jit(lambda x, k, y: ops.linear_label_log_probs(x, k, y, block_size=16, **options))
        return f.lower(x, k, y).as_text()

    assert "tensor<4x16x8xf32>" in flops(ignore_index=-1)
    assert "tensor<16x4x8xf32>" in flops()


def test_the_likeliest_classes_are_picked_and_not_sorted():
    """XLA:CPU sorts whole rows, fifty times as long, where the result of top_k is sliced."""
    x, k = jnp.zeros((64, 8)), jnp.zeros((8, 4096))

    def both(x, k):
        return ops.top_k_log_probs(x @ k, 8), ops.linear_top_k_log_probs(x, k, 8, block_size=16)

    text = jax.jit(both).lower(x, k).compile().as_text()
    assert text.count("TopK") >= 2
    assert not [line for line in text.splitlines() if " sort(" in line and "4096]" in line]
