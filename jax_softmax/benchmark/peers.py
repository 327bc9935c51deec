"""Losses of others: `value_and_gradient(logits, labels)`, or for PyTorch what makes one.

Each takes the mean over the rows, with what its library recommends for integer labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_softmax.benchmark.cases import UnavailableError
from jax_softmax.benchmark.threads import fastest, torch_limits
from jax_softmax.ops import reference


def textbook_loss(z: jax.Array, y: jax.Array) -> jax.Array:
    """The mean of `ops.reference`'s losses."""
    return jnp.mean(reference.softmax_cross_entropy_with_integer_labels(z, y))


def jax_nn_loss(z: jax.Array, y: jax.Array) -> jax.Array:
    """The mean of `jax.nn.log_softmax` at the labels."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1))


def optax_loss(z: jax.Array, y: jax.Array) -> jax.Array:
    """The mean of optax's losses."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(z, y))


LOSSES = {
    "reference, autodiff": textbook_loss,
    "jax.nn": jax_nn_loss,
    "optax": optax_loss,
}


def import_torch() -> tuple[Any, Any]:
    """PyTorch and its device of the kind that JAX computes on.

    Raises:
      UnavailableError: if it is not installed, or has no such device.
    """
    try:
        import torch
    except ImportError as error:
        raise UnavailableError("PyTorch is not installed: pip install torch") from error
    if jax.default_backend() == "cpu":
        return torch, torch.device("cpu")
    if jax.default_backend() == "gpu" and torch.cuda.is_available():
        return torch, torch.device("cuda")
    raise UnavailableError(f"the installed PyTorch has no {jax.default_backend()} as JAX has")


def torch_value_and_gradient(
    z: np.ndarray, y: np.ndarray, dtype: str
) -> tuple[Callable[[], Any], str]:
    """A function that gives PyTorch's mean loss and its gradient by the logits, and a note on it.

    Raises:
      UnavailableError: as `import_torch`.
    """
    torch, device = import_torch()
    logits = torch.from_numpy(z).to(device, getattr(torch, dtype)).requires_grad_()
    labels = torch.from_numpy(y).long().to(device)

    def run() -> Any:
        loss = torch.nn.functional.cross_entropy(logits, labels)
        (gradient,) = torch.autograd.grad(loss, logits)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return loss.detach(), gradient

    threads = fastest(run, torch_limits(torch))

    def run_at_its_best() -> Any:
        with threads.limit():
            return run()

    return run_at_its_best, f"eager, {threads.name}"


def to_numpy(array: Any) -> np.ndarray:
    """A JAX or PyTorch array as float64."""
    if hasattr(array, "cpu"):
        array = array.cpu().double()  # NumPy has no bfloat16 of PyTorch's
    return np.asarray(array, np.float64)
