"""Fits, evaluates and predicts in ever new shapes, in a process of its own; prints what it holds.

`python program_memory.py FITS MOST`: MOST programs are kept. A line for each fit: the process's
memory maps, and its memory in KB.
"""

import sys

import numpy as np

from jax_softmax import Split, TrainConfig, evaluate, fit, predict
from jax_softmax.training import programs

RNG = np.random.default_rng(0)


def fit_of_shape(i):
    """A shape and settings of its own for each `i`, large ones as often early as late."""
    examples, width, classes = 30 + 61 * i % 503, 2 + i % 11, 2 + i % 7
    labels = np.arange(examples) % classes
    split = Split(RNG.normal(size=(examples, width)).astype(np.float32), labels)
    config = TrainConfig(batch_size=8, epochs=2, momentum=0.5 * (i % 2))
    params = {"kernel": np.zeros((width, classes)), "bias": np.zeros(classes)} if i % 3 else None
    result = fit(split, config, params=params)
    evaluate(result, split)
    predict(result, split.features)


def held():
    with open("/proc/self/maps") as file:
        maps = sum(1 for _ in file)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return maps, pages * 4


if __name__ == "__main__":
    fits, programs.MOST = map(int, sys.argv[1:])
    for i in range(fits):
        fit_of_shape(i)
        sys.stdout.write("{} {}\n".format(*held()))
        sys.stdout.flush()
