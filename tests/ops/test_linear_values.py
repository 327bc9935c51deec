"""Values and gradients of the fused loss under every option, against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grids import each_once
from tests.ops.linear import (
    NAMES,
    call_unfused,
    case,
    cotangents_for,
    exact,
    outputs_and_gradients,
)
from tests.tolerances import assert_close


def check(names, rows=(13,), dtype=np.float64, reduction="mean", stats=False, seed=0, **static):
    """Every output and every gradient, for random cotangents."""
    with jax.enable_x64(dtype == np.float64):
        made = case(names, rows, dtype=dtype, seed=seed)
        g = cotangents_for(made, reduction, stats, seed + 1)
        out, gradients = outputs_and_gradients(
            made, g, reduction=reduction, return_stats=stats, **static
        )
    expected, by = exact(made, g, reduction)
    assert out[0].dtype == dtype
    for a, b in zip(out[:4], expected, strict=False):
        assert a.shape == np.shape(b)
        assert_close(a, b, dtype)
    if stats:
        assert out[4].dtype == np.int32
        np.testing.assert_array_equal(out[4], expected[4])
    assert gradients.keys() == by.keys()
    for name, gradient in gradients.items():
        assert gradient.dtype == made.arrays[name].dtype
        assert_close(gradient, by[name], dtype)


# One option each, and each of the other choices several times among them: rule, reduction, layout,
# block size, shape of the rows, statistics.
ALONE = {
    "no option": ("vjp", "mean", "dv", None, (13,), False),
    "bias": ("jvp", "none", "vd", 1, (7,), False),
    "label_smoothing": ("vjp", "none", "dv", (4, 10), (13,), True),
    "class_weights": ("vjp", "mean", "vd", (5, 37), (3, 5), False),
    "sample_weight": ("jvp", "mean", "dv", 4, (13,), False),
    "z_loss": ("vjp", "sum", "vd", (3, 8), (13,), False),
    "soft_cap": ("jvp", "none", "dv", (13, 16), (), True),
    "ignore_index": ("vjp", "none", "vd", 6, (3, 5), True),
}


@pytest.mark.parametrize("name", ALONE)
def test_option_alone(name):
    rule, reduction, layout, block, rows, stats = ALONE[name]
    check(
        {name},
        rows,
        rule=rule,
        reduction=reduction,
        kernel_layout=layout,
        block_size=block,
        stats=stats,
    )


@each_once(
    rule=["vjp", "jvp"],
    reduction=["none", "sum", "mean"],
    block=[5, None, (4, 10), (4, 10), 5, None],
    layout=["dv", "vd", "dv", "vd", "vd", "dv"],
)
def test_all_options_together(rule, reduction, block, layout):
    check(set(NAMES), rule=rule, reduction=reduction, block_size=block, kernel_layout=layout)


@each_once(rule=["vjp", "jvp"], block=[(4, 10), 5])
def test_all_options_together_with_statistics(rule, block):
    """A cotangent for the mean and one for each statistic of each row."""
    check(set(NAMES), (3, 5), rule=rule, block_size=block, stats=True)


@pytest.mark.parametrize("block", [5, (4, 10)])
def test_float32_under_all_options_but_the_cap(block):
    check(set(NAMES) - {"soft_cap"}, dtype=np.float32, block_size=block)


@given(
    st.sets(st.sampled_from(NAMES)),
    st.sampled_from([(), (1,), (13,), (2, 3), (2, 1, 4)]),
    st.one_of(st.none(), st.integers(1, 15), st.tuples(st.integers(1, 15), st.integers(1, 40))),
    st.tuples(
        st.sampled_from(["vjp", "jvp"]),
        st.sampled_from(["none", "sum", "mean"]),
        st.sampled_from(["dv", "vd"]),
        st.booleans(),
        st.integers(0, 100),
    ),
)
@settings(max_examples=6)
def test_random_combinations(names, rows, block, setting):
    rule, reduction, layout, stats, seed = setting
    check(
        names,
        rows,
        rule=rule,
        reduction=reduction,
        kernel_layout=layout,
        block_size=block,
        stats=stats,
        seed=seed,
    )


def test_agrees_with_the_loss_on_logits():
    """The one that it stands in for, to the gradients of the layer's arrays."""
    made = case(set(NAMES), (3, 5))
    g = cotangents_for(made, "mean", True)
    actual = outputs_and_gradients(made, g, reduction="mean", return_stats=True, block_size=4)
    expected = outputs_and_gradients(
        made, g, call_unfused, reduction="mean", return_stats=True, block_size=4
    )
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert_close(a, b, np.float32)


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_statistics_alone_have_gradients(rule, x64):
    """No cotangent of the loss; each statistic alone and none of the others."""
    made = case({"bias"}, dtype=np.float64)
    for n in range(1, 4):
        g = [np.zeros(13), None, None, None]
        g[n] = np.random.default_rng(n).standard_normal(13)
        _, gradients = outputs_and_gradients(
            made, g, reduction="none", return_stats=True, rule=rule, block_size=(5, 20)
        )
        expected = exact(made, g, "none")[1]
        for name, gradient in gradients.items():
            assert_close(gradient, expected[name], np.float64)
        if rule == "jvp":
            break  # compiles long, and has one code for all


@pytest.mark.parametrize("num_classes", [30, 1])
def test_later_columns_than_num_classes_do_not_count(num_classes, x64):
    made = case({"bias", "label_smoothing", "class_weights", "z_loss"}, dtype=np.float64)
    made.labels[:] %= num_classes
    made.labels[3] = 0
    made.options["class_weights"][:] += 0.5
    g = cotangents_for(made, "mean", True)
    out, gradients = outputs_and_gradients(
        made, g, reduction="mean", return_stats=True, num_classes=num_classes, block_size=(4, 16)
    )
    expected, by = exact(made, g, "mean", num_classes)
    for a, b in zip(out, expected, strict=True):
        assert_close(a, b, np.float64)
    for name, gradient in gradients.items():
        assert_close(gradient, by[name], np.float64)
    np.testing.assert_array_equal(gradients["kernel"][:, num_classes:], 0)
    np.testing.assert_array_equal(gradients["bias"][num_classes:], 0)


def test_sample_weight_broadcasts_and_its_gradient_sums():
    made = case({"bias"}, (3, 5)).changed(sample_weight=np.array([[2.0], [3.0], [0.5]], np.float32))
    g = [np.float32(1.3)]
    _, gradients = outputs_and_gradients(made, g, block_size=4)
    full = made.changed(sample_weight=np.repeat(made.arrays["sample_weight"], 5, 1))
    expected = exact(full, g)[1]
    assert_close(gradients["kernel"], expected["kernel"], np.float32)
    by_row = expected["sample_weight"].sum(1, keepdims=True)
    assert_close(gradients["sample_weight"], by_row, np.float32)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_losses_and_gradients_have_the_dtypes_of_their_arrays(dtype):
    """A half-precision model with a float32 bias: the loss is float32."""
    made = case({"sample_weight"}, dtype=dtype).changed(bias=np.zeros(37, np.float32))
    out, gradients = outputs_and_gradients(made, [np.float32(1)], return_stats=True)
    assert [x.dtype.name for x in out] == ["float32"] * 4 + ["int32"]
    dtypes = {name: x.dtype for name, x in gradients.items()}
    assert dtypes == {name: x.dtype for name, x in made.arrays.items()}


def test_mixed_dtypes_are_promoted_as_in_matmul():
    """bfloat16 features on a float32 kernel: float32 products, each gradient in its own dtype."""
    made = case({"bias"})
    low = made.changed(features=made.arrays["features"].astype(jnp.bfloat16))
    g = [np.float32(0.7)]
    out, gradients = outputs_and_gradients(low, g, block_size=4)
    expected, by = exact(low, g)
    assert_close(out[0], expected[0], np.float32)
    assert_close(gradients["kernel"], by["kernel"], np.float32)
    assert gradients["features"].dtype == jnp.bfloat16
    assert_close(gradients["features"], by["features"], jnp.bfloat16)


@pytest.mark.parametrize("labels_dtype", [np.uint8])
def test_labels_of_any_integer_dtype(labels_dtype):
    made = case()
    value = outputs_and_gradients(made._replace(labels=made.labels.astype(labels_dtype)), [1.0])[0]
    assert_close(value[0], exact(made, [1.0])[0][0], np.float32)
