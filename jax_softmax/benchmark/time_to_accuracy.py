"""A process that trains to a test accuracy in one way and writes when it was there.

python -m jax_softmax.benchmark.time_to_accuracy TRAINER FOLDER TARGET EPOCHS STARTED FILE
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from jax_softmax.benchmark.results import OURS
from jax_softmax.benchmark.train_task import load_task
from jax_softmax.benchmark.trainers import NUMPY, OPTAX, TRAINERS

COMPILE = (OURS, OPTAX)


def main(trainer: str, folder: str, target: str, epochs: str, started: str, file: str) -> None:
    """Trains once since the process began, and where that compiled, once more.

    The search for a number of threads is left out of both times.

    Args:
      trainer: a name of `TRAINERS`.
      folder: where `save_task` wrote.
      target: the test accuracy to stop at.
      epochs: to stop after.
      started: `time.monotonic()` just before this process was started.
      file: where the result goes, as JSON.
    """
    task = load_task(Path(folder))
    if trainer == NUMPY:
        task = replace(task, batch_size=None)  # as the tutorial does
    ready = TRAINERS[trainer](task)
    before = time.monotonic()
    reached = ready.train_to(float(target), int(epochs))
    after = time.monotonic()
    process_seconds = after - float(started) - ready.search_seconds
    warm_seconds = after - before
    if trainer in COMPILE:
        ready.train_to(float(target), int(epochs))
        warm_seconds = time.monotonic() - after
    result = {
        "process_seconds": process_seconds,
        "warm_seconds": warm_seconds,
        "accuracy": reached.accuracy,
        "epochs": reached.epochs,
    }
    Path(file).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
