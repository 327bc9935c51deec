"""The figures of a GPU in four minutes: losses on logits and of a layer, and training.

The sizes are those of docs/benchmarks/h100.md. Logits of gigabytes repeat a few rows, so that what
is right takes NumPy a moment and not a minute.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp

from jax_softmax.benchmark import fused_suite, loss_suite, peers, train_suite
from jax_softmax.benchmark.cases import Case, Contender, Context, Steps
from jax_softmax.benchmark.fused_suite import PRODUCTS, LinearData, on_logits
from jax_softmax.benchmark.loss_suite import COPY, LossData, jax_nn_loss, optax_loss
from jax_softmax.benchmark.results import OURS
from jax_softmax.errors import InputError

NAME = "gpu-quick"
LIMIT_SECONDS = 210.0
"""No case starts later; the longest takes half a minute."""

_DISTINCT_ROWS = 256
_CLASSES_MULTIPLE = 128  # what tensor cores like
_EPOCHS: dict[int | None, int] = {128: 4, None: 32}  # timed together, by the batch size

_LOGITS = (
    loss_suite.Size(8192, 128256, "bfloat16"),
    loss_suite.Size(16384, 32000, "bfloat16"),
    loss_suite.Size(4096, 32768),
    loss_suite.Size(65536, 1000),
    loss_suite.Size(4096, 262144, "bfloat16"),
)
_LAYERS = (
    fused_suite.Size(8192, 4096, 128256, "bfloat16"),
    fused_suite.Size(32768, 2560, 128256, "bfloat16"),
    fused_suite.Size(16384, 2048, 50257, "bfloat16"),
)
_SMALL_LOGITS = (loss_suite.Size(512, 1024, "bfloat16"), loss_suite.Size(512, 100))
_SMALL_LAYERS = (fused_suite.Size(512, 64, 1000, "bfloat16"),)


def steps(context: Context) -> Steps:
    """Losses with their gradients, layers, training, and losses alone, the most telling first.

    Raises:
      InputError: on a CPU, unless the sizes are small.
    """
    if jax.default_backend() == "cpu" and not context.quick:
        raise InputError(
            f"suite {NAME!r}: expected a GPU or another accelerator, got a CPU, for which its "
            f"sizes are too large; --quick runs it small."
        )
    logits = _SMALL_LOGITS if context.quick else _LOGITS
    layers = _SMALL_LAYERS if context.quick else _LAYERS
    found: Steps = {}
    for size in logits:
        found[f"gradient, {size}"] = functools.partial(_logits_case, size, context, gradient=True)
    for i, layer in enumerate(layers):
        found[f"layer, {layer}"] = functools.partial(layer_case, layer, with_peers=i == 0)
    found |= {
        name: functools.partial(_two_trainers, make)
        for name, make in train_suite.steps_of("mnist", _EPOCHS, context.raw_dir).items()
    }
    for size in logits:
        found[f"value, {size}"] = functools.partial(_logits_case, size, context, gradient=False)
    return found


def _logits_case(size: loss_suite.Size, context: Context, *, gradient: bool) -> Case:
    return logits_case(size, context.rates.pass_seconds(size.nbytes), gradient=gradient)


def logits_case(size: loss_suite.Size, pass_seconds: float | None, *, gradient: bool) -> Case:
    """A loss of logits with its gradient, beside a copy and others; or alone, beside optax."""
    data = LossData(size, _DISTINCT_ROWS)
    about = replace(loss_suite.about(size, pass_seconds), suite=NAME)
    if gradient:
        contenders = [
            Contender(COPY, data.copy),
            Contender(OURS, data.ours, ours=True),
            Contender("optax", functools.partial(data.jax_loss, optax_loss)),
            Contender("jax.nn", functools.partial(data.jax_loss, jax_nn_loss)),
            *peers.of_logits(data),
        ]
        return Case(about, contenders)
    contenders = [
        Contender(OURS, functools.partial(data.ours, gradient=False), ours=True),
        Contender("optax", functools.partial(data.jax_value, optax_loss)),
    ]
    return Case(replace(about, case=f"value, {size}", ratio_to="optax"), contenders)


def layer_case(size: fused_suite.Size, *, with_peers: bool) -> Case:
    """A loss of a layer over its three bare products, whose classes are filled up."""
    data = LinearData(size, _DISTINCT_ROWS)
    contenders = [
        Contender(PRODUCTS, functools.partial(data.three_products, _CLASSES_MULTIPLE)),
        Contender(OURS, data.ours, ours=True),
        Contender("optax", functools.partial(data.jax_loss, on_logits(optax_loss))),
    ]
    if with_peers:
        in_float32 = functools.partial(data.jax_loss, on_logits(optax_loss, jnp.float32))
        contenders += [Contender("optax, float32 logits", in_float32), *peers.of_a_layer(data)]
    return Case(replace(fused_suite.about(size), suite=NAME), contenders)


def _two_trainers(make_case: functools.partial[Case]) -> Case:
    case = make_case()
    two = [c for c in case.contenders if c.name in (OURS, train_suite.OPTAX)]
    return Case(replace(case.about, suite=NAME), two)
