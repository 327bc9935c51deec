"""Peers that are not installed."""

from __future__ import annotations

import builtins

import pytest


@pytest.fixture
def no_torch(monkeypatch):
    """Importing PyTorch fails, as where it is not installed."""
    true_import = builtins.__import__

    def refuse(name, *arguments, **keywords):
        if name == "torch":
            raise ImportError(name)
        return true_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
