"""Losses of a linear layer, of others: `loss(features, kernel, labels)`, the mean over the rows.

Those on materialised logits keep them in the dtype of the arrays, which is what `features @ kernel`
gives, or in float32.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_softmax.benchmark import peers
from jax_softmax.benchmark.cases import UnavailableError
from jax_softmax.benchmark.threads import fastest, torch_limits

TOKAMAX = ("xla", "chunked_xla")
"""What runs on every device, of tokamax's implementations."""


def textbook_loss(x: jax.Array, k: jax.Array, y: jax.Array) -> jax.Array:
    """The mean of `ops.reference`'s losses on the logits."""
    return peers.textbook_loss(x @ k, y)


def optax_loss(x: jax.Array, k: jax.Array, y: jax.Array) -> jax.Array:
    """The mean of optax's losses on the logits."""
    return peers.optax_loss(x @ k, y)


def optax_float32_loss(x: jax.Array, k: jax.Array, y: jax.Array) -> jax.Array:
    """The same on float32 logits of half-precision arrays, as exact as such logits can be."""
    return peers.optax_loss(jnp.matmul(x, k, preferred_element_type=jnp.float32), y)


def tokamax_loss(implementation: str) -> Callable[..., jax.Array]:
    """tokamax's loss.

    Raises:
      UnavailableError: if it is not installed.
    """
    try:
        tokamax = importlib.import_module("tokamax")
    except ImportError as error:
        raise UnavailableError(
            "tokamax is not installed: pip install tokamax (Python 3.12 or newer)"
        ) from error

    def loss(x: jax.Array, k: jax.Array, y: jax.Array) -> jax.Array:
        return tokamax.linear_softmax_cross_entropy_loss(
            x, y, k, reduction="mean", implementation=implementation
        )

    return loss


def torch_value_and_gradients(
    x: np.ndarray, k: np.ndarray, y: np.ndarray, dtype: str, *, chunked: bool
) -> tuple[Callable[[], Any], str]:
    """A function that gives PyTorch's mean loss and both gradients, and a note on it.

    Args:
      x: `[N, D]`, float32.
      k: `[D, V]`, float32; PyTorch is given `[V, D]`, its own layout.
      y: `[N]` integers.
      dtype: to compute in.
      chunked: with `torch.nn.LinearCrossEntropyOptions()`, which never holds all logits.

    Raises:
      UnavailableError: as `import_torch`; with `chunked`, if this PyTorch is older than 2.13.
    """
    torch, device = peers.import_torch()
    functional = torch.nn.functional
    fused = getattr(functional, "linear_cross_entropy", None)
    if chunked and fused is None:
        raise UnavailableError(f"PyTorch {torch.__version__} has no linear_cross_entropy: 2.13 has")
    options = torch.nn.LinearCrossEntropyOptions() if chunked else None
    kind = getattr(torch, dtype)
    features = torch.from_numpy(x).to(device, kind).requires_grad_()
    weight = torch.from_numpy(np.ascontiguousarray(k.T)).to(device, kind).requires_grad_()
    labels = torch.from_numpy(y).long().to(device)

    def run() -> Any:
        if fused is None:
            loss = functional.cross_entropy(functional.linear(features, weight), labels)
        else:
            loss = fused(features, weight, labels, options=options)
        by_features, by_weight = torch.autograd.grad(loss, (features, weight))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return loss.detach(), (by_features, by_weight.T)

    threads = fastest(run, torch_limits(torch))

    def run_at_its_best() -> Any:
        with threads.limit():
            return run()

    name = "cross_entropy(linear)" if fused is None else "linear_cross_entropy"
    return run_at_its_best, f"{name}, eager, {threads.name}"
