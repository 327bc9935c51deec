"""The programs in `benchmarks/`, and peers that are not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# As `python benchmarks/races.py` has it: the programs import each other.
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.fixture
def no_peers(monkeypatch):
    """Importing a peer fails, as where it is not installed."""
    for name in ("torch", "tokamax", "jax_cce", "liger_kernel"):
        monkeypatch.setitem(sys.modules, name, None)
