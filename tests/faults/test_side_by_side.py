"""Trainings in threads of one process, and the same training again and again."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jax_softmax import Split, TrainConfig, evaluate, fit, load_run, predict, save_run
from jax_softmax.training import programs

THREADS = 16


def table(seed):
    """Every seed has its own shape, so its own programs."""
    rng = np.random.default_rng(seed)
    labels = np.arange(20 + seed) % 3
    features = rng.normal(size=(len(labels), 2 + seed)) + labels[:, None]
    return Split(features, labels, class_names=("a", "b", "c"))


def train(seed, folder):
    """The bytes of a run and what it predicts."""
    split = table(seed)
    result = fit(split, TrainConfig(epochs=5, batch_size=7, seed=seed), validation=split)
    run = save_run(result, folder / f"run {seed}", evaluation=evaluate(result, split))
    model = (run / "model.safetensors").read_bytes()
    return model, predict(load_run(run), split.features).tolist()


def test_threads_train_what_one_does(tmp_path, times, tell, monkeypatch):
    monkeypatch.setattr(programs, "MOST", 8)  # they drop each other's programs
    seeds = range(times(THREADS // 2, 10 * THREADS))
    alone = [train(seed, tmp_path / "alone") for seed in seeds]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda seed: train(seed, tmp_path / "together"), seeds))
    same = sum(a == b for a, b in zip(alone, together, strict=True))
    tell(f"{THREADS} threads, {len(seeds)} trainings: {same} the same as alone")
    assert same == len(seeds)


def test_one_seed_gives_one_run(tmp_path, times, tell):
    runs = times(5, 20)
    found = {hashlib.sha256(train(3, tmp_path / f"{i}")[0]).hexdigest() for i in range(runs)}
    tell(f"{runs} trainings of one seed: {len(found)} model")
    assert len(found) == 1
