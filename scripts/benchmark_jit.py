"""What does jit buy? The loss by hand, then the training run by the library's benchmark.

python scripts/benchmark_jit.py
"""

from __future__ import annotations

import sys
import time

import jax
import jax.numpy as jnp

from jax_softmax import softmax_cross_entropy_with_integer_labels
from jax_softmax.benchmark import run_suites


def mean_loss(logits, labels):
    return softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")


def main() -> int:
    # By hand: the same function, an operation at a time and as one compiled program.
    logits = jax.random.normal(jax.random.key(0), (120, 3))
    labels = jnp.arange(120) % 3
    jitted = jax.jit(mean_loss)
    for name in ("first call, compiling", "second call"):
        started = time.perf_counter()
        jitted(logits, labels).block_until_ready()  # JAX returns before the result is there
        print(f"jit, {name:22} {1e3 * (time.perf_counter() - started):10.3f} ms")
    with jax.disable_jit():
        for name in ("first call", "second call"):
            started = time.perf_counter()
            mean_loss(logits, labels).block_until_ready()
            print(f"without jit, {name:14} {1e3 * (time.perf_counter() - started):10.3f} ms")

    # By the library: many runs in turns, each contender's result checked before its time is taken.
    # A ratio is the median of those of the turns, and not that of the medians.
    report = run_suites(["jit"], quick=True)
    for record in report.records:
        if record.seconds_median is None:
            print(f"{record.case:26} {record.contender:30} differs: not timed")
            continue
        compiling = f"compiled in {record.compile_seconds:.2f} s" if record.compile_seconds else ""
        compiling = compiling or record.note
        print(
            f"{record.case:26} {record.contender:30} {1e3 * record.seconds_median:10.3f} ms, "
            f"{record.ratio:8.2f} x NumPy's {compiling}"
        )
    return 1 if report.ours_differ else 0


if __name__ == "__main__":
    sys.exit(main())
