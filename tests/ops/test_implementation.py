"""`implementation=`: another way to the same numbers, and only what can run here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jax_softmax import ops
from tests.ops.one_device.exact import many_rows

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="'cpu' is an implementation for CPUs"
)
ROWS, WIDTH, CLASSES = 12, 5, 384
EPS = 10 * np.finfo(np.float32).eps


def sharded(x, k, y, **options):
    mesh = jax.make_mesh((jax.device_count(),), ("model",), axis_types=(AxisType.Auto,))
    return ops.sharded_linear_softmax_cross_entropy(
        x, k, y, mesh=mesh, axis_name="model", **options
    )


OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.01, "soft_cap": 5.0}
integer, soft = ops.softmax_cross_entropy_with_integer_labels, ops.softmax_cross_entropy
fused = ops.linear_softmax_cross_entropy

FUNCTIONS = {
    "softmax": lambda a, **o: ops.softmax(a.z, **o),
    "log_softmax": lambda a, **o: ops.log_softmax(a.z, **o),
    "logsumexp": lambda a, **o: ops.logsumexp(a.z, **o),
    "softmax jvp": lambda a, **o: ops.softmax(a.z, rule="jvp", **o),
    "softmax where": lambda a, **o: ops.softmax(a.z, where=a.q > 0.3, **o),
    "integer": lambda a, **o: integer(a.z, a.y, **o),
    "integer options": lambda a, **o: integer(a.z, a.y, reduction="mean", **OPTIONS, **o),
    "integer stats": lambda a, **o: integer(a.z, a.y, return_stats=True, **o),
    "integer jvp": lambda a, **o: integer(a.z, a.y, rule="jvp", **o),
    "soft": lambda a, **o: soft(a.z, a.q, **o),
    "soft options": lambda a, **o: soft(a.z, a.q, reduction="sum", **OPTIONS, **o),
    "fused": lambda a, **o: fused(a.x, a.k, a.y, **o),
    "fused rows": lambda a, **o: fused(a.x, a.k, a.y, reduction="none", **OPTIONS, **o),
    "fused blocks": lambda a, **o: fused(a.x, a.k, a.y, block_size=(5, 100), **o),
    "sharded": lambda a, **o: sharded(a.x, a.k, a.y, **o),
}
every_function = pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)


class Arrays:
    """What the functions are called with, rebuilt around traced arrays."""

    def __init__(self, z, q, x, k, y):
        self.z, self.q, self.x, self.k, self.y = z, q, x, k, y


@pytest.fixture
def arrays(rng):
    z = (4 * rng.standard_normal((ROWS, CLASSES))).astype(np.float32)
    z[::3, 7] += 30
    return Arrays(
        z,
        rng.random((ROWS, CLASSES)).astype(np.float32),
        rng.standard_normal((ROWS, WIDTH)).astype(np.float32),
        rng.standard_normal((WIDTH, CLASSES)).astype(np.float32),
        rng.integers(0, CLASSES, ROWS).astype(np.int32),
    )


def outputs_and_gradients(f, arrays, implementation):
    @jax.jit
    def both(z, x, k):
        def total(z, x, k):
            made = Arrays(z, arrays.q, x, k, arrays.y)
            out = f(made, implementation=implementation)
            leaves = [a for a in jax.tree.leaves(out) if jnp.issubdtype(a.dtype, jnp.floating)]
            terms = (jnp.sum(jnp.cos(jnp.arange(a.size).reshape(a.shape)) * a) for a in leaves)
            return sum(terms), out

        gradients, out = jax.grad(total, (0, 1, 2), has_aux=True)(z, x, k)
        return out, gradients

    return jax.tree.leaves(both(arrays.z, arrays.x, arrays.k))


@pytest.mark.parametrize(
    ("f", "implementation"),
    [*((name, "xla") for name in FUNCTIONS), ("integer options", "cpu")],
)
def test_every_implementation_gives_the_same(f, implementation, arrays):
    """To a few eps of the largest number of each row or gradient."""
    expected = outputs_and_gradients(FUNCTIONS[f], arrays, None)
    found = outputs_and_gradients(FUNCTIONS[f], arrays, implementation)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        size = float(np.max(np.abs(b), initial=0))
        np.testing.assert_allclose(a, b, rtol=EPS, atol=EPS * size)


@every_function
@pytest.mark.parametrize("name", ["triton", "mosaic_gpu", "", "XLA", 0])
def test_what_is_unknown_or_impossible_here_raises_with_what_is_possible(f, name, arrays):
    words = rf"implementation: expected .*None.*'xla'.*'cpu'.*got {name!r}"
    with pytest.raises(ValueError, match=words):
        f(arrays, implementation=name)


@every_function
def test_none_is_the_default(f, arrays):
    for a, b in zip(
        jax.tree.leaves(f(arrays)), jax.tree.leaves(f(arrays, implementation=None)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("implementation", ["xla", "cpu"])
@pytest.mark.parametrize("loss", [integer, soft])
def test_a_forced_implementation_has_second_derivatives(implementation, loss, arrays):
    labels = arrays.y[:2] if loss is integer else arrays.q[:2, :40]
    labels = labels % 40 if loss is integer else labels
    z = arrays.z[:2, :40]

    def hessian(implementation):
        f = functools.partial(loss, labels=labels, implementation=implementation)
        return jax.jit(jax.hessian(lambda z: jnp.sum(jnp.square(f(z)))))(z)

    expected = hessian(None)
    size = float(np.abs(expected).max())
    np.testing.assert_allclose(hessian(implementation), expected, rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize("implementation", [None, "cpu"])
@pytest.mark.parametrize("loss", [integer, soft])
def test_rows_that_may_be_over_devices_are_not_taken_in_blocks(loss, implementation):
    """Each device would need some of every block; on one device as many rows are in blocks."""
    assert jax.device_count() > 1
    z = jax.ShapeDtypeStruct((many_rows(1024), 1024), jnp.float32)
    labels = jax.ShapeDtypeStruct(z.shape[:1], jnp.int32) if loss is integer else z
    jaxpr = jax.make_jaxpr(functools.partial(loss, implementation=implementation))(z, labels)
    assert "scan[" not in str(jaxpr)


@pytest.mark.skipif(jax.__version_info__ < (0, 11, 2), reason="the kernel needs jax 0.11.2")
def test_the_kernel_for_gpus_is_for_rows_of_one_device(monkeypatch):
    """The compiler cannot split it: rows that may be spread over devices are plain XLA's."""
    monkeypatch.setattr("jax_softmax.ops._backends.dispatch.available", lambda: True)
    devices = jax.device_count()
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("data")
    z, y = jnp.zeros((2 * devices, 1024)), jnp.zeros(2 * devices, jnp.int32)
    k = jnp.ones((1024, 1024))

    def each(f, of_rows):
        """On each device its own rows, and the sum over them."""
        total = jax.shard_map(
            lambda *given: jax.lax.psum(jnp.sum(f(*given)), "data"),
            mesh=mesh,
            in_specs=of_rows,
            out_specs=jax.sharding.PartitionSpec(),
        )
        return jax.grad(total)

    def kernels(f, *arrays):
        return str(jax.make_jaxpr(f)(*arrays)).count("mpmd_map")

    for options in ({}, {"reduction": "mean", "label_smoothing": 0.1}):
        loss = functools.partial(integer, **options)
        assert not kernels(jax.grad(lambda z, y, f=loss: jnp.sum(f(z, y))), z, y)
        assert kernels(each(loss, (rows, rows)), z, y)
    monkeypatch.setattr("jax_softmax.ops._linear.call.on_a_gpu", lambda _: True)
    assert not kernels(jax.grad(fused), z, k, y)
    assert kernels(each(fused, (rows, jax.sharding.PartitionSpec(), rows)), z, k, y)
