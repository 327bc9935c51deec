"""`python -m tests.processes.stuck PORT N I`: trains; process 1 sleeps after its first epoch."""

import sys
import time

import jax

from jax_softmax import TrainConfig, fit
from tests.processes.rank import split_of

port, count, index = map(int, sys.argv[1:])
jax.distributed.initialize(f"127.0.0.1:{port}", count, index)


def on_epoch(record):
    sys.stdout.write(f"{record['epoch']}\n")
    sys.stdout.flush()
    if index == 1:
        time.sleep(600)


fit(split_of(64), TrainConfig(epochs=10**6, batch_size=8), on_epoch=on_epoch, step_timeout=4)
