"""The verifier sees wrong log-probabilities and entropies, and what is wrong of them."""

import dataclasses

import pytest

from jax_softmax import ops
from jax_softmax.verification import OURS, Group
from tests.verification import wrong_rules
from tests.verification.test_wrong_rules import failures, seen
from tests.verification.wrong_rules import INTEGER, LOG_PROBS, with_gradient, with_log_probs

PLAIN = Group(LOG_PROBS, "vjp", "none", "float32", 10)


def of(**changes):
    return dataclasses.replace(PLAIN, **changes)


def test_one_minus_p_at_the_label_fails_on_confident_rows_and_only_against_the_oracle():
    failed = failures([PLAIN], with_log_probs(wrong_rules.one_minus_p))
    assert seen(failed, "op", "against", "quantity") == {(LOG_PROBS, "oracle", "gradient")}
    assert {("confident by 14",), ("confident by 60",)} <= seen(failed, "regime")
    assert all(result.class_logit == result.label_logit for result in failed)


@pytest.mark.parametrize(
    ("option", "wrong", "against"),
    [
        ("both", "no_entropy", {("oracle",), ("reference",)}),
        ("temperature", "no_temperature", {("oracle",), ("reference",)}),
    ],
)
def test_what_is_forgotten_in_the_gradient_is_named(option, wrong, against):
    rule = with_log_probs(getattr(wrong_rules, wrong))
    failed = failures([of(option=option)], rule)
    assert seen(failed, "op", "option", "quantity") == {(LOG_PROBS, option, "gradient")}
    assert seen(failed, "against") == against


def test_the_plain_way_is_right_at_1_and_wrong_on_confident_rows():
    ops_under_test = dataclasses.replace(OURS, **{LOG_PROBS: wrong_rules.plain_log_probs})
    failed = failures([of(option="both")], ops_under_test)
    assert {("label_log_prob", "oracle"), ("entropy", "oracle")} <= seen(
        failed, "quantity", "against"
    )
    assert ("confident by 60",) in seen(failed, "regime")
    assert ("N(0,1)",) not in seen(failed, "regime")


def test_a_forgotten_temperature_is_named_even_where_the_gradient_is_consistent():
    """unsloth and miles divided by none."""

    def forgets(logits, labels, *, temperature=1.0, **options):
        return ops.label_log_probs(logits, labels, **options)

    failed = failures([of(option="temperature")], dataclasses.replace(OURS, **{LOG_PROBS: forgets}))
    assert seen(failed, "quantity") == {("label_log_prob",), ("gradient",)}


def test_a_loss_that_forgets_its_temperature_is_named():
    def no_temperature(pullback, z, labels, g, options):
        return pullback(g) * options.get("temperature", 1.0)

    group = Group(INTEGER, "vjp", "temperature", "float32", 10)
    failed = failures([group], with_gradient(no_temperature))
    assert seen(failed, "option", "quantity") == {("temperature", "gradient")}


def test_a_layer_that_ignores_no_row_is_seen():
    name = "linear_label_log_probs"

    def all_rows(features, kernel, labels, *, ignore_index=None, **options):
        return ops.linear_label_log_probs(features, kernel, abs(labels), **options)

    failed = failures(
        [Group(name, "vjp", "ignore_index", "float32", 10)],
        dataclasses.replace(OURS, **{name: all_rows}),
    )
    assert {("label_log_prob",), ("gradient",)} <= seen(failed, "quantity")
