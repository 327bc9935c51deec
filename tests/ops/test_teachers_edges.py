"""Teachers of other dtypes, classes that cannot happen, and masses far from 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax import ops

RNG = np.random.default_rng(0)
X, TX = RNG.standard_normal((2, 3, 4)).astype(np.float32)
K = RNG.standard_normal((4, 10)).astype(np.float32)
INDICES = np.array([[0, 3, 7], [9, 1, 2], [4, 5, 6]])
LOG_PROBS = np.log(np.array([[0.5, 0.2, 0.1]] * 3, np.float32))


@pytest.mark.parametrize("direction", ["forward", "reverse", "js"])
@pytest.mark.parametrize("shift", [0, 1e4, 1e9])
def test_a_teacher_of_a_wider_dtype_is_taken_as_it_is(direction, shift, x64):
    """Its float64 statistics are not rounded to float32."""
    z = X @ K
    t = z.astype(np.float64) + shift + 1e-3 * RNG.standard_normal(z.shape)
    found = ops.softmax_kl_divergence(z, t, direction=direction)
    same = ops.softmax_kl_divergence(z.astype(np.float64), t, direction=direction)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, same)
    gradient = jax.grad(lambda z: jnp.sum(ops.softmax_kl_divergence(z, t)))(jnp.asarray(z))
    assert gradient.dtype == np.float32


def test_so_is_a_kernel_of_one(x64):
    """Whatever the dtypes of the features."""
    wide = K.astype(np.float64) + 1e-8 * RNG.standard_normal(K.shape)
    found = ops.linear_kl_divergence(X, K, X, wide)
    everything = (x.astype(np.float64) for x in (X, K, X, wide))
    np.testing.assert_allclose(found, ops.linear_kl_divergence(*everything), rtol=1e-9)


def test_so_is_a_narrower_one(x64):
    z, t = (X @ K).astype(np.float64), TX @ K
    np.testing.assert_array_equal(
        ops.softmax_kl_divergence(z, t), ops.softmax_kl_divergence(z, t.astype(np.float64))
    )
    wide = ops.linear_kl_divergence(X, K, TX.astype(np.float64), K.astype(np.float64))
    everything = (x.astype(np.float64) for x in (X, K, TX, K))
    np.testing.assert_allclose(wide, ops.linear_kl_divergence(*everything), rtol=1e-6)


@pytest.mark.parametrize("shift", [-200.0, 0.0, 100.0])
def test_renormalised_masses_do_not_depend_on_their_size(shift):
    def loss(log_probs):
        return ops.linear_top_k_cross_entropy(X, K, log_probs, INDICES, rest="renormalise")

    np.testing.assert_allclose(loss(LOG_PROBS + np.float32(shift)), loss(LOG_PROBS), rtol=1e-5)


def test_a_teacher_of_nothing_charges_nothing():
    nothing = np.full_like(LOG_PROBS, -np.inf)
    for rest in ("ignore", "renormalise"):
        assert ops.linear_top_k_cross_entropy(X, K, nothing, INDICES, rest=rest) == 0


@pytest.mark.parametrize("named", [3, 9])
def test_a_named_class_has_no_share_of_the_rest(named):
    """One of no mass may be one that cannot happen; selected, and scattered."""
    indices = np.stack([RNG.permutation(10)[:named] for _ in range(3)])
    log_probs = np.full((3, named), np.log(0.9 / named), np.float32)
    log_probs[:, 1] = -np.inf
    bias = np.zeros(10, np.float32)
    bias[indices[0, 1]] = -np.inf
    indices[1:] = indices[0]

    def loss(x):
        return ops.linear_top_k_cross_entropy(
            x, K, log_probs, indices, bias=bias, rest="uniform", reduction="none"
        )

    def plain(x):
        q = jax.nn.log_softmax(x @ K + bias.reshape(1, 10))
        masses = np.zeros((3, 10))
        masses[:] = (1 - np.exp(log_probs).sum(-1, keepdims=True)) / (10 - named)
        np.put_along_axis(masses, indices, np.exp(log_probs), -1)
        return -jnp.sum(jnp.where(masses > 0, masses.astype(np.float32) * q, 0), -1)

    np.testing.assert_allclose(loss(X), plain(X), rtol=2e-6)
    gradient = jax.grad(lambda x: jnp.sum(loss(x)))(jnp.asarray(X))
    exact = jax.grad(lambda x: jnp.sum(plain(x)))(jnp.asarray(X))
    np.testing.assert_allclose(gradient, exact, rtol=1e-5, atol=1e-6)


def test_a_mass_on_a_class_that_cannot_happen_is_infinite():
    bias = np.zeros(10, np.float32)
    bias[INDICES[0, 0]] = -np.inf
    found = ops.linear_top_k_cross_entropy(
        X, K, LOG_PROBS, INDICES, bias=bias, rest="uniform", reduction="none"
    )
    assert np.isposinf(found[0])


@pytest.mark.parametrize("rest", ["ignore", "uniform", "renormalise"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("left_out", ["where", "sample_weight"])
def test_a_teacher_of_nan_in_a_row_that_is_left_out(left_out, reduction, rest):
    log_probs = LOG_PROBS.copy()
    log_probs[1] = np.nan
    counts = np.array([1, 0, 1], bool if left_out == "where" else np.float32)

    def gradients(log_probs):
        def total(x, k):
            given = {left_out: counts, "rest": rest, "reduction": reduction}
            return jnp.sum(ops.linear_top_k_cross_entropy(x, k, log_probs, INDICES, **given))

        return jax.grad(total, (0, 1))(jnp.asarray(X), jnp.asarray(K))

    for actual, exact in zip(gradients(log_probs), gradients(LOG_PROBS), strict=True):
        np.testing.assert_array_equal(actual, exact)


def test_masked_divergences_under_strict_promotion():
    where, t = np.array([True, False, True]), TX @ K
    with jax.numpy_dtype_promotion("strict"):
        for direction in ("forward", "js"):
            gradient = jax.grad(
                lambda z, direction=direction: ops.softmax_kl_divergence(
                    z, t, direction=direction, where=where, reduction="mean"
                )
            )(jnp.asarray(X @ K))
            assert not gradient[1].any()
            assert gradient[0].any()


def test_zeros_of_either_sign_are_equal():
    assert ops.top_k_log_probs(jnp.array([-0.0, 0.0, 0.0, -0.0]), 4)[1].tolist() == [0, 1, 2, 3]


def test_a_row_of_nan_names_classes_all_the_same():
    x = X.copy()
    x[0] = np.nan
    log_probs, indices = ops.linear_top_k_log_probs(x, K, np.int64(3), block_size=(2, 3))
    assert np.isnan(log_probs[0]).all()
    assert (indices < 10).all()


def test_tokens_without_a_sign_and_options_that_are_none():
    tokens = np.array([[1, 2, 3]], np.uint16)
    features = X[None]
    found = ops.causal_cross_entropy(features, K, tokens)
    np.testing.assert_array_equal(found, ops.causal_cross_entropy(features, K, tokens.astype(int)))
    with pytest.raises(
        TypeError, match=r"causal_cross_entropy: expected.*got \['where'\].*loss_mask"
    ):
        ops.causal_cross_entropy(features, K, tokens, where=np.ones(3, bool))
    padded = np.array([[1, 1, -1]])
    found = ops.causal_cross_entropy(features, K, tokens, segment_ids=padded, reduction="none")
    assert (np.asarray(found) > 0).tolist() == [[True, False, False]]
