"""Every error of the fused loss says what was expected, what came, and often what to do."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests.ops.linear import loss

X = np.zeros((4, 3), np.float32)
K = np.zeros((3, 8), np.float32)
Y = np.zeros(4, np.int32)


def call(features=X, kernel=K, labels=Y, *args, **options):
    return loss(features, kernel, labels, *args, **options)


@pytest.mark.parametrize("layout", ["VD", "dvd", None, 0])
def test_kernel_layout_must_be_known(layout):
    with pytest.raises(ValueError, match="kernel_layout: expected 'dv' or 'vd', got "):
        call(kernel_layout=layout)


@pytest.mark.parametrize("name", ["features", "kernel", "bias"])
@pytest.mark.parametrize("dtype", [np.int32, bool, np.complex64])
def test_arrays_must_be_floating(name, dtype):
    words = rf"{name}: expected a floating dtype, got {np.dtype(dtype)}; .*{name}.astype"
    shape = {"features": (4, 3), "kernel": (3, 8), "bias": (8,)}[name]
    with pytest.raises(TypeError, match=words):
        call(**{name: np.zeros(shape, dtype)})


def test_features_must_have_an_axis():
    with pytest.raises(ValueError, match=r"features: expected shape \[..., D\], got a number"):
        call(features=np.float32(1))


@pytest.mark.parametrize("shape", [(3,), (8, 3), (1, 3, 8), (4, 8)])
def test_kernel_must_fit_the_features(shape):
    words = r"kernel: expected \[D, V\] with D = 3 .*kernel_layout='dv', got shape"
    with pytest.raises(ValueError, match=words):
        call(kernel=np.zeros(shape, np.float32))


def test_kernel_of_the_other_layout_must_fit_the_features():
    words = r"kernel: expected \[V, D\] with D = 3 .*kernel_layout='vd', got shape \(3, 8\)"
    with pytest.raises(ValueError, match=words):
        call(kernel_layout="vd")


def test_there_must_be_a_class():
    with pytest.raises(
        ValueError, match=r"kernel: expected at least one class, got shape \(3, 0\)"
    ):
        call(kernel=np.zeros((3, 0), np.float32))


@pytest.mark.parametrize("shape", [(), (3,), (1, 8)])
@pytest.mark.parametrize("name", ["bias", "class_weights"])
def test_what_there_is_for_each_class_must_have_their_shape(name, shape):
    with pytest.raises(ValueError, match=rf"{name}: expected shape \(8,\), got"):
        call(**{name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize("dtype", [np.float32, bool])
def test_labels_must_be_integers(dtype):
    with pytest.raises(TypeError, match="labels: expected an integer dtype, got "):
        call(labels=Y.astype(dtype))


@pytest.mark.parametrize("shape", [(), (3,), (4, 1), (4, 3)])
def test_labels_must_have_the_rows_shape(shape):
    words = r"labels: expected shape \(4,\) \(the features' \(4, 3\) without the last axis\), got"
    with pytest.raises(ValueError, match=words):
        call(labels=np.zeros(shape, np.int32))


@pytest.mark.parametrize("shape", [(3,), (4, 1), (2, 4)])
def test_sample_weight_must_broadcast_to_the_rows(shape):
    words = r"sample_weight: expected factors that broadcast to the rows \(4,\), got shape"
    with pytest.raises(ValueError, match=words):
        call(sample_weight=np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("reduction", "average", "reduction: expected one of 'none', 'sum', 'mean', got 'average'"),
        ("rule", "jacobian", "rule: expected 'vjp' or 'jvp', got 'jacobian'"),
        ("label_smoothing", 1.1, r"label_smoothing: expected a number in \[0, 1\], got 1.1"),
        ("z_loss", np.nan, "z_loss: expected a finite number, got nan"),
        ("soft_cap", 0, "soft_cap: expected None or a number from 1e-30 to 1e30, got 0"),
        ("ignore_index", 2**31, "ignore_index: expected a number that labels of dtype int32 can"),
        ("block_size", 0, "block_size: expected at least 1, got 0"),
        ("block_size", (4, -1), r"block_size: expected at least 1, got \(4, -1\)"),
        ("num_classes", 9, r"num_classes: expected at most the 8 classes .*\(8 a device\), got 9"),
        ("num_classes", 0, "num_classes: expected at most the 8 classes .* got 0"),
    ],
)
def test_options_out_of_range_raise(name, value, words):
    with pytest.raises(ValueError, match=words):
        call(**{name: value})


@pytest.mark.parametrize("size", [2.0, True, (1, 2, 3), (), (2, None), (2, 4.0), "4", [2, 4]])
def test_block_size_must_be_one_or_two_integers(size):
    words = r"block_size: expected None, a number of rows, or \(rows, classes\) as Python integers"
    with pytest.raises(TypeError, match=words):
        call(block_size=size)


@pytest.mark.parametrize("classes", [True, 8.0, "8", np.float32(8)])
def test_num_classes_must_be_an_integer(classes):
    with pytest.raises(TypeError, match="num_classes: expected None or a Python integer, got"):
        call(num_classes=classes)


@pytest.mark.parametrize("name", ["label_smoothing", "z_loss", "soft_cap", "temperature"])
def test_traced_options_raise(name):
    with pytest.raises(TypeError, match=f"{name}: expected a Python number, got a traced array"):
        jax.jit(lambda x: call(**{name: x}))(0.5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ignore_index", "ignore_index: expected None or a Python integer"),
        ("num_classes", "num_classes: expected None or a Python integer"),
        ("block_size", "block_size: expected None, a number of rows"),
    ],
)
def test_traced_numbers_raise(name, words):
    with pytest.raises(TypeError, match=words):
        jax.jit(lambda x: call(**{name: x}))(1)


def test_options_are_by_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        call(X, K, Y, None)


def test_errors_are_raised_under_jit_too():
    with pytest.raises(ValueError, match="labels: expected shape"):
        jax.jit(call)(X, K, np.zeros(3, np.int32))


# Mesh axes


def sharded(check_vma=True, kernel_axis="model", **options):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    f = jax.shard_map(
        lambda kernel: call(kernel=kernel, **options),
        mesh=mesh,
        in_specs=P(None, kernel_axis),
        out_specs=P(),
        check_vma=check_vma,
    )
    return jax.jit(f)(K)


@pytest.mark.parametrize("argument", ["axis_name", "data_axis_name"])
def test_axis_names_need_shard_map(argument):
    words = f"{argument}: expected the name of a mesh axis, inside jax.shard_map .* got 'model'"
    with pytest.raises(ValueError, match=words):
        call(**{argument: "model"})


@pytest.mark.parametrize("argument", ["axis_name", "data_axis_name"])
def test_axis_names_must_be_the_meshs(argument):
    words = f"{argument}: expected the name of a mesh axis, .* got 'heads'"
    with pytest.raises(ValueError, match=words):
        sharded(**{"axis_name": "model", argument: "heads"})


def test_kernel_that_is_not_sharded_raises():
    words = "axis_name='model': expected kernel to be this device's part, got the same .* 'model'"
    with pytest.raises(ValueError, match=words):
        sharded(kernel_axis=None, axis_name="model")


def test_rows_that_are_not_sharded_raise():
    words = "data_axis_name='model': expected .* to be this device's part, got the same .* 'model'"
    with pytest.raises(ValueError, match=words):
        sharded(kernel_axis=None, data_axis_name="model")


def test_classes_are_counted_over_all_devices():
    words = r"num_classes: expected at most the 8 classes that the kernel has \(1 a device\), got 9"
    with pytest.raises(ValueError, match=words):
        sharded(axis_name="model", num_classes=9)


def test_check_vma_off_raises():
    with pytest.raises(ValueError, match="check_vma"):
        sharded(check_vma=False, axis_name="model")


def test_check_vma_off_raises_for_a_data_axis_too():
    """Gradients would be silently wrong: those of features 8 times too large."""
    with pytest.raises(ValueError, match="check_vma"):
        sharded(check_vma=False, kernel_axis=None, data_axis_name="model")


def test_classes_and_rows_need_mesh_axes_of_their_own():
    words = r"axis_name and data_axis_name: expected different mesh axes .* got \['model'\]"
    with pytest.raises(ValueError, match=words):
        sharded(axis_name="model", data_axis_name="model")


@pytest.mark.parametrize("name", ["labels", "sample_weight"])
def test_what_is_said_of_rows_must_be_the_same_for_all_classes(name):
    """Gathered, say: the kernel's gradient would be of this device's cotangent alone."""
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = {"labels": np.zeros(8, np.int32), "sample_weight": np.ones(8, np.float32)}

    def total(kernel, part):
        gathered = jax.lax.all_gather(part, "model", tiled=True)
        given = rows | {name: gathered}
        return loss(np.zeros((8, 3), np.float32), kernel, axis_name="model", **given)

    specs = P(None, "model"), P("model")
    mapped = jax.shard_map(total, mesh=mesh, in_specs=specs, out_specs=P())
    words = rf"{name}: expected the same on all devices of axis_name='model'.*jax.lax.pmax"
    with pytest.raises(ValueError, match=words):
        mapped(K, rows[name])


def mean_of_shards(data_axis_name, spread=("features", "labels"), **options):
    """The gradient by the kernel, from rows spread over devices of which one row is ignored."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    rows = 4 if "features" in spread else 2
    features = rng.standard_normal((rows, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, -1], np.int32)

    def gradient(kernel, features, labels):
        def mean(kernel):
            return loss(features, kernel, labels, data_axis_name=data_axis_name, **options)

        return jax.grad(mean)(kernel)

    specs = [P("data") if name in spread else P() for name in ("features", "labels")]
    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=(P(), *specs), out_specs=P())
    features_of_all = features if rows == 4 else np.tile(features, (2, 1))
    whole = jax.grad(lambda k: loss(features_of_all, k, labels, ignore_index=-1))(K)
    return mapped(K, features, labels), whole


@pytest.mark.parametrize("spread", [("features", "labels"), ("labels",)], ids="-".join)
def test_a_mean_of_one_devices_rows_beside_ignored_ones_raises(spread):
    """Silently, its gradient would be another than that of all rows."""
    words = r"rows that differ along \['data'\].*Pass data_axis_name='data'"
    with pytest.raises(ValueError, match=words):
        mean_of_shards(None, spread, ignore_index=-1)


def test_the_mean_of_all_rows_and_one_that_is_meant_do_not_raise():
    found, whole = mean_of_shards("data", ignore_index=-1)
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-7)
    found, _ = mean_of_shards((), ignore_index=-1)
    assert np.abs(found - whole).max() > 0.01 * np.abs(whole).max()
    mean_of_shards(None, reduction="sum", ignore_index=-1)
    mean_of_shards(None, sample_weight=2.0)  # cancels


def test_a_mean_over_some_of_the_axes_of_rows_raises_with_the_others():
    mesh = jax.make_mesh((2, 2), ("data", "more"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = P(("data", "more"))

    def mean(features, labels):
        options = {"ignore_index": -1, "data_axis_name": "data"}
        return jax.lax.pmean(loss(features, K, labels, **options), "more")

    mapped = jax.shard_map(mean, mesh=mesh, in_specs=(rows, rows), out_specs=P())
    with pytest.raises(ValueError, match=r"along \['more'\].*data_axis_name=\('data', 'more'\)"):
        mapped(np.zeros((4, 3), np.float32), np.array([0, 1, 2, -1], np.int32))


def test_no_axes_are_no_axes():
    """An empty tuple is None, inside `shard_map` too."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x, y = np.zeros((4, 3), np.float32), np.zeros(4, np.int32)
    mapped = jax.shard_map(
        lambda x, y: loss(x, K, y, axis_name=(), data_axis_name=(), reduction="none"),
        mesh=mesh,
        in_specs=(P("data"), P("data")),
        out_specs=P("data"),
    )
    np.testing.assert_array_equal(mapped(x, y), loss(x, K, y, reduction="none"))
