"""Softmax regression in scikit-learn's words."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, check_random_state

from jax_softmax.classifier import inputs, sgd
from jax_softmax.classifier.objective import Problem, Spread, dot
from jax_softmax.classifier.parameters import check_parameters
from jax_softmax.classifier.progress import progress
from jax_softmax.classifier.rows import check_batch
from jax_softmax.classifier.solve import minimise
from jax_softmax.errors import DivergedError
from jax_softmax.training.mesh import MODEL, alone_on, mesh_of, place

_NOT_BALANCED = (
    "class_weight: expected weights by class in partial_fit, which sees a part of the rows, got "
    "'balanced'; compute them from all labels with sklearn.utils.compute_class_weight."
)


def _trains_by_steps(estimator: SoftmaxClassifier) -> bool:
    if estimator.solver != "sgd":
        raise AttributeError(
            f"partial_fit is of solver='sgd' alone, got solver={estimator.solver!r}."
        )
    return True


class SoftmaxClassifier(ClassifierMixin, BaseEstimator):
    """Softmax (multinomial logistic) regression, as scikit-learn's LogisticRegression.

    Minimises, over coefficients `[K, D]` and intercepts `[K]`, the weighted mean of the rows'
    cross-entropies plus `((1 - l1_ratio) |coef|^2 / 2 + l1_ratio |coef|_1) / (C sum(weights))`,
    which is scikit-learn's objective; so are the words, and for two classes the shapes.
    Computes on JAX's default device, in the features' float32 or float64, without switching
    64-bit numbers on elsewhere.

    Args:
      C: the inverse of the penalty's strength, above 0; `np.inf` for none.
      l1_ratio: the share of absolute values in the penalty, from 0 to 1. Above 0 the solver is a
        proximal one.
      solver: "lbfgs", or "sgd" for mini-batches, which `partial_fit` needs.
      fit_intercept: whether there are intercepts.
      class_weight: weights by class, or "balanced" for the inverse of their frequencies.
      tol: "lbfgs" stops where no element of the gradient is larger; "sgd" where the loss has not
        fallen by more for `n_iter_no_change` epochs.
      max_iter: the most iterations, or epochs.
      learning_rate: of "sgd".
      batch_size: of "sgd", rows to a step.
      momentum: of "sgd".
      label_smoothing: the share of each label that is spread over all classes.
      early_stopping: whether "sgd" sets rows aside, stops by its accuracy on them, and keeps the
        best coefficients.
      validation_fraction: the share of rows set aside.
      n_iter_no_change: epochs without progress at which "sgd" stops.
      average: whether "sgd" gives the mean of the coefficients after each step, or from which row
        on, counted over all epochs.
      warm_start: whether `fit` begins at the last coefficients.
      random_state: of the order of rows, and of those set aside.
      mesh: devices for "lbfgs" to spread rows (`data`) and classes (`model`) over, such as
        `{"data": 4, "model": 2}`; None for one.
      verbose: whether to show progress; or a function that is called with how many iterations or
        epochs are done, and the loss.

    Attributes:
      classes_: `[K]`, the labels.
      coef_: `[K, D]`; `[1, D]` for two classes, of the second.
      intercept_: `[K]`, or `[1]`.
      n_iter_: `[1]`, iterations or epochs.
      loss_curve_: the objective after each of them ("sgd": without the penalty, a mean over the
        epoch's steps).
      n_features_in_: the number D.
      feature_names_in_: the columns' names, if the features had some.

    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 4.4. The solvers'
    sources are where they are.

    See Also:
      `SoftmaxClassifierCV`, which chooses `C`; `fit` for SGD on large data.

    >>> import numpy as np
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> model = SoftmaxClassifier(C=10.0).fit(X, ["low", "low", "high", "high"])
    >>> model.predict([[0.2], [2.9]])
    array(['low', 'high'], dtype='<U4')
    >>> model.coef_.shape, model.predict_proba([[1.5]]).round(3)
    ((1, 1), array([[0.5, 0.5]]))
    """

    # Where "sgd" is, for `partial_fit` to go on from.
    _steps: sgd.State

    def __init__(
        self,
        *,
        C: float = 1.0,  # noqa: N803 - scikit-learn's name
        l1_ratio: float = 0.0,
        solver: Literal["lbfgs", "sgd"] = "lbfgs",
        fit_intercept: bool = True,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        tol: float = 1e-4,
        max_iter: int = 100,
        learning_rate: float = 0.01,
        batch_size: int = 32,
        momentum: float = 0.9,
        label_smoothing: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        average: bool | int = False,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        mesh: Mapping[str, int] | None = None,
        verbose: bool | int | Callable[[int, float], None] = False,
    ) -> None:
        self.C = C
        self.l1_ratio = l1_ratio
        self.solver = solver
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.momentum = momentum
        self.label_smoothing = label_smoothing
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.average = average
        self.warm_start = warm_start
        self.random_state = random_state
        self.mesh = mesh
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SoftmaxClassifier:  # noqa: N803
        """Fits the coefficients.

        Args:
          X: `[N, D]` numbers: an array, a pandas or polars frame, a SciPy sparse matrix (made dense
            a block of rows at a time), or a JAX array, which is used where it is.
          y: `[N]` labels: integers, strings or booleans.
          sample_weight: `[N]` weights of rows, at least 0.

        Returns:
          The estimator.

        Raises:
          ValueError: if an argument is not one of those, and says which.

        Warns:
          ConvergenceWarning: if `max_iter` iterations did not reach `tol`, or steps of "sgd" led
            uphill.
        """
        check_parameters(self)
        features = inputs.checked_features(self, X, reset=True)
        labels = inputs.checked_labels(y, features)
        warm_start = self.warm_start and hasattr(self, "coef_")
        before = getattr(self, "classes_", None) if warm_start else None
        self.__dict__.pop("_steps", None)  # of another fit
        self.classes_, indices = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"This solver needs samples of at least 2 classes in the data, but the data "
                f"contains only one class: {self.classes_[0]!r}"
            )
        weights = self._weights(sample_weight, features, labels, indices)
        warm = before is not None and np.array_equal(before, self.classes_)
        start = self._start(features, warm)
        self.__dict__.pop("coef_", None)  # a fit that fails leaves none of other classes
        if self.solver == "lbfgs":
            self._minimise(features, indices, weights, start)
        else:
            self._descend(features, indices, weights, start)
        return self

    @available_if(_trains_by_steps)
    def partial_fit(
        self,
        X: Any,  # noqa: N803 - scikit-learn's name
        y: Any,
        classes: Any = None,
        sample_weight: Any = None,
    ) -> SoftmaxClassifier:
        """Trains on these rows for one epoch, from where the last call ended.

        The penalty is divided by the sum of these rows' weights alone: for parts of a whole, `C`
        is that of the whole times the number of parts.

        Args:
          X: as in `fit`.
          y: as in `fit`.
          classes: all labels that there will be; needed in the first call.
          sample_weight: as in `fit`.

        Returns:
          The estimator.

        Raises:
          ValueError: as in `fit`, or if a label is not one of the classes.
        """
        check_parameters(self)
        if self.class_weight == "balanced":
            raise ValueError(_NOT_BALANCED)
        first = not hasattr(self, "coef_")
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        features = inputs.checked_features(self, X, reset=first)
        labels = inputs.checked_labels(y, features)
        if first:
            self.classes_ = np.unique(np.asarray(classes))
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                f"{self.classes_!r}"
            )
        unknown = np.setdiff1d(labels, self.classes_)
        if unknown.size:
            raise ValueError(
                f"y: expected labels of the classes {self.classes_!r}, got {unknown!r}; give all "
                f"classes in the first call."
            )
        indices = np.searchsorted(self.classes_, labels)
        weights = self._weights(sample_weight, features, labels, indices)
        self._descend(features, indices, weights, self._start(features, not first), epochs=1)
        return self

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """`[N, K]` logits; `[N]` for two classes, of the second over the first."""
        check_is_fitted(self, "coef_")
        features = inputs.checked_features(self, X, reset=False)
        with inputs.computing_in(inputs.precision_of(features)):
            scores = self._scores(features)
        return scores.ravel() if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """`[N]` labels, the likeliest of each row."""
        scores = self.decision_function(X)
        indices = (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(1)
        return np.asarray(self.classes_[indices])

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """`[N, K]` probabilities, the classes in the order of `classes_`."""
        return np.asarray(softmax(self._logits(X), axis=1))

    def predict_log_proba(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """`[N, K]` natural logarithms of the probabilities, finite where those are 0."""
        return np.asarray(log_softmax(self._logits(X), axis=1))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _scores(self, features: Any) -> np.ndarray:
        if isinstance(features, jax.Array):
            products = dot(features, jnp.asarray(self.coef_, features.dtype).T)
        else:
            products = safe_sparse_dot(features, self.coef_.T, dense_output=True)
        return np.asarray(products) + self.intercept_

    def _logits(self, features: Any) -> np.ndarray:
        scores = self.decision_function(features)
        return np.stack([np.zeros_like(scores), scores], 1) if scores.ndim == 1 else scores

    def _minimise(
        self, features: Any, indices: np.ndarray, weights: np.ndarray, start: np.ndarray
    ) -> None:
        examples, width = features.shape
        mesh = None if self.mesh is None else mesh_of(self.mesh)
        classes = len(self.classes_)
        block = inputs.block_of(examples, width, classes, mesh)
        with (
            inputs.computing_in(start.dtype),
            contextlib.nullcontext() if mesh is None else alone_on(mesh),
            progress(self.solver, self.max_iter, verbose=self.verbose) as on_iterations,
        ):
            found = minimise(
                self._problem(features, indices, weights, start.dtype, block, mesh),
                jnp.asarray(start) if mesh is None else place(mesh, MODEL, start),
                spread=None if mesh is None else Spread(mesh, classes),
                proximally=self.l1_ratio > 0 and math.isfinite(self.C),
                block=block,
                label_smoothing=self.label_smoothing,
                tol=self.tol,
                max_iter=self.max_iter,
                on_iterations=on_iterations,
            )
        self._keep(found.w[:classes])
        self.n_iter_ = np.array([found.iterations], np.int32)
        self.loss_curve_ = found.losses
        if not found.converged:
            warnings.warn(found.lacks(self.tol, self.max_iter), ConvergenceWarning, stacklevel=3)

    def _problem(
        self,
        features: Any,
        indices: np.ndarray,
        weights: np.ndarray,
        dtype: np.dtype[Any],
        block: int,
        mesh: Mesh | None = None,
    ) -> Problem:
        with np.errstate(over="ignore"):
            l1, l2 = (dtype.type(x) for x in self._penalties(float(weights.sum())))
        if not np.isfinite([l1, l2]).all():
            raise ValueError(f"C: expected a penalty that {dtype} holds, got C={self.C:g}.")
        return Problem(
            rows=inputs.rows_of(features, block, mesh),
            labels=inputs.on_devices(indices.astype(np.int32), mesh),
            weights=inputs.on_devices((weights / weights.sum()).astype(dtype), mesh),
            l2=l2,
            l1=l1,
            intercept=dtype.type(self.fit_intercept),
        )

    def _penalties(self, total: float) -> tuple[float, float]:
        """The factors of absolute values, and of half the squares, of rows of that weight."""
        strength = 1 / (self.C * total) if math.isfinite(self.C) else 0.0
        # Of two classes each has half of the coefficients (objective.py).
        shares = 2 if len(self.classes_) == 2 else 1
        return self.l1_ratio * strength, (1 - self.l1_ratio) * strength * shares

    def _descend(
        self,
        features: Any,
        indices: np.ndarray,
        weights: np.ndarray,
        start: np.ndarray,
        epochs: int | None = None,
    ) -> None:
        """Mini-batch steps: until nothing is gained, or for so many epochs of `partial_fit`."""
        check_batch(features, self.batch_size)
        goes_on = epochs is not None and hasattr(self, "_steps")
        if not goes_on:
            self._random_state_ = check_random_state(self.random_state)
        held: tuple[Any, np.ndarray, np.ndarray] | None = None
        if epochs is None and self.early_stopping:
            share = self.validation_fraction
            rows, aside = sgd.set_aside(indices, weights, share, self._random_state_)
            held = features[aside], indices[aside], weights[aside]
            features, indices, weights = features[rows], indices[rows], weights[rows]
        most = self.max_iter if epochs is None else epochs
        with (
            inputs.computing_in(start.dtype),
            progress(self.solver, most, verbose=self.verbose) as on_epoch,
        ):
            state = sgd.start(start, self.momentum)
            if goes_on:
                state = sgd.resumed(self._steps, state, intercepts=self.fit_intercept)
            problem = self._problem(features, indices, weights, start.dtype, block=1)
            watch = sgd.Watch(self.tol, self.n_iter_no_change)
            curve: list[float] = []
            while len(curve) < most:
                state, loss = self._epoch(problem, state)
                curve.append(loss)
                self._keep(sgd.coefficients(state))
                if on_epoch is not None:
                    on_epoch(len(curve), loss)
                worse = loss if held is None else -self._accuracy(*held)
                if watch.ends(worse, state):
                    break
        self._steps = state if held is None else watch.best or state
        self._keep(sgd.coefficients(self._steps))
        self.n_iter_ = np.array([len(curve)], np.int32)
        self.loss_curve_ = curve
        if epochs is None:
            watched = "loss" if held is None else "accuracy"
            why = sgd.lacks(curve, len(self.classes_), watch, watched, self.tol, self.max_iter)
            if why:
                warnings.warn(why, ConvergenceWarning, stacklevel=3)

    def _epoch(self, problem: Problem, state: sgd.State) -> tuple[sgd.State, float]:
        examples, dtype = problem.labels.shape[0], problem.weights.dtype
        order = sgd.batches(self._random_state_, examples, self.batch_size)
        state, loss = sgd.epoch(
            problem,
            state,
            order,
            np.asarray(self.learning_rate, dtype),
            np.int32(min(self.average, 2**31 - 1) if self.average else -1),
            momentum=float(self.momentum),
            label_smoothing=float(self.label_smoothing),
        )
        state = sgd.State(*jax.tree.map(np.asarray, tuple(state)))
        if not np.isfinite(loss) or not np.isfinite(state.w).all():
            raise DivergedError(
                f"sgd: the loss or the coefficients became infinite or NaN at learning_rate="
                f"{self.learning_rate:g}; try a smaller one, or scale the features."
            )
        return state, float(loss)

    def _accuracy(self, features: Any, indices: np.ndarray, weights: np.ndarray) -> float:
        scores = self._scores(features)
        found = scores[:, 0] > 0 if scores.shape[1] == 1 else scores.argmax(1)
        return float(np.average(found == indices, weights=weights))

    def _weights(
        self, sample_weight: Any, features: Any, labels: np.ndarray, indices: np.ndarray
    ) -> np.ndarray:
        """`[N]`, the rows' own weights times those of their classes."""
        weights = inputs.checked_weights(sample_weight, features)
        if self.class_weight is None:
            return weights
        present = np.unique(indices)
        by_class = np.ones(len(self.classes_))
        given = {} if sample_weight is None else {"sample_weight": weights}
        by_class[present] = compute_class_weight(
            self.class_weight, classes=self.classes_[present], y=labels, **given
        )
        return inputs.with_a_sum(weights * by_class[indices], "class_weight")

    def _start(self, features: Any, warm: bool) -> np.ndarray:
        """`[K, D + 1]`, the last coefficients and intercepts, or 0."""
        classes, width = len(self.classes_), features.shape[1]
        w = np.zeros((classes, width + 1), inputs.precision_of(features))
        if warm and self.coef_.shape[1] == width:
            last = np.concatenate([self.coef_, self.intercept_[:, None]], 1)
            w[:] = last if classes > 2 else [-last[0] / 2, last[0] / 2]
            w[:, -1] *= self.fit_intercept
        return w

    def _keep(self, w: np.ndarray) -> None:
        if len(w) == 2:
            w = w[1:] - w[:1]
        self.coef_, self.intercept_ = w[:, :-1].copy(), w[:, -1].copy()
