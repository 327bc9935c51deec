"""One of several processes that train together: `python -m tests.processes.rank FOLDER PORT N I`.

Prints a line of JSON: what came of each step. All processes take the same steps.
"""

import contextlib
import hashlib
import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax

from jax_softmax import InputError, Split, TrainConfig, evaluate, fit, predict, predict_proba
from jax_softmax.datasets import stream_npy
from jax_softmax.errors import LostProcessError
from jax_softmax.training import processes

SETTINGS = {"batch_size": 100, "momentum": 0.9, "schedule": "cosine"}


def split_of(examples=1003, width=20, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.integers(0, 255, (examples, width)).astype(np.uint8)
    labels = rng.integers(0, classes, examples).astype(np.int32)
    labels[:classes] = np.arange(classes)
    return Split(features, labels, feature_scale=1 / 255)


def said(result, split, mesh=None):
    kernel = np.asarray(result.params["kernel"])
    found = evaluate(result, split, mesh=mesh)
    few = split_of().features[:9]
    probabilities = predict_proba(result, few, mesh=mesh)
    return {
        "bits": hashlib.sha256(kernel.tobytes()).hexdigest(),
        "kernel": kernel.ravel()[:8].tolist(),
        "losses": [record["train_loss"] for record in result.history],
        "evaluated": [found.loss, found.accuracy],
        "predicted": predict(result, few, mesh=mesh).tolist(),
        "sums": probabilities.sum(1).tolist(),
    }


def refused(f):
    try:
        f()
    except (InputError, LostProcessError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def different(index):
    """What the processes cannot agree on."""
    mine = split_of(64, seed=index)

    def only_here():
        if index == 1:
            raise InputError("no such file here.")
        return index

    def of_first():
        raise processes.CheckpointError("the disk is full.")

    def a_bug():
        if index in (0, 1):
            raise TypeError("a bug.")

    not_finite = Split(np.full((64, 3), np.nan if index == 1 else 1.0), np.arange(64) % 2)
    meshes = [{"data": 4}, {"data": 2, "model": 2}]
    return {
        "mesh": refused(lambda: fit(split_of(64), TrainConfig(mesh=meshes[index % 2]))),
        "features": refused(lambda: fit(not_finite)),
        "bug": refused(lambda: processes.together(a_bug)),
        "bug of first": refused(lambda: processes.told_by_first(a_bug)),
        "data": refused(lambda: fit(mine, TrainConfig(epochs=1, batch_size=8))),
        "settings": refused(lambda: fit(split_of(64), TrainConfig(epochs=1, seed=index))),
        "one": refused(lambda: processes.together(only_here)),
        "first": refused(lambda: processes.told_by_first(of_first)),
        "told": processes.told_by_first(lambda: {"index": index, "words": "ä" * 300}),
        "largest": processes.largest_of(10 * index),
        "arrays": {
            name: [array.dtype.name, array.tolist()]
            for name, array in processes.arrays_of_first(
                {"a": np.arange(3) + 2**40, "b": np.float32([[0.5]])} if index == 0 else None
            ).items()
        },
        "few": refused(lambda: fit(split_of(64), TrainConfig(mesh={"data": 1}))),
    }


def keys(folder):
    """The same, of an optimiser whose state has a key, before and after its checkpoint is read."""

    def update(gradients, key, _params=None):
        noise = 1 + jax.random.uniform(key)
        updates = jax.tree.map(lambda x: -0.1 * noise * x, gradients)
        return updates, jax.random.split(key)[0]

    optimizer = optax.GradientTransformation(lambda _params: jax.random.key(1), update)

    def bits(epochs):
        config = TrainConfig(epochs=2, checkpoint_every=1)

        def stop(record):
            if record["epoch"] == epochs:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            found = fit(
                split_of(), config, optimizer=optimizer, checkpoints=folder / "kept", on_epoch=stop
            )
            return np.asarray(found.params["kernel"]).ravel()[:8].tolist()

    whole = fit(split_of(), TrainConfig(epochs=2), optimizer=optimizer)
    bits(1)
    return np.asarray(whole.params["kernel"]).ravel()[:8].tolist(), bits(None)


def main(folder, index):
    split = split_of()
    stream = stream_npy(folder / "features.npy", folder / "labels.npy", feature_scale=1 / 255)
    config = TrainConfig(epochs=4, **SETTINGS)
    kept = TrainConfig(epochs=4, checkpoint_every=1, **SETTINGS)
    over_classes = {"data": 2, "model": 2}
    by_classes = TrainConfig(epochs=4, mesh=over_classes, **SETTINGS)
    return {
        "devices": jax.device_count(),
        "memory": said(fit(split, config), split),
        "full": said(fit(split, TrainConfig(epochs=4, batch_size=None)), split),
        "stream": said(fit(stream, config), stream),
        "classes": said(fit(split, by_classes), split, over_classes),
        "kept": said(fit(split, kept, checkpoints=folder / "kept"), split),
        "keys": keys(folder / "keys" / str(jax.process_count())),
        "different": different(index),
    }


if __name__ == "__main__":
    folder, port, count, index = Path(sys.argv[1]), *map(int, sys.argv[2:])
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    sys.stdout.write(json.dumps(main(folder, index)) + "\n")
