"""The bar of `fit(progress=True)`; and that nothing is shown without it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from jax_softmax import InputError, TrainConfig, fit, stream_npy

CONFIG = TrainConfig(batch_size=8, epochs=5)


def test_a_bar_shows_epochs_and_losses(table, capsys):
    records = []
    result = fit(table, CONFIG, validation=table, on_progress=records.append, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    last = result.history[-1]
    assert "training: 100%" in shown.err and "5/5" in shown.err
    assert f"loss {last['train_loss']:.4f}, held-out {last['validation_loss']:.4f}" in shown.err
    assert f"(accuracy {last['validation_accuracy']:.4f})" in shown.err
    assert records[-1] == last


def test_a_stream_moves_it_within_an_epoch(table, tmp_path, capsys):
    np.save(tmp_path / "features.npy", table.features)
    stream = stream_npy(tmp_path / "features.npy", table.labels)
    fit(stream, CONFIG, progress=True)
    assert "5/5" in capsys.readouterr().err


def test_nothing_is_shown_unless_it_is_asked_for(table, capfd):
    fit(table, CONFIG, validation=table)
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_mistake_shows_no_bar(table, capsys):
    with pytest.raises(InputError, match="progress: expected True or False, got 'yes'"):
        fit(table, CONFIG, progress="yes")
    with pytest.raises(InputError, match="on_progress: expected a function of a record, got int"):
        fit(table, CONFIG, on_progress=1, progress=True)
    assert capsys.readouterr().err == ""


class WithoutTqdm:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "tqdm":
            raise ModuleNotFoundError("No module named 'tqdm'", name=name)


def test_without_tqdm_the_extra_is_named(table, monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "tqdm"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [WithoutTqdm, *sys.meta_path])
    words = r"tqdm is not installed; it comes with the extra \[train\]"
    with pytest.raises(InputError, match=words):
        fit(table, CONFIG, progress=True)
    fit(table, CONFIG)
