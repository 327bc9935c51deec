"""What the losses of a teacher say of arguments that do not fit."""

import jax
import numpy as np
import pytest

from jax_softmax import ops

X, K, Z = np.zeros((3, 4), np.float32), np.zeros((4, 6), np.float32), np.zeros((3, 6), np.float32)
LOG_PROBS, INDICES = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.int32)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"teacher_logits": Z[:2]}, ValueError, r"teacher_logits: expected the logits' shape \(3"),
        ({"teacher_logits": np.zeros((3, 6), int)}, TypeError, "teacher_logits: expected a float"),
        (
            {"direction": "both"},
            ValueError,
            "direction: expected one of 'forward', 'reverse'",
        ),
        ({"temperature": 0}, ValueError, "temperature: expected a number from 1e-6 to 1e6, got 0"),
        ({"soft_cap": -1}, ValueError, "soft_cap: expected None or a number from 1e-30 to 1e30"),
        ({"rule": "x"}, ValueError, "rule: expected 'vjp' or 'jvp', got 'x'"),
        ({"reduction": "x"}, ValueError, "reduction: expected "),
        ({"axis": 2}, ValueError, r"axis: expected values in \[-2, 2\)"),
        ({"where": np.ones(2, bool)}, ValueError, "where: expected a mask that broadcasts"),
        ({"sample_weight": np.ones(2)}, ValueError, "sample_weight: expected factors that broad"),
    ],
)
def test_of_softmax_kl_divergence(changed, error, words):
    with pytest.raises(error, match=words):
        ops.softmax_kl_divergence(**({"logits": Z, "teacher_logits": Z} | changed))


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"direction": "x"}, ValueError, "direction: expected one of 'forward', .*, got 'x'"),
        ({"teacher_features": X[:2]}, ValueError, r"teacher_features: expected the features' rows"),
        (
            {"teacher_kernel": K[:, :5]},
            ValueError,
            "teacher_kernel: expected the kernel's 6 cl",
        ),
        ({"teacher_kernel": K.T}, ValueError, r"teacher_kernel: expected \[D, V\] with D = 4"),
        ({"teacher_bias": np.zeros(5)}, ValueError, r"teacher_bias: expected shape \(6,\)"),
        ({"teacher_kernel_layout": "x"}, ValueError, "teacher_kernel_layout: expected 'dv' or"),
        ({"teacher_features": X.astype(int)}, TypeError, "teacher_features: expected a floating"),
        ({"reduction": "x"}, ValueError, "reduction: expected "),
        (
            {"where": np.ones((3, 6), bool)},
            ValueError,
            "where: expected a mask of rows .* to",
        ),
        ({"sample_weight": np.ones(2)}, ValueError, "sample_weight: expected factors that broad"),
        ({"axis_name": "model"}, ValueError, "axis_name: expected the name of a mesh axis, inside"),
        ({"implementation": "x"}, ValueError, "implementation: expected "),
    ],
)
def test_of_linear_kl_divergence(changed, error, words):
    given = {"features": X, "kernel": K, "teacher_features": X, "teacher_kernel": K}
    with pytest.raises(error, match=words):
        ops.linear_kl_divergence(**(given | changed))


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        (
            {"rest": "x"},
            ValueError,
            "rest: expected one of 'ignore', 'uniform', 'renorm",
        ),
        (
            {"teacher_indices": INDICES[0]},
            ValueError,
            r"teacher_indices: expected shape \(3, ",
        ),
        ({"teacher_indices": INDICES[:, :0]}, ValueError, "teacher_indices: expected shape"),
        ({"teacher_indices": LOG_PROBS}, TypeError, "teacher_indices: expected an integer dtype"),
        ({"teacher_log_probs": Z}, ValueError, r"teacher_log_probs: expected the indices' shape"),
        ({"kernel": K.T}, ValueError, r"kernel: expected \[D, V\] with D = 4"),
    ],
)
def test_of_linear_top_k_cross_entropy(changed, error, words):
    given = {"features": X, "kernel": K, "teacher_log_probs": LOG_PROBS}
    with pytest.raises(error, match=words):
        ops.linear_top_k_cross_entropy(**(given | {"teacher_indices": INDICES} | changed))


@pytest.mark.parametrize("name", ["teacher_features", "teacher_kernel", "teacher_bias"])
def test_a_layers_teacher_is_a_constant(name):
    given = {"teacher_features": X, "teacher_kernel": K, "teacher_bias": np.zeros(6, np.float32)}
    with pytest.raises(TypeError, match=rf"{name}: expected constants.*stop_gradient\({name}\)"):
        jax.grad(lambda x: ops.linear_kl_divergence(X, K, **(given | {name: x})))(given[name])
    stopped = {n: jax.lax.stop_gradient(x) for n, x in given.items()}
    gradient = jax.grad(lambda k: ops.linear_kl_divergence(X, k, **stopped))(K)
    np.testing.assert_array_equal(gradient, 0)


def test_a_teachers_log_probs_are_constants():
    with pytest.raises(TypeError, match="teacher_log_probs: expected constants"):
        jax.grad(lambda p: ops.linear_top_k_cross_entropy(X, K, p, INDICES))(LOG_PROBS)


def test_forward_mode_of_the_other_rule_names_the_one_to_take():
    with pytest.raises(TypeError, match='softmax_kl_divergence: rule="vjp", the default, has no f'):
        jax.jvp(lambda z: ops.softmax_kl_divergence(z, Z), (Z,), (Z,))
    with pytest.raises(TypeError, match='linear_kl_divergence: rule="vjp", the default, has no fo'):
        jax.jvp(lambda k: ops.linear_kl_divergence(X, k, X, K), (K,), (K,))
