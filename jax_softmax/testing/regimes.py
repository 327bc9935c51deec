"""Rows of logits on which losses go wrong: wide, huge, shifted and confident rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Regime(NamedTuple):
    """Rows of `scale * N(0, 1) + shift`; with a `lead` the label's logit is that far ahead."""

    scale: float = 1.0
    shift: float = 0.0
    lead: float | None = None


REGIMES = {
    "N(0,1)": Regime(),
    "N(0,30)": Regime(scale=30.0),
    "N(0,1000)": Regime(scale=1000.0),
    "shifted +1e4": Regime(shift=1e4),
    "shifted -1e4": Regime(shift=-1e4),
    "confident by 14": Regime(lead=14.0),
    "confident by 60": Regime(lead=60.0),
}
COTANGENTS = (None, 1.0, 0.3, -2.0, 65536.0)  # None: a random one


def regime_rows(
    classes: int, rows: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`rows` rows per regime: logits `[7 * rows, V]` float64, labels, cotangents (float32).

    The label of a row that is not confident is random; in every second row it is the largest logit.
    """
    logits, labels = [], []
    for scale, shift, lead in REGIMES.values():
        z = scale * rng.standard_normal((rows, classes)) + shift
        y = rng.integers(0, classes, rows)
        if lead is None:
            y = np.where(np.arange(rows) % 2, z.argmax(-1), y)
        else:
            z[np.arange(rows), y] = z.max(-1) + lead
        logits.append(z)
        labels.append(y)
    cotangents = row_cotangents(rows * len(REGIMES), rng).astype(np.float32)
    return np.concatenate(logits), np.concatenate(labels), cotangents


def row_cotangents(count: int, rng: np.random.Generator) -> np.ndarray:
    """`[N]`: random cotangents and the fixed ones of `COTANGENTS` in turn."""
    values = rng.standard_normal(count)
    for n in range(count):
        fixed = COTANGENTS[n % len(COTANGENTS)]
        values[n] = values[n] if fixed is None else fixed
    return values


def worst_by_regime(error: np.ndarray) -> dict[str, float]:
    """The largest of `error [7 * rows, ...]` in each regime."""
    return dict(zip(REGIMES, (float(e.max()) for e in np.split(error, len(REGIMES))), strict=True))
