"""Damage to checkpoints is an older state with a warning, or an error: never another state."""

from __future__ import annotations

import collections
import json
import shutil
import warnings

import jax
import numpy as np
import pytest

from jax_softmax import InputError, Split, TrainConfig, fit
from jax_softmax.errors import TrainingWarning
from jax_softmax.training import unfinished
from jax_softmax.training.checkpoints import Checkpoints, open_checkpoints
from jax_softmax.training.runs import check_run_dir
from tests.faults.test_damaged_runs import DAMAGES

RNG = np.random.default_rng(1)
TRAIN = Split(RNG.normal(size=(40, 6)), RNG.integers(0, 3, 40))
CONFIG = TrainConfig(epochs=20, batch_size=8, momentum=0.5, checkpoint_every=5)
OLD, NEW = "epoch-0000000015", "epoch-0000000020"


def removed(data, rng):
    return None


class Kept:
    """The checkpoints of a training, what they restore to, and a way to read them again."""

    def __init__(self, folder):
        self.folder = folder
        with pytest.MonkeyPatch.context() as monkeypatch:
            seen = []
            newest = Checkpoints.newest
            monkeypatch.setattr(
                Checkpoints, "newest", lambda s, like: seen.append((s, like)) or newest(s, like)
            )
            fit(TRAIN, CONFIG, checkpoints=folder)
        ((opened, self.like),) = seen
        self.training = opened._training
        self.files = [path for path in folder.rglob("*/*") if path.is_file()]
        self.states = {NEW: self.state()}
        hidden = (folder / NEW).rename(folder / "hidden")
        self.states[OLD] = self.state()
        hidden.rename(folder / NEW)

    def state(self):
        """Every number of what is restored, or None."""
        with open_checkpoints(self.folder, self.training) as opened:
            found = opened.newest(self.like)
        if found is None:
            return None
        leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found.state)]
        return leaves, json.dumps([found.shuffle, found.history, found.train_seconds])

    def outcome(self, damaged):
        """What reading gives in one word, where checkpoints of these names are damaged."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                state = self.state()
            except InputError as error:
                return "error in words" if any(n in str(error) for n in damaged) else "no words"
            except Exception as error:
                return f"traceback: {type(error).__name__}"
        said = [str(w.message) for w in caught if issubclass(w.category, TrainingWarning)]
        said_of = {name for name in (OLD, NEW) if any(name in words for words in said)}
        if state == self.states[NEW] and not said:
            return "the newest, silently"
        if state == self.states[OLD] and said_of == {NEW}:
            return "older state with a warning"
        return "SILENTLY WRONG"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    kept = Kept(tmp_path_factory.mktemp("kept"))
    assert kept.states[OLD] != kept.states[NEW] and None not in kept.states.values()
    assert kept.outcome([]) == "the newest, silently"
    return kept


def test_damage_is_an_older_state_with_a_warning(kept, times, tell):
    rng = np.random.default_rng(0)
    found, wrong = collections.Counter(), collections.Counter()
    damages = (*DAMAGES, removed)
    while found.total() < times(200, 5000):
        path = kept.files[int(rng.integers(len(kept.files)))]
        damage = damages[int(rng.integers(len(damages)))]
        good = path.read_bytes()
        changed = damage(good, rng) if good else b"x"
        if changed == good:
            continue
        path.unlink() if changed is None else path.write_bytes(changed)
        newer = NEW in path.parts
        seen = kept.outcome([NEW if newer else OLD])
        path.write_bytes(good)
        found[f"{'newest' if newer else 'older'} damaged: {seen}"] += 1
        fine = "older state with a warning" if newer else "the newest, silently"
        wrong[damage.__name__, path.name, seen] += seen != fine
    tell(f"{found.total()} damages to checkpoints: {dict(found)}")
    assert not +wrong
    assert kept.outcome([]) == "the newest, silently"


def test_damage_to_both_is_said_of_both(kept, tmp_path):
    copy = shutil.copytree(kept.folder, tmp_path / "copy")
    for name in (OLD, NEW):
        (copy / name / "orbax" / "about" / "metadata").write_bytes(b"{}")
    with (
        open_checkpoints(copy, kept.training) as opened,
        pytest.warns(TrainingWarning, match="is damaged") as seen,
    ):
        assert opened.newest(kept.like) is None
    assert len(seen) == 2


def test_damage_to_what_a_training_says_of_itself_is_an_error(tmp_path, times, tell):
    place = check_run_dir(tmp_path / "run", overwrite=False)
    with unfinished.started(place, CONFIG, {"dataset": "iris", "source": "here"}) as kept:
        path = kept.folder / "training.json"
    good, rng, found = path.read_bytes(), np.random.default_rng(0), collections.Counter()
    while found.total() < times(300, 10_000):
        damage = DAMAGES[int(rng.integers(len(DAMAGES)))]
        changed = damage(good, rng)
        if changed == good:
            continue
        path.write_bytes(changed)
        try:
            with unfinished.found(place.path) as there:
                found[f"SILENTLY {there}"] += 1
        except InputError as error:
            found["error in words" if "training.json" in str(error) else "no words"] += 1
        except Exception as error:
            found[f"traceback: {type(error).__name__}"] += 1
    path.write_bytes(good)
    with unfinished.found(place.path) as there:
        assert there is not None and there.config == CONFIG
    tell(f"{found.total()} damages to training.json: {dict(found)}")
    assert found.keys() == {"error in words"}
