"""Starts processes that train together over the loopback, as a user does on several hosts."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.compiler import UNOPTIMISED

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def started(arguments, count, devices=1):
    """`python *arguments(port, i)` for each of `count` processes, with so many devices each."""
    flags = [f"--xla_force_host_platform_device_count={devices}"]
    flags += [f"--{name}={value}" for name, value in UNOPTIMISED.items()]
    environment = os.environ | {
        "XLA_FLAGS": " ".join(flags),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *arguments(port, i)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]


def ended(ranks, seconds):
    """Exit code, output and errors of each; those that do not end in time are killed, and fail."""
    deadline = time.monotonic() + seconds
    found = []
    try:
        for rank in ranks:
            output, errors = rank.communicate(timeout=max(1, deadline - time.monotonic()))
            # What Gloo says comes from C++.
            said = [line for line in output.splitlines(True) if not line.startswith("[Gloo]")]
            found.append((rank.returncode, "".join(said), errors))
    finally:
        kill(ranks)
    return found


def kill(ranks):
    for rank in ranks:
        rank.kill()
        rank.wait()
        for pipe in (rank.stdout, rank.stderr):
            pipe.close()
