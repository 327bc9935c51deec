"""How fast `SoftmaxClassifier` reaches the optimum, beside scikit-learn's logistic regression.

All go on until no element of the gradient is larger than 1e-4, which is checked in float64.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jax_softmax import InputError, load_dataset
from jax_softmax.benchmark.cases import Case, Contender, Context, Prepared, Steps, UnavailableError
from jax_softmax.benchmark.peers import imported
from jax_softmax.benchmark.results import OURS, Record

SCIKIT_LEARN = "scikit-learn"

_TOL = 1e-4
# Above it by what the float32 gradient of many rows rounds to.
_BOUND = 1.2 * _TOL
_PROBES = {False: (20_000, 768, 100), True: (2_000, 256, 20)}


@dataclass(frozen=True, eq=False)
class Rows:
    """What is fitted.

    Attributes:
      features: `[N, D]` float32.
      labels: `[N]` from 0 to K - 1.
    """

    features: np.ndarray
    labels: np.ndarray

    def gradient(self, coef: np.ndarray, intercept: np.ndarray) -> float:
        """The largest element, by its size, of the gradient that scikit-learn stops by."""
        features, examples = self.features.astype(np.float64), len(self.labels)
        logits = features @ coef.astype(np.float64).T + intercept
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(examples), self.labels] -= 1
        by_coef = (p.T @ features + coef) / examples
        return float(max(np.abs(by_coef).max(), np.abs(p.mean(0)).max()))


def steps(context: Context) -> Steps:
    """Iris, MNIST where it is, and a probe of random features.

    Raises:
      InputError: if `raw_dir` was given and does not lead to MNIST.
    """
    rows, width, classes = _PROBES[context.quick]
    found: Steps = {"iris": functools.partial(case_of, "iris", _iris)}
    if not context.quick:
        found["mnist"] = functools.partial(
            case_of, "mnist", functools.partial(_mnist, context.raw_dir)
        )
    found["probe"] = functools.partial(
        case_of, "probe", functools.partial(probe, rows, width, classes)
    )
    return found


def case_of(name: str, load: Callable[[], Rows]) -> Case:
    """Fits of the rows, all to the same size of gradient."""
    try:
        rows = load()
    except UnavailableError as error:
        missing = Record(suite="classifier", case=name)
        return Case(missing, [Contender(OURS, functools.partial(_raise, error), ours=True)])
    examples, width = rows.features.shape
    about = Record(
        suite="classifier",
        case=name,
        rows=examples,
        width=width,
        classes=int(rows.labels.max()) + 1,
        dtype="float32",
        ratio_to=SCIKIT_LEARN,
        error_bound=_BOUND,
        compared_with="no gradient, in float64: its largest element",
    )
    contenders = [
        Contender(OURS, functools.partial(_ours, rows), ours=True),
        Contender(SCIKIT_LEARN, functools.partial(_scikit_learn, rows)),
        Contender("torch", functools.partial(_torch, rows), optional=True),
        Contender("cuML", functools.partial(_cuml, rows), optional=True),
    ]
    return Case(about, contenders)


def _raise(error: Exception) -> Prepared:
    raise error


def _iris() -> Rows:
    train = load_dataset("iris").train
    scaled = (train.features - train.features.mean(0)) / train.features.std(0)
    return Rows(scaled.astype(np.float32), train.labels)


def _mnist(raw_dir: Path | None) -> Rows:
    try:
        train = load_dataset("mnist", raw_dir=raw_dir).train
    except InputError as error:
        if raw_dir is not None:
            raise
        raise UnavailableError(str(error)) from error
    pixels = train.features.reshape(len(train.labels), -1)
    return Rows(pixels.astype(np.float32) / 255, train.labels)


def probe(rows: int, width: int, classes: int) -> Rows:
    """Features around a centre for each class, as a network's last layer gives them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=rows)
    labels[:classes] = np.arange(classes)
    centres = rng.normal(size=(classes, width)).astype(np.float32)
    # Some directions vary more than others, as those of features do.
    spread = np.geomspace(1, 0.05, width, dtype=np.float32)
    noise = rng.standard_normal((rows, width), np.float32)
    return Rows((0.25 * centres[labels] + noise) * spread, labels)


def _ours(rows: Rows) -> Prepared:
    from jax_softmax import SoftmaxClassifier

    model = SoftmaxClassifier(tol=_TOL, max_iter=10_000)
    return _fitted(rows, model, compiles=True)


def _scikit_learn(rows: Rows) -> Prepared:
    from sklearn.linear_model import LogisticRegression

    return _fitted(rows, LogisticRegression(tol=_TOL, max_iter=10_000))


def _cuml(rows: Rows) -> Prepared:
    cuml = imported("cuml", "cuML is not installed: pip install cuml-cu12 (NVIDIA GPUs)")
    return _fitted(rows, cuml.LogisticRegression(tol=_TOL, max_iter=10_000))


def _fitted(rows: Rows, model: Any, *, compiles: bool = False) -> Prepared:
    def fit() -> Any:
        return model.fit(rows.features, rows.labels)

    def error(model: Any) -> float:
        return rows.gradient(np.asarray(model.coef_), np.asarray(model.intercept_))

    compile_seconds = None
    if compiles:
        started = time.perf_counter()
        fit()
        first = time.perf_counter() - started
        started = time.perf_counter()
        fit()
        compile_seconds = max(0.0, first - (time.perf_counter() - started))
    return Prepared(fit, error, compile_seconds, wait=lambda model: model)


def _torch(rows: Rows) -> Prepared:
    torch = imported("torch", "PyTorch is not installed: pip install torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features = torch.as_tensor(rows.features, device=device)
    labels = torch.as_tensor(rows.labels.astype(np.int64), device=device)
    examples, width = features.shape
    classes = int(rows.labels.max()) + 1

    def fit() -> Any:
        coef = torch.zeros(classes, width, device=device, requires_grad=True)
        intercept = torch.zeros(classes, device=device, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [coef, intercept],
            max_iter=10_000,
            tolerance_grad=_TOL,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Any:
            optimizer.zero_grad()
            logits = torch.nn.functional.linear(features, coef, intercept)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            loss = loss + (coef * coef).sum() / (2 * examples)
            loss.backward()
            return loss

        optimizer.step(closure)
        return coef.detach().cpu().numpy(), intercept.detach().cpu().numpy()

    return Prepared(fit, lambda found: rows.gradient(*found), wait=lambda found: found)
