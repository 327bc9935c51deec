"""Rows of logits on which losses go wrong: wide, huge, shifted and confident ones."""

import numpy as np

REGIMES = {
    "normal": (1.0, 0.0, None),
    "wide": (30.0, 0.0, None),
    "huge": (1000.0, 0.0, None),
    "shifted up": (1.0, 1e4, None),
    "shifted down": (1.0, -1e4, None),
    "confident by 14": (1.0, 0.0, 14.0),
    "confident by 60": (1.0, 0.0, 60.0),
}
COTANGENTS = (None, 1.0, 0.3, -2.0, 65536.0)  # None: a random one


def regime_rows(classes, rows, rng):
    """`rows` rows a regime: logits `[7 * rows, V]` float64, labels, cotangents (float32).

    The label of a row that is not confident is any class; every second row's is the largest one.
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
    count = rows * len(REGIMES)
    cotangents = rng.standard_normal(count)
    for n in range(count):
        fixed = COTANGENTS[n % len(COTANGENTS)]
        cotangents[n] = cotangents[n] if fixed is None else fixed
    return np.concatenate(logits), np.concatenate(labels), cotangents.astype(np.float32)


def worst_by_regime(error):
    """The largest of `error [7 * rows, ...]` in each regime."""
    return dict(zip(REGIMES, (float(e.max()) for e in np.split(error, len(REGIMES))), strict=True))
