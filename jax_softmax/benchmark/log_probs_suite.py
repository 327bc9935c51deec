"""What log-probabilities and entropies from hidden states cost, and what they save.

Beside the plain way, which holds the logits and their `log_softmax`, stand two chunked ways: those
that tunix and TRL describe, written here in JAX.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_softmax import linear_label_log_probs
from jax_softmax.benchmark import peers
from jax_softmax.benchmark.cases import Case, Contender, Context, Prepared, Steps
from jax_softmax.benchmark.compare import LINEAR_BOUNDS, relative_error, to_numpy
from jax_softmax.benchmark.fused_suite import LinearData, Size
from jax_softmax.benchmark.loss_suite import repeated
from jax_softmax.benchmark.results import OURS, Record

NAME = "log-probs"
PLAIN = "the plain way"
TUNIX = "tunix's way"
TRL = "TRL's way"
AGAINST = "NumPy in float64, largest error of values, and of gradients over the row's largest"

_SEQUENCES = 8
_NUMBERS_PER_BLOCK = 2**22
_DISTINCT_ON_ACCELERATORS = 256
# tunix's chunk is a setting: with it a chunk has as many rows as a block of ours by default, 512.
_TUNIX_TOKENS = 64
_TRL_ROWS = 128  # TRL's own

NOTES = {
    PLAIN: "the logits, jax.nn.log_softmax of them, gathered; p log p summed",
    TUNIX: f"{_TUNIX_TOKENS} tokens of each sequence at a time, computed again for gradients",
    TRL: f"the logits, logsumexp a sequence at a time, entropy {_TRL_ROWS} rows at a time",
}
"""What the ways are, for the report."""

Found = tuple[jax.Array, ...]
"""Log-probabilities `[B, S]`, and the entropies too where they are asked for."""

Way = Callable[[jax.Array, jax.Array, jax.Array, bool], Found]
"""Of features `[B, S, D]`, a kernel and labels `[B, S]`, with the entropy or without."""


def _logits(x: jax.Array, k: jax.Array) -> jax.Array:
    """Those of the arrays' dtype, in float32, as trainers compute with them."""
    return (x @ k).astype(jnp.float32)


def _chosen(values: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, labels[..., None], axis=-1)[..., 0]


def _entropy(logits: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def plain(x: jax.Array, k: jax.Array, y: jax.Array, entropy: bool) -> Found:
    """`jax.nn.log_softmax` of all logits, gathered; the entropy by a sum over it."""
    log_p = jax.nn.log_softmax(_logits(x, k))
    chosen = _chosen(log_p, y)
    return (chosen, -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)) if entropy else (chosen,)


def as_tunix(x: jax.Array, k: jax.Array, y: jax.Array, entropy: bool) -> Found:
    """A chunk of every sequence's logits at a time, computed again in the backward pass."""
    tokens = math.gcd(_TUNIX_TOKENS, y.shape[1])

    def in_chunks(array: jax.Array) -> jax.Array:
        chunks = array.reshape(len(array), -1, tokens, *array.shape[2:])
        return jnp.moveaxis(chunks, 1, 0)

    @jax.checkpoint
    def of_chunk(xy: tuple[jax.Array, jax.Array]) -> Found:
        logits = _logits(xy[0], k)
        found = _chosen(logits, xy[1]) - jax.nn.logsumexp(logits, axis=-1)
        return (found, _entropy(logits)) if entropy else (found,)

    found = lax.map(of_chunk, (in_chunks(x), in_chunks(y)))
    return tuple(jnp.moveaxis(each, 0, 1).reshape(y.shape) for each in found)


def as_trl(x: jax.Array, k: jax.Array, y: jax.Array, entropy: bool) -> Found:
    """All logits, then a sequence at a time; the entropy of so many rows at a time."""
    logits = _logits(x, k)
    found = _chosen(logits, y) - lax.map(functools.partial(jax.nn.logsumexp, axis=-1), logits)
    if not entropy:
        return (found,)
    rows = logits.reshape(-1, math.gcd(_TRL_ROWS, y.size), logits.shape[-1])
    return found, lax.map(_entropy, rows).reshape(y.shape)


def ours(
    x: jax.Array, k: jax.Array, y: jax.Array, entropy: bool, block_size: int | None = None
) -> Found:
    """`linear_label_log_probs`."""
    found = linear_label_log_probs(x, k, y, return_entropy=entropy, block_size=block_size)
    return found if isinstance(found, tuple) else (found,)


def steps(context: Context) -> Steps:
    """Values alone and with gradients, without the entropy and with it; `quick` only with it."""
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu:
        size = Size(512, 128, 8192) if context.quick else Size(4096, 512, 32768)
    else:
        size = Size(512, 128, 8192, "bfloat16")
        size = size if context.quick else Size(8192, 4096, 128256, "bfloat16")
    distinct = None if on_cpu else _DISTINCT_ON_ACCELERATORS

    @functools.cache  # what is right for all of them is computed once
    def data() -> LogProbData:
        return LogProbData(size, _SEQUENCES, distinct)

    def case(entropy: bool, gradients: bool) -> Case:
        return log_probs_case(data(), entropy=entropy, gradients=gradients)

    return {
        f"{what(entropy, gradients)}, {size}": functools.partial(case, entropy, gradients)
        for gradients in (False, True)
        for entropy in ((True,) if context.quick else (False, True))
    }


def what(entropy: bool, gradients: bool) -> str:
    """The words for what a case computes."""
    values = "log-probabilities and entropy" if entropy else "log-probabilities"
    return f"{values}, with gradients" if gradients else values


def log_probs_case(
    data: LogProbData,
    others: Sequence[Contender] = (),
    *,
    entropy: bool,
    gradients: bool,
    small_block: int = 128,
) -> Case:
    """The contenders on some data, peers that may be installed, and `others`."""
    ways: dict[str, Way] = {
        PLAIN: plain,
        OURS: ours,
        f"{OURS}, blocks of {small_block}": functools.partial(ours, block_size=small_block),
        TUNIX: as_tunix,
        TRL: as_trl,
    }
    wanted = {"entropy": entropy, "gradients": gradients}
    contenders = (
        *(
            Contender(
                name,
                functools.partial(data.way, f, **wanted, note=NOTES.get(name, "")),
                ours=name.startswith(OURS),
            )
            for name, f in ways.items()
        ),
        *peers.of_log_probs(data, **wanted),
        *others,
    )
    return Case(about(data.size, **wanted), contenders)


def about(size: Size, *, entropy: bool, gradients: bool) -> Record:
    """What the contenders of a case share."""
    return Record(
        suite=NAME,
        case=f"{what(entropy, gradients)}, {size}",
        rows=size.rows,
        classes=size.classes,
        width=size.width,
        dtype=size.dtype,
        ratio_to=PLAIN,
        error_bound=LINEAR_BOUNDS[size.dtype],
        compared_with=AGAINST,
        logits_bytes=size.rows * size.classes * jnp.dtype(size.dtype).itemsize,
    )


Gradients = tuple[np.ndarray, np.ndarray]


class LogProbData(LinearData):
    """The arrays of `LinearData` as sequences, with random cotangents, and what is right for them.

    Args:
      size: of the arrays.
      sequences: how many there are, a divisor of the rows.
      distinct: how many rows of features, labels and cotangents differ, as in `LossData`.
    """

    def __init__(self, size: Size, sequences: int, distinct: int | None = None) -> None:
        super().__init__(size, distinct)
        self.features = self.x.reshape(sequences, -1, size.width)
        self.tokens = self.y.reshape(sequences, -1)
        rng = np.random.default_rng(1)
        # Of the log-probabilities (advantages, say) and of the entropies.
        self._by_row = rng.standard_normal((2, self.distinct)).astype(np.float32)
        shape = self.tokens.shape
        self.cotangents = tuple(
            jnp.asarray(repeated(c, size.rows).reshape(shape)) for c in self._by_row
        )

    @functools.cached_property
    def right_rows(self) -> tuple[np.ndarray, np.ndarray, dict[bool, Gradients]]:
        """Log-probabilities and entropies of all rows, and what is compared of the gradients.

        The gradients, in float64 too, are by whether entropies are differentiated as well.
        """
        x, k = self._host
        count, width = x.shape
        log_probs, entropies = np.zeros(count), np.zeros(count)
        here = np.unique(self.some_rows % count)
        by_features = {also: np.zeros((count, width)) for also in (False, True)}
        by_kernel = {also: np.zeros((width, len(self.some_classes))) for also in (False, True)}
        block = max(1, _NUMBERS_PER_BLOCK // self.size.classes)
        for first in range(0, count, block):
            rows = np.arange(first, min(first + block, count))
            z = x[rows] @ k
            z -= z.max(axis=1, keepdims=True)
            log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
            p = np.exp(log_p)
            labels = self.labels[rows]
            log_probs[rows] = log_p[np.arange(len(rows)), labels]
            entropies[rows] = -(p * log_p).sum(axis=1)
            of_label, of_entropy = (c[rows, None].astype(np.float64) for c in self._by_row)
            g = -p * of_label
            g[np.arange(len(rows)), labels] += of_label[:, 0]
            found = here[(here >= first) & (here < first + block)]
            for also in (False, True):
                if also:
                    g -= of_entropy * p * (log_p + entropies[rows, None])
                by_kernel[also] += x[rows].T @ g[:, self.some_classes]
                by_features[also][found] = g[found - first] @ k.T
        times = self.size.rows // count  # so many rows are the same
        picked = self.some_rows % count
        gradients = {
            also: (by_features[also][picked], by_kernel[also] * times) for also in (False, True)
        }
        return repeated(log_probs, self.size.rows), repeated(entropies, self.size.rows), gradients

    def way(self, way: Way, *, entropy: bool, gradients: bool, note: str = "") -> Prepared:
        """The contender that computes them so, compiled."""
        arrays = self.features, self.k, self.tokens
        error = functools.partial(self.rows_error, entropy=entropy, gradients=gradients)

        def values(x: jax.Array, k: jax.Array, y: jax.Array) -> Found:
            return way(x, k, y, entropy)

        def with_gradients(
            x: jax.Array, k: jax.Array, y: jax.Array, *cotangents: jax.Array
        ) -> tuple[Found, tuple[jax.Array, jax.Array]]:
            found, vjp = jax.vjp(lambda x, k: values(x, k, y), x, k)
            return found, vjp(cotangents)

        if gradients:
            wanted = self.cotangents if entropy else self.cotangents[:1]
            prepared = self._prepared(with_gradients, error, *arrays, *wanted)
        else:
            prepared = self._prepared(values, error, *arrays)
        return replace(prepared, note=note)

    def rows_error(self, result: Any, *, entropy: bool, gradients: bool) -> float:
        """Of the values, and of their gradients by features and kernel."""
        found, by_arrays = result if gradients else (result, None)
        *right, right_gradients = self.right_rows
        wanted = right if entropy else right[:1]
        if len(found) != len(wanted):
            return float("inf")
        errors = [
            relative_error(to_numpy(mine).ravel(), theirs)
            for mine, theirs in zip(found, wanted, strict=True)
        ]
        if by_arrays is not None:
            by_features = by_arrays[0].reshape(self.size.rows, -1)
            right_ones = right_gradients[entropy]
            errors.append(self._gradients_error((by_features, by_arrays[1]), right_ones))
        return float(np.max(errors))  # NaN if one is
