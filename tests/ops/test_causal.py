"""The causal loss: that of a plain loop over documents, where each token predicts the next."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops
from tests.tolerances import assert_close

BATCH, LENGTH, WIDTH, CLASSES = 3, 9, 5, 13


def made(rng, length=LENGTH):
    x = rng.standard_normal((BATCH, length, WIDTH)).astype(np.float32)
    kernel = rng.standard_normal((WIDTH, CLASSES)).astype(np.float32)
    return x, kernel, rng.integers(0, CLASSES, (BATCH, length)).astype(np.int32)


def packed(rng, length=LENGTH):
    """Documents of any lengths one after another, and padding behind some."""
    segments = 1 + np.cumsum(rng.random((BATCH, length)) < 0.3, 1)
    segments[0, -3:] = 0
    return segments.astype(np.int32)


def by_loop(x, kernel, tokens, segments=None, mask=None, ignored=-100):
    """Losses `[B, S]` and their weights, a document and a token at a time, in float64."""
    losses, weights = np.zeros((2, *tokens.shape))
    segments = np.ones_like(tokens) if segments is None else segments
    for row in range(len(tokens)):
        for document in set(segments[row]) - {0}:
            (places,) = np.nonzero(segments[row] == document)
            for here, there in itertools.pairwise(places):
                if there != here + 1 or tokens[row, there] == ignored:
                    continue
                z = x[row, here].astype(np.float64) @ kernel.astype(np.float64)
                weight = 1.0 if mask is None else float(mask[row, there])
                surprisal = np.log(np.exp(z).sum()) - z[tokens[row, there]]
                losses[row, here], weights[row, here] = weight * surprisal, weight
    return losses, weights


CASES = ["plain", "ignored", "packed", "boolean mask", "weights", "everything"]


def arguments(name, rng):
    x, kernel, tokens = made(rng)
    options = {}
    if name in ("ignored", "everything"):
        tokens[rng.random(tokens.shape) < 0.3] = -100
    if name in ("packed", "everything"):
        options["segment_ids"] = packed(rng)
    if name == "boolean mask":
        options["loss_mask"] = rng.random(tokens.shape) < 0.6
    if name in ("weights", "everything"):
        options["loss_mask"] = rng.random(tokens.shape).astype(np.float32)
    return (x, kernel, tokens), options


@pytest.mark.parametrize("name", CASES)
def test_it_is_that_of_a_loop_over_documents(name, rng):
    args, options = arguments(name, rng)
    losses, weights = by_loop(
        *args, segments=options.get("segment_ids"), mask=options.get("loss_mask")
    )
    rows = ops.causal_cross_entropy(*args, reduction="none", block_size=4, **options)
    assert rows.shape == args[2].shape
    assert_close(rows, losses, np.float32)
    total = ops.causal_cross_entropy(*args, reduction="sum", **options)
    assert_close(total, losses.sum(), np.float32, scale=losses.sum())
    mean, stats = ops.causal_cross_entropy(*args, return_stats=True, **options)
    assert_close(mean, losses.sum() / weights.sum(), np.float32)
    # Statistics are not weighted, and 0 where nothing is predicted.
    assert_close(stats.weight, weights, np.float32)
    counted = weights != 0
    np.testing.assert_array_equal(np.asarray(stats.label_log_prob)[~counted], 0)
    log_probs = -losses[counted] / weights[counted]
    assert_close(np.asarray(stats.label_log_prob)[counted], log_probs, np.float32)


@pytest.mark.parametrize("name", ["ignored", "everything"])
def test_gradients_are_those_of_the_loss_cut_by_hand(name, rng):
    (x, kernel, tokens), options = arguments(name, rng)
    _, weights = by_loop(x, kernel, tokens, options.get("segment_ids"), options.get("loss_mask"))

    def ours(x, kernel):
        return ops.causal_cross_entropy(x, kernel, tokens, block_size=4, **options)

    def by_hand(x, kernel):
        log_q = jax.nn.log_softmax(x[:, :-1] @ kernel)
        y = np.maximum(tokens[:, 1:], 0)[..., None]
        picked = jnp.take_along_axis(log_q, y, -1)[..., 0]
        return -jnp.sum(weights[:, :-1].astype(np.float32) * picked) / weights.sum()

    found, expected = (jax.jit(jax.grad(f, (0, 1)))(x, kernel) for f in (ours, by_hand))
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, np.float32)
    np.testing.assert_array_equal(np.asarray(found[0])[weights == 0], 0)


def test_it_is_pytorchs_of_shifted_tokens(rng):
    torch = pytest.importorskip("torch")
    x, kernel, tokens = made(rng)
    tokens[1, 3:6] = -100
    logits = torch.from_numpy(x @ kernel)[:, :-1].reshape(-1, CLASSES)
    expected = torch.nn.functional.cross_entropy(
        logits, torch.from_numpy(tokens[:, 1:].reshape(-1).astype(np.int64))
    )
    assert_close(ops.causal_cross_entropy(x, kernel, tokens), float(expected), np.float32)


def test_what_predicts_nothing_may_hold_anything(rng):
    (x, kernel, tokens), options = arguments("packed", rng)
    segments = options["segment_ids"]
    expected = ops.causal_cross_entropy(x, kernel, tokens, **options)
    x[segments == 0] = np.nan
    x[:, -1] = np.nan
    tokens[segments == 0] = 10**6
    assert_close(ops.causal_cross_entropy(x, kernel, tokens, **options), expected, np.float32)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_single_token_predicts_nothing(reduction, rng):
    x, kernel, tokens = made(rng, 1)
    value, gradient = jax.value_and_grad(
        lambda x: ops.causal_cross_entropy(x, kernel, tokens, reduction=reduction)
    )(x)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_without_an_ignored_index_its_token_is_no_class(rng):
    x, kernel, tokens = made(rng)
    tokens[0, 4] = -100
    rows = ops.causal_cross_entropy(x, kernel, tokens, ignore_index=None, reduction="none")
    place = np.zeros(tokens.shape, bool)
    place[0, 3] = True
    np.testing.assert_array_equal(np.isnan(rows), place)
    other = ops.causal_cross_entropy(x, kernel, np.maximum(tokens, 0), ignore_index=0)
    assert np.isfinite(other)


X, K, Y = np.zeros((2, 3, 4), np.float32), np.zeros((4, 6), np.float32), np.zeros((2, 3), np.int32)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"features": X[0]}, ValueError, r"features: expected shape \[B, S, D\], got \(3, 4\)"),
        (
            {"tokens": Y[:, :2]},
            ValueError,
            r"tokens: expected integers of shape \(2, 3\), the feat",
        ),
        ({"tokens": Y.astype(np.float32)}, ValueError, "tokens: expected integers .* got float32"),
        ({"segment_ids": Y[:1]}, ValueError, "segment_ids: expected integers of the tokens' shape"),
        ({"segment_ids": Y.astype(bool)}, ValueError, "segment_ids: expected integers .* got bool"),
        ({"loss_mask": Y[:, :2]}, ValueError, r"loss_mask: expected the tokens' shape \(2, 3\)"),
        ({"kernel": K.T}, ValueError, r"kernel: expected \[D, V\] with D = 4"),
        ({"ignore_index": 2**40}, ValueError, "ignore_index: expected"),
        ({"reduction": "x"}, ValueError, "reduction: expected"),
    ],
)
def test_mistakes_are_named(changed, error, words):
    with pytest.raises(error, match=words):
        ops.causal_cross_entropy(**({"features": X, "kernel": K, "tokens": Y} | changed))
