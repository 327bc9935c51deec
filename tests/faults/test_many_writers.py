"""Writers that race for one folder, and writers that are killed: one wins, nothing is torn."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jax_softmax import load_run

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}

# Runs are written without training; children share what the parent has imported, and the pictures,
# most of a writer's time, are blank.
PRELUDE = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
from jax_softmax import InputError, load_run, save_run
from jax_softmax.training import atomic, pictures
from tests.faults.conftest import result_of
class Blank:
    def savefig(self, path):
        path.write_bytes(bytes(5000))
for name in ("learning_curve", "confusion_matrix", "class_weights"):
    setattr(pictures, name, lambda *_: Blank())
def lacks(*_):
    raise OSError(38, "not here")
if sys.argv[1] == "moves":
    atomic._rename = lacks
results = [result_of(seed) for seed in range(10)]
"""

# Each race is into a folder of its own: {"exit codes": [...], "winner": the model that is there}.
RACE = (
    PRELUDE
    + """
for race in range(int(sys.argv[2])):
    start, go = os.pipe()
    children = []
    for seed in range(10):
        if not (pid := os.fork()):
            os.close(go)
            os.read(start, 1)
            try:
                save_run(results[seed], f"race-{race}/run")
            except InputError as error:
                known = ("another has made it", "a run is there already")
                os._exit(2 if any(words in str(error) for words in known) else 3)
            except BaseException:
                os._exit(4)
            os._exit(0)
        children.append(pid)
    os.close(start); os.close(go)
    print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children], flush=True)
"""
)

# Kills a child that replaces one run by another for ever, again and again; each time, what is
# there: how many strays, whether a folder has the name, and which result the run is, to the bit.
KILLS = (
    PRELUDE
    + """
import json, random, time
random.seed(0)
save_run(results[0], "run")
for _ in range(int(sys.argv[2])):
    told, tell = os.pipe()
    if not (pid := os.fork()):
        os.write(tell, b"!")
        while True:
            for result in results:
                save_run(result, "run", overwrite=True)
    os.read(told, 1)
    time.sleep(random.uniform(0, 0.05))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(told); os.close(tell)
    seen = {"strays": len(os.listdir()) - os.path.exists("run"), "there": os.path.exists("run")}
    loaded = load_run("run")
    (result,) = (r for r in results if r.class_names == loaded.class_names)
    same = all((loaded.params[name] == result.params[name]).all() for name in result.params)
    print(json.dumps(seen | {"whole": bool(same and loaded.config == result.config)}), flush=True)
save_run(results[0], "run", overwrite=True)
"""
)


@pytest.fixture(params=["swaps", "moves"])
def system(request):
    """One that swaps folders in one step, and one that cannot."""
    return request.param


def _is_result(folder, make_result):
    """Which of the ten results a run is, to the bit."""
    loaded = load_run(folder)
    for seed in range(10):
        if loaded.class_names == make_result(seed).class_names:
            np.testing.assert_array_equal(
                loaded.params["kernel"], make_result(seed).params["kernel"]
            )
            assert loaded.config == make_result(seed).config
            return seed
    raise AssertionError(loaded)


def test_of_ten_writers_of_one_folder_one_wins(system, tmp_path, make_result, times, tell):
    races = times(10, 300)
    codes = _lines_of(RACE, system, races, tmp_path)
    total = collections.Counter(code for race in codes for code in race)
    tell(f"{races} races of ten writers ({system}): exit codes {dict(total)}")
    assert len(codes) == races
    for race, seen in enumerate(codes):
        assert sorted(seen) == [0] + [2] * 9
        assert _is_result(tmp_path / f"race-{race}" / "run", make_result) == seen.index(0)
        assert [path.name for path in (tmp_path / f"race-{race}").iterdir()] == ["run"]


def test_a_writer_killed_at_any_moment_leaves_a_whole_run(system, tmp_path, times, tell):
    """Old or new; and what it left beside is gone once the next has written."""
    kills = times(30, 3000)
    seen = _lines_of(KILLS, system, kills, tmp_path)
    strays = sum(record["strays"] > 0 for record in seen)
    away = sum(not record["there"] for record in seen)
    tell(
        f"{len(seen)} kills ({system}): {sum(record['whole'] for record in seen)} whole, {away} "
        f"under the name only once loaded, {strays} left something beside it"
    )
    assert [record["whole"] for record in seen] == [True] * kills
    assert max(record["strays"] for record in seen) <= 1
    assert system == "moves" or away == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def _lines_of(script, system, count, folder):
    words = [sys.executable, "-c", script, system, str(count)]
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]
