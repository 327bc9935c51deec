"""Whether a model still measures what it measured when it was trained."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_softmax.datasets import Split, Stream
    from jax_softmax.training import Evaluation

# Another machine or version sums in another order.
_ROUNDING = 1e-5


def split_digest(split: Split | Stream) -> str:
    """A SHA-256 of examples: their dtypes, shapes, numbers and labels; of a stream a sample's."""
    import numpy as np

    from jax_softmax.datasets import Stream

    if isinstance(split, Stream):
        return split.sha256

    digest = hashlib.sha256()
    for array in (split.features, split.labels):
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def agreement(test: Evaluation, digest: str, trained: Mapping[str, Any]) -> tuple[str, str]:
    """How an evaluation compares with what training measured, as a word and as a sentence.

    Args:
      test: the evaluation.
      digest: of the examples it is of.
      trained: what `metrics.json` says.

    Returns:
      The word is `same`, `rounding`, `differs`, or `other data` where there is nothing to compare.
    """
    loss, accuracy = (trained.get(name) for name in ("test_loss", "test_accuracy"))
    if trained.get("test_sha256") != digest or loss is None or accuracy is None:
        return "other data", "not the examples that training measured on"
    if (loss, accuracy) == (test.loss, test.accuracy):
        return "same", "the same as training measured"
    if accuracy == test.accuracy and math.isclose(loss, test.loss, rel_tol=_ROUNDING):
        return "rounding", f"the same as training measured, but for rounding (loss {loss!r})"
    return "differs", (
        f"DIFFERS from what training measured on the same examples: loss {loss:.4f}, "
        f"accuracy {accuracy:.4f}"
    )
