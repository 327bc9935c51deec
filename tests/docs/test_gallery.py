"""The gallery: each program runs, draws, and is short enough to be read."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

GALLERY = Path(__file__).resolve().parents[2] / "docs" / "gallery"
PROGRAMS = sorted(GALLERY.glob("plot_*.py"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_runs_and_draws(program, monkeypatch, capsys):
    matplotlib.use("agg")
    from matplotlib import pyplot

    source = program.read_text(encoding="utf-8")
    if "mnist" in source and not os.environ.get("JAX_SOFTMAX_RAW_DIR"):
        pytest.skip("needs MNIST: set JAX_SOFTMAX_RAW_DIR")
    if "jax_num_cpu_devices" in source:  # of a process that has no devices yet
        environment = {**os.environ, "XLA_FLAGS": "", "MPLBACKEND": "agg"}
        subprocess.run([sys.executable, "-W", "error", program], env=environment, check=True)
        return
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.extend(pyplot.get_fignums()))
    try:
        runpy.run_path(str(program), run_name="__main__")
        assert shown
        for number in shown:
            pyplot.figure(number).canvas.draw()
            assert all(ax.has_data() or ax.patches for ax in pyplot.figure(number).axes)
    finally:
        pyplot.close("all")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_is_short_and_says_what_it_draws(program):
    lines = program.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 80
    title = re.fullmatch(r'r?"""(.+)', lines[0])[1]
    assert set(lines[1]) == {"="}
    assert len(lines[1]) >= len(title)
