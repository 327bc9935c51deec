"""The options of a loss, which are constants of the compiled program."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypedDict, get_args

import jax
from jax.typing import ArrayLike

Rule = Literal["vjp", "jvp"]
Reduction = Literal["none", "sum", "mean"]
Implementation = Literal["xla", "cpu", "mosaic_gpu"]


class Options(NamedTuple):
    """The options of a row's loss.

    Attributes:
      label_smoothing: alpha in [0, 1]: labels become (1 - alpha) labels + alpha / classes.
      z_loss: factor of the squared logsumexp.
      soft_cap: None, or c: the logits become c tanh(z / c).
      temperature: what the logits, capped, are divided by.
      stats: whether the statistics of `SoftmaxStats` are outputs too.
      implementation: the name of the backend, or None for each platform's own.
      classes: how many classes there are, if an array holds a slice of them; None if an array holds
        them all.
      moved: whether the classes were moved to the last axis, so that they lie apart in memory.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    soft_cap: float | None = None
    temperature: float = 1.0
    stats: bool = False
    implementation: Implementation | None = None
    classes: int | None = None
    moved: bool = False


def check_options(
    label_smoothing: float,
    z_loss: float,
    soft_cap: float | None,
    temperature: float,
    stats: bool,
    implementation: Implementation | None,
) -> Options:
    """The options as Python numbers.

    Raises:
      TypeError: if an option is traced or not a number; the message names it.
      ValueError: if an option is out of range.
    """
    alpha = _number("label_smoothing", label_smoothing)
    if not 0 <= alpha <= 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1], got {alpha}.")
    z_loss = _number("z_loss", z_loss)
    if not math.isfinite(z_loss):
        raise ValueError(f"z_loss: expected a finite number, got {z_loss}.")
    if soft_cap is not None:
        soft_cap = _number("soft_cap", soft_cap)
        if not 1e-30 <= soft_cap <= 1e30:
            raise ValueError(
                f"soft_cap: expected None or a number from 1e-30 to 1e30, got {soft_cap}."
            )
    temperature = _number("temperature", temperature)
    if not 1e-6 <= temperature <= 1e6:
        raise ValueError(f"temperature: expected a number from 1e-6 to 1e6, got {temperature}.")
    return Options(alpha, z_loss, soft_cap, temperature, bool(stats), implementation)


def check_rule(rule: str) -> None:
    """Raises ValueError unless `rule` is a known rule."""
    if rule not in get_args(Rule):
        raise ValueError(f"rule: expected 'vjp' or 'jvp', got {rule!r}.")


def check_reduction(reduction: str) -> None:
    """Raises ValueError unless `reduction` is a known reduction."""
    if reduction not in get_args(Reduction):
        known = ", ".join(repr(name) for name in get_args(Reduction))
        raise ValueError(f"reduction: expected one of {known}, got {reduction!r}.")


def _number(name: str, value: float) -> float:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name}: expected a Python number, got a traced array; it is a constant of the "
            f"compiled program, so pass it outside jit or mark it static (static_argnames)."
        )
    try:
        if isinstance(value, str | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected a Python number, got {value!r}.") from error


class LogProbOptions(TypedDict, total=False):
    """The keywords of log-probabilities but `return_entropy`, which decides the result's type."""

    temperature: float
    soft_cap: float | None
    ignore_index: int | None
    rule: Rule


class LinearLogProbOptions(LogProbOptions, total=False):
    """The keywords of those of a linear layer."""

    bias: ArrayLike | None
    kernel_layout: Literal["dv", "vd"]
    precision: jax.lax.PrecisionLike
    block_size: int | tuple[int, int] | None
    axis_name: str | tuple[str, ...] | None
    data_axis_name: str | tuple[str, ...] | None
    num_classes: int | None


class LossOptions(TypedDict, total=False):
    """The keywords of every loss except `return_stats`, which decides the result's type."""

    label_smoothing: float
    class_weights: ArrayLike | None
    sample_weight: ArrayLike | None
    z_loss: float
    soft_cap: float | None
    temperature: float
    rule: Rule
    reduction: Reduction
    implementation: Implementation | None


class IntegerLossOptions(LossOptions, total=False):
    """The keywords of a loss of integer labels."""

    ignore_index: int | None


class ShardedLossOptions(IntegerLossOptions, total=False):
    """The keywords of the loss of a linear layer over a mesh."""

    precision: jax.lax.PrecisionLike
    block_size: int | tuple[int, int] | None


class LinearLossOptions(ShardedLossOptions, total=False):
    """The keywords of the loss of a linear layer."""

    bias: ArrayLike | None
    where: ArrayLike | None
    kernel_layout: Literal["dv", "vd"]
    axis_name: str | tuple[str, ...] | None
    data_axis_name: str | tuple[str, ...] | None
    num_classes: int | None


class CausalLossOptions(TypedDict, total=False):
    """The keywords of the loss of a language model but `return_stats`."""

    label_smoothing: float
    class_weights: ArrayLike | None
    z_loss: float
    soft_cap: float | None
    temperature: float
    rule: Rule
    reduction: Reduction
    implementation: Implementation | None
    precision: jax.lax.PrecisionLike
    block_size: int | tuple[int, int] | None
    bias: ArrayLike | None
    kernel_layout: Literal["dv", "vd"]
    axis_name: str | tuple[str, ...] | None
    data_axis_name: str | tuple[str, ...] | None
    num_classes: int | None
