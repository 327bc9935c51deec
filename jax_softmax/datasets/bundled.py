"""The copies of small datasets that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from jax_softmax.datasets.catalog import Entry
from jax_softmax.datasets.types import Tables


def read(entry: Entry) -> tuple[Tables, str]:
    """Read scikit-learn's copy of a dataset.

    Returns:
      The arrays (float32, or uint8 for images) and the line that says where they came from.
    """
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, entry.bundled)()
    is_image = len(entry.feature_shape) > 1
    features = bunch.images.astype(np.uint8) if is_image else bunch.data.astype(np.float32)
    return {"train": (features, bunch.target)}, entry.bundled_source
