"""Datasets: a name becomes verified NumPy arrays.

Nothing heavy is imported before `load_dataset` needs it.
"""

from __future__ import annotations

from jax_softmax.datasets.catalog import DATASET_NAMES
from jax_softmax.datasets.load import load_dataset
from jax_softmax.datasets.types import Dataset, Split

__all__ = ["DATASET_NAMES", "Dataset", "Split", "load_dataset"]
