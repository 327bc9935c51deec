"""The verifier sees wrong shifts, documents and masks of tokens, and wrong labels of several."""

import dataclasses

import jax.numpy as jnp
import pytest

from jax_softmax import ops
from jax_softmax.testing.causal import predicting
from jax_softmax.testing.options import CAUSAL, LINEAR_LOG_PROBS, LOG_PROBS
from jax_softmax.verification import OURS, Group, verify
from tests.verification.test_wrong_rules import failures, seen

OURS_PASS = [
    Group(CAUSAL, "vjp", "together", "float32", 10),
    Group(CAUSAL, "jvp", "segments", "float32", 3),
    Group(CAUSAL, "vjp", "ignored", "bfloat16", 10),
    Group(LOG_PROBS, "jvp", "several_both", "float32", 3),
    Group(LOG_PROBS, "vjp", "several", "float64", 2),
    Group(LINEAR_LOG_PROBS, "vjp", "several_both", "float16", 10),
]


def test_ours_pass():
    found = verify(OURS_PASS)
    assert [result for result in found if not result.passed] == []
    assert seen(found, "op", "option") == {(g.op, g.option) for g in OURS_PASS}
    assert seen(found, "against") == {("oracle",), ("reference",), ("finite differences",)}


def test_no_token_of_padding_or_of_another_document_is_predicted():
    first = predicting("segments", 42)[:7]
    assert first.tolist() == [True, True, False, True, False, False, False]
    assert not predicting("", 42).reshape(-1, 7)[:, -1].any()


def causal_failures(option, wrong):
    return failures(
        [Group(CAUSAL, "vjp", option, "float32", 10)], dataclasses.replace(OURS, **{CAUSAL: wrong})
    )


def unshifted(features, kernel, tokens, *, segment_ids=None, loss_mask=None, **options):
    return ops.linear_softmax_cross_entropy(features, kernel, tokens, **options)


def whole_rows(features, kernel, tokens, *, segment_ids=None, **options):
    return ops.causal_cross_entropy(features, kernel, tokens, **options)


def mask_beside_features(features, kernel, tokens, *, loss_mask=None, **options):
    moved = None if loss_mask is None else jnp.roll(loss_mask, 1, 1)
    return ops.causal_cross_entropy(features, kernel, tokens, loss_mask=moved, **options)


def padding_counts(features, kernel, tokens, *, segment_ids=None, **options):
    raised = None if segment_ids is None else segment_ids + 1
    return ops.causal_cross_entropy(features, kernel, tokens, segment_ids=raised, **options)


def mean_over_all(features, kernel, tokens, *, reduction="none", **options):
    loss = ops.causal_cross_entropy(features, kernel, tokens, reduction="none", **options)
    return jnp.mean(loss) if reduction == "mean" else loss


def mean_over_tokens(features, kernel, tokens, *, reduction="none", **options):
    """Divided by how many tokens there are to predict, whatever they weigh."""
    if reduction != "mean":
        return ops.causal_cross_entropy(features, kernel, tokens, reduction=reduction, **options)
    loss = ops.causal_cross_entropy(features, kernel, tokens, reduction="sum", **options)
    return loss / tokens[:, 1:].size


def documents_or_weights(features, kernel, tokens, *, loss_mask=None, segment_ids=None, **options):
    given = {"segment_ids": segment_ids} if loss_mask is None else {"loss_mask": loss_mask}
    return ops.causal_cross_entropy(features, kernel, tokens, **given, **options)


def no_ignoring(features, kernel, tokens, *, ignore_index=None, **options):
    return ops.causal_cross_entropy(features, kernel, abs(tokens), **options)


def no_temperature(features, kernel, tokens, *, temperature=1.0, **options):
    return ops.causal_cross_entropy(features, kernel, tokens, **options)


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("none", unshifted),
        ("segments", whole_rows),
        ("segments", padding_counts),
        ("mask", mask_beside_features),
        ("weights", mask_beside_features),
        ("mean", mean_over_all),
        ("weighted_mean", mean_over_tokens),
        ("ignored_mean", mean_over_tokens),
        ("segments_weights", documents_or_weights),
        ("ignored", no_ignoring),
        ("mask", no_temperature),
    ],
)
def test_a_wrong_causal_loss_is_named(option, wrong):
    failed = causal_failures(option, wrong)
    assert seen(failed, "op", "option") == {(CAUSAL, option)}
    assert ("gradient",) in seen(failed, "quantity")
    assert {("oracle",), ("reference",)} == seen(failed, "against")


def several_failures(wrong, op=LOG_PROBS):
    group = Group(op, "vjp", "several_both", "float32", 10)
    return failures([group], dataclasses.replace(OURS, **{op: wrong}))


def test_a_label_that_is_dropped_of_those_that_repeat_is_named():
    def wrong(logits, labels, **options):
        repeated = (labels[:, :1] == labels[:, -1:]) & (jnp.arange(labels.shape[-1]) > 1)
        return ops.label_log_probs(logits, jnp.where(repeated, -1, labels), **options)

    failed = several_failures(wrong)
    assert seen(failed, "quantity") == {("label_log_prob",), ("gradient",)}


def test_an_entropy_that_is_lost_where_one_label_is_ignored_is_named():
    def wrong(logits, labels, **options):
        log_probs, entropy = ops.label_log_probs(logits, labels, **options)
        return log_probs, jnp.where(jnp.all(labels >= 0, -1), entropy, 0)

    failed = several_failures(wrong)
    assert seen(failed, "quantity") == {("entropy",), ("gradient",)}


def test_an_entropy_that_counts_once_for_each_label_is_named():
    def wrong(features, kernel, labels, **options):
        log_probs, entropy = ops.linear_label_log_probs(features, kernel, labels, **options)
        return log_probs, entropy * jnp.sum(labels >= 0, -1)

    failed = several_failures(wrong, LINEAR_LOG_PROBS)
    assert {("entropy",), ("gradient",), ("features gradient",)} <= seen(failed, "quantity")
