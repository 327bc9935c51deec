"""`--solver lbfgs` of `train`: its flags, and the model that it finds."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jax_softmax.cli.options import Lines, progress_bar, training_warnings_said
from jax_softmax.errors import InputError

if TYPE_CHECKING:
    from jax_softmax.cli.train import Train
    from jax_softmax.datasets import Split
    from jax_softmax.training import FitResult
    from jax_softmax.training.config import LbfgsConfig

LBFGS = "lbfgs"
# Flags of one solver alone, and why the other has none.
_OF_LBFGS = ("C", "tol", "max_iter")
_OF_SGD = {
    "takes no steps by mini-batches": (
        *("epochs", "batch_size", "learning_rate", "momentum", "nesterov", "schedule"),
        "weight_decay",
    ),
    "does not stop before the optimum": ("patience",),
    "writes no checkpoints": ("checkpoint_every", "resume"),
    "holds all examples in memory": ("stream", "feature_scale"),
    "runs in one process": (
        *("distributed", "coordinator", "processes", "process_id", "step_timeout"),
    ),
}


def check_solver(command: Train) -> None:
    """Raises InputError if a flag is given that the solver does not have."""
    if command.solver != LBFGS:
        for name in _OF_LBFGS:
            if getattr(command, name) is not None:
                raise InputError(
                    f"{_flag(name)}: expected --solver lbfgs to go with it; add that, or leave "
                    f"this out."
                )
        return
    for why, names in _OF_SGD.items():
        for name in names:
            value = getattr(command, name)
            if not (value is None or value is False):  # 0 is given
                more = "; --C is the inverse of its penalty" if name == "weight_decay" else ""
                raise InputError(
                    f"{_flag(name)}: expected no such flag beside --solver lbfgs, which {why}"
                    f"{more}; leave it out, or train with --solver sgd."
                )


def lbfgs_settings(command: Train, mesh: Any) -> LbfgsConfig:
    """The settings that the command's flags say."""
    from jax_softmax.training.config import LbfgsConfig

    names = (*_OF_LBFGS, "label_smoothing", "class_weight", "seed")
    given = {name: getattr(command, name) for name in names}
    return LbfgsConfig(mesh=mesh, **{k: v for k, v in given.items() if v is not None})


def solved(train: Split, config: LbfgsConfig, check_signals: Callable[[int], None]) -> FitResult:
    """The optimum, with a bar meanwhile; `check_signals` is called with the iterations so far."""
    from jax_softmax.classifier.optimum import optimum

    say = Lines()
    with training_warnings_said(), progress_bar("lbfgs", config.max_iter, "iterations") as bar:

        def on_iterations(done: int, loss: float) -> None:
            bar.n = done
            bar.update(0)
            bar.set_postfix_str(f"loss {loss:.4f}")
            say(f"iteration {done:,} of at most {config.max_iter:,}, loss {loss:.4f}")
            check_signals(done)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = optimum(train, config, on_iterations=on_iterations)
        for warning in caught:
            # By the names that the flags have.
            words = re.sub(r"\b(max_iter|tol)\b", lambda name: _flag(name[0]), str(warning.message))
            warnings.warn(words, warning.category, stacklevel=2)
    return result


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
