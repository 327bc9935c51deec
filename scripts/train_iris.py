"""Iris: the tutorial's first example. Full-batch gradient descent on 120 flowers.

python scripts/train_iris.py
"""

from __future__ import annotations

import sys

from jax_softmax import InputError, TrainConfig, evaluate, fit, load_dataset


def main() -> None:
    # Load and split the data: 80 % to train on, 20 % to test on.
    iris = load_dataset("iris", seed=42)
    print(f"{len(iris.train.labels)} flowers to train on, from {iris.source}")

    # Train: 1000 steps on all examples at once, in one compiled program.
    config = TrainConfig(learning_rate=0.1, batch_size=None, epochs=1000)
    result = fit(iris.train, config)
    for record in result.history[::100]:
        print(f"epoch {record['epoch']:4}  loss {record['train_loss']:.4f}")

    # Evaluate.
    test = evaluate(result, iris.test)
    print(f"test accuracy {test.accuracy:.4f}, loss {test.loss:.4f}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
