"""The error of things a person handed over that cannot be used, and the warning of training."""

from __future__ import annotations


class InputError(ValueError):
    """Data, a file, a folder or a setting that cannot be used as it is.

    The message says what was expected, what came and what to do about it. The commands print it
    and leave with exit code 2; from Python it is a `ValueError` like any other.

    See Also:
      `TrainConfig` and `Split`, which raise it when they are made.

    >>> from jax_softmax import TrainConfig
    >>> try:
    ...     TrainConfig(epochs=0)
    ... except InputError as error:
    ...     print(error)
    epochs: expected an integer of at least 1, got 0.
    """


class TrainingWarning(UserWarning):
    """Training went on, but hardly well: features far from unit scale, or a loss that rose.

    `warnings.simplefilter("error", TrainingWarning)` makes an error of it.
    """


class DivergedError(InputError):
    """A training whose loss or parameters are not finite any more."""


class CheckpointError(InputError):
    """A checkpoint cannot be written, or used as it is; those written before stay."""


class LostProcessError(RuntimeError):
    """Another process of a training over several has died, or cannot be reached."""
