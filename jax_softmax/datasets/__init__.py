"""Datasets: a name becomes verified NumPy arrays, or files become a stream of examples.

Nothing heavy is imported before `load_dataset` or a stream needs it.
"""

from __future__ import annotations

from jax_softmax._columns import Columns
from jax_softmax.datasets.catalog import DATASET_NAMES
from jax_softmax.datasets.load import load_dataset
from jax_softmax.datasets.load_table import TableDataset, load_table
from jax_softmax.datasets.npy_stream import stream_npy
from jax_softmax.datasets.parquet_stream import stream_parquet
from jax_softmax.datasets.streams import Stream
from jax_softmax.datasets.tfds_stream import stream_tfds
from jax_softmax.datasets.types import Dataset, Split

__all__ = [
    "DATASET_NAMES",
    "Columns",
    "Dataset",
    "Split",
    "Stream",
    "TableDataset",
    "load_dataset",
    "load_table",
    "stream_npy",
    "stream_parquet",
    "stream_tfds",
]
