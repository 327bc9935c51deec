"""The losses of a teacher pass; the textbook's forms and wrong gradients are caught and named."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jax_softmax import ops
from jax_softmax.testing.options import KL_DIVERGENCE, LINEAR_KL, LINEAR_TOP_K
from jax_softmax.verification import OURS, Group, verify
from jax_softmax.verification.peers import TEXTBOOK

PLAIN = Group(KL_DIVERGENCE, "vjp", "none", "float32", 10)
OURS_PASS = [
    Group(KL_DIVERGENCE, "jvp", "together", "float32", 3),
    Group(KL_DIVERGENCE, "vjp", "reverse", "float64", 3),
    Group(KL_DIVERGENCE, "vjp", "where_rows", "bfloat16", 3),
    Group(KL_DIVERGENCE, "vjp", "soft_cap", "float32", 3),
    Group(KL_DIVERGENCE, "vjp", "weighted_mean", "float32", 3),
    Group(LINEAR_KL, "vjp", "class_blocks", "float32", 10),
    Group(LINEAR_KL, "vjp", "weighted_sum", "float16", 10),
    Group(LINEAR_TOP_K, "vjp", "uniform", "float32", 10),
    Group(LINEAR_TOP_K, "jvp", "kernel_layout", "float32", 10),
]


def of(**changes):
    return dataclasses.replace(PLAIN, **changes)


def failures(group, **wrong):
    return [r for r in verify([group], dataclasses.replace(OURS, **wrong)) if not r.passed]


def seen(results, *names):
    return {tuple(getattr(result, name) for name in names) for result in results}


def test_ours_pass():
    found = verify(OURS_PASS)
    assert [result for result in found if not result.passed] == []
    assert seen(found, "op", "option") == {(g.op, g.option) for g in OURS_PASS}
    assert seen(found, "against") == {("oracle",), ("reference",)}
    assert {"loss", "gradient", "teacher gradient", "weight gradient", "tangent"} == {
        quantity for (quantity,) in seen(found, "quantity")
    }


@pytest.mark.parametrize("direction", ["none", "reverse", "js"])
def test_the_textbooks_divergence_fails_where_rows_are_near_and_only_by_the_oracle(direction):
    textbook = TEXTBOOK.ops.softmax_kl_divergence
    failed = failures(of(option=direction), softmax_kl_divergence=textbook)
    assert seen(failed, "against") == {("oracle",)}
    lost = [result for result in failed if result.quantity == "loss"]
    assert {"near by 1e-3", "near by 1e-6"} <= {result.regime for result in lost}
    assert max(result.error_eps for result in lost) > 1e4


def test_a_layers_textbook_fails_too():
    failed = failures(
        Group(LINEAR_KL, "vjp", "none", "float32", 10),
        linear_kl_divergence=TEXTBOOK.ops.linear_kl_divergence,
    )
    assert ("loss", "near by 1e-6") in seen(failed, "quantity", "regime")


def with_gradients(wrong):
    """`softmax_kl_divergence` with `wrong(by_student, by_teacher, options)` for its gradients."""

    def divergence(logits, teacher, axis=-1, where=None, **options):
        def right(z, t):
            return ops.softmax_kl_divergence(z, t, axis, where, **options)

        rule = jax.custom_vjp(right)
        rule.defvjp(
            lambda z, t: (right(z, t), (z, t)),
            lambda kept, g: wrong(*jax.vjp(right, *kept)[1](g), options),
        )
        return rule(logits, teacher)

    return {"softmax_kl_divergence": divergence}


def test_the_right_gradients_pass_when_they_are_injected():
    assert failures(PLAIN, **with_gradients(lambda z, t, _: (z, t))) == []


def test_a_wrong_sign_is_seen_in_each_regime_and_by_both():
    failed = failures(PLAIN, **with_gradients(lambda z, t, _: (-z, t)))
    assert seen(failed, "quantity") == {("gradient",)}
    assert seen(failed, "against") == {("oracle",), ("reference",)}
    assert len(seen([r for r in failed if r.against == "oracle"], "regime")) == 9


def test_a_teacher_without_a_gradient_is_named():
    failed = failures(PLAIN, **with_gradients(lambda z, t, _: (z, jnp.zeros_like(t))))
    assert seen(failed, "quantity") == {("teacher gradient",)}
    assert seen(failed, "against") == {("oracle",), ("reference",)}


def test_a_gradient_that_forgets_the_temperature_is_named():
    rules = with_gradients(lambda z, t, options: (z * options.get("temperature", 1), t))
    assert failures(PLAIN, **rules) == []
    failed = failures(of(option="temperature"), **rules)
    assert seen(failed, "option", "quantity") == {("temperature", "gradient")}


def test_q_minus_p_as_written_fails_on_near_rows_and_only_by_the_oracle():
    def wrong(logits, teacher, axis=-1, where=None, **options):
        right = ops.softmax_kl_divergence(logits, teacher, axis, where, **options)
        slope = jax.lax.stop_gradient(jax.nn.softmax(logits) - jax.nn.softmax(teacher))
        by_slope = jnp.sum(slope * logits, -1)
        of_teacher = ops.softmax_kl_divergence(jax.lax.stop_gradient(logits), teacher)
        stop = jax.lax.stop_gradient
        return stop(right) + (by_slope - stop(by_slope)) + (of_teacher - stop(of_teacher))

    failed = failures(PLAIN, softmax_kl_divergence=wrong)
    assert seen(failed, "quantity", "against") == {("gradient", "oracle")}
    assert ("near by 1e-6",) in seen(failed, "regime")


def test_rows_that_are_multiplied_by_the_mask_and_not_left_out_fail():
    def wrong(logits, teacher, axis=-1, where=None, **options):
        found = ops.softmax_kl_divergence(logits, teacher, axis, **options)
        return found if where is None else found * where

    assert failures(PLAIN, softmax_kl_divergence=wrong) == []
    failed = failures(of(option="where_rows"), softmax_kl_divergence=wrong)
    assert ("gradient", float("inf")) in seen(failed, "quantity", "error_eps")


def test_a_top_k_loss_that_ignores_the_rest_is_named():
    def wrong(features, kernel, log_probs, indices, *, rest="ignore", **options):
        return ops.linear_top_k_cross_entropy(features, kernel, log_probs, indices, **options)

    group = Group(LINEAR_TOP_K, "vjp", "none", "float32", 10)
    assert failures(group, linear_top_k_cross_entropy=wrong) == []
    for rest in ("uniform", "renormalise"):
        group = dataclasses.replace(group, option=rest)
        failed = failures(group, linear_top_k_cross_entropy=wrong)
        assert seen(failed, "op", "option", "quantity") == {
            (LINEAR_TOP_K, rest, "loss"),
            (LINEAR_TOP_K, rest, "gradient"),
        }
        assert seen(failed, "against") == {("oracle",), ("reference",)}
