"""What is often passed by mistake gets one sentence: what was expected, what came, what to do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops

Z = np.zeros((4, 3), np.float32)
Y = np.zeros(4, np.int32)
Q = np.full((4, 3), 1 / 3, np.float32)
K = np.zeros((3, 8), np.float32)
FP8 = jnp.float8_e4m3fn

integer = ops.softmax_cross_entropy_with_integer_labels
soft = ops.softmax_cross_entropy
fused = ops.linear_softmax_cross_entropy


def one_sentence(raised):
    """A message that a terminal shows whole."""
    text = str(raised.value)
    assert "\n" not in text and len(text) < 400, text


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("x", lambda x: ops.softmax(x(Z))),
        ("x", lambda x: ops.log_softmax(x(Z))),
        ("logits", lambda x: integer(x(Z), Y)),
        ("logits", lambda x: soft(x(Z), Q)),
        ("features", lambda x: fused(x(Z), K, Y)),
        ("kernel", lambda x: fused(Z, x(K), Y)),
        ("bias", lambda x: fused(Z, K, Y, bias=x(K[0]))),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_fp8_arrays_are_named_and_to_be_converted(name, call, dtype):
    words = rf"^{name}: expected .*got {jnp.dtype(dtype)}.*{name}\.astype\(jnp\."
    with pytest.raises(TypeError, match=words) as raised:
        call(lambda x: jnp.asarray(x).astype(dtype))
    one_sentence(raised)


class Linear:
    """As PyTorch's, Equinox's and MLX's layers."""

    weight = K.T


class Dense:
    """As Keras' and Flax's layers."""

    kernel = K


@pytest.mark.parametrize(("module", "attribute"), [(Linear(), "weight"), (Dense(), "kernel")])
def test_a_module_is_no_kernel(module, attribute):
    words = rf"^kernel: expected an array.*got .*{type(module).__name__}.*\.{attribute}"
    with pytest.raises(TypeError, match=words) as raised:
        fused(Z, module, Y)
    one_sentence(raised)


@pytest.mark.parametrize("name", ["features", "kernel"])
def test_what_is_no_array_is_named(name):
    given = {"features": Z, "kernel": K} | {name: {"kernel": K}}
    with pytest.raises(TypeError, match=f"^{name}: expected an array, got .*dict") as raised:
        fused(given["features"], given["kernel"], Y)
    one_sentence(raised)


@pytest.mark.parametrize("loss", [integer, lambda z, y: fused(z, K, y)], ids=["integer", "fused"])
def test_bool_labels_are_to_be_converted(loss):
    words = r"^labels: expected .*integer.*got bool.*labels\.astype\(int\)"
    with pytest.raises(TypeError, match=words) as raised:
        loss(Z, Y.astype(bool))
    one_sentence(raised)


@pytest.mark.parametrize("loss", [integer, lambda z, y: fused(z, K, y)], ids=["integer", "fused"])
def test_a_column_of_labels_is_to_be_taken_out(loss):
    words = r"^labels: expected shape \(4,\) .*got \(4, 1\).*labels\[(:|\.\.\.), 0\]"
    with pytest.raises(ValueError, match=words) as raised:
        loss(Z, Y[:, None])
    one_sentence(raised)


def test_a_column_of_labels_is_no_column_where_there_is_one_class():
    """`[N, 1]` class probabilities of one class are what they are."""
    found = fused(Z, K[:, :1], np.ones((4, 1), np.float32), reduction="none")
    np.testing.assert_array_equal(found, 0)


# Class weights have no derivative

C = np.ones(3, np.float32)
WEIGHTED = {
    "integer": lambda z, c: integer(z, Y, class_weights=c).sum(),
    "integer mean": lambda z, c: integer(z, Y, class_weights=c, reduction="mean", rule="jvp"),
    "soft": lambda z, c: soft(z, Q, class_weights=c).sum(),
    "fused": lambda z, c: fused(z, np.eye(3, dtype=np.float32), Y, class_weights=c),
    "fused rows": lambda z, c: fused(
        z, np.eye(3, dtype=np.float32), Y, class_weights=c, reduction="none", rule="jvp"
    ).sum(),
}
weighted = pytest.mark.parametrize("f", WEIGHTED.values(), ids=WEIGHTED)
NO_DERIVATIVE = r"class_weights.*no derivative.*jax\.lax\.stop_gradient"


@weighted
@pytest.mark.parametrize("argnums", [1, (0, 1)])
@pytest.mark.parametrize("jit", [False, True])
def test_class_weights_that_are_differentiated_raise(f, argnums, jit):
    """Rather than give zeros."""
    gradient = jax.grad(f, argnums)
    with pytest.raises(TypeError, match=NO_DERIVATIVE):
        (jax.jit(gradient) if jit else gradient)(Z, C)


@weighted
def test_class_weights_made_of_parameters_raise_unless_they_are_stopped(f):
    def total(z):
        return f(z, jnp.exp(z[0]))

    def stopped(z):
        return f(z, jax.lax.stop_gradient(jnp.exp(z[0])))

    with pytest.raises(TypeError, match=NO_DERIVATIVE):
        jax.grad(total)(Z)
    expected = jax.grad(functools.partial(f, c=jnp.exp(Z[0])))(Z)
    np.testing.assert_array_equal(jax.grad(stopped)(Z), expected)


@weighted
def test_class_weights_under_transforms_that_do_not_differentiate_them(f):
    """Traced, mapped and scanned over; second derivatives; forward over reverse."""
    expected = jax.jit(jax.grad(f))(Z, C)
    many = np.stack([C, 2 * C])
    mapped = jax.jit(jax.vmap(jax.grad(f), (None, 0)))(jnp.asarray(Z), many)
    scanned = jax.lax.scan(lambda _, c: (None, jax.grad(f)(jnp.asarray(Z), c)), None, many)[1]
    for found in (mapped[0], scanned[0]):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.isfinite(jax.jit(jax.hessian(f))(jnp.asarray(Z), C)).all()


@pytest.mark.parametrize("f", [ops.softmax, ops.log_softmax])
def test_a_mask_that_is_no_array_is_named(f):
    with pytest.raises(TypeError, match="^where: expected an array, got str"):
        f(Z, where="abc")


@pytest.mark.parametrize("option", ["num_classes", "zloss"])
def test_an_option_that_the_sharded_loss_has_not_is_named(option):
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    words = rf"^sharded_linear_softmax_cross_entropy: .*got \['{option}'\]"
    with pytest.raises(TypeError, match=words):
        ops.sharded_linear_softmax_cross_entropy(
            jnp.ones((4, 3)), jnp.ones((3, 5)), jnp.zeros(4, int), mesh=mesh, **{option: 1}
        )


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("x", lambda x: ops.softmax(x)),
        ("logits", lambda x: integer(x, Y)),
        ("labels", lambda x: integer(Z, x)),
        ("labels", lambda x: soft(Z, x)),
        ("labels", lambda x: fused(Z, K, x)),
    ],
)
def test_lists_of_unlike_rows_are_no_array(name, call):
    words = f"^{name}: expected an array, got list; .* rows of one length"
    with pytest.raises(TypeError, match=words) as raised:
        call([[1, 2, 3], [1, 2]])
    one_sentence(raised)


@pytest.mark.parametrize("labels", [["a", "b"], [0, None], [0, 2**70], None])
def test_labels_that_are_no_numbers_are_no_array(labels):
    with pytest.raises(TypeError, match="^labels: expected an array, got (list|NoneType); "):
        integer(Z[:2], labels)


def test_logits_beyond_every_float_are_no_array():
    with pytest.raises(TypeError, match="^logits: expected an array, got list; "):
        integer([2**2000, 1], 0)


def test_a_list_of_traced_labels_is_an_array():
    found = jax.jit(lambda a, b: integer(Z[:2], [a, b]))(0, 1)
    np.testing.assert_array_equal(found, integer(Z[:2], [0, 1]))


def test_real_labels_of_a_layer_are_told_the_shape_of_class_probabilities():
    words = r"^labels: .*integer dtype, got float32; .*probabilities pass .* of shape \(4, 8\)"
    with pytest.raises(TypeError, match=words) as raised:
        fused(Z, K, Y.astype(np.float32))
    one_sentence(raised)


@pytest.mark.parametrize(
    "f",
    [
        lambda where: ops.softmax(Z, -1, where),
        lambda where: ops.logsumexp(Z, -1, where),  # where jax.nn's has weights
        lambda where: integer(Z, Y, where=where),
        lambda where: fused(Z, K, Y, where=where),
    ],
)
def test_a_mask_of_real_numbers_is_refused(f):
    with pytest.raises(TypeError, match="^where: expected booleans, got float32; ") as raised:
        f(np.ones(4, np.float32))
    one_sentence(raised)
