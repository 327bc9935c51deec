"""The matrix products of the fused loss: how many, at which precision; none for what is frozen."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.linear import (
    call,
    exact,
    loss,
)
from tests.ops.small_layer import BLOCK, small
from tests.tolerances import assert_close

both_rules = pytest.mark.parametrize("rule", ["vjp", "jvp"])


def products(f, *args):
    """The matrix products in the program that is compiled."""
    lowered = jax.jit(f).lower(*args).as_text()
    functions = dict(re.findall(r"func\.func \w+ @(\w+)\((.*?)^  }$", lowered, re.S | re.M))

    def count(name):
        body = functions[name]
        called = re.findall(r"call @(\w+)\(", body)
        return body.count("stablehlo.dot_general") + sum(map(count, called))

    return count("main")


@pytest.mark.parametrize(
    ("reduction", "wanted", "count"),
    [
        ("mean", (), 1),
        ("mean", ("features", "kernel"), 3),
        ("mean", ("features",), 2),
        ("mean", ("kernel",), 2),
        ("mean", ("bias",), 1),
        ("none", (), 1),
        ("none", ("features", "kernel"), 4),
        ("none", ("features",), 3),
        ("none", ("kernel",), 3),
        ("none", ("bias",), 2),
    ],
)
@both_rules
def test_products_are_made_only_for_what_is_differentiated(reduction, wanted, count, rule):
    """One forward, one for each of features and kernel; without a total one more to recompute."""
    made = small(dtype=np.float32)
    static = {"reduction": reduction, "rule": rule, "block_size": 2}

    def total(part, rest):
        return jnp.sum(call(static, {**part, **rest}, made.labels))

    part = {name: made.arrays[name] for name in wanted}
    rest = {name: x for name, x in made.arrays.items() if name not in wanted}
    f = jax.value_and_grad(total) if wanted else total
    assert products(f, part, rest) == count


@pytest.mark.parametrize(
    ("used", "count"), [("loss", 3), ("logsumexp", 4), ("both", 4)], ids=["loss", "one", "both"]
)
def test_statistics_that_are_not_differentiated_cost_no_product(used, count):
    """A total's gradients are made with it; those of the statistics, if any, from new logits."""
    made = small(dtype=np.float32)

    def total(arrays):
        value, stats = call({"return_stats": True, "block_size": 2}, arrays, made.labels)
        terms = {"loss": value, "logsumexp": jnp.sum(stats.logsumexp)}
        return terms.get(used, sum(terms.values())), stats

    assert products(jax.value_and_grad(total, has_aux=True), made.arrays) == count


def test_a_frozen_array_has_the_others_gradients():
    made = small(dtype=np.float32)
    g = [np.float32(0.3)]
    expected = exact(made, g)[1]

    @jax.jit
    def alone(arrays):
        return {
            name: jax.grad(
                lambda x, name=name: (
                    g[0] * call({"block_size": BLOCK}, {**arrays, name: x}, made.labels)
                )
            )(arrays[name])
            for name in arrays
        }

    for name, gradient in alone(made.arrays).items():
        assert_close(gradient, expected[name], np.float32)


def test_weights_of_rows_alone_take_one_product(rng):
    made = small({"bias", "sample_weight"}, dtype=np.float32)
    arrays = dict(made.arrays)
    weight = arrays.pop("sample_weight")

    def total(weight):
        return call({"block_size": 2}, {**arrays, "sample_weight": weight}, made.labels)

    assert products(jax.value_and_grad(total), weight) == 1


@pytest.mark.parametrize("precision", ["highest", jax.lax.Precision.HIGH])
def test_precision_reaches_every_product(precision):
    made = small(dtype=np.float32)

    def total(arrays):
        return call({"precision": precision, "block_size": 2}, arrays, made.labels)

    lowered = jax.jit(jax.value_and_grad(total)).lower(made.arrays).as_text()
    name = jax.lax.Precision(precision).name
    dots = [line for line in lowered.splitlines() if "stablehlo.dot_general" in line]
    assert len(dots) >= 3
    assert all(line.count(name) == 2 for line in dots)


@pytest.mark.parametrize("layout", ["dv", "vd"])
def test_no_layout_transposes_the_kernel(layout):
    made = small(dtype=np.float32)
    kernel = made.arrays["kernel"] if layout == "dv" else made.arrays["kernel"].T.copy()

    def total(features, kernel):
        return loss(features, kernel, made.labels, kernel_layout=layout, block_size=2)

    f = jax.value_and_grad(total, (0, 1))
    jaxpr = str(jax.make_jaxpr(f)(made.arrays["features"], kernel))
    turned = f"f32[{','.join(map(str, kernel.shape[::-1]))}]"
    assert turned not in jaxpr
