"""Peers whose packages `jax-softmax bench` does not need: PyTorch, tokamax, scikit-learn.

A framework is imported where it is used, so that a process that times one does not wait for others.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from jax_softmax.benchmark.peers import TOKAMAX, import_torch, tokamax_linear_loss
from jax_softmax.benchmark.threads import DEFAULT, ONE, Fastest, Limit, fastest
from jax_softmax.benchmark.train_task import TrainTask
from jax_softmax.benchmark.tutorial import Params

if TYPE_CHECKING:
    from jax_softmax.benchmark import Prepared
    from jax_softmax.benchmark.fused_suite import LinearData
    from jax_softmax.benchmark.loss_suite import LossData

__all__ = [
    "SKLEARN",
    "TOKAMAX",
    "TORCH",
    "import_torch",
    "scikit_learn_params",
    "tokamax_linear_loss",
    "torch_epochs",
    "torch_linear_loss",
    "torch_loss",
    "torch_trainer",
]

TORCH, SKLEARN = "PyTorch", "scikit-learn"


def torch_device(torch: Any) -> Any:
    """PyTorch's device of the kind that it has here."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _torch_limits(torch: Any) -> dict[str, Limit]:
    """PyTorch on one thread, and on its own choice."""

    @contextmanager
    def one_thread() -> Iterator[None]:
        default = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(default)

    return {ONE: one_thread, DEFAULT: nullcontext}


def _at_its_best(torch: Any, run: Callable[[], Any]) -> tuple[Callable[[], Any], Fastest]:
    """`run`, finished when it returns, with the number of threads that suits it; and that."""

    def finished() -> Any:
        result = run()
        if torch_device(torch).type == "cuda":
            torch.cuda.synchronize()
        return result

    limits = _torch_limits(torch)
    threads = fastest(finished, limits)

    def run_limited() -> Any:
        with limits[threads.name]():
            return finished()

    return run_limited, threads


def torch_loss(data: LossData) -> Prepared:
    """PyTorch's mean loss of logits, with its gradient."""
    from jax_softmax.benchmark import Prepared

    torch = import_torch()
    device, kind = torch_device(torch), getattr(torch, data.size.dtype)
    z = np.array(data.z.astype("float32"))  # from bfloat16 and back, which is exact
    logits = torch.from_numpy(z).to(device, kind).requires_grad_()
    labels = torch.from_numpy(data.labels).long().to(device)

    def value_and_gradient() -> Any:
        loss = torch.nn.functional.cross_entropy(logits, labels)
        (gradient,) = torch.autograd.grad(loss, logits)
        return loss.detach(), gradient

    run, threads = _at_its_best(torch, value_and_gradient)
    return Prepared(run, data.error, note=f"eager, {threads.name}")


def torch_linear_loss(data: LinearData, *, chunked: bool = False) -> Prepared:
    """PyTorch's mean loss of a linear layer; `chunked` never holds all logits (PyTorch 2.13)."""
    from jax_softmax.benchmark import Prepared, UnavailableError

    torch = import_torch()
    functional = torch.nn.functional
    fused = getattr(functional, "linear_cross_entropy", None)
    if chunked and fused is None:
        raise UnavailableError(f"PyTorch {torch.__version__} has no linear_cross_entropy: 2.13 has")
    options = torch.nn.LinearCrossEntropyOptions() if chunked else None
    device, kind = torch_device(torch), getattr(torch, data.size.dtype)
    x, k = (np.array(array.astype("float32")) for array in (data.x, data.k))
    features = torch.from_numpy(x).to(device, kind).requires_grad_()
    # [V, D], PyTorch's own layout.
    weight = torch.from_numpy(np.ascontiguousarray(k.T)).to(device, kind).requires_grad_()
    labels = torch.from_numpy(data.labels).long().to(device)

    def value_and_gradients() -> Any:
        if fused is None:
            loss = functional.cross_entropy(functional.linear(features, weight), labels)
        else:
            loss = fused(features, weight, labels, options=options)
        by_features, by_weight = torch.autograd.grad(loss, (features, weight))
        return loss.detach(), (by_features, by_weight.T)

    run, threads = _at_its_best(torch, value_and_gradients)
    name = "cross_entropy(linear)" if fused is None else "linear_cross_entropy"
    return Prepared(run, data.error, note=f"{name}, eager, {threads.name}")


def torch_trainer(task: TrainTask, epochs: int, error: Callable[[Params], float]) -> Prepared:
    """`torch_epochs` as a contender of the train suite."""
    from jax_softmax.benchmark import Prepared

    start, threads = torch_epochs(task)

    def train() -> Params:
        return next(itertools.islice(start(), epochs - 1, None))()

    return Prepared(train, error, share=epochs, note=f"eager, {threads.name}")


def torch_epochs(
    task: TrainTask,
) -> tuple[Callable[[], Iterator[Callable[[], Params]]], Fastest]:
    """The usual loop over shuffled batches, on tensors in memory rather than a `DataLoader`.

    Returns:
      What starts from zeros and gives, after each epoch and without end, a function for the
      parameters; and the number of threads.
    """
    torch = import_torch()
    device = torch_device(torch)
    x = torch.from_numpy(task.features()).to(device)
    y = torch.from_numpy(task.labels).long().to(device)
    size = task.batch_size or len(y)

    def zeros() -> tuple[Any, Any]:
        model = torch.nn.Linear(x.shape[1], task.classes, device=device)
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
        return model, torch.optim.SGD(model.parameters(), lr=task.learning_rate)

    def step(model: Any, optimizer: Any, rows: Any) -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()

    def params(model: Any) -> Params:
        weight, bias = (value.detach().cpu().numpy() for value in (model.weight, model.bias))
        return weight.T, bias

    some_rows = torch.arange(min(size, len(y)), device=device)
    _, threads = _at_its_best(torch, functools.partial(step, *zeros(), some_rows))
    limit = _torch_limits(torch)[threads.name]

    def start() -> Iterator[Callable[[], Params]]:
        torch.manual_seed(0)
        model, optimizer = zeros()
        while True:
            with limit():
                order = torch.randperm(len(y), device=device)
                for rows in order.split(size) if size < len(y) else (slice(None),):
                    step(model, optimizer, rows)
            yield functools.partial(params, model)

    return start, threads


def scikit_learn_params(task: TrainTask, iterations: int) -> tuple[Params, int]:
    """`LogisticRegression` as it comes (L-BFGS, with its L2 penalty), and its iterations."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is told to stop
        model = LogisticRegression(max_iter=iterations).fit(task.features(), task.labels)
    return (model.coef_.T, model.intercept_), int(model.n_iter_[0])
