"""Contrast and the likeliest classes pass; what others get wrong is caught and named."""

import jax
import jax.numpy as jnp
import pytest

from jax_softmax import ops
from jax_softmax.testing.options import CONTRASTIVE, LINEAR_LARGEST, TOP_K
from jax_softmax.verification import Group, verify
from jax_softmax.verification.peers import TEXTBOOK
from jax_softmax.verification.selection import PAIRS
from tests.verification.test_wrong_teachers import failures, seen

OURS_PASS = [
    Group(CONTRASTIVE, "vjp", "none", "float32", PAIRS),
    Group(CONTRASTIVE, "jvp", "weighted_sum", "float32", PAIRS),
    Group(CONTRASTIVE, "vjp", "class_blocks", "float16", PAIRS),
    Group(TOP_K, "vjp", "temperature", "bfloat16", 2),
    Group(LINEAR_LARGEST, "vjp", "kernel_layout", "float64", 10),
]


def test_ours_pass():
    found = verify(OURS_PASS)
    assert [result for result in found if not result.passed] == []
    assert seen(found, "op", "option") == {(g.op, g.option) for g in OURS_PASS}
    quantities = {quantity for (quantity,) in seen(found, "quantity")}
    towers = {"gradient", "features gradient"}
    assert quantities == {"loss", "weight gradient", "label_log_prob"} | towers
    of_largest = seen([r for r in found if r.op != CONTRASTIVE], "quantity", "against")
    assert of_largest == {("label_log_prob", "oracle"), ("label_log_prob", "reference")}


def contrastive(option, wrong, dtype="float32"):
    return failures(
        Group(CONTRASTIVE, "vjp", option, dtype, PAIRS), contrastive_cross_entropy=wrong
    )


def test_rows_alone_are_not_symmetric():
    def wrong(a, b, *, symmetric=True, **options):
        return ops.contrastive_cross_entropy(a, b, symmetric=False, **options)

    assert contrastive("rows", wrong) == []
    failed = contrastive("none", wrong)
    assert seen(failed, "against") == {("oracle",), ("reference",)}
    assert {("loss",), ("gradient",), ("features gradient",)} == seen(failed, "quantity")


def test_both_ways_added_and_not_averaged():
    def wrong(a, b, **options):
        return 2 * ops.contrastive_cross_entropy(a, b, **options)

    assert ("gradient",) in seen(contrastive("mean", wrong), "quantity")


def test_a_forgotten_temperature():
    def wrong(a, b, *, temperature=1.0, **options):
        return ops.contrastive_cross_entropy(a, b, **options)

    assert contrastive("none", wrong) == []
    assert seen(contrastive("mean", wrong), "option") == {("mean",)}


def test_partners_that_are_one_row_apart():
    def wrong(a, b, **options):
        return ops.contrastive_cross_entropy(a, jnp.roll(b, 1, 0), **options)

    assert ("loss",) in seen(contrastive("none", wrong), "quantity")


def test_weights_of_rows_alone():
    def wrong(a, b, *, sample_weight=None, **options):
        given = {} if sample_weight is None else {"sample_weight": sample_weight}
        of_rows = ops.contrastive_cross_entropy(a, b, **options | {"symmetric": False}, **given)
        return (of_rows + ops.contrastive_cross_entropy(b, a, symmetric=False, **options)) / 2

    assert contrastive("mean", wrong) == []
    failed = contrastive("weighted_sum", wrong)
    assert ("weight gradient",) in seen(failed, "quantity")


def test_a_mean_over_the_number_of_pairs():
    def wrong(a, b, *, reduction="mean", **options):
        if reduction != "mean":
            return ops.contrastive_cross_entropy(a, b, reduction=reduction, **options)
        return ops.contrastive_cross_entropy(a, b, reduction="sum", **options) / len(a)

    assert contrastive("mean", wrong) == []
    assert ("gradient",) in seen(contrastive("weighted_mean", wrong), "quantity")


def test_pairs_left_out_that_remain_negatives():
    def wrong(a, b, *, where=None, reduction="mean", **options):
        if where is None:
            return ops.contrastive_cross_entropy(a, b, reduction=reduction, **options)
        losses = ops.contrastive_cross_entropy(a, b, reduction="none", **options)
        return jnp.sum(jnp.where(where, losses, 0)) / jnp.sum(where)

    failed = contrastive("where_rows", wrong)
    assert seen(failed, "against") == {("oracle",), ("reference",)}


def test_a_scale_without_a_derivative():
    def wrong(a, b, *, logit_scale=None, **options):
        scale = None if logit_scale is None else jax.lax.stop_gradient(logit_scale)
        return ops.contrastive_cross_entropy(a, b, logit_scale=scale, **options)

    failed = contrastive("logit_scale", wrong)
    assert seen(failed, "quantity", "regime") == {("scale gradient", "all rows")}
    assert seen(failed, "against") == {("oracle",), ("reference",)}


def test_a_tower_without_a_gradient():
    def wrong(a, b, **options):
        return ops.contrastive_cross_entropy(jax.lax.stop_gradient(a), b, **options)

    assert seen(contrastive("none", wrong), "quantity") == {("features gradient",)}


def test_the_textbooks_pairs_fail_where_a_partner_leads():
    failed = contrastive("rows", TEXTBOOK.ops.contrastive_cross_entropy)
    assert ("gradient", "confident by 14") in seen(failed, "quantity", "regime")


def last_of_ties(logits, k, **options):
    """Of equal logits the last one, where the first is due."""
    log_probs, indices = ops.top_k_log_probs(logits[:, ::-1], k, **options)
    return log_probs, logits.shape[-1] - 1 - indices


def over_the_named(logits, k, **options):
    log_probs, indices = ops.top_k_log_probs(logits, k, **options)
    return ops.log_softmax(log_probs), indices


def least_first(logits, k, **options):
    log_probs, indices = ops.top_k_log_probs(logits, k, **options)
    return log_probs[:, ::-1], indices[:, ::-1]


@pytest.mark.parametrize("wrong", [last_of_ties, over_the_named, least_first])
def test_wrong_likeliest_classes_are_caught_by_both(wrong):
    failed = failures(Group(TOP_K, "vjp", "none", "float32", 10), top_k_log_probs=wrong)
    assert seen(failed, "quantity") == {("label_log_prob",)}
    assert seen(failed, "against") == {("oracle",), ("reference",)}


def test_a_teachers_forgotten_temperature():
    def wrong(features, kernel, k, *, temperature=1.0, **options):
        return ops.linear_top_k_log_probs(features, kernel, k, **options)

    def failed(option):
        group = Group(LINEAR_LARGEST, "vjp", option, "float32", 10)
        return failures(group, linear_top_k_log_probs=wrong)

    assert failed("none") == []
    assert seen(failed("class_blocks"), "quantity") == {("label_log_prob",)}


def test_pairs_need_as_many_classes_as_rows():
    with pytest.raises(ValueError, match="classes: expected as many as there are rows .*, 42, got"):
        verify([Group(CONTRASTIVE, "vjp", "none", "float32", 10)])
