"""The functions under test, and their outputs and derivatives on a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_softmax import ops
from jax_softmax.testing.cases import Case
from jax_softmax.testing.layer import (
    BIAS_GRADIENT,
    FEATURES_GRADIENT,
    SCALE_GRADIENT,
    call_causal,
    call_contrastive,
    call_largest,
    call_on_layer,
    layer_keywords,
)
from jax_softmax.testing.options import (
    CAUSAL,
    CONTRASTIVE,
    LARGEST,
    LAYERS,
    LOSSES,
    OF_LABELS,
    SECOND_DERIVATIVES,
    STATISTICS,
)

Arrays = dict[str, Any]


@dataclass(frozen=True)
class OpsUnderTest:
    """Functions with the signatures of `jax_softmax.ops`, which may be another library's."""

    softmax: Callable[..., Any] = ops.softmax
    log_softmax: Callable[..., Any] = ops.log_softmax
    softmax_cross_entropy: Callable[..., Any] = ops.softmax_cross_entropy
    softmax_cross_entropy_with_integer_labels: Callable[..., Any] = (
        ops.softmax_cross_entropy_with_integer_labels
    )
    linear_softmax_cross_entropy: Callable[..., Any] = ops.linear_softmax_cross_entropy
    label_log_probs: Callable[..., Any] = ops.label_log_probs
    linear_label_log_probs: Callable[..., Any] = ops.linear_label_log_probs
    softmax_kl_divergence: Callable[..., Any] = ops.softmax_kl_divergence
    linear_kl_divergence: Callable[..., Any] = ops.linear_kl_divergence
    linear_top_k_cross_entropy: Callable[..., Any] = ops.linear_top_k_cross_entropy
    causal_cross_entropy: Callable[..., Any] = ops.causal_cross_entropy
    contrastive_cross_entropy: Callable[..., Any] = ops.contrastive_cross_entropy
    top_k_log_probs: Callable[..., Any] = ops.top_k_log_probs
    linear_top_k_log_probs: Callable[..., Any] = ops.linear_top_k_log_probs


OURS = OpsUnderTest()


def program(ops_under_test: OpsUnderTest, case: Case) -> Callable[..., Arrays]:
    """A function of the case's arrays, cotangents and tangents that returns every quantity.

    Quantities have the names that the oracle uses. In forward mode the tangents of a loss's outputs
    are multiplied by the cotangents and summed, to give one number per row.
    """
    op = getattr(ops_under_test, case.group.op)
    keywords = case.option.keywords(case.group.op)
    if case.group.rule != "vjp":
        keywords["rule"] = case.group.rule
    if case.group.op in LAYERS:
        keywords |= layer_keywords(case.option, *case.logits.shape)
    if case.group.op in (*OF_LABELS, *LARGEST):
        keywords.pop("reduction", None)
    if case.group.op in LARGEST:
        keywords.pop("return_stats")
    if case.option.scaled:
        keywords.pop("temperature")
    if case.group.order == 2:
        return _second_derivatives(
            lambda z, arrays: _outputs(op, case, keywords, arrays | {"logits": z})
        )
    differentiated = _differentiated(case)

    def outputs(inputs: Arrays, arrays: Arrays) -> Arrays:
        return _outputs(op, case, keywords, arrays | inputs)

    def quantities(arrays: Arrays, cotangents: Arrays, tangents: Any) -> Arrays:
        inputs = {name: arrays[name] for name in differentiated}
        values, pullback = jax.vjp(lambda inputs: outputs(inputs, arrays), inputs)
        # A peer's loss may be in half precision; then its cotangent must be too.
        (gradients,) = pullback({k: cotangents[k].astype(v.dtype) for k, v in values.items()})
        found = dict(values) if case.option.reduction == "none" else {}
        found |= {differentiated[name]: gradient for name, gradient in gradients.items()}
        if case.group.rule == "jvp" and case.option.reduction == "none":
            _, along = jax.jvp(
                lambda logits: outputs({"logits": logits}, arrays), (arrays["logits"],), (tangents,)
            )
            found["tangent"] = (
                sum(_of_rows(cotangents[name] * along[name]) for name in along)
                if case.group.op in LOSSES
                else along["value"]
            )
        return found

    return quantities


def _second_derivatives(outputs: Callable[[Any, Arrays], Arrays]) -> Callable[..., Arrays]:
    """A program that computes the Hessian times the tangents in both ways."""

    def quantities(arrays: Arrays, cotangents: Arrays, tangents: Any) -> Arrays:
        def gradient(logits: Any) -> Any:
            values, pullback = jax.vjp(lambda z: outputs(z, arrays), logits)
            return pullback({k: cotangents[k].astype(v.dtype) for k, v in values.items()})[0]

        value, forward = jax.jvp(gradient, (arrays["logits"],), (tangents,))
        (reverse,) = jax.vjp(gradient, arrays["logits"])[1](tangents.astype(value.dtype))
        return dict(zip(SECOND_DERIVATIVES, (forward, reverse), strict=True))

    return quantities


def measure(quantities: Callable[..., Arrays], case: Case) -> dict[str, np.ndarray]:
    """The results of `program` for the case, as NumPy arrays."""
    found = quantities(*jax.tree.map(jnp.asarray, program_inputs(case)))
    return {name: np.asarray(value) for name, value in found.items()}


def extremes(found: Arrays, rows: int) -> tuple[Arrays, Arrays]:
    """The least and largest results over repetitions of `rows` rows; NaN where one is NaN."""
    repeated = {name: x.reshape(-1, rows, *x.shape[1:]) for name, x in found.items()}
    least, largest = ({name: f(x, 0) for name, x in repeated.items()} for f in (np.min, np.max))
    return least, largest


def program_inputs(case: Case) -> tuple[Arrays, Arrays, np.ndarray]:
    """The arguments of the case's `program`."""
    return case.arrays(), case.cotangents, case.tangents


def _of_rows(x: Any) -> Any:
    """`x [N]` or `[N, K]` as one number a row."""
    return x if x.ndim == 1 else x.sum(-1)


def _differentiated(case: Case) -> dict[str, str]:
    """The arguments that have a gradient, and the gradient's name."""
    if case.group.op in LARGEST:
        return {}
    names = {"logits": "gradient"}
    if case.labels.ndim == 2 and not case.option.several:
        names["labels"] = "labels gradient"
    if case.sample_weight is not None and "loss" in case.option.outputs:
        names["sample_weight"] = "weight gradient"
    if case.group.op in LAYERS:
        names["features"] = FEATURES_GRADIENT
        if case.group.op != CONTRASTIVE:
            names["bias"] = BIAS_GRADIENT
        elif case.option.scaled:
            names["logit_scale"] = SCALE_GRADIENT
    return names


def _outputs(op: Callable[..., Any], case: Case, keywords: Arrays, arrays: Arrays) -> Arrays:
    """The outputs that have a cotangent, by name."""
    if case.group.op not in LOSSES:
        return {"value": op(arrays["logits"], -1, arrays["where"], **keywords)}
    if case.group.op == CAUSAL:
        result = call_causal(op, arrays, keywords, case.option.tokens)
    elif case.group.op == CONTRASTIVE:
        result = call_contrastive(op, arrays, keywords)
    elif case.group.op in LARGEST:
        found = call_largest(op, arrays, keywords, case.group.op in LAYERS)
        return {"label_log_prob": found}
    elif case.group.op in LAYERS:
        result = call_on_layer(op, arrays, keywords)
    elif case.group.op in OF_LABELS:
        result = op(arrays["logits"], arrays["labels"], **keywords)
    else:
        given = {name: arrays[name] for name in ("class_weights", "sample_weight")}
        result = op(arrays["logits"], arrays["labels"], -1, arrays["where"], **given, **keywords)
    if case.group.op in OF_LABELS:
        both = result if isinstance(result, tuple) else (result,)
        every = dict(zip(("label_log_prob", "entropy"), both, strict=False))
        return {name: every[name] for name in case.option.outputs}
    if not case.option.stats:
        return {"loss": result}
    loss, stats = result
    every = {"loss": loss} | {name: getattr(stats, name) for name in STATISTICS}
    return {name: every[name] for name in case.option.outputs}
