"""Is the hand-written derivative right? The tutorial's own check, and the library's.

python scripts/verify_vjp.py
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp

from jax_softmax import softmax_cross_entropy_with_integer_labels
from jax_softmax.ops import reference
from jax_softmax.verification import Selection, verify


def main() -> int:
    # By hand: the hand-written derivative beside JAX's own, for a label that leads by 20.
    logits = jnp.zeros((1, 3)).at[0, 0].set(20.0)
    label = jnp.array([0])
    losses = {
        "hand-written": softmax_cross_entropy_with_integer_labels,
        "jax.grad of the textbook": reference.softmax_cross_entropy_with_integer_labels,
    }
    for name, loss in losses.items():
        gradient = jax.grad(lambda z, loss=loss: loss(z, label).sum())(logits)
        print(f"{name:25} {gradient[0]}")  # the exact one at the label is -2 exp(-20)

    # By the verifier: every function, against exact values, on this device.
    results = verify(Selection("quick"))
    for op in dict.fromkeys(result.op for result in results):
        exact = [r for r in results if r.op == op and r.against == "oracle"]
        worst = max(exact, key=lambda r: r.error_eps / r.bound_eps)
        print(
            f"{op}: {len(exact)} checks against exact values, the worst {worst.error_eps:.2f} eps "
            f"of {worst.bound_eps:g} ({worst.quantity}, {worst.option}, {worst.regime})"
        )
    failed = [result for result in results if not result.passed]
    print(f"{len(failed)} of {len(results)} checks failed" if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
