"""What a training run is asked to do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

import numpy as np

from jax_softmax._checks import is_finite, is_integer, require
from jax_softmax.training.mesh import MeshShape, mesh_shape
from jax_softmax.training.weights import ClassWeight, check_class_weight

Schedule = Literal["constant", "cosine", "warmup-cosine"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of `fit`, checked when they are made.

    Attributes:
      learning_rate: the step size of SGD, at its peak where the schedule varies.
      batch_size: examples to a step; None is all of them (full batch, no shuffling).
      epochs: passes over the training examples.
      momentum: in [0, 1); 0 is plain SGD.
      nesterov: Nesterov's momentum instead of the heavy ball's.
      weight_decay: `weight_decay * kernel` is added to the kernel's gradient, and nothing to the
        bias's (an L2 penalty of `weight_decay / 2 * sum(kernel ** 2)`).
      schedule: `"constant"`, `"cosine"` (to 0 over the run) or `"warmup-cosine"` (a linear rise
        over the first tenth of the steps, then cosine).
      seed: fixes the order of the examples.
      checkpoint_every: epochs from one checkpoint to the next, which `fit` writes to the folder
        `checkpoints`; None writes none.
      patience: epochs without a smaller validation loss after which training stops; the parameters
        of the smallest are kept. None trains for all epochs.
      mesh: the devices to train on, `{"data": 4, "model": 2}`, say: the examples of each step are
        spread over the axis `data`, the classes over `model`; an axis that is left out has size 1.
        Kept as a `MeshShape`. None is all devices, on `data`. The result is the same to rounding.
      label_smoothing: the share, in [0, 1], of each label that is spread over all classes.
      class_weight: what each row's weight is multiplied by: weights by class name (of integers
        without names, by the integer; 1 where a class is not named), or one a class in their
        order, or `"balanced"` for the inverse of how often each class occurs, by which all classes
        weigh the same. None is 1 for all. As in scikit-learn and `SoftmaxClassifier`; with label
        smoothing PyTorch's `weight` weighs the shares of the other classes too, which this does
        not.

    Raises:
      InputError: if a value is out of its range; the message says which and how.

    See Also:
      `fit`; `SoftmaxClassifier` for the optimum instead of SGD.

    Source: the cosine schedule, Loshchilov and Hutter, arXiv:1608.03983; momentum, Sutskever et
    al. (ICML 2013).

    >>> TrainConfig(learning_rate=0.1, batch_size=None, epochs=1000).momentum
    0.0
    """

    turn: ClassVar[str] = "epoch"

    learning_rate: float = 0.1
    batch_size: int | None = 128
    epochs: int = 10
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    seed: int = 0
    checkpoint_every: int | None = None
    patience: int | None = None
    mesh: Mapping[str, int] | MeshShape | None = None
    label_smoothing: float = 0.0
    # Not hashed, for a dict has no hash.
    class_weight: ClassWeight | None = dataclasses.field(default=None, hash=False)

    @property
    def words(self) -> str:
        """The settings that matter most, in a line.

        >>> TrainConfig(learning_rate=0.1, batch_size=None, epochs=1000, momentum=0.9).words
        '1,000 epochs, full batch, learning rate 0.1 (constant), momentum 0.9'
        """
        epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs:,} epochs"
        batch = "full batch" if self.batch_size is None else f"batches of {self.batch_size}"
        said = [epochs, batch, f"learning rate {self.learning_rate:g} ({self.schedule})"]
        if self.momentum:
            said.append(f"{'Nesterov ' if self.nesterov else ''}momentum {self.momentum:g}")
        if self.weight_decay:
            said.append(f"weight decay {self.weight_decay:g}")
        if self.label_smoothing:
            said.append(f"label smoothing {self.label_smoothing:g}")
        if self.class_weight is not None:
            balanced = isinstance(self.class_weight, str)
            said.append("balanced classes" if balanced else "weighted classes")
        return ", ".join(said)

    def __post_init__(self) -> None:
        require(
            is_finite(self.learning_rate) and self.learning_rate > 0,
            "learning rate: expected a positive, finite number",
            self.learning_rate,
        )
        require(
            self.batch_size is None or (is_integer(self.batch_size) and self.batch_size >= 1),
            "batch size: expected an integer of at least 1, or None for the full batch",
            self.batch_size,
        )
        require(
            is_integer(self.epochs) and self.epochs >= 1,
            "epochs: expected an integer of at least 1",
            self.epochs,
        )
        require(self.epochs < 2**31, "epochs: expected fewer than 2**31", self.epochs)
        require(
            is_finite(self.momentum) and 0 <= self.momentum < 1,
            "momentum: expected a number in [0, 1)",
            self.momentum,
        )
        require(
            isinstance(self.nesterov, (bool, np.bool_)),
            "nesterov: expected True or False",
            self.nesterov,
        )
        require(
            self.momentum > 0 or not self.nesterov,
            "nesterov: expected a momentum above 0 to go with it",
            self.momentum,
        )
        require(
            is_finite(self.weight_decay) and self.weight_decay >= 0,
            "weight decay: expected a finite number of at least 0",
            self.weight_decay,
        )
        schedules = get_args(Schedule)
        require(
            isinstance(self.schedule, str) and self.schedule in schedules,
            f"schedule: expected one of {schedules}",
            self.schedule,
        )
        require(
            is_integer(self.seed) and 0 <= self.seed < 2**32,
            "seed: expected an integer in [0, 2**32)",
            self.seed,
        )
        for name in ("checkpoint_every", "patience"):
            value = getattr(self, name)
            require(
                value is None or (is_integer(value) and 1 <= value < 2**31),
                f"{name.replace('_', ' ')}: expected a number of epochs, at least 1, or None",
                value,
            )
        require(
            is_finite(self.label_smoothing) and 0 <= self.label_smoothing <= 1,
            "label smoothing: expected a number in [0, 1]",
            self.label_smoothing,
        )
        object.__setattr__(self, "mesh", mesh_shape(self.mesh))
        object.__setattr__(self, "class_weight", check_class_weight(self.class_weight))
        # As Python's own: JSON does not know NumPy's numbers, JAX no integers beyond 32 bits.
        for name, value in vars(self).items():
            if value is not None and name not in ("mesh", "class_weight"):
                default = getattr(TrainConfig, name)
                kind = int if default is None else type(default)
                object.__setattr__(self, name, kind(value))


@dataclasses.dataclass(frozen=True)
class LbfgsConfig:
    """Settings of a model that is the optimum of its objective (`SoftmaxClassifier`'s).

    Attributes:
      C: the inverse of the penalty's strength, above 0; infinite for none.
      tol: it is reached where no element of the gradient is larger.
      max_iter: the most iterations.
      label_smoothing: the share, in [0, 1), of each label that is spread over all classes.
      class_weight: None, or `"balanced"`, by which all classes weigh the same.
      seed: of the split that the examples are of.
      mesh: as of `TrainConfig`.
      solver: by which the model was found.

    Raises:
      InputError: if a value is out of its range; the message says which and how.
    """

    turn: ClassVar[str] = "iteration"
    # As of a `TrainConfig`, of one that never stops by validation examples.
    patience: ClassVar[None] = None

    C: float = 1.0
    tol: float = 1e-4
    max_iter: int = 1000
    label_smoothing: float = 0.0
    class_weight: Literal["balanced"] | None = None
    seed: int = 0
    mesh: Mapping[str, int] | MeshShape | None = None
    solver: Literal["lbfgs"] = "lbfgs"

    @property
    def words(self) -> str:
        """The settings that matter most, in a line.

        >>> LbfgsConfig(C=0.5).words
        'to the optimum by lbfgs, C 0.5, tol 0.0001'
        """
        said = ["to the optimum by lbfgs", f"C {self.C:g}", f"tol {self.tol:g}"]
        if self.label_smoothing:
            said.append(f"label smoothing {self.label_smoothing:g}")
        if self.class_weight is not None:
            said.append("balanced classes")
        return ", ".join(said)

    def __post_init__(self) -> None:
        infinite = isinstance(self.C, float) and math.isinf(self.C)
        require(
            (infinite or is_finite(self.C)) and self.C > 0,
            "C: expected a number above 0, inf for no penalty",
            self.C,
        )
        require(
            is_finite(self.tol) and self.tol >= 0, "tol: expected a number of at least 0", self.tol
        )
        require(
            is_integer(self.max_iter) and 1 <= self.max_iter < 2**31,
            "max iter: expected an integer of at least 1",
            self.max_iter,
        )
        require(
            is_finite(self.label_smoothing) and 0 <= self.label_smoothing < 1,
            "label smoothing: expected a number in [0, 1)",
            self.label_smoothing,
        )
        require(
            self.class_weight in (None, "balanced"),
            "class_weight: expected 'balanced' or None",
            self.class_weight,
        )
        require(
            is_integer(self.seed) and 0 <= self.seed < 2**32,
            "seed: expected an integer in [0, 2**32)",
            self.seed,
        )
        require(self.solver == "lbfgs", "solver: expected 'lbfgs'", self.solver)
        object.__setattr__(self, "mesh", mesh_shape(self.mesh))
        for name in ("C", "tol", "max_iter", "label_smoothing", "seed"):  # as Python's own
            kind = type(getattr(LbfgsConfig, name))
            object.__setattr__(self, name, kind(getattr(self, name)))
