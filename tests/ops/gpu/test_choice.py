"""When the kernel is chosen, and what a program then holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from tests.ops.gpu.kernel import REAL, needs_kernel, uses_kernel

pytestmark = needs_kernel
needs_card = pytest.mark.skipif(not REAL, reason="needs an NVIDIA GPU that has the kernel")
integer = ops.softmax_cross_entropy_with_integer_labels


def mean(z, y):
    return integer(z, y, reduction="mean")


def test_by_default_it_is_for_a_gpu_alone(monkeypatch):
    """The same trace serves a CPU, whose program does not have it."""
    monkeypatch.setattr("jax_softmax.ops._backends.dispatch._platform", lambda: "gpu")
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.standard_normal((6, 1024)), jnp.float32)
    y = rng.integers(0, 1024, 6)
    gradient = jax.grad(mean)
    assert uses_kernel(gradient, z, y)
    lowered = jax.jit(gradient).trace(z, y).lower(lowering_platforms=("cpu",))
    assert "mosaic" not in lowered.as_text()
    if not REAL:
        wanted = jax.grad(lambda z: integer(z, y, reduction="mean", implementation="xla"))(z)
        np.testing.assert_allclose(gradient(z, y), wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float64", "int8"])
def test_what_never_comes_near_it(dtype):
    """float64 is XLA's; an integer array is nobody's logits."""
    with jax.enable_x64(True):
        z, y = jnp.ones((6, 1024), dtype), jnp.zeros(6, jnp.int32)
        if dtype == "int8":
            with pytest.raises(TypeError, match="logits"):
                mean(z, y)
        else:
            assert not uses_kernel(jax.grad(mean), z, y)


def test_an_exported_program_of_any_size_has_none():
    """The kernel is made for known sizes."""
    rows, classes = jax.export.symbolic_shape("n, v")
    z = jax.ShapeDtypeStruct((rows, classes), jnp.float32)
    y = jax.ShapeDtypeStruct((rows,), jnp.int32)
    exported = jax.export.export(jax.jit(lambda z, y: integer(z, y)))(z, y)
    assert "mosaic" not in exported.mlir_module()


@needs_card
def test_a_mean_holds_its_gradient_and_little_else():
    z, y = jax.ShapeDtypeStruct((4096, 32768), jnp.float32), jax.ShapeDtypeStruct((4096,), "int32")
    program = jax.jit(jax.value_and_grad(mean)).lower(z, y).compile()
    assert program.memory_analysis().temp_size_in_bytes < 2**20
    assert "mosaic_gpu" in program.as_text()


@needs_card
def test_a_layer_holds_a_block():
    x, k = (jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((8192, 1024), (1024, 65536)))
    y = jax.ShapeDtypeStruct((8192,), "int32")
    f = jax.value_and_grad(ops.linear_softmax_cross_entropy, (0, 1))
    program = jax.jit(f).lower(x, k, y).compile()
    # 4096 rows: float32 logits, their gradient, and the sums of two gradients.
    held = 4096 * 65536 * 6 + 1024 * 65536 * 4 + 8192 * 1024 * 4
    assert program.memory_analysis().temp_size_in_bytes < 1.2 * held
    assert "mosaic_gpu" in program.as_text()
