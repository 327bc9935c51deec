"""Which tokens a causal loss predicts, from the words of its documentation, one token at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

# How many tokens a row has; a case has a multiple of seven, as there are seven regimes.
LENGTH = 7
# Two documents and padding, and rows of one document.
_SEGMENTS = ((1, 1, 1, 2, 2, 0, 0), (3, 3, 3, 3, 3, 3, 3), (1, 2, 2, 2, 2, 2, 0))


def segment_ids(rows: int) -> np.ndarray:
    """`[rows / 7, 7]`, numbers of documents; 0 is padding."""
    return np.resize(np.array(_SEGMENTS, np.int32), (rows // LENGTH, LENGTH))


def loss_mask(rows: int) -> np.ndarray:
    """`[rows / 7, 7]` booleans: the tokens that are to be predicted."""
    return np.random.default_rng(rows).random((rows // LENGTH, LENGTH)) < 0.6


def predicting(tokens: str, rows: int) -> np.ndarray:
    """`[rows]`: whether the features at a place are to predict the token after it.

    Args:
      tokens: the option of that name.
      rows: how many places all rows of tokens have.
    """
    documents, wanted = segment_ids(rows), loss_mask(rows)
    found = np.zeros((rows // LENGTH, LENGTH), bool)
    for row in range(len(found)):
        for place in range(LENGTH - 1):
            here, after = documents[row, place], documents[row, place + 1]
            found[row, place] = {
                "segments": here == after and after > 0,
                "mask": wanted[row, place + 1],
            }.get(tokens, True)
    return found.reshape(-1)


def causal_arguments(tokens: str, rows: int) -> dict[str, Any]:
    """The arguments of a causal loss that say which tokens count, but for weights."""
    if tokens == "segments":
        return {"segment_ids": segment_ids(rows)}
    return {"loss_mask": loss_mask(rows)} if tokens == "mask" else {}
