"""What the kernel does with rows and options at the edges: as plain XLA does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from jax_softmax.ops._backends import gpu
from jax_softmax.ops._backends.mosaic_plan import make_plan, suits
from tests.ops.gpu.kernel import IMPLEMENTATION, needs_kernel, uses_kernel

pytestmark = needs_kernel

WIDTH = 2056
OPTIONS = {
    "plain": {},
    "ignored": {"ignore_index": 3},
    "weights of rows": {"sample_weight": np.float32([0, 1, 2, 0, 3, 0.5, 0, 1, 1])},
    "weights of classes": {"class_weights": np.linspace(0, 2, WIDTH, dtype=np.float32)},
    "z_loss": {"z_loss": 0.1},
    "smoothing": {"label_smoothing": 0.1},
    "together": {
        "label_smoothing": 0.2,
        "z_loss": 0.01,
        "ignore_index": 3,
        "sample_weight": np.float32([1, 1, 2, 0, 3, 0.5, 2, 1, 1]),
    },
    "weights and z_loss": {
        "class_weights": np.linspace(0, 2, WIDTH, dtype=np.float32),
        "z_loss": 0.01,
        "ignore_index": 3,
    },
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
each_dtype = pytest.mark.parametrize("name", ["float32", "bfloat16"])


def rows():
    """One row of each kind: NaN, `+inf`, all `-inf`, a `-inf` label, labels outside, ignored."""
    rng = np.random.default_rng(0)
    z = 3 * rng.standard_normal((9, WIDTH)).astype(np.float32)
    y = np.int32([5, 6, 7, 3, -1, WIDTH, 2047, 2055, 0])
    z[0, 9] = np.nan
    z[1, 9] = np.inf
    z[2] = -np.inf
    z[3, :4] = np.nan  # ignored, where that is asked for
    z[6, 2047] = -np.inf
    z[7, 100:] = -np.inf
    z[7, 2055] = 1.0
    z[8, 1:] = -np.inf
    return z, y


def both(f):
    """By the kernel, and by plain XLA."""
    return f(IMPLEMENTATION), f("xla")


def assert_same(actual, wanted, dtype):
    """To rounding; NaN, infinities and zeros exactly."""
    actual, wanted = (np.asarray(x, np.float64) for x in (actual, wanted))
    assert actual.shape == wanted.shape
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(wanted))
    np.testing.assert_array_equal(np.isinf(actual), np.isinf(wanted))
    np.testing.assert_array_equal(actual == 0, wanted == 0)
    eps = float(jnp.finfo(dtype).eps)
    scale = np.nan_to_num(np.abs(wanted), posinf=0, neginf=0)
    # Smoothing's gradient is a difference: to its terms, at most a millionth of which cancel here.
    np.testing.assert_allclose(actual, wanted, rtol=16 * eps, atol=16 * eps * 2e-3 * scale.max())


@each_option
@each_dtype
def test_rows_as_plain_xla_has_them(options, name):
    z, y = rows()
    z = jnp.asarray(z, name)

    def f(implementation):
        def losses(z):
            loss = ops.softmax_cross_entropy_with_integer_labels(
                z, y, implementation=implementation, **options
            )
            return loss, loss

        g = np.linspace(-1, 2, len(y), dtype=np.float32)
        loss, pull_back, _ = jax.vjp(losses, z, has_aux=True)
        return loss, pull_back(g)[0]

    for actual, wanted in zip(*both(f), strict=True):
        assert_same(actual, wanted, wanted.dtype)


@each_option
@each_dtype
def test_each_row_of_a_total(options, name):
    """The rows without a number alone, for one NaN is enough for the total."""
    z, y = rows()
    z = jnp.asarray(z, name)

    def f(implementation):
        def total(z):
            return ops.softmax_cross_entropy_with_integer_labels(
                z, y, implementation=implementation, reduction="sum", **options
            )

        if implementation != "xla":
            assert uses_kernel(jax.grad(total), z)
        return jax.value_and_grad(total)(z)

    (_, gradient), (_, wanted) = both(f)
    assert_same(gradient, wanted, wanted.dtype)


@each_dtype
def test_a_total_of_finite_rows(name):
    z, y = rows()
    z, y = jnp.asarray(z[7:], name), y[7:]

    def f(implementation):
        return ops.softmax_cross_entropy_with_integer_labels(
            z, y, implementation=implementation, reduction="mean", z_loss=0.01
        )

    actual, wanted = both(f)
    np.testing.assert_allclose(actual, wanted, rtol=1e-6)


def test_the_derivative_by_weights():
    z, y = rows()
    z, y = jnp.asarray(z[6:]), y[6:]

    def f(implementation):
        def total(w):
            return ops.softmax_cross_entropy_with_integer_labels(
                z, y, sample_weight=w, implementation=implementation, reduction="mean"
            )

        return jax.grad(total)(jnp.float32([0.0, 2.0, 1.0]))

    actual, wanted = both(f)
    np.testing.assert_allclose(actual, wanted, rtol=1e-5)


def test_stats():
    """The label's share comes from the kernel, the rest from plain XLA."""
    z, y = rows()

    def f(implementation):
        return ops.softmax_cross_entropy_with_integer_labels(
            z, y, implementation=implementation, return_stats=True
        )[1]

    for actual, wanted in zip(*both(f), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_transforms(reduction):
    """Under vmap and scan, and in second derivatives, which are plain XLA's."""
    rng = np.random.default_rng(1)
    z, y = jnp.asarray(rng.standard_normal((2, 3, 520)), jnp.float32), rng.integers(0, 520, (2, 3))
    v = jnp.asarray(rng.standard_normal(z.shape), jnp.float32)

    def f(implementation):
        def loss(z, y):
            return ops.softmax_cross_entropy_with_integer_labels(
                z, y, implementation=implementation, reduction=reduction
            )

        def total(z):
            _, by_scan = jax.lax.scan(lambda c, zy: (c, loss(*zy)), None, (z, y))
            return jnp.sum(jnp.square(jax.vmap(loss)(z, y))) + jnp.sum(by_scan)

        gradient = jax.grad(total)
        return (
            gradient(z),
            jax.jvp(gradient, (z,), (v,))[1],
            jax.grad(lambda z: jnp.vdot(gradient(z), v))(z),
        )

    for actual, wanted in zip(*both(f), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)


@each_dtype
def test_derivatives_by_a_cotangent_that_is_1(name):
    """It has one, though its value is what the kernel wrote the gradient for."""
    z, y = rows_of_normals()
    z, v = z.astype(name), jnp.cos(z).astype(name)
    w = jnp.linspace(0.5, 2, len(y))

    def f(implementation):
        def total(z, scale=1.0, w=None):
            return scale * ops.softmax_cross_entropy_with_integer_labels(
                z,
                y,
                sample_weight=w,
                reduction="sum" if w is None else "mean",
                implementation=implementation,
            )

        def along(z, *args):
            return jnp.vdot(jax.grad(total)(z, *args), v).astype(jnp.float32)

        def of_exponential(z):
            return jnp.exp(total(z) - jax.lax.stop_gradient(total(z)))

        return (
            jax.grad(along, 1)(z, 1.0),
            jax.grad(lambda w: along(z, 1.0, w))(w),
            jax.grad(lambda z: jnp.vdot(jax.grad(of_exponential)(z), v))(z),
        )

    eps = float(jnp.finfo(name).eps)
    for actual, wanted in zip(*both(f), strict=True):
        actual, wanted = (np.asarray(x, np.float64) for x in (actual, wanted))
        np.testing.assert_allclose(actual, wanted, atol=32 * eps * np.abs(wanted).max())


def test_inside_shard_map():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("data")
    z, y = (x[6:] for x in rows_of_normals())

    def f(implementation):
        def loss(z, y):
            return jax.lax.pmean(
                ops.softmax_cross_entropy_with_integer_labels(
                    z, y, implementation=implementation, reduction="mean"
                ),
                "data",
            )

        sharded = jax.shard_map(
            loss, mesh=mesh, in_specs=(rows, rows), out_specs=jax.sharding.PartitionSpec()
        )
        return jax.value_and_grad(sharded)(z, y)

    for actual, wanted in zip(*both(f), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-7)


def rows_of_normals(count=9):
    rng = np.random.default_rng(2)
    z = rng.standard_normal((count, WIDTH)).astype(np.float32)
    return jnp.asarray(z), jnp.asarray(rng.integers(0, WIDTH, count))


@pytest.mark.parametrize(
    "options",
    [{"soft_cap": 5.0}, {"where": np.arange(WIDTH)[None] % 3 > 0}, {"axis": 0}],
    ids=["cap", "mask", "axis"],
)
def test_what_the_kernel_does_not_take(options):
    """It is plain XLA's, as if it had been asked for; for another axis XLA moves the classes."""
    z, y = rows_of_normals()
    if options == {"axis": 0}:
        z = z.T

    def f(implementation):
        def total(z):
            return ops.softmax_cross_entropy_with_integer_labels(
                z, y, implementation=implementation, reduction="sum", **options
            )

        return jax.grad(total)(z)

    np.testing.assert_allclose(*both(f), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "dtype", "gradient", "taken"),
    [
        ((1024, 1000), "float32", "float32", True),
        ((4, 256, 1000), "float32", "float32", True),
        ((1024, 1001), "float32", None, False),  # rows do not start at multiples of 16 bytes
        ((1024, 1004), "float32", "bfloat16", False),  # those of the gradient do not
        ((1024, 128), "float32", None, False),
        ((1024, 2048), "float64", None, False),
        ((1024, 4096), "float8_e4m3fn", None, False),  # never tried
        ((1024, 2008), "bfloat16", "bfloat16", True),
        ((1024, 1032), "bfloat16", "bfloat16", False),  # XLA is faster
        ((1, 2048), "float32", None, True),
        ((0, 2048), "float32", None, False),
    ],
)
def test_which_logits_suit(shape, dtype, gradient, taken):
    assert suits(shape, dtype, gradient) == taken


def test_what_does_not_compile_falls_back_with_one_warning(monkeypatch):
    """A user's program runs, and says once why it is slower."""

    def fails(plan):
        raise NotImplementedError("no such instruction")

    monkeypatch.setattr(gpu, "_compile", fails)
    monkeypatch.setattr(gpu, "_device", lambda: object())
    gpu._lowers.cache_clear()
    plan = make_plan(1024, 4096, "float32", multiprocessors=1)
    try:
        with pytest.warns(UserWarning, match="1024 x 4096 float32.*no such instruction") as seen:
            assert not gpu._lowers(plan) and not gpu._lowers(plan)
        assert len(seen) == 1
    finally:
        gpu._lowers.cache_clear()
