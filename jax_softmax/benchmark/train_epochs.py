"""The time of an epoch, in batches of one size."""

from __future__ import annotations

import functools

from jax_softmax.benchmark import peers
from jax_softmax.benchmark.cases import Case, Contender, Prepared
from jax_softmax.benchmark.compare import PARAMS_BOUND, params_error
from jax_softmax.benchmark.results import OURS, Record
from jax_softmax.benchmark.time_to_accuracy import COMPILE
from jax_softmax.benchmark.train_task import Trained, TrainTask
from jax_softmax.benchmark.trainers import (
    NUMPY,
    NUMPY_FLOAT64,
    OPTAX,
    SKLEARN,
    TORCH,
    TRAINERS,
)


def epoch_case(name: str, task: TrainTask, epochs: int, accuracy_bound: float) -> Case:
    """An epoch, timed as so many to a call, from zeros and with the data in place.

    Full batches have one right answer, the parameters; batches come in each trainer's own order, so
    that the test accuracy is compared.
    """
    full_batch = task.batch_size is None
    reference = NUMPY_FLOAT64 if full_batch else NUMPY
    numpy = TRAINERS[reference](task)
    right = numpy.train(epochs)
    right_accuracy = right.accuracy(task)

    def error(found: Trained) -> float:
        if full_batch:
            return params_error((found.kernel, found.bias), (right.kernel, right.bias))
        return abs(found.accuracy(task) - right_accuracy)

    after = f"after {epochs} epoch{'s' * (epochs > 1)}"
    about = Record(
        suite="train",
        case=f"{name} epoch, {task.batches}",
        contender="",
        rows=len(task.labels),
        classes=task.classes,
        dtype="float32",
        batch_size=task.batch_size or len(task.labels),
        epochs=epochs,
        ratio_to=OPTAX,
        error_bound=PARAMS_BOUND if full_batch else accuracy_bound,
        compared_with=(
            f"NumPy in float64, parameters {after}, over the largest"
            if full_batch
            else f"NumPy's test accuracy {after} in another order, the difference"
        ),
    )

    def prepare(name: str) -> Prepared:
        if name == TORCH:
            peers.import_torch()
        trainer = numpy if name == reference else TRAINERS[name](task)
        compile_seconds = trainer.train(epochs).compile_seconds if name in COMPILE else None
        return Prepared(
            functools.partial(trainer.train, epochs),
            error,
            compile_seconds,
            share=epochs,
            note=trainer.note,
            dtype="float64" if name == NUMPY_FLOAT64 else None,
        )

    without = {SKLEARN}  # whose steps are not epochs
    if not full_batch:
        without.add(NUMPY_FLOAT64)
    names = [name for name in TRAINERS if name not in without]
    return Case(
        about, [Contender(name, functools.partial(prepare, name), name == OURS) for name in names]
    )
