"""What `fit` must equal, written out a step at a time: the NumPy tutorial's loop, and optax's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax


def tutorial_step(features, labels, kernel, bias, learning_rate):
    """The tutorial's update, in place; returns the loss before it."""
    examples = len(labels)
    scores = features @ kernel + bias
    scores = scores - scores.max(axis=1, keepdims=True)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    loss = -np.log(probabilities[range(examples), labels]).mean()
    dscores = probabilities.copy()
    dscores[range(examples), labels] -= 1
    dscores /= examples
    kernel -= learning_rate * (features.T @ dscores)
    bias -= learning_rate * dscores.sum(axis=0)
    return loss


def tutorial_train(features, labels, kernel, bias, learning_rate, epochs):
    """The tutorial's `train`, from the given start; returns the parameters."""
    kernel, bias = kernel.copy(), bias.copy()
    for _ in range(epochs):
        tutorial_step(features, labels, kernel, bias, learning_rate)
    return {"kernel": kernel, "bias": bias}


def epoch_batches(rng, examples, batch_size):
    """The row numbers of each batch of the next epoch, in `fit`'s order."""
    if batch_size is None or batch_size >= examples:
        return [np.arange(examples)]
    order = rng.permutation(examples)
    return [order[first : first + batch_size] for first in range(0, examples, batch_size)]


@jax.jit
@jax.grad
def _gradients(params, features, labels, weights, smoothing):
    log_probabilities = jax.nn.log_softmax(features @ params["kernel"] + params["bias"][None])
    classes = log_probabilities.shape[1]
    targets = (1 - smoothing) * jax.nn.one_hot(labels, classes) + smoothing / classes
    losses = -jnp.sum(targets * log_probabilities, axis=1)
    return jnp.sum(weights * losses) / jnp.sum(weights)


def optax_train(features, labels, params, optimizer, config, weights=None):
    """A step at a time with `optimizer`; the gradient is JAX's own, of the textbook's formula."""
    weights = np.ones(len(labels), np.float32) if weights is None else weights.astype(np.float32)
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    rng = np.random.default_rng(config.seed)
    for _ in range(config.epochs):
        for rows in epoch_batches(rng, len(labels), config.batch_size):
            gradients = _gradients(
                params, features[rows], labels[rows], weights[rows], config.label_smoothing
            )
            gradients["kernel"] += config.weight_decay * params["kernel"]
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
    return params


def assert_params_close(actual, desired, *, rtol, atol):
    """Both arrays of both models agree."""
    assert actual.keys() == desired.keys() == {"kernel", "bias"}
    for name in desired:
        np.testing.assert_allclose(actual[name], desired[name], rtol=rtol, atol=atol, err_msg=name)


def assert_params_equal(actual, desired):
    """Both arrays of both models agree to the bit."""
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(actual[name], desired[name], err_msg=name)
