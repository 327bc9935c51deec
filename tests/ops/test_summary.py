"""`label_rank` and `weight` of the statistics, and what `summarize` makes of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jax_softmax import ops
from tests.ops.options import integer_loss, soft_loss

ROWS, CLASSES = 12, 9


def made(rng, **options):
    logits = rng.integers(-3, 4, (ROWS, CLASSES)).astype(np.float32)  # many are equal
    return logits, rng.integers(0, CLASSES, ROWS).astype(np.int32), options


def ranks(logits, labels):
    return (logits > np.take_along_axis(logits, labels[:, None], -1)).sum(-1)


def stats_of(logits, labels, loss=integer_loss, **options):
    return jax.jit(lambda z: loss(z, labels, return_stats=True, **options)[1])(logits)


@pytest.mark.parametrize("options", [{}, {"soft_cap": 0.5, "temperature": 0.7}])
def test_the_rank_counts_the_larger_logits(options, rng):
    logits, labels, _ = made(rng)
    stats = stats_of(logits, labels, **options)
    np.testing.assert_array_equal(stats.label_rank, ranks(logits, labels))
    assert stats.label_rank.dtype == np.int32


@pytest.mark.parametrize("classes", [384, 1024])
def test_the_rank_among_many_classes(classes, rng):
    logits = rng.standard_normal((ROWS, classes)).astype(np.float32)
    labels = rng.integers(0, classes, ROWS).astype(np.int32)
    np.testing.assert_array_equal(stats_of(logits, labels).label_rank, ranks(logits, labels))


def test_a_row_of_nan_or_without_a_label_is_among_no_k_likeliest(rng):
    logits, labels, _ = made(rng)
    logits[0, 3], labels[1] = np.nan, CLASSES
    rank = stats_of(logits, labels).label_rank
    np.testing.assert_array_equal(rank[:2], np.iinfo(np.int32).max)
    np.testing.assert_array_equal(rank[2:], ranks(logits[2:], labels[2:]))


def test_a_row_that_does_not_count_has_rank_and_weight_0(rng):
    logits, labels, _ = made(rng)
    logits[0], labels[0] = np.nan, -1
    stats = stats_of(logits, labels, ignore_index=-1)
    assert stats.label_rank[0] == 0 and stats.weight[0] == 0
    np.testing.assert_array_equal(stats.weight[1:], 1)


def test_the_rank_of_class_probabilities_is_that_of_the_likeliest(rng):
    logits, labels, _ = made(rng)
    weight = rng.random(ROWS).astype(np.float32)
    stats = stats_of(logits, np.eye(CLASSES)[labels], soft_loss, sample_weight=weight)
    np.testing.assert_array_equal(stats.label_rank, ranks(logits, labels))
    np.testing.assert_array_equal(stats.weight, weight)
    assert "accuracy" in ops.summarize(stats)


@pytest.mark.parametrize("block", [5, (5, 4)])
def test_a_layer_has_them_too(block, rng):
    x, k = (rng.integers(-2, 3, shape).astype(np.float32) for shape in ((ROWS, 3), (3, CLASSES)))
    labels = rng.integers(0, CLASSES, ROWS).astype(np.int32)
    weights = rng.random(CLASSES).astype(np.float32)
    _, stats = ops.linear_softmax_cross_entropy(
        x, k, labels, class_weights=weights, return_stats=True, block_size=block
    )
    np.testing.assert_array_equal(stats.label_rank, ranks(x @ k, labels))
    np.testing.assert_array_equal(stats.weight, weights[labels])


def weighted_case(rng):
    logits, labels, _ = made(rng)
    labels[5] = -1
    options = {
        "ignore_index": -1,
        "class_weights": rng.random(CLASSES).astype(np.float32),
        "sample_weight": rng.random(ROWS).astype(np.float32),
    }
    options["sample_weight"][2] = 0
    return logits, labels, options


def expected_summary(logits, labels, options):
    kept = labels != -1
    y = np.where(kept, labels, 0)
    weight = kept * options["sample_weight"] * options["class_weights"][y]
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)

    def mean(x):
        return (weight * x).sum() / weight.sum()

    loss = mean(-np.take_along_axis(log_p, y[:, None], -1)[:, 0])
    rank = ranks(logits, y)
    return {
        "loss": loss,
        "perplexity": np.exp(loss),
        "accuracy": mean(rank < 1),
        "top_5_accuracy": mean(rank < 5),
        "entropy": mean(-(np.exp(log_p) * log_p).sum(-1)),
        "count": (weight != 0).sum(),
    }


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-6, err_msg=name)


def test_means_are_weighted_as_the_loss_is(rng):
    logits, labels, options = weighted_case(rng)
    stats = stats_of(logits, labels, **options)
    found = jax.jit(ops.summarize)(stats)
    assert_same(found, expected_summary(logits, labels, options))
    np.testing.assert_allclose(
        found["loss"], integer_loss(logits, labels, reduction="mean", **options), rtol=1e-6
    )


def test_micro_batches_together_are_the_whole(rng):
    logits, labels, options = weighted_case(rng)
    weight = options.pop("sample_weight")
    halves = [
        stats_of(logits[part], labels[part], sample_weight=weight[part], **options)
        for part in (slice(5), slice(5, None))
    ]
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *halves)
    expected = expected_summary(logits, labels, {**options, "sample_weight": weight})
    assert_same(ops.summarize(together), expected)


@pytest.mark.parametrize("classes_too", [False, True])
def test_over_the_devices_of_rows_and_classes(classes_too, rng):
    x, k = (rng.integers(-2, 3, shape).astype(np.float32) for shape in ((ROWS, 3), (3, 8)))
    labels = rng.integers(0, 8, ROWS).astype(np.int32)
    mesh = jax.sharding.Mesh(np.reshape(jax.devices(), (4, 2)), ("data", "model"))
    axis = "model" if classes_too else None

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P("data"), P(None, axis), P("data")), out_specs=P()
    )
    def spread(x, k, labels):
        _, stats = ops.linear_softmax_cross_entropy(
            x, k, labels, axis_name=axis, data_axis_name="data", return_stats=True
        )
        return ops.summarize(stats, "data")

    ones = {"sample_weight": np.ones(ROWS), "class_weights": np.ones(8)}
    assert_same(jax.jit(spread)(x, k, labels), expected_summary(x @ k, labels, ones))


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_sharded_loss_has_statistics_to_summarize(probabilities, rng):
    x, k = (rng.integers(-2, 3, shape).astype(np.float32) for shape in ((ROWS, 3), (3, CLASSES)))
    labels = rng.integers(0, CLASSES, ROWS).astype(np.int32)
    mesh = jax.sharding.Mesh(np.reshape(jax.devices(), (4, 2)), ("data", "model"))
    _, stats = ops.sharded_linear_softmax_cross_entropy(
        x,
        k,
        np.eye(CLASSES, dtype=np.float32)[labels] if probabilities else labels,
        mesh=mesh,
        axis_name="model",
        data_axis_name="data",
        return_stats=True,
    )
    ones = {"sample_weight": np.ones(ROWS), "class_weights": np.ones(CLASSES)}
    expected = expected_summary(x @ k, labels, ones)
    assert_same(ops.summarize(stats), expected)


def test_no_rows_have_means_of_0():
    stats = stats_of(np.zeros((0, 4), np.float32), np.zeros(0, np.int32))
    found = ops.summarize(stats)
    assert found["loss"] == found["accuracy"] == found["count"] == 0
    assert found["perplexity"] == 1


def test_an_axis_that_rows_are_not_spread_over_raises(rng):
    logits, labels, _ = made(rng)
    words = r"axis_name='data': expected statistics of this device's rows"
    with pytest.raises(ValueError, match=words):
        ops.summarize(stats_of(logits, labels), "data")
