"""The losses of `ops` with derivatives that are wrong in one way each."""

import dataclasses

import jax
import jax.numpy as jnp

from jax_softmax import ops
from jax_softmax.verification import OURS

INTEGER = "softmax_cross_entropy_with_integer_labels"


def with_gradient(wrong):
    """Functions under test whose integer-label loss has `wrong` for the gradient by the logits.

    `wrong` is called with the right pullback, a function of a cotangent and of options to replace,
    with the logits, labels, cotangent and options.
    """

    def loss(logits, labels, axis=-1, where=None, **options):
        def right(z, **others):
            return ops.softmax_cross_entropy_with_integer_labels(
                z, labels, axis, where, **(options | others)
            )

        @jax.custom_vjp
        def rule(z):
            return right(z)

        def backward(z, g):
            def pullback(g, **others):
                return jax.vjp(lambda z: right(z, **others), z)[1](g)[0]

            return (wrong(pullback, z, labels, g, options).astype(z.dtype),)

        rule.defvjp(lambda z: (right(z), z), backward)
        return rule(logits)

    return dataclasses.replace(OURS, **{INTEGER: loss})


def one_hot(logits, labels):
    return (jnp.arange(logits.shape[-1]) == labels[:, None]).astype(logits.dtype)


def sign(pullback, z, labels, g, options):
    return -pullback(g)


def no_label_term(pullback, z, labels, g, options):
    return pullback(g) + g[:, None] * one_hot(z, labels)


def p_minus_one(pullback, z, labels, g, options):
    at_label = g[:, None] * (jax.nn.softmax(z) - 1)
    return jnp.where(one_hot(z, labels) == 1, at_label, pullback(g))


def no_cotangent(pullback, z, labels, g, options):
    return pullback(jnp.ones_like(g))


def no_z_loss(pullback, z, labels, g, options):
    return pullback(g, z_loss=0.0)


def no_cap(pullback, z, labels, g, options):
    cap = options.get("soft_cap")
    if cap is None:
        return pullback(g)
    bent = 1 - jnp.square(jnp.tanh(z / cap))
    return pullback(g) / jnp.maximum(bent, 1e-6)


def no_smoothing(pullback, z, labels, g, options):
    return pullback(g, label_smoothing=0.0)


def no_class_weights(pullback, z, labels, g, options):
    return pullback(g, class_weights=None)


def no_ignoring(pullback, z, labels, g, options):
    return g[:, None] * (jax.nn.softmax(z) - one_hot(z, labels))


def no_logsumexp(pullback, z, labels, g, options):
    loss, stats = g
    return pullback((loss, stats._replace(logsumexp=jnp.zeros_like(stats.logsumexp))))


def rounded_twice(pullback, z, labels, g, options):
    return pullback(g / 3) * jnp.asarray(3, z.dtype)


def not_a_number(pullback, z, labels, g, options):
    return pullback(g) * jnp.nan
