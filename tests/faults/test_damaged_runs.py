"""Damage to a run folder is an error in words: never another model, never a traceback."""

from __future__ import annotations

import collections
import itertools
import json
import shutil

import numpy as np
import pytest

from jax_softmax import InputError, load_run, save_run

FILES = ("model.safetensors", "config.json", "history.jsonl", "metrics.json")


def flip_a_bit(data, rng):
    at = int(rng.integers(len(data)))
    return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]


def flip_a_late_bit(data, rng):
    """Where a model has its numbers."""
    start = len(data) * 9 // 10
    return data[:start] + flip_a_bit(data[start:], rng)


def cut(data, rng):
    return data[: int(rng.integers(len(data)))]


def lengthen(data, rng):
    return data + rng.bytes(int(rng.integers(1, 40)))


def blank(data, rng):
    at = int(rng.integers(len(data)))
    size = int(rng.integers(1, 64))
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def swap_bytes(data, rng):
    i, j = sorted(int(at) for at in rng.integers(len(data), size=2))
    return data[:i] + data[j : j + 1] + data[i + 1 : j] + data[i : i + 1] + data[j + 1 :]


def another_digit(data, rng):
    """Another setting, another length, another number: what a hand would change."""
    places = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    at = int(rng.choice(places))
    return data[:at] + b"%d" % ((data[at] - 47) % 10) + data[at + 1 :]


def a_line_less(data, rng):
    lines = data.splitlines(keepends=True)
    del lines[int(rng.integers(len(lines)))]
    return b"".join(lines)


def nested(data, rng):
    return b"[" * int(rng.integers(1, 200_000))


def nothing(data, rng):
    return b""


DAMAGES = (
    flip_a_bit,
    flip_a_late_bit,
    cut,
    lengthen,
    blank,
    swap_bytes,
    another_digit,
    a_line_less,
    nested,
    nothing,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_result):
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("mine", 0), ("other", 1)):
        save_run(make_result(seed), folder / name, metrics={"dataset": "iris", "test_loss": 0.25})
    return folder


def outcome(folder):
    """What loading gives: the error in words, a model all the same, or a traceback."""
    try:
        load_run(folder)
    except InputError as error:
        return "error in words" if str(folder) in str(error) else "error that does not say where"
    except Exception as error:
        return f"traceback: {type(error).__name__}"
    return "SILENTLY LOADED"


def test_damage_is_an_error(runs, tmp_path, times, tell):
    rng = np.random.default_rng(0)
    run = shutil.copytree(runs / "mine", tmp_path / "run")
    good = {name: (run / name).read_bytes() for name in FILES}
    found, wrong = collections.Counter(), collections.Counter()
    kinds = itertools.cycle(itertools.product(DAMAGES, FILES))
    while found.total() < times(500, 20_000):
        damage, name = next(kinds)
        damaged = damage(good[name], rng)
        if damaged == good[name]:
            continue
        (run / name).write_bytes(damaged)
        seen = outcome(run)
        found[seen] += 1
        wrong[damage.__name__, name, seen] += seen != "error in words"
        (run / name).write_bytes(good[name])
    tell(f"{found.total()} damages: {dict(found)}")
    assert found.keys() == {"error in words"}, +wrong
    assert load_run(run).history == load_run(runs / "mine").history


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_run_is_an_error(name, runs, tmp_path):
    run = shutil.copytree(runs / "mine", tmp_path / "run")
    shutil.copy(runs / "other" / name, run / name)
    with pytest.raises(InputError, match=r"metrics.json|config.json|history.jsonl"):
        load_run(run)


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
@pytest.mark.parametrize("key", ["epochs", "learning_rate", "train_seconds", "test_loss", "device"])
def test_an_altered_value_is_an_error(name, key, runs, tmp_path):
    run = shutil.copytree(runs / "mine", tmp_path / "run")
    said = json.loads((run / name).read_text())
    said[key] = 7
    (run / name).write_text(json.dumps(said, indent=2) + "\n")
    with pytest.raises(InputError, match=f"{name}: is damaged"):
        load_run(run)
