"""`fit`: checks what it is given, then loops over calls of the compiled epochs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optax
from jax.sharding import Mesh

from jax_softmax._checks import check_class_names, check_feature_scale
from jax_softmax._columns import Columns
from jax_softmax.errors import DivergedError
from jax_softmax.training import processes
from jax_softmax.training.advice import warn_of_rise, warn_of_scale
from jax_softmax.training.calls import Calls
from jax_softmax.training.checkpoints import (
    Checkpoints,
    OfFirstProcess,
    Progress,
    check_checkpoints,
    checkpoints_of,
    training_of,
)
from jax_softmax.training.config import TrainConfig
from jax_softmax.training.examples import Examples, check_features
from jax_softmax.training.labels import check_labels, check_several_classes
from jax_softmax.training.memory_run import MemoryRun
from jax_softmax.training.mesh import mesh_of
from jax_softmax.training.metrics import evaluate
from jax_softmax.training.model import FitResult, best_record, is_better
from jax_softmax.training.processes import Watchdog
from jax_softmax.training.progress import progress_shown
from jax_softmax.training.standardize import Standardizer, is_standardised
from jax_softmax.training.start import check_held, check_optimizer, check_types, starting_params
from jax_softmax.training.streamed_run import StreamedRun
from jax_softmax.training.streams import Streamed, is_stream, reader_of, sampled
from jax_softmax.training.weights import ClassWeight, refuse_weights, row_weights

# Looks at the validation examples over a run, at most: a curve needs no more points.
_LOOKS = 50


def fit(
    train: Examples | Streamed,
    config: TrainConfig | None = None,
    *,
    params: Mapping[str, Any] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    validation: Examples | Streamed | None = None,
    on_progress: Callable[[dict[str, float]], None] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    watchdog: Watchdog | None = None,
    progress: bool = False,
    sample_weight: Any = None,
    class_weight: ClassWeight | None = None,
    label_smoothing: float | None = None,
) -> FitResult:
    """Trains a softmax classifier, `softmax((features * feature_scale) @ kernel + bias)`, by SGD.

    Epochs are runs of `lax.scan` on the device, several to a compiled call where they are short.
    The examples stay there as they came (uint8 pixels, say) and are scaled inside the step. Every
    example counts in every epoch, those of the last, partial batch too. The same arguments give
    the same bits on the same devices and versions. A CPU and an accelerator, and another number of
    devices, run differently laid out programs; their results agree to rounding.

    Args:
      train: examples with `features [N, ...]`, `labels [N]` (or one-hot `[N, V]`), `class_names`
        and `feature_scale`: a `Split` of `load_dataset`, or one of your own. Labels that are
        strings, booleans or categories become the result's class names. With `standardize` it
        trains on features of mean 0 and deviation 1, and returns the parameters for features as
        they came (and takes `params` so). Or a `Stream` of examples that stay in files and are read
        a piece ahead, in the same order and to the same parameters; it wants a batch size.
      config: settings; `TrainConfig()` if None.
      params: `{"kernel": [D, V], "bias": [V]}` to start from, whose dtype is computed in; None
        starts from zeros in float32 (float64 for float64 features where JAX has x64 enabled).
      optimizer: an optax optimiser in place of the SGD that `config` describes (whose learning
        rate, momentum, weight decay and schedule are then not used). Pass the same object to
        fits that should share a compiled program. It sees the kernel as `[V, D]`.
      validation: examples to evaluate on at up to 50 epochs of the run, for the history. With
        `config.patience` at every epoch, to stop by, and the best epoch's parameters are returned.
      on_progress: called after each compiled call with the latest record of the history. Within an
        epoch of a stream too, with how many epochs are done as a fraction, and the loss so far.
      on_epoch: called with each record of the history, in order, once its compiled call is done. If
        it or `on_progress` raises KeyboardInterrupt, a checkpoint is written first.
      checkpoints: a folder to write one to every `config.checkpoint_every` epochs and at the last;
        the last two are kept. Training goes on from the newest whole one that is there, to the same
        bits as if it had not stopped; records from before are not handed to `on_epoch` again. Needs
        the extra `[checkpoint]`.
      watchdog: what to do where several processes train together (`jax.distributed.initialize()`,
        then `fit` with the same arguments in each) and one waits too long for another. The first
        process writes the checkpoints, and its own are gone on from.
      progress: shows a bar of epochs with the latest losses, on standard error or in a notebook;
        nothing is shown otherwise. Needs the extra `[train]` (tqdm).
      sample_weight: `[N]`, how much each training example counts, at least 0; None is alike. Each
        step takes the weighted mean of its examples' losses, `sum(w * loss) / sum(w)`, so a row of
        weight 2 is a row given twice, and weights of another scale are the same; the history's
        `train_loss` is such a mean over the epoch. Times the class's weight. Validation,
        `evaluate` and means and deviations of `standardize` count all examples alike. A stream
        whose labels are read with the rows takes neither of these weights.
      class_weight: in place of `config.class_weight`; None takes that.
      label_smoothing: in place of `config.label_smoothing`; None takes that.

    Returns:
      The trained parameters with their history; arrays of NumPy where several devices trained them.

    Raises:
      InputError: if an argument cannot be used, or the mesh takes more devices than there are, or
        the loss is not finite (the message names epoch and learning rate), or the checkpoints are
        of another training, or cannot be written, or several processes have different trainings,
        or an extra that was asked for is not installed.
      LostProcessError: if another process died, as far as this one is told.

    Warns:
      TrainingWarning: if the features are far from unit scale, or the loss rose over the run, or a
        checkpoint is damaged, which is passed over.

    See Also:
      `TrainConfig`; `SoftmaxClassifier` for the optimum; `evaluate`, `predict`, `save_run`.

    >>> import numpy as np
    >>> from jax_softmax import Split
    >>> split = Split(np.array([[0.0], [1.0]]), np.array([0, 1]))
    >>> result = fit(split, TrainConfig(learning_rate=1.0, batch_size=None, epochs=100))
    >>> result.params["kernel"].shape, result.history[-1]["train_loss"] < 0.2
    ((1, 2), True)
    """
    config = TrainConfig() if config is None else config
    if isinstance(config, TrainConfig):  # else it is refused below
        if class_weight is not None:
            config = dataclasses.replace(config, class_weight=class_weight)
        if label_smoothing is not None:
            config = dataclasses.replace(config, label_smoothing=label_smoothing)
    if is_standardised(train):
        scaling = processes.together(lambda: Standardizer.of(train))  # type: ignore[arg-type]
        result = fit(
            scaling.applied(train),
            config,
            params=scaling.of_standardised(params),
            optimizer=optimizer,
            validation=scaling.applied(validation),
            on_progress=on_progress,
            on_epoch=on_epoch,
            checkpoints=checkpoints,
            watchdog=watchdog,
            progress=progress,
            sample_weight=sample_weight,
        )
        return scaling.of_features(result, train)
    watched = processes.Watch(watchdog)
    checked = functools.partial(
        check_types, train, config, validation, optimizer, on_progress, on_epoch, progress
    )
    prepare = functools.partial(
        _prepared,
        checked,
        train,
        config,
        params,
        optimizer,
        validation,
        checkpoints,
        sample_weight,
    )
    with watched("the other processes to start"):
        run, features, training = processes.together(prepare)
        # A checkpoint goes on over any mesh, but processes must have the same.
        processes.check_same("training", training | {"mesh": str(config.mesh)})
    warn_of_scale(features, run.about["feature_scale"], getattr(train, "features", None))

    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(progress_shown(progress, config.epochs, on_progress))
        if isinstance(run, StreamedRun):
            run.on_piece = shown

        def tell(records: list[dict[str, float]]) -> None:
            if on_epoch is not None:
                for record in records:
                    on_epoch(dict(record))
            if shown is not None:
                shown(records[-1])

        kept = None
        if checkpoints is not None:
            with watched("the checkpoints' folder"):
                kept = stack.enter_context(checkpoints_of(checkpoints, training))
        compile_seconds, done = _train(run, validation, kept, tell, watched)
    model = run.model()
    if not all(np.isfinite(value).all() for value in map(np.asarray, model.params.values())):
        # By the last step, which comes after the last loss.
        epoch = len(done.history)
        raise _diverged("parameters became infinite or NaN", epoch, config, optimizer)
    warn_of_rise(done.history, optimizer is not None)
    if done.best is not None:
        model = run.model(done.best)
    columns = getattr(train, "columns", None)
    return FitResult(
        **vars(model),
        config=config,
        history=tuple(done.history),
        compile_seconds=compile_seconds,
        train_seconds=done.train_seconds,
        device=run.device(),
        columns=columns if isinstance(columns, Columns) else None,
    )


def _prepared(
    checked: Callable[[], None],
    train: Examples | Streamed,
    config: TrainConfig,
    params: Mapping[str, Any] | None,
    optimizer: optax.GradientTransformation | None,
    validation: Examples | Streamed | None,
    checkpoints: str | os.PathLike[str] | None,
    sample_weight: Any,
) -> tuple[MemoryRun, np.ndarray, dict[str, Any]]:
    """What one process alone makes of `fit`'s arguments, or raises.

    Returns:
      The run; the features, or a sample of them; and what `training_of` says, where it is asked.
    """
    checked()
    check_checkpoints(config, checkpoints)
    mesh = mesh_of(config.mesh)
    feature_scale = check_feature_scale(train.feature_scale)
    weighs = not is_stream(train) or train.labels is not None
    if is_stream(train):
        if not weighs:
            refuse_weights(sample_weight, config.class_weight)
        # A sample stands for all of the features where they are looked at.
        features, labels, class_names = sampled(train, config)
    else:
        class_names = check_class_names(train.class_names)
        features = check_features(train.features)
        labels, class_names = check_labels(train.labels, len(features), class_names)
        check_several_classes(labels, class_names)
    weights = None
    if weighs:
        weights = row_weights(sample_weight, config.class_weight, labels, class_names)
    start = starting_params(params, features, len(class_names))
    check_held(
        start["bias"].dtype,
        feature_scale=feature_scale,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    if optimizer is not None:
        check_optimizer(optimizer, start)
    shape = train.feature_shape if is_stream(train) else np.shape(train.features)[1:]
    about = {
        "feature_shape": shape,
        "feature_scale": feature_scale,
        "class_names": class_names,
    }
    run = _run_of(train, config, mesh, optimizer, start, features, labels, about, weights)
    training: dict[str, Any] = {}
    if checkpoints is not None or processes.count() > 1:
        training = training_of(
            config, optimizer, features, labels, about, start, validation, weights
        )
    return run, features, training


def _run_of(
    train: Examples | Streamed,
    config: TrainConfig,
    mesh: Mesh | None,
    optimizer: optax.GradientTransformation | None,
    start: dict[str, np.ndarray],
    features: np.ndarray,
    labels: np.ndarray,
    about: dict[str, Any],
    weights: np.ndarray | None,
) -> MemoryRun:
    if not is_stream(train):
        return MemoryRun(config, mesh, optimizer, start, features, labels, about, weights)
    reader = reader_of(train, labels, about["class_names"], start["kernel"].dtype)
    reader.read(train.sample())  # checked, before anything is said of it
    return StreamedRun(config, mesh, optimizer, start, reader, reader, about, weights)


def _calls(run: MemoryRun, watched: bool) -> Calls:
    config = run.config
    look_every = -(-config.epochs // _LOOKS) if watched else None
    if config.patience is not None:
        look_every = 1
    longest = min(
        run.longest_call(),
        config.epochs,
        *(n for n in (look_every, config.checkpoint_every) if n),
    )
    return Calls(config.epochs, longest, look_every, config.checkpoint_every)


def _train(
    run: MemoryRun,
    validation: Examples | Streamed | None,
    kept: Checkpoints | OfFirstProcess | None,
    tell: Callable[[list[dict[str, float]]], None],
    watched: processes.Watch,
) -> tuple[float, Progress]:
    """Runs all epochs, or those that a checkpoint leaves; seconds to compile, and what came."""
    config, calls = run.config, _calls(run, validation is not None)
    progress = Progress(run.state, run.shuffle)
    if kept is not None:
        with watched("the checkpoint to go on from"):
            found = kept.newest(run.placement.kept(progress))
        progress = progress if found is None else run.restore(found)
    history = progress.history
    best = best_record(history)

    def waited() -> bool:
        last = 0 if best is None else best["epoch"]
        return config.patience is not None and len(history) - last >= config.patience

    def keep(progress: Progress) -> None:
        if kept is not None:
            with watched(f"the checkpoint after epoch {progress.epoch}", "checkpoint"):
                kept.save(run.placement.kept(progress))

    # No epochs: compiles and no more.
    with watched("the programs"):
        compile_seconds, _ = run.advance(0, calls.longest, upcoming=calls.count_after(len(history)))
    while len(history) < config.epochs and not waited():
        first = len(history)
        count = calls.count_after(first)
        done = first + count
        what = f"the other processes in epoch {first + 1}"
        try:
            with watched(what, "epochs"):
                seconds, losses = run.advance(
                    count, calls.longest, upcoming=calls.count_after(done)
                )
        except KeyboardInterrupt:
            keep(run.interrupted(progress))
            raise
        _check_finite(losses, first, config, run.given_optimizer)
        history += [
            {"epoch": epoch, "train_loss": loss}
            for epoch, loss in enumerate(losses.tolist(), start=first + 1)
        ]
        progress.state, progress.shuffle, progress.part = run.state, run.shuffle, {}
        progress.train_seconds += seconds
        if validation is not None and calls.due(calls.look_every, done):
            with watched("the other processes at the validation"):
                seen = evaluate(run.model(), validation, mesh=config.mesh)
            history[-1].update(validation_loss=seen.loss, validation_accuracy=seen.accuracy)
            if config.patience is not None and is_better(history[-1], best):
                best, progress.best = history[-1], run.state.params
        if calls.due(calls.keep_every, done) or waited():
            keep(progress)
        try:
            tell(history[first:])
        except KeyboardInterrupt:
            keep(progress)
            raise
    return compile_seconds, progress


def _check_finite(
    losses: np.ndarray,
    first: int,
    config: TrainConfig,
    optimizer: optax.GradientTransformation | None,
) -> None:
    """Raises DivergedError unless all losses, from epoch `first` on, are finite."""
    finite = np.isfinite(losses)
    if not finite.all():
        i = int(np.argmin(finite))
        raise _diverged(f"loss became {losses[i]}", first + i + 1, config, optimizer)


def _diverged(
    what: str, epoch: int, config: TrainConfig, optimizer: optax.GradientTransformation | None
) -> DivergedError:
    remedy = (
        f"at learning rate {config.learning_rate:g}; try a smaller one, or scale the features"
        if optimizer is None
        else "with the optimizer that was passed; try a smaller step"
    )
    return DivergedError(f"the {what} in epoch {epoch} {remedy}.")
