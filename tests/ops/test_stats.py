"""`return_stats`: four numbers a row, their gradients in any mixture, unused ones for nothing."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jax_softmax import ops
from jax_softmax.testing.exact import tiny
from jax_softmax.testing.oracle import options_cross_entropy
from tests.grids import pairwise
from tests.ops.options import LOSSES, case, integer_loss, names_for, soft_loss
from tests.tolerances import LOSS_EPS, assert_close

ROWS = 5
OUTPUTS = ("loss", "logsumexp", "label_log_prob", "entropy")
SOME = {"label_smoothing", "class_weights", "sample_weight", "ignore_index", "z_loss"}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def outputs(loss, logits, labels, **options):
    value, stats = loss(logits, labels, return_stats=True, **options)
    return (value, *stats[:4])


@functools.partial(jax.jit, static_argnums=(0, 1))
def values_and_gradients(loss, static, logits, labels, cotangents, dynamic):
    """All outputs, and for each row of `cotangents [K, 4, N]` the gradient of that mixture."""

    def differentiable(z):
        *out, top = outputs(loss, z, labels, **dict(static), **dynamic)
        return tuple(out), top

    out, vjp, top = jax.vjp(differentiable, logits, has_aux=True)
    return out, top, jax.vmap(lambda g: vjp(tuple(g))[0])(cotangents)


def run(loss, logits, labels, cotangents, **options):
    arrays = ("class_weights", "sample_weight", "where")
    static = tuple(sorted((k, v) for k, v in options.items() if k not in arrays))
    dynamic = {k: v for k, v in options.items() if k in arrays}
    return values_and_gradients(loss, static, logits, labels, cotangents, dynamic)


@pairwise(
    loss=LOSSES,
    rule=["vjp", "jvp"],
    names={
        "weights": SOME,
        "cap and classes": {"soft_cap", "where classes"},
        "cap and rows": {"soft_cap", "where rows", "z_loss"},
    },
    classes=[10, 384],
)
def test_statistics_and_their_gradients_alone_and_mixed(loss, rule, names, classes, x64, rng):
    names = names.intersection(names_for(loss))
    logits, labels, options = case(loss, names, (ROWS, classes), np.float64, rng)
    logits[3] *= 10
    exact = options_cross_entropy(logits, labels, **options)
    g = rng.standard_normal((6, 4, ROWS))
    g[:4] *= np.eye(4)[:, :, None]  # each alone, then two mixtures
    out, top, gradients = run(loss, logits, labels, g, rule=rule, **options)
    np.testing.assert_array_equal(top, exact.argmax)
    assert top.dtype == np.int32
    scale = classes if loss is soft_loss else 1
    expected = 0
    for n, name in enumerate(OUTPUTS):
        assert_close(out[n], getattr(exact, name).value, np.float64, scale=scale)
        expected = expected + g[:, n, :, None] * getattr(exact, name).gradient
    assert_close(gradients, expected, np.float64, scale=scale)


@every_loss
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_statistics_are_a_row_each_whatever_the_reduction(loss, reduction, rng):
    names = SOME.intersection(names_for(loss))
    logits, labels, options = case(loss, names, (ROWS, 10), np.float32, rng)
    exact = options_cross_entropy(logits, labels, **options)
    value, *stats = outputs(loss, logits, labels, reduction=reduction, **options)
    assert_close(value, exact.reduced(reduction)[0], np.float32)
    for name, actual in zip(OUTPUTS[1:], stats, strict=False):
        assert_close(actual, getattr(exact, name).value, np.float32)
    left_out = np.asarray(options["sample_weight"]) == 0
    assert all(np.all(np.asarray(x)[left_out] == 0) for x in stats)


@every_loss
def test_statistics_of_rows_that_do_not_count_are_0_with_zero_gradient(loss, rng):
    logits, labels, _ = case(loss, set(), (ROWS, 10), np.float32, rng)
    logits[0], logits[1] = np.nan, -np.inf
    where = np.array([False, False, True, True, False])
    g = rng.standard_normal((1, 4, ROWS)).astype(np.float32)
    out, top, gradient = run(loss, logits, labels, g, where=where)
    for x in (*out, top):
        np.testing.assert_array_equal(np.asarray(x)[~where], 0)
    np.testing.assert_array_equal(gradient[0][~where], 0)
    assert np.all(np.isfinite(gradient))


@every_loss
@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_statistics_with_impossible_classes(loss, rule, rng):
    """p log p = 0 there; a row of -inf has logsumexp -inf and no gradient; nothing is NaN."""
    logits, labels, _ = case(loss, set(), (ROWS, 10), np.float64, rng)
    logits = logits.astype(np.float32)
    logits[0, 3] = logits[1, [0, 4]] = -np.inf
    logits[2, 1:] = -np.inf
    logits[4] = -np.inf
    if loss is integer_loss:
        labels[:] = [1, 1, 0, 2, 0]
    else:
        labels[:] = np.eye(10)[[1, 1, 0, 2, 0]]
    g = rng.standard_normal((1, 4, ROWS)).astype(np.float32)
    out, _, gradient = run(loss, logits, labels, g, rule=rule)
    assert not any(np.any(np.isnan(x)) for x in (*out, gradient))
    np.testing.assert_array_equal(gradient[0][logits == -np.inf], 0)
    exact = options_cross_entropy(logits[:4], labels[:4])
    for n, name in enumerate(OUTPUTS):
        assert_close(out[n][:4], getattr(exact, name).value, np.float32)
    assert out[1][4] == -np.inf
    assert out[0][4] == np.inf


@pairwise(loss=LOSSES, lead=[20.0, 60.0], leader_is_label=[True, False])
def test_statistics_of_confident_rows_keep_their_relative_precision(
    loss, lead, leader_is_label, rng
):
    logits = rng.standard_normal((ROWS, 384)).astype(np.float32)
    leaders = np.array([0, 3, 127, 128, 383])
    logits[np.arange(ROWS), leaders] = logits.max(-1) + lead
    labels = leaders if leader_is_label else (leaders + 1) % 384
    if loss is soft_loss:
        labels = np.eye(384, dtype=np.float32)[labels]
    labels = np.asarray(labels, np.int32 if loss is integer_loss else np.float32)
    exact = options_cross_entropy(logits, labels)
    out, _, gradients = run(
        loss, logits, labels, np.eye(4, dtype=np.float32)[:, :, None] * np.ones(ROWS, np.float32)
    )
    eps = np.finfo(np.float32).eps
    for n, name in enumerate(OUTPUTS):
        size = getattr(exact, name).value_size
        error = np.abs(np.asarray(out[n], np.float64) - getattr(exact, name).value) / size / eps
        assert error.max() <= LOSS_EPS, name
    # The entropy's gradient at the leader is p (-log p - H), about -H: small, and not lost.
    expected = exact.entropy.gradient
    seen = np.abs(expected) > tiny(np.float32)
    size = exact.entropy.gradient_size
    error = np.abs(np.asarray(gradients[3], np.float64) - expected)[seen] / size[seen]
    assert_close(error, 0 * error, np.float32)
    assert np.all(np.asarray(gradients[3])[np.arange(ROWS), leaders] < 0)


def large_operations(jaxpr, size):
    """How often each primitive makes an array of `size` elements or more, inner jaxprs included."""
    count = collections.Counter()
    for equation in jaxpr.eqns:
        inner = list(jaxprs_in_params(equation.params))
        for sub in inner:
            count += large_operations(sub, size)
        if not inner and any(np.prod(v.aval.shape) >= size for v in equation.outvars):
            count[equation.primitive.name] += 1
    return count


def backward_operations(loss, logits, labels, used, **options):
    def f(z):
        out = loss(z, labels, **options)
        return out if not options else [(out[0], *out[1])[n] for n in used]

    value, vjp = jax.vjp(f, logits)
    return large_operations(jax.make_jaxpr(vjp)(value).jaxpr, logits.size)


@every_loss
def test_unused_statistics_cost_nothing_in_the_backward_pass(loss, rng):
    logits, labels, _ = case(loss, set(), (ROWS, 10), np.float32, rng)
    plain = backward_operations(loss, jnp.asarray(logits), labels, (0,))
    assert plain["bitcast_convert_type"] >= 1  # the exponentials, written out
    unused = backward_operations(loss, jnp.asarray(logits), labels, (0,), return_stats=True)
    assert unused == plain
    entropy = backward_operations(loss, jnp.asarray(logits), labels, (0, 3), return_stats=True)
    assert entropy.total() > plain.total()


def test_policy_gradient_with_an_entropy_bonus(rng):
    logits, actions, _ = case(integer_loss, set(), (ROWS, 10), np.float32, rng)
    advantage = rng.standard_normal(ROWS).astype(np.float32)

    @jax.jit
    def objective(z):
        _, stats = integer_loss(z, actions, return_stats=True)
        return -jnp.sum(advantage * stats.label_log_prob + 0.01 * stats.entropy)

    exact = options_cross_entropy(logits, actions)
    expected = -advantage[:, None] * exact.label_log_prob.gradient - 0.01 * exact.entropy.gradient
    assert_close(jax.grad(objective)(logits), expected, np.float32)


def test_distillation_from_a_teacher(rng):
    """KL(teacher || student) by the loss; the teacher's entropy makes it 0 at the teacher."""
    teacher, _, _ = case(integer_loss, set(), (ROWS, 10), np.float32, rng)
    q = ops.softmax(teacher)

    @jax.jit
    def divergence(student):
        loss = soft_loss(student, q, reduction="mean")
        _, stats = soft_loss(teacher, q, return_stats=True)
        return loss - jnp.mean(stats.entropy)

    value, gradient = jax.value_and_grad(divergence)(teacher)
    assert_close(value, 0, np.float32)
    assert_close(gradient, np.zeros_like(teacher), np.float32)
    assert divergence(2 * teacher) > 0.01


def test_statistics_are_a_named_tuple_under_jit_and_vmap(rng):
    logits, labels, _ = case(integer_loss, set(), (ROWS, 10), np.float32, rng)
    f = functools.partial(integer_loss, return_stats=True)
    _, stats = jax.jit(jax.vmap(f))(logits, labels)
    assert isinstance(stats, ops.SoftmaxStats)
    _, rows = f(logits, labels)
    for a, b in zip(stats, rows, strict=True):
        assert_close(a, b, np.float32)


def entropy_by_definition(z):
    log_p = jax.nn.log_softmax(z)
    return -jnp.sum(jnp.exp(log_p) * log_p)


@pairwise(loss=LOSSES, rule=["vjp", "jvp"], classes=[3, 272])
def test_second_derivatives_of_the_entropy(loss, rule, classes, x64, rng):
    labels = 1 if loss is integer_loss else np.full(classes, 1 / classes)
    rows = rng.standard_normal((3, classes))
    rows[0, 2] += 5  # leads by more than 1
    rows[1, :2] = rows[1].max()  # two lead

    def entropy(z):
        return loss(z, labels, return_stats=True, rule=rule)[1].entropy

    second, expected = (jax.jit(jax.vmap(jax.hessian(f))) for f in (entropy, entropy_by_definition))
    np.testing.assert_allclose(second(rows), expected(rows), rtol=0, atol=1e-14)
    assert not np.isnan(second(np.full_like(rows, -np.inf))).any()
