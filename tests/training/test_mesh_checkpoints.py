"""A training goes on over other devices than it was started on, from the same checkpoints."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import optax
import pytest

from jax_softmax import Split, TrainConfig, fit
from jax_softmax.training import checkpoints

RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.arange(50) % 5)
TRAIN = Split((RNG.normal(size=(50, 4)) + LABELS[:, None]).astype(np.float32), LABELS)
SEEN = Split(TRAIN.features[:21], LABELS[:21])
CONFIG = TrainConfig(epochs=7, batch_size=8, momentum=0.9, schedule="cosine", checkpoint_every=3)
NOISY = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(7)), optax.adam(1e-2))
MESHES = (None, {"data": 4, "model": 2}, {"model": 8}, {"data": 3})
EPS = np.finfo(np.float32).eps


def train(folder, mesh, *, stop_at=None, config=CONFIG, **options):
    def on_epoch(record):
        if record["epoch"] == stop_at:
            raise KeyboardInterrupt

    config = dataclasses.replace(config, mesh=mesh)
    return fit(TRAIN, config, checkpoints=folder, on_epoch=on_epoch, **options)


def stopped(folder, mesh, **options):
    with pytest.raises(KeyboardInterrupt):
        train(folder, mesh, stop_at=3, **options)


def bits(result):
    return [np.asarray(value).tobytes() for value in result.params.values()], result.history


@pytest.mark.parametrize(
    ("mesh", "optimizer"), [(MESHES[1], NOISY), (MESHES[2], None)], ids=["noise", "momentum"]
)
def test_on_the_same_mesh_to_the_same_bits(mesh, optimizer, tmp_path):
    options = {"optimizer": optimizer, "validation": SEEN}
    never = train(tmp_path / "never", mesh, **options)
    stopped(tmp_path / "stopped", mesh, **options)
    assert bits(train(tmp_path / "stopped", mesh, **options)) == bits(never)


@pytest.mark.parametrize(
    ("there", "optimizer"),
    [*[(mesh, None) for mesh in MESHES], (MESHES[1], NOISY)],
    ids=[*map(str, MESHES), "noisy"],
)
def test_on_another_mesh_to_rounding(there, optimizer, tmp_path):
    here = MESHES[MESHES.index(there) - 1]
    never = train(tmp_path / "never", there, optimizer=optimizer)
    stopped(tmp_path / "stopped", there, optimizer=optimizer)
    gone_on = train(tmp_path / "stopped", here, optimizer=optimizer)
    assert len(gone_on.history) == CONFIG.epochs
    for name, right in never.params.items():
        off = np.abs(np.asarray(gone_on.params[name]) - np.asarray(right)).max()
        # 28 steps on other devices, a few eps each, as in test_mesh_training.py.
        assert off <= 4 * EPS * 28 * np.abs(right).max()


def test_a_checkpoint_has_whole_arrays_of_the_true_shapes(tmp_path):
    shapes = []
    for mesh in (None, {"model": 8}):
        folder = tmp_path / str(mesh)
        stopped(folder, mesh)
        arrays, _ = checkpoints._orbax_restore(folder.absolute() / "epoch-0000000003" / "orbax")
        shapes.append({name: (array.shape, array.dtype) for name, array in arrays.items()})
    assert shapes[0] == shapes[1]
    assert shapes[0]["kernel"] == ((5, 4), np.float32)


@pytest.mark.parametrize("here", MESHES[:3], ids=str)
def test_the_best_parameters_go_along(here, tmp_path):
    """Validation examples that get worse: the first epoch is the best."""
    config = dataclasses.replace(CONFIG, patience=5)
    worse = Split(SEEN.features, (SEEN.labels + 1) % 5)
    options = {"config": config, "validation": worse}
    never = train(tmp_path / "never", {"data": 4, "model": 2}, **options)
    stopped(tmp_path / "stopped", {"data": 4, "model": 2}, **options)
    gone_on = train(tmp_path / "stopped", here, **options)
    assert gone_on.best_epoch == never.best_epoch < 3
    for name, right in never.params.items():
        np.testing.assert_array_equal(gone_on.params[name], right)
