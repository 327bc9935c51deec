"""`python -m tests.processes.stuck PORT N I`: trains; process 1 sleeps after its first epochs."""

import os
import sys
import time

import jax

from jax_softmax import TrainConfig, fit
from jax_softmax.training import Watchdog, memory_run
from tests.processes.rank import split_of


def main(port, count, index):
    memory_run._STEPS_PER_CALL = 8  # or a call may take long on a busy machine
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)

    def on_epoch(record):
        sys.stdout.write(f"{record['epoch']}\n")
        sys.stdout.flush()
        if index == 1:
            time.sleep(600)

    def end(words):
        sys.stderr.write(words)
        sys.stderr.flush()
        os._exit(1)

    config = TrainConfig(epochs=10**6, batch_size=8)
    fit(split_of(64), config, on_epoch=on_epoch, watchdog=Watchdog(4, end))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
