"""Forward mode with the default rule is refused with what to write instead: `rule="jvp"`."""

import jax
import numpy as np
import pytest

from jax_softmax import ops

Z = np.float32([[1, 0, -1], [0, 2, 0]])
Y = np.int32([1, 2])
K = np.float32(np.eye(3, 5))
FUNCTIONS = {
    "softmax": ops.softmax,
    "log_softmax": ops.log_softmax,
    "soft": lambda z: ops.softmax_cross_entropy(z, np.eye(3, dtype=np.float32)[Y]),
    "integer": lambda z: ops.softmax_cross_entropy_with_integer_labels(z, Y),
    "integer mean": lambda z: ops.softmax_cross_entropy_with_integer_labels(z, Y, reduction="mean"),
    "fused": lambda z: ops.linear_softmax_cross_entropy(z, K, Y),
    "fused rows": lambda z: ops.linear_softmax_cross_entropy(z, K, Y, reduction="none"),
}
every_function = pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
MODES = {
    "jvp": lambda f: jax.jvp(f, (Z,), (Z,)),
    "jacfwd": lambda f: jax.jacfwd(f)(Z),
}


@every_function
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_forward_mode_with_the_default_rule_names_the_rule_that_has_it(f, mode):
    with pytest.raises(TypeError, match='rule="jvp"'):
        mode(f)


@every_function
def test_and_forward_over_reverse_goes_on_working(f):
    gradient = jax.grad(lambda z: f(z).sum())
    assert np.isfinite(jax.jvp(gradient, (Z,), (Z,))[1]).all()
