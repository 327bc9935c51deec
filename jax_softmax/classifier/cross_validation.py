"""Softmax regression whose penalty is chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv

from jax_softmax.classifier import inputs
from jax_softmax.classifier.estimator import SoftmaxClassifier
from jax_softmax.classifier.parameters import check_parameters
from jax_softmax.classifier.progress import progress

_GRID = tuple(float(c) for c in np.logspace(-4, 4, 10))


def _has_none(estimator: object) -> None:
    raise AttributeError(
        "SoftmaxClassifierCV has no partial_fit, which cannot choose C; use SoftmaxClassifier."
    )


class SoftmaxClassifierCV(SoftmaxClassifier):
    """`SoftmaxClassifier` with the best of several `C`, as scikit-learn's LogisticRegressionCV.

    On each fold the coefficients of one `C` are where the next begins. The `C` with the best mean
    score, the first of them, is then fitted on all rows.

    Args:
      C: the values to try, in that order; from strong penalties to weak ones is the fastest.
      cv: a number of folds, stratified, or a splitter or an iterable of pairs of row numbers; None
        for five.
      scoring: a scorer or its name; None for accuracy.
      **parameters: those of `SoftmaxClassifier`.

    Attributes:
      C_: the value that was chosen.
      Cs_: `[P]`, those that were tried.
      scores_: `[folds, P]`, the score of each on the rows left out.
      coefs_paths_: `[folds, P, K, D + 1]`, coefficients and, last, intercepts.

    See Also:
      `SoftmaxClassifier` for one `C`.

    >>> from sklearn.datasets import load_iris
    >>> model = SoftmaxClassifierCV(C=[0.01, 1.0]).fit(*load_iris(return_X_y=True))
    >>> model.C_, model.scores_.shape
    (1.0, (5, 2))
    """

    def __init__(
        self,
        *,
        C: Sequence[float] = _GRID,  # noqa: N803 - scikit-learn's name
        cv: Any = None,
        scoring: Any = None,
        l1_ratio: float = 0.0,
        solver: str = "lbfgs",
        fit_intercept: bool = True,
        class_weight: Any = None,
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
        random_state: Any = None,
        mesh: Any = None,
        verbose: bool | int = False,
    ) -> None:
        given = dict(locals())  # before there is any other name
        own = ("self", "__class__", "cv", "scoring")
        super().__init__(**{name: value for name, value in given.items() if name not in own})
        self.cv = cv
        self.scoring = scoring

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SoftmaxClassifierCV:  # noqa: N803
        """Chooses `C` and fits the coefficients; arguments, errors and warnings are the parent's.

        Raises:
          ValueError: also if `C` is no sequence of numbers above 0.
        """
        values = np.atleast_1d(np.asarray(self.C, dtype=object))
        if values.size == 0 or values.ndim != 1:
            raise ValueError(f"C: expected a sequence of numbers above 0, got {self.C!r}.")
        features = inputs.checked_features(self, X, reset=True)
        labels = inputs.checked_labels(y, features)
        weights = inputs.checked_weights(sample_weight, features)
        score = check_scoring(self._one(values[0]), scoring=self.scoring)
        folds = list(check_cv(self.cv, labels, classifier=True).split(features, labels))
        for i, (rows, _) in enumerate(folds):
            lacking = np.setdiff1d(labels, labels[rows])
            if lacking.size:
                raise ValueError(
                    f"cv: expected all classes among the rows that each fold trains on, but fold "
                    f"{i} has no {lacking[0]!r}; use fewer folds, stratified ones, or more rows."
                )
        self.Cs_ = values
        self.scores_ = np.empty((len(folds), len(values)))
        paths = []
        with progress("fits", self.scores_.size, verbose=self.verbose, number="score") as on_fit:
            for i, (rows, left_out) in enumerate(folds):
                model = self._one(values[0]).set_params(warm_start=True)
                path = []
                for j, value in enumerate(values):
                    model.set_params(C=value).fit(features[rows], labels[rows], weights[rows])
                    self.scores_[i, j] = score(model, features[left_out], labels[left_out])
                    path.append(np.concatenate([model.coef_, model.intercept_[:, None]], 1))
                    if on_fit is not None:
                        on_fit(i * len(values) + j + 1, self.scores_[i, j])
                paths.append(path)
        self.coefs_paths_ = np.array(paths)
        self.C_ = values[np.argmax(self.scores_.mean(0))]
        best = self._one(self.C_).fit(X, y, sample_weight)
        for name, value in vars(best).items():
            if name.endswith("_"):
                setattr(self, name, value)
        return self

    partial_fit = property(_has_none)

    def _one(self, value: Any) -> SoftmaxClassifier:
        """The classifier of one `C`."""
        own = ("C", "cv", "scoring", "verbose")  # a bar for all fits, none for each
        others = {n: v for n, v in self.get_params().items() if n not in own}
        one = SoftmaxClassifier(C=value, **clone(others, safe=False))
        check_parameters(one)
        return one
