"""A file that is streamed takes little memory, however large it is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MEMORY = """
import json, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from jax_softmax import TrainConfig, evaluate, fit, stream_npy, stream_parquet
from jax_softmax.datasets import parquet_stream

parquet_stream._TOGETHER = 2**23
folder, rows, width = sys.argv[1], 2**12, 2**11  # 8 MB a block


def npy(blocks):
    path = f"{folder}/{blocks}.npy"
    with open(path, "wb") as file:
        shape = (rows * blocks, width)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * blocks * width)  # zeros, which take no space
    return stream_npy(path, np.arange(rows * blocks) % 2)


def parquet(blocks):
    path = f"{folder}/{blocks}.parquet"
    long, columns = 2**13, 2**8  # 8 MB a block, too
    column = pa.array((np.arange(long) % 2).astype(np.float32))
    table = pa.table({f"x{i}": column for i in range(columns)})
    table = table.append_column("y", pa.array(np.arange(long) % 2))
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(blocks):
            writer.write_table(table, row_group_size=long // 2)
    return stream_parquet(path, "y")


def train(stream):
    evaluate(fit(stream, TrainConfig(batch_size=256, epochs=1, learning_rate=1e-6)), stream)


def memory(name):
    with open("/proc/self/status") as file:
        lines = dict(line.split(":") for line in file)
    return int(lines[name].split()[0]) * 1024


said = {}
for opened, small, large in ((npy, 8, 96), (parquet, 8, 64)):
    train(opened(small))
    stream = opened(large)
    open("/proc/self/clear_refs", "w").write("5")  # the peak is counted anew
    before = memory("VmRSS")
    train(stream)
    said[opened.__name__] = large * 2**23 / (memory("VmHWM") - before)
print(json.dumps(said))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """768 MB of `.npy`, and 512 MB of Parquet, decoded, want less than a fourth of that."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    times_larger = json.loads(done.stdout)
    assert times_larger.keys() == {"npy", "parquet"}
    assert min(times_larger.values()) > 4, times_larger
