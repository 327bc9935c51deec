"""The verifier can fail: each wrong rule is caught, by what should catch it, and named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from jax_softmax.testing.cases import make_case
from jax_softmax.testing.exact import errors_in_eps
from jax_softmax.testing.quantities import exact
from jax_softmax.verification import OURS, Group, verify
from tests.verification import wrong_rules
from tests.verification.wrong_rules import (
    INTEGER,
    LINEAR,
    with_gradient,
    with_layer_gradients,
    with_loss,
    with_softmax,
)

PLAIN = Group(INTEGER, "vjp", "none", "float32", 10)
LAYER = Group(LINEAR, "vjp", "none", "float32", 10)
OF_LAYER = {"gradient", "features gradient", "bias gradient"}


def of(**changes):
    return dataclasses.replace(PLAIN, **changes)


def failures(groups, ops_under_test):
    return [result for result in verify(groups, ops_under_test) if not result.passed]


def seen(results, *names):
    return {tuple(getattr(result, name) for name in names) for result in results}


def test_a_wrong_sign_is_seen_by_each_of_the_three():
    failed = failures([of(dtype="float64")], with_gradient(wrong_rules.sign))
    assert seen(failed, "quantity") == {("gradient",)}
    assert seen(failed, "against") == {("oracle",), ("reference",), ("finite differences",)}
    assert len(seen(failed, "regime")) == 7


def test_a_missing_label_term_is_named_with_its_class():
    failed = failures([PLAIN], with_gradient(wrong_rules.no_label_term))
    assert len(seen(failed, "regime")) == 7
    assert seen(failed, "quantity", "against") == {
        ("gradient", "oracle"),
        ("gradient", "reference"),
    }
    assert all(result.class_logit == result.label_logit for result in failed)


def test_p_minus_one_at_the_label_fails_on_confident_rows_and_only_against_the_oracle():
    failed = failures([PLAIN], with_gradient(wrong_rules.p_minus_one))
    assert seen(failed, "against", "quantity") == {("oracle", "gradient")}
    regimes = {regime for (regime,) in seen(failed, "regime")}
    assert {"confident by 14", "confident by 60"} <= regimes
    assert not regimes & {"N(0,1)", "shifted +1e4", "shifted -1e4"}
    lost = next(result for result in failed if result.regime == "confident by 60")
    assert lost.class_logit == lost.label_logit == lost.largest_logit
    assert lost.actual == 0 and lost.expected != 0
    assert lost.error_eps == pytest.approx(2**23)


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("z_loss", "no_z_loss"),
        ("soft_cap", "no_cap"),
        ("label_smoothing", "no_smoothing"),
        ("class_weights", "no_class_weights"),
        ("ignore_index", "no_ignoring"),
    ],
)
def test_a_dropped_option_is_named(option, wrong):
    """Without the option the rule is right: it is only this that catches it."""
    rules = with_gradient(getattr(wrong_rules, wrong))
    failed = failures([of(option=option)], rules)
    assert seen(failed, "op", "option", "quantity") == {(INTEGER, option, "gradient")}
    assert seen(failed, "against") == {("oracle",), ("reference",)}


def test_a_rule_that_drops_the_z_loss_is_right_without_one():
    assert failures([PLAIN], with_gradient(wrong_rules.no_z_loss)) == []


def test_a_dropped_cotangent_of_a_statistic_is_named():
    failed = failures([of(option="logsumexp")], with_gradient(wrong_rules.no_logsumexp))
    assert seen(failed, "option", "quantity") == {("logsumexp", "gradient")}


def test_a_gradient_that_ignores_its_cotangent_fails():
    failed = failures([PLAIN], with_gradient(wrong_rules.no_cotangent))
    assert seen(failed, "against") == {("oracle",), ("reference",)}


def test_a_gradient_of_nan_is_infinitely_wrong():
    failed = failures([PLAIN], with_gradient(wrong_rules.not_a_number))
    assert seen(failed, "error_eps") == {(float("inf"),)}


def test_a_half_gradient_that_is_rounded_twice_fails():
    failed = failures([of(dtype="bfloat16")], with_gradient(wrong_rules.rounded_twice))
    assert seen(failed, "quantity", "dtype") == {("gradient", "bfloat16")}
    assert max(result.error_eps for result in failed if result.regime == "N(0,1)") < 2


def test_a_wrong_tangent_fails():
    def loss(logits, labels, axis=-1, where=None, **_options):
        right = ops.softmax_cross_entropy_with_integer_labels

        @jax.custom_jvp
        def value(z):
            return right(z, labels, axis, where)

        @value.defjvp
        def jvp(primals, tangents):
            forward = jax.jvp(lambda z: right(z, labels, rule="jvp"), primals, tangents)
            return forward[0], 1.001 * forward[1]

        return value(logits)

    failed = failures([of(rule="jvp")], dataclasses.replace(OURS, **{INTEGER: loss}))
    assert ("tangent", "jvp") in seen(failed, "quantity", "rule")


def test_a_cancelling_loss_fails_though_its_gradient_is_right():
    def loss(logits, labels, axis=-1, where=None, **_options):
        exact = ops.softmax_cross_entropy_with_integer_labels(logits, labels)
        lse = jax.nn.logsumexp(logits, -1)
        textbook = lse - jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
        return exact + jax.lax.stop_gradient(textbook - exact)

    failed = failures([PLAIN], dataclasses.replace(OURS, **{INTEGER: loss}))
    assert seen(failed, "quantity") == {("loss",)}
    assert ("confident by 60",) in seen(failed, "regime")


def test_a_gradient_that_is_lost_behind_a_block_of_rows_is_seen_only_where_rows_are_many():
    rules = with_gradient(wrong_rules.loses_later_rows)
    failed = failures([of(option="row_blocks", classes=1024)], rules)
    assert seen(failed, "option", "quantity") == {("row_blocks", "gradient")}
    assert failures([of(classes=1024)], rules) == []


def test_a_second_derivative_of_constant_probabilities_fails_though_the_first_is_right():
    rules = with_gradient(wrong_rules.constant_probabilities)
    assert failures([PLAIN], rules) == []
    failed = failures([of(order=2)], rules)
    assert seen(failed, "quantity") == {("forward over reverse",), ("reverse over reverse",)}
    assert all(result.actual == 0 for result in failed)


def test_a_dropped_z_loss_of_a_second_derivative_is_named():
    rules = with_gradient(wrong_rules.no_z_loss)
    failed = failures([of(option="z_loss", order=2)], rules)
    assert seen(failed, "option") == {("z_loss",)} and len(seen(failed, "quantity")) == 2
    assert failures([of(order=2)], rules) == []


def test_nan_at_a_class_that_cannot_happen_fails():
    rules = with_gradient(wrong_rules.nan_at_impossible_classes)
    failed = failures([of(option="impossible")], rules)
    assert seen(failed, "quantity", "error_eps") == {("gradient", float("inf"))}
    assert seen(failed, "class_logit") == {(float("-inf"),)}
    assert failures([PLAIN], rules) == []


def test_a_finite_loss_of_an_impossible_label_fails():
    rules = with_loss(wrong_rules.clamped_at_impossible_classes)
    failed = failures([of(option="impossible")], rules)
    losses = [result for result in failed if result.quantity == "loss"]
    assert losses and all(result.expected == float("inf") for result in losses)
    assert failures([PLAIN], rules) == []


def test_rows_that_are_multiplied_by_the_mask_and_not_left_out_fail():
    rules = with_loss(wrong_rules.multiplied_by_the_mask)
    failed = failures([of(option="where_rows")], rules)
    assert ("gradient", float("inf")) in seen(failed, "quantity", "error_eps")
    assert failures([PLAIN], rules) == []


# Of softmax and log_softmax


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_the_textbook_rule_is_rejected_on_confident_rows_and_only_by_the_oracle(name):
    rules = with_softmax(name, gradient=getattr(wrong_rules, f"textbook_{name}"))
    failed = failures([Group(name, "vjp", "none", "float32", 10)], rules)
    assert seen(failed, "op", "quantity", "against") == {(name, "gradient", "oracle")}
    regimes = {regime for (regime,) in seen(failed, "regime")}
    assert {"confident by 14", "confident by 60"} <= regimes


def test_the_known_row_alone_rejects_the_textbook():
    """Logits `[10, 0, 0.3]` with the cotangent `[1, 0.2, -0.5]`."""
    group = Group("softmax", "vjp", "none", "float32", 3)
    case, right = make_case(group), exact(make_case(group))["gradient"]
    (row,) = np.flatnonzero((case.logits == np.float32([10, 0, 0.3])).all(-1))
    found = wrong_rules.textbook_softmax(case.logits, case.cotangents["value"])
    at_leader = errors_in_eps(np.asarray(found), right)[row, 0]
    assert 500 < at_leader < 5000


@pytest.mark.parametrize(
    ("name", "wrong"), [("softmax", "textbook_softmax"), ("log_softmax", "log_softmax_tangent")]
)
def test_the_textbook_tangent_is_rejected_on_confident_rows(name, wrong):
    rules = with_softmax(name, tangent=getattr(wrong_rules, wrong))
    failed = failures([Group(name, "jvp", "none", "float32", 10)], rules)
    assert ("tangent", "oracle") in seen(failed, "quantity", "against")
    assert ("confident by 60",) in seen(failed, "regime")


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_a_softmax_without_its_sum_over_classes_fails(name):
    rules = with_softmax(name, gradient=lambda x, g: g * jax.nn.softmax(x))
    failed = failures([Group(name, "vjp", "none", "float32", 10)], rules)
    assert seen(failed, "op", "quantity") == {(name, "gradient")}
    assert seen(failed, "against") == {("oracle",), ("reference",)}


# Of a linear layer


def layer_failures(wrong, **changes):
    group = dataclasses.replace(LAYER, **changes)
    return failures([group], with_layer_gradients(getattr(wrong_rules, wrong)))


def test_a_layer_with_the_right_rule_injected_passes():
    right = with_layer_gradients(lambda pullback, layer, labels, g, options: pullback(g))
    assert failures([LAYER], right) == []


def test_a_layers_wrong_sign_is_seen_in_every_gradient_by_each_of_the_three():
    failed = layer_failures("layer_sign", dtype="float64")
    assert seen(failed, "quantity") == {(name,) for name in OF_LAYER}
    assert seen(failed, "against") == {("oracle",), ("reference",), ("finite differences",)}
    assert len(seen(failed, "regime")) == 7 + 1


def test_a_layers_missing_label_term_is_named_with_its_class():
    failed = layer_failures("layer_no_label_term")
    assert len(seen(failed, "regime")) == 7 + 1
    assert seen(failed, "quantity") == {(name,) for name in OF_LAYER}
    kernel = [result for result in failed if result.quantity == "gradient"]
    assert all(result.class_logit == result.label_logit for result in kernel)


def test_a_layers_p_minus_one_fails_on_confident_rows_and_only_against_the_oracle():
    failed = layer_failures("layer_p_minus_one")
    kernel = [result for result in failed if result.quantity == "gradient"]
    assert seen(kernel, "against") == {("oracle",)}
    regimes = {regime for (regime,) in seen(kernel, "regime")}
    assert {"confident by 14", "confident by 60"} <= regimes
    assert not regimes & {"N(0,1)", "shifted +1e4", "shifted -1e4"}
    lost = next(result for result in kernel if result.regime == "confident by 60")
    assert lost.actual == 0 and lost.expected != 0
    assert lost.error_eps == pytest.approx(2**23)
    # The features' gradient has lost all of the label's share there too.
    assert ("features gradient", "confident by 60") in seen(failed, "quantity", "regime")


def test_a_layers_dropped_z_loss_is_named():
    failed = layer_failures("layer_no_z_loss", option="z_loss")
    assert seen(failed, "op", "option") == {(LINEAR, "z_loss")}
    assert seen(failed, "quantity") == {(name,) for name in OF_LAYER}
    assert seen(failed, "against") == {("oracle",), ("reference",)}
    assert layer_failures("layer_no_z_loss") == []


def test_a_kernel_gradient_without_a_block_of_rows_is_named():
    failed = layer_failures("layer_lost_block")
    assert seen(failed, "quantity") == {("gradient",)}
    assert seen(failed, "against") == {("oracle",), ("reference",)}
    assert all(result.actual == 0 and result.expected != 0 for result in failed)


def test_a_layers_mean_that_is_divided_twice_fails():
    failed = layer_failures("layer_divided_twice", option="mean")
    assert seen(failed, "quantity") == {(name,) for name in OF_LAYER}
    assert layer_failures("layer_divided_twice") == []


def test_a_layers_missing_bias_gradient_is_named():
    failed = layer_failures("layer_no_bias")
    assert seen(failed, "quantity", "regime", "row") == {("bias gradient", "all rows", None)}


def test_a_features_gradient_of_the_label_alone_is_named():
    failed = layer_failures("layer_features_of_the_label")
    assert seen(failed, "quantity") == {("features gradient",)}
    assert all(result.feature_index is not None for result in failed)


def test_a_layer_that_takes_probabilities_for_a_label_fails():
    group = dataclasses.replace(LAYER, option="soft_labels")
    failed = failures([group], wrong_rules.layer_of_the_likeliest_label())
    assert seen(failed, "quantity") >= {("loss",), ("labels gradient",), ("features gradient",)}


def test_a_layer_that_leaves_no_row_out_fails():
    group = dataclasses.replace(LAYER, option="where_rows")
    failed = failures([group], wrong_rules.layer_of_all_rows())
    assert seen(failed, "quantity") >= {("loss",), ("gradient",), ("bias gradient",)}
