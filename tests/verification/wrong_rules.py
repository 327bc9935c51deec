"""The losses of `ops` with derivatives that are wrong in one way each."""

import dataclasses

import jax
import jax.numpy as jnp

from jax_softmax import ops
from jax_softmax.verification import OURS

INTEGER = "softmax_cross_entropy_with_integer_labels"
LINEAR = "linear_softmax_cross_entropy"
LOG_PROBS = "label_log_probs"


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


def constant_probabilities(pullback, z, labels, g, options):
    """Right, and its own derivative 0."""
    return jax.lax.stop_gradient(pullback(jnp.ones_like(g))) * g[:, None]


def loses_later_rows(pullback, z, labels, g, options):
    """A block's rows again in place of those far behind it."""
    right = pullback(g)
    return right.at[4096:].set(right[: len(right) - 4096])


def nan_at_impossible_classes(pullback, z, labels, g, options):
    return jnp.where(z == -jnp.inf, 0 * z, pullback(g))


def with_loss(wrong):
    """Functions under test whose integer-label loss is `wrong(loss, where)` of the right loss."""

    def loss(logits, labels, axis=-1, where=None, **options):
        def right(logits, where=None):
            return ops.softmax_cross_entropy_with_integer_labels(
                logits, labels, axis, where, **options
            )

        return wrong(right, logits, where)

    return dataclasses.replace(OURS, **{INTEGER: loss})


def multiplied_by_the_mask(right, logits, where):
    """0 times NaN is NaN."""
    return right(logits) if where is None else right(logits) * where


def clamped_at_impossible_classes(right, logits, where):
    """As if a class that cannot happen were one that hardly can."""
    return right(jnp.maximum(logits, -1e30), where)


# Of log-probabilities and the entropy


def with_log_probs(wrong):
    """Functions under test whose `label_log_probs` has `wrong` for the gradient by the logits.

    `wrong` is called as that of `with_gradient`, with a cotangent for each output.
    """

    def log_probs(logits, labels, **options):
        def right(z, **others):
            return ops.label_log_probs(z, labels, **(options | others))

        @jax.custom_vjp
        def rule(z):
            return right(z)

        def backward(z, g):
            def pullback(g, **others):
                return jax.vjp(lambda z: right(z, **others), z)[1](g)[0]

            return (wrong(pullback, z, labels, g, options).astype(z.dtype),)

        rule.defvjp(lambda z: (right(z), z), backward)
        return rule(logits)

    return dataclasses.replace(OURS, **{LOG_PROBS: log_probs})


def one_minus_p(pullback, z, labels, g, options):
    at_label = g[:, None] * (1 - jax.nn.softmax(z))
    return jnp.where(one_hot(z, labels) == 1, at_label, pullback(g))


def no_entropy(pullback, z, labels, g, options):
    return pullback((g[0], jnp.zeros_like(g[1])))


def no_temperature(pullback, z, labels, g, options):
    """As where the logits are divided, and the gradient is not."""
    return pullback(g) * options.get("temperature", 1.0)


def plain_log_probs(logits, labels, return_entropy=False, **_options):
    log_p = jax.nn.log_softmax(logits)
    found = jnp.take_along_axis(log_p, labels[:, None], -1)[:, 0]
    return (found, -jnp.sum(jnp.exp(log_p) * log_p, -1)) if return_entropy else found


# Of softmax and log_softmax


def with_softmax(name, gradient=None, tangent=None):
    """Functions under test whose `name` has `gradient(x, g)` or `tangent(x, v)`."""
    right = getattr(ops, name)

    def wrong(x, axis=-1, where=None, *, rule="vjp"):
        if rule == "vjp":
            value = jax.custom_vjp(lambda x: right(x, axis, where))
            value.defvjp(lambda x: (value(x), x), lambda x, g: (gradient(x, g),))
        else:
            value = jax.custom_jvp(lambda x: right(x, axis, where))
            value.defjvp(lambda x, v: (value(*x), tangent(x[0], v[0])))
        return value(x)

    return dataclasses.replace(OURS, **{name: wrong})


def textbook_softmax(x, g):
    p = ops.softmax(x)
    return p * (g - jnp.sum(g * p, -1, keepdims=True))


def textbook_log_softmax(x, g):
    return g - ops.softmax(x) * jnp.sum(g, -1, keepdims=True)


def log_softmax_tangent(x, v):
    return v - jnp.sum(ops.softmax(x) * v, -1, keepdims=True)


# Of a linear layer


def layer_of_the_likeliest_label():
    """Functions under test whose layer takes the largest of class probabilities for the label."""

    def loss(features, kernel, labels, **options):
        return ops.linear_softmax_cross_entropy(features, kernel, labels.argmax(-1), **options)

    return dataclasses.replace(OURS, **{LINEAR: loss})


def layer_of_all_rows():
    """Functions under test whose layer leaves no row out."""

    def loss(features, kernel, labels, where=None, **options):
        return ops.linear_softmax_cross_entropy(features, kernel, labels, **options)

    return dataclasses.replace(OURS, **{LINEAR: loss})


def with_layer_gradients(wrong):
    """Functions under test whose loss of a linear layer has `wrong` for its gradients.

    `wrong` is called with the right pullback, a function of a cotangent and of options to replace
    that gives the gradients by features, kernel and bias, with these three, the labels, cotangent
    and options.
    """

    def loss(features, kernel, labels, *, bias, **options):
        def right(layer, **others):
            features, kernel, bias = layer
            return ops.linear_softmax_cross_entropy(
                features, kernel, labels, bias=bias, **(options | others)
            )

        @jax.custom_vjp
        def rule(layer):
            return right(layer)

        def backward(layer, g):
            def pullback(g, **others):
                return jax.vjp(lambda layer: right(layer, **others), layer)[1](g)[0]

            return (wrong(pullback, layer, labels, g, options),)

        rule.defvjp(lambda layer: (right(layer), layer), backward)
        return rule((features, kernel, bias))

    return dataclasses.replace(OURS, **{LINEAR: loss})


def through_layer(layer, gradient):
    """The layer's gradients from that of its logits."""
    features, kernel, _ = layer
    rows = tuple(range(features.ndim - 1))
    of_kernel = jnp.tensordot(features, gradient, (rows, rows))
    return gradient @ kernel.T, of_kernel, gradient.sum(rows)


def layer_sign(pullback, layer, labels, g, options):
    return jax.tree.map(jnp.negative, pullback(g))


def layer_no_label_term(pullback, layer, labels, g, options):
    missing = g[..., None] * jax.nn.one_hot(labels, layer[1].shape[1])
    return jax.tree.map(jnp.add, pullback(g), through_layer(layer, missing))


def layer_p_minus_one(pullback, layer, labels, g, options):
    logits = jnp.matmul(layer[0], layer[1], precision="highest")
    loss = ops.softmax_cross_entropy_with_integer_labels
    (right,) = jax.vjp(lambda z: loss(z, labels), logits)[1](g)
    at_label = g[..., None] * (jax.nn.softmax(logits) - 1)
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return through_layer(layer, jnp.where(is_label, at_label, right))


def layer_no_z_loss(pullback, layer, labels, g, options):
    return pullback(g, z_loss=0.0)


def layer_lost_block(pullback, layer, labels, g, options):
    """The kernel's gradient without what the last rows bring."""
    by_features, _, by_bias = pullback(g)
    return by_features, pullback(g.at[-1].set(0))[1], by_bias


def layer_divided_twice(pullback, layer, labels, g, options):
    rows = labels.size if options["reduction"] == "mean" else 1
    return pullback(g / rows)


def layer_no_bias(pullback, layer, labels, g, options):
    by_features, by_kernel, by_bias = pullback(g)
    return by_features, by_kernel, jnp.zeros_like(by_bias)


def layer_features_of_the_label(pullback, layer, labels, g, options):
    """The features' gradient without what the other classes pull."""
    at_label = jnp.swapaxes(layer[1], 0, 1)[labels]
    return -g[..., None] * at_label, *pullback(g)[1:]
