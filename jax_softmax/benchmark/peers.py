"""Losses of packages that may be installed beside this one: PyTorch, Liger, tokamax, jax-cce.

Each is imported where it is used. Who is not there, or has no such device as JAX has, is skipped.
Their trainers and races are programs in `benchmarks/`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_softmax.benchmark.cases import Contender, Prepared
    from jax_softmax.benchmark.fused_suite import LinearData
    from jax_softmax.benchmark.log_probs_suite import LogProbData
    from jax_softmax.benchmark.loss_suite import LossData

TOKAMAX = ("xla", "chunked_xla")  # what runs on every device


def imported(name: str, message: str) -> Any:
    """The module, or an `UnavailableError` with the message."""
    from jax_softmax.benchmark.cases import UnavailableError

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(message) from error


def import_torch() -> Any:
    """PyTorch, or an `UnavailableError` that says how to get it."""
    return imported("torch", "PyTorch is not installed: pip install torch")


def import_tokamax() -> Any:
    """The same of tokamax."""
    return imported(
        "tokamax", "tokamax is not installed: pip install tokamax (Python 3.12 or newer)"
    )


def of_logits(data: LossData) -> list[Contender]:
    """Those with a mean loss of logits."""
    prepares: dict[str, Callable[[], Prepared]] = {
        "PyTorch": functools.partial(torch_loss, data),
        "PyTorch, compiled": functools.partial(torch_loss, data, compiled=True),
        "Liger": functools.partial(liger_loss, data),
    }
    return _optional(prepares)


def of_a_layer(data: LinearData) -> list[Contender]:
    """Those with a mean loss of a linear layer."""
    prepares: dict[str, Callable[[], Prepared]] = {
        f"tokamax {name}": functools.partial(tokamax_linear_loss, data, name) for name in TOKAMAX
    }
    prepares |= {
        "jax-cce": functools.partial(jax_cce_linear_loss, data),
        "PyTorch, compiled": functools.partial(torch_linear_loss, data),
        "Liger": functools.partial(liger_linear_loss, data),
    }
    return _optional(prepares)


def of_log_probs(data: LogProbData, *, entropy: bool, gradients: bool) -> list[Contender]:
    """Those with log-probabilities and entropies of the labels of a linear layer."""
    wanted = {"entropy": entropy, "gradients": gradients}
    prepares: dict[str, Callable[[], Prepared]] = {
        "PyTorch": functools.partial(torch_log_probs, data, **wanted),
        "Liger": functools.partial(liger_log_probs, data, **wanted),
    }
    return _optional(prepares)


def _optional(prepares: dict[str, Callable[[], Prepared]]) -> list[Contender]:
    from jax_softmax.benchmark.cases import Contender

    return [Contender(name, prepare, optional=True) for name, prepare in prepares.items()]


def tokamax_linear_loss(data: LinearData, implementation: str) -> Prepared:
    """tokamax's mean loss of a linear layer."""
    tokamax = import_tokamax()

    def loss(x: Any, k: Any, y: Any) -> Any:
        return tokamax.linear_softmax_cross_entropy_loss(
            x, y, k, reduction="mean", implementation=implementation
        )

    return data.jax_loss(loss)


def jax_cce_linear_loss(data: LinearData) -> Prepared:
    """jax-cce's, which wants the kernel as `[V, D]`: XLA may turn it over within the program."""
    cce = imported("jax_cce", "jax-cce is not installed: pip install jax-cce")
    return data.jax_loss(lambda x, k, y: cce.linear_cross_entropy(x, k.T, y))


def torch_loss(data: LossData, *, compiled: bool = False) -> Prepared:
    """PyTorch's mean loss of logits, with its gradient."""
    torch = _torch_beside_jax(needs_gpu=compiled)
    logits, labels = _tensors(torch, data.z, data.y)
    loss = torch.nn.functional.cross_entropy
    if compiled:
        loss = torch.compile(lambda z, y: torch.nn.functional.cross_entropy(z, y), dynamic=False)

    def value_and_gradient() -> Any:
        value = loss(logits, labels)
        return value.detach(), torch.autograd.grad(value, logits)[0]

    return _prepared(torch, value_and_gradient, data.error)


def liger_loss(data: LossData) -> Prepared:
    """Liger's, which writes the gradient over the logits: over its own, and again each time."""
    torch, functional = _liger()
    logits, labels = _tensors(torch, data.z, data.y, copied=True)

    def value_and_gradient() -> Any:
        value = functional.liger_cross_entropy(logits, labels)
        return value.detach(), torch.autograd.grad(value, logits)[0]

    return _prepared(torch, value_and_gradient, data.error, "writes over its logits", warm=False)


def torch_linear_loss(data: LinearData) -> Prepared:
    """PyTorch's mean loss of a linear layer, compiled, by way of the logits."""
    torch = _torch_beside_jax(needs_gpu=True)
    functional = torch.nn.functional
    loss = torch.compile(
        lambda x, w, y: functional.cross_entropy(functional.linear(x, w), y), dynamic=False
    )
    return _torch_layer(torch, loss, data)


def liger_linear_loss(data: LinearData) -> Prepared:
    """Liger's mean loss of a linear layer."""
    torch, functional = _liger()
    return _torch_layer(torch, functional.liger_fused_linear_cross_entropy, data)


def _torch_layer(torch: Any, loss: Callable[..., Any], data: LinearData) -> Prepared:
    features, labels = _tensors(torch, data.x, data.y)
    weight, _ = _tensors(torch, data.k.T, data.y)  # [V, D], PyTorch's own layout

    def value_and_gradients() -> Any:
        value = loss(features, weight, labels)
        by_features, by_weight = torch.autograd.grad(value, (features, weight))
        return value.detach(), (by_features, by_weight.T)

    return _prepared(torch, value_and_gradients, data.error)


def torch_log_probs(data: LogProbData, *, entropy: bool, gradients: bool) -> Prepared:
    """PyTorch's `log_softmax` of all logits, gathered, and the entropy by a sum over it."""
    torch = _torch_beside_jax(needs_gpu=False)

    def values(x: Any, w: Any, y: Any) -> tuple[Any, ...]:
        log_p = torch.nn.functional.linear(x, w).float().log_softmax(-1)
        chosen = log_p.gather(-1, y[..., None])[..., 0]
        return (chosen, -(log_p.exp() * log_p).sum(-1)) if entropy else (chosen,)

    return _torch_rows(torch, values, data, entropy=entropy, gradients=gradients)


def liger_log_probs(data: LogProbData, *, entropy: bool, gradients: bool) -> Prepared:
    """Liger's losses of rows, which are minus the log-probabilities."""
    from jax_softmax.benchmark.cases import UnavailableError

    torch, functional = _liger()
    if entropy or gradients:
        raise UnavailableError(
            "its losses of rows come without an entropy, and without gradients a row"
        )

    def values(x: Any, w: Any, y: Any) -> tuple[Any, ...]:
        flat = x.reshape(-1, x.shape[-1]), w, y.reshape(-1)
        return (-functional.liger_fused_linear_cross_entropy(*flat, reduction="none"),)

    return _torch_rows(torch, values, data, entropy=entropy, gradients=gradients)


def _torch_rows(
    torch: Any,
    values: Callable[..., tuple[Any, ...]],
    data: LogProbData,
    *,
    entropy: bool,
    gradients: bool,
) -> Prepared:
    features, labels = _tensors(torch, data.features, data.tokens)
    weight, _ = _tensors(torch, data.k.T, data.tokens)  # [V, D], PyTorch's own layout
    cotangents = [torch.from_dlpack(c) for c in data.cotangents]

    def run() -> Any:
        with torch.set_grad_enabled(gradients):
            found = values(features, weight, labels)
        if not gradients:
            return found
        by_arrays = torch.autograd.grad(found, (features, weight), cotangents[: len(found)])
        return tuple(each.detach() for each in found), (by_arrays[0], by_arrays[1].T)

    error = functools.partial(data.rows_error, entropy=entropy, gradients=gradients)
    return _prepared(torch, run, error)


def _torch_beside_jax(*, needs_gpu: bool) -> Any:
    """PyTorch on the kind of device that JAX has, or an `UnavailableError`."""
    import jax

    from jax_softmax.benchmark.cases import UnavailableError

    torch = import_torch()
    platform = jax.default_backend()
    if platform == "tpu" or (needs_gpu and platform != "gpu"):
        raise UnavailableError(f"it runs on a GPU here, and JAX's device is a {platform}")
    if platform == "gpu" and not torch.cuda.is_available():
        raise UnavailableError("PyTorch sees no GPU, and JAX has one")
    return torch


def _liger() -> tuple[Any, Any]:
    functional = imported(
        "liger_kernel.transformers.functional", "Liger is not installed: pip install liger-kernel"
    )
    return _torch_beside_jax(needs_gpu=True), functional


def _tensors(torch: Any, array: Any, labels: Any, *, copied: bool = False) -> tuple[Any, Any]:
    """A leaf that needs a gradient, in JAX's own memory unless it is copied, and int64 labels."""
    tensor = torch.from_dlpack(array)
    leaf = (tensor.clone() if copied else tensor.detach()).requires_grad_()
    return leaf, torch.from_dlpack(labels).long()


def _prepared(
    torch: Any,
    run: Callable[[], Any],
    error: Callable[[Any], float],
    note: str = "",
    *,
    warm: bool = True,
) -> Prepared:
    from jax_softmax.benchmark.cases import Prepared

    def wait(_result: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    if warm:  # compiles
        wait(run())
    return Prepared(run, error, note=note, wait=wait)
