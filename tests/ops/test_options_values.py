"""Values and gradients under every option, alone and together, against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_softmax.testing.oracle import options_cross_entropy
from tests.grids import pairwise
from tests.ops.compiled import value_and_gradient
from tests.ops.options import LOSSES, case, integer_loss, names_for, soft_loss
from tests.tolerances import assert_close

ROWS = 5
SETTINGS = (  # dtype, rule, reduction, classes: 384 are summed in chunks on a CPU
    ("float32", "vjp", "none", 10),
    ("float32", "jvp", "mean", 384),
    ("float64", "vjp", "mean", 384),
    ("float64", "jvp", "none", 10),
    ("bfloat16", "jvp", "sum", 10),
    ("bfloat16", "vjp", "sum", 384),
)


def check(loss, names, dtype, rule, reduction, classes, seed=0):
    rng = np.random.default_rng(seed)
    dtype = jnp.dtype(dtype)
    with jax.enable_x64(dtype.name == "float64"):
        logits, labels, options = case(loss, names, (ROWS, classes), dtype, rng)
        exact = options_cross_entropy(logits, labels, **options)
        expected, derivative = exact.reduced(reduction)
        g = rng.standard_normal(expected.shape).astype(jnp.promote_types(dtype, jnp.float32))
        value, gradient = value_and_gradient(
            loss, logits, labels, g=g, rule=rule, reduction=reduction, **options
        )
    assert value.dtype == g.dtype
    assert gradient.dtype == dtype
    # Soft labels here sum to half the number of classes.
    scale = classes if loss is soft_loss else 1
    assert_close(value, expected, value.dtype, scale=scale)
    assert_close(gradient, derivative * np.reshape(g, (-1, 1)), dtype, scale=scale)


ALONE = [(loss, name) for loss in LOSSES for name in ["no option", *names_for(LOSSES[loss])]]


@pytest.mark.parametrize(
    ("loss", "name", "setting"),
    [(loss, name, SETTINGS[n % 6]) for n, (loss, name) in enumerate(ALONE)],
)
def test_option_alone(loss, name, setting):
    check(LOSSES[loss], {name}, *setting)


@pairwise(
    loss=list(LOSSES),
    rule=["vjp", "jvp"],
    reduction=["none", "sum", "mean"],
    classes=[10, 384],
)
def test_all_options_together(loss, rule, reduction, classes):
    names = {"label_smoothing", "class_weights", "sample_weight", "z_loss", "soft_cap"}
    names |= {"ignore_index", "where classes"}
    check(
        LOSSES[loss],
        names.intersection(names_for(LOSSES[loss])),
        "float32",
        rule,
        reduction,
        classes,
    )


@given(
    st.sampled_from(list(LOSSES.values())).flatmap(
        lambda loss: st.tuples(st.just(loss), st.sets(st.sampled_from(names_for(loss)), min_size=2))
    ),
    st.tuples(
        st.sampled_from(["float32", "float64", "bfloat16"]),
        st.sampled_from(["vjp", "jvp"]),
        st.sampled_from(["none", "sum", "mean"]),
        st.sampled_from([10, 384]),
        st.integers(0, 100),
    ),
)
@settings(max_examples=4)
def test_options_in_random_combinations(loss_and_names, setting):
    check(*loss_and_names, *setting)


@pytest.mark.parametrize(("rule", "reduction"), [("vjp", "none"), ("jvp", "none"), ("jvp", "mean")])
def test_soft_labels_and_sample_weight_have_gradients_under_all_options(rule, reduction, x64, rng):
    names = {"label_smoothing", "class_weights", "z_loss", "soft_cap", "where classes"}
    logits, q, options = case(soft_loss, names, (ROWS, 10), np.float64, rng)
    weight = 0.1 + rng.random(ROWS)
    weight[-1] = 0
    g = rng.standard_normal(ROWS if reduction == "none" else ())

    def total(q, weight):
        loss = soft_loss(logits, q, sample_weight=weight, rule=rule, reduction=reduction, **options)
        return jnp.sum(g * loss)

    by_labels, by_weight = jax.jit(jax.grad(total, (0, 1)))(q.astype(np.float64), weight)
    exact = options_cross_entropy(logits, q, sample_weight=weight, **options)
    g = np.full(ROWS, g)
    expected, unweighted = exact.by_labels, exact.by_weight
    if reduction == "mean":
        expected = expected / weight.sum()
        mean = exact.reduced("mean")[0]
        unweighted = (unweighted - mean) / weight.sum()
    assert_close(by_labels, g[:, None] * expected, np.float64)
    # A row of weight 0 is selected out, but counts once it has a weight.
    assert_close(by_weight, g * unweighted, np.float64)


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_sample_weight_has_a_gradient_with_integer_labels(rule, x64, rng):
    names = {"label_smoothing", "z_loss", "class_weights"}
    logits, labels, options = case(integer_loss, names, (ROWS, 10), np.float64, rng)
    weight = 0.1 + rng.random(ROWS)

    def mean(weight):
        return integer_loss(
            logits, labels, sample_weight=weight, rule=rule, reduction="mean", **options
        )

    exact = options_cross_entropy(logits, labels, sample_weight=weight, **options)
    in_divisor = options["class_weights"][labels].astype(np.float64)
    expected = (exact.by_weight - in_divisor * exact.reduced("mean")[0]) / exact.weight.sum()
    assert_close(jax.jit(jax.grad(mean))(weight), expected, np.float64)
