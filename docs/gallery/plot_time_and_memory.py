"""Time against memory of the layer's loss
========================================

The logits of a language model's last layer are its largest array. ``linear_softmax_cross_entropy``
makes them a block of rows at a time. Each point is a size of block in rows: its memory is what the
compiled program says that it needs besides arguments and results, its time a median of five runs
in turns with the others.
"""

import time

import jax
import matplotlib.pyplot as plt
import numpy as np

from jax_softmax import linear_softmax_cross_entropy, softmax_cross_entropy_with_integer_labels

rows, width, classes = 1024, 128, 8192
keys = jax.random.split(jax.random.key(0), 3)
features = jax.random.normal(keys[0], (rows, width))
kernel = jax.random.normal(keys[1], (width, classes)) / width**0.5
labels = jax.random.randint(keys[2], (rows,), 0, classes)


def plain(features, kernel):
    logits = features @ kernel
    return softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")


def in_blocks(size):
    return lambda features, kernel: linear_softmax_cross_entropy(
        features, kernel, labels, block_size=size
    )


# %%
# All are compiled first, and must agree.

losses = {"plain": plain, **{size: in_blocks(size) for size in (16, 32, 64, 128, 256, 512, 1024)}}
programs = {
    name: jax.jit(jax.value_and_grad(loss, (0, 1))).lower(features, kernel).compile()
    for name, loss in losses.items()
}
expected = programs["plain"](features, kernel)[0]
seconds = {name: [] for name in programs}
for _ in range(5):
    for name, program in programs.items():
        started = time.perf_counter()
        value, _ = jax.block_until_ready(program(features, kernel))
        seconds[name].append(time.perf_counter() - started)
        np.testing.assert_allclose(value, expected, rtol=1e-5)

# %%
# Relative to the plain way, which holds all logits.


def cost(name):
    mebibytes = programs[name].memory_analysis().temp_size_in_bytes / 2**20
    return mebibytes, np.median(np.array(seconds[name]) / np.array(seconds["plain"]))


figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
sizes = [name for name in programs if name != "plain"]
ax.plot(*zip(*map(cost, sizes), strict=True), "o-", color="#1b6ca8", label="in blocks of rows")
for size in sizes:
    ax.annotate(str(size), cost(size), xytext=(0, 8), textcoords="offset points", ha="center")
ax.plot(*cost("plain"), "s", color="#e58e26", label="logits, then their loss")
ax.set(xscale="log", xticks=(5, 10, 20, 50, 100), xticklabels=("5", "10", "20", "50", "100"))
ax.set(xlabel="temporary memory (MiB)", ylabel="time over the plain way's")
ax.set(
    title=f"{rows:,} rows, {width} features, {classes:,} classes, float32",
    ylim=(0, 1.15 * max(1, *(cost(size)[1] for size in sizes))),
)
ax.legend(loc="lower right")
plt.show()
