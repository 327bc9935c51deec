"""MNIST: the tutorial's second example, one-hot labels and all. 100 full-batch epochs.

python scripts/train_mnist.py [FOLDER WITH THE RAW FILES]
"""

from __future__ import annotations

import dataclasses
import sys

import numpy as np

from jax_softmax import InputError, TrainConfig, evaluate, fit, load_dataset


def main(raw_dir: str | None) -> None:
    # Load the data. Pixels stay uint8; the model scales them by 1/255.
    mnist = load_dataset("mnist", raw_dir=raw_dir)
    print(f"{len(mnist.train.labels)} images to train on, from {mnist.source}")

    # One-hot labels, as in the tutorial; integers do as well.
    one_hot = np.eye(10)[mnist.train.labels]
    train = dataclasses.replace(mnist.train, labels=one_hot)

    # Train: the tutorial's settings, then stochastic gradient descent for comparison.
    tutorial = TrainConfig(learning_rate=0.1, batch_size=None, epochs=100)
    minibatch = TrainConfig(learning_rate=0.5, batch_size=128, epochs=20, schedule="cosine")
    for name, config in {"full batch": tutorial, "batches of 128": minibatch}.items():
        result = fit(train, config)
        test = evaluate(result, mnist.test)
        print(
            f"{name}: {config.epochs} epochs in {result.train_seconds:.1f} s, "
            f"test accuracy {test.accuracy:.4f}, loss {test.loss:.4f}"
        )


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
