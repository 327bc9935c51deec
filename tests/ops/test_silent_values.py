"""No finite value where there is none, and no infinite or NaN one where there is a finite one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jax_softmax import (
    linear_softmax_cross_entropy,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)


@pytest.fixture
def logits(rng):
    return jnp.asarray(rng.standard_normal((2, 40)), jnp.float32)


def on_layer(logits, labels, **options):
    return linear_softmax_cross_entropy(jnp.eye(len(logits)), logits, labels, **options)


LOSSES = pytest.mark.parametrize("loss", [softmax_cross_entropy_with_integer_labels, on_layer])


@LOSSES
def test_log_probability_of_a_label_that_is_no_class_is_nan(loss, logits):
    _, stats = loss(logits, jnp.array([40, 3]), return_stats=True, reduction="none")
    assert np.isnan(stats.label_log_prob).tolist() == [True, False]


@LOSSES
@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_a_mean_weighted_by_what_is_no_class_is_nan(loss, rule, logits):
    weights = jnp.ones(40).at[0].set(0)

    def mean(logits):
        return loss(logits, jnp.array([-1, 40]), class_weights=weights, reduction="mean", rule=rule)

    value, gradient = jax.value_and_grad(mean)(logits)
    assert np.isnan(value) and np.isnan(gradient).all()


@LOSSES
def test_a_numpy_label_of_64_bits_does_not_wrap(loss, logits):
    labels = np.array([2**32, 2**32 + 1])
    assert np.isnan(loss(logits, labels, reduction="none")).all()
    assert np.isnan(loss(logits, labels, reduction="none", ignore_index=0)).all()
    assert np.isnan(loss(logits, labels, reduction="none", ignore_index=2**31 - 1)).all()
    assert np.isnan(loss(logits, [np.int64(2**32), 2**32 + 1], reduction="none")).all()


@LOSSES
def test_a_mean_of_nothing_leaves_the_statistics(loss, logits):
    weights = jnp.ones(40).at[0].set(0)
    options = {"class_weights": weights, "return_stats": True}
    labels = jnp.array([0, 0])
    value, stats = loss(logits, labels, reduction="mean", **options)
    _, expected = loss(logits, labels, reduction="sum", **options)
    assert value == 0
    for got, wanted in zip(stats, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_losses_near_the_largest_number_are_finite():
    least = float(np.finfo(np.float32).min)
    logits = jnp.array([[1.0, 2.0, least]])
    smoothed = softmax_cross_entropy_with_integer_labels(
        logits, jnp.array([0]), label_smoothing=0.1, class_weights=[1.0, 2.0, 2.0]
    )
    np.testing.assert_allclose(smoothed, -0.1 / 3 * 2 * least, rtol=1e-6)
    mixed = softmax_cross_entropy(logits, jnp.array([[0.5, 0.5, 1e-3]]))
    np.testing.assert_allclose(mixed, -1e-3 * least, rtol=1e-6)
    impossible = softmax_cross_entropy(logits.at[0, 2].set(-jnp.inf), jnp.array([[0.5, 0.5, 1e-3]]))
    assert np.isposinf(impossible)


def of_labels(logits, labels):
    return softmax_cross_entropy_with_integer_labels(logits, labels).sum()


def of_weights(logits, weights):
    labels = jnp.array([1, 2])
    return softmax_cross_entropy_with_integer_labels(logits, labels, sample_weight=weights).sum()


def of_probabilities(logits, probabilities):
    return softmax_cross_entropy(logits, probabilities).sum()


def of_mask(logits, mask):
    return jnp.square(softmax(logits, where=mask)).sum()


@pytest.mark.parametrize("function", [of_labels, of_weights, of_probabilities, of_mask])
def test_logits_shared_by_devices_meet_what_varies(function, logits, rng):
    devices = jax.devices()[:2]
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    other = {
        of_labels: rng.integers(0, 40, 4),
        of_weights: rng.random(4).astype(np.float32),
        of_probabilities: rng.dirichlet(np.ones(40), 4).astype(np.float32),
        of_mask: rng.random((4, 40)) < 0.6,
    }[function]

    def total(logits, other):
        return jax.lax.psum(function(logits, other), "data")

    spread = jax.shard_map(jax.grad(total), mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    rows = len(other) // len(devices)
    parts = [other[i : i + rows] for i in range(0, len(other), rows)]
    expected = jax.grad(lambda z: sum(function(z, jnp.asarray(part)) for part in parts))(logits)
    np.testing.assert_allclose(jax.jit(spread)(logits, other), expected, rtol=1e-5, atol=1e-7)
