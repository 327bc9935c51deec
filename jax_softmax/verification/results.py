"""The result of a check."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

Against = Literal["oracle", "reference", "finite differences"]


@dataclass(frozen=True)
class CheckResult:
    """One quantity of one regime of one group, checked against one other way to compute it.

    Attributes:
      op: the function's name; `rule`, `option`, `dtype` and `classes` say how it was called.
      regime: the kind of rows.
      quantity: "loss", "logsumexp", ..., "value", or "gradient" (by the logits; for a linear layer,
        whose kernel is made of them, through the kernel), "labels gradient", "weight gradient",
        "features gradient", "bias gradient" (of all rows together), "tangent" (in forward mode).
      against: "oracle" (wider arithmetic), "reference" (`jax.grad` of the textbook's form in
        float64), or "finite differences" (of the op itself, in float64).
      error_eps: the worst error, in eps of the dtype the quantity is due in; infinite for NaN.
      bound_eps: the largest error that passes.
      row: the row of the group's array with the worst error; None if all rows are summed.
      class_index: the class, or None for a quantity with one number per row.
      actual: what the op returned there.
      expected: what it should have returned.
      label_logit: the logit of the row's label (or likeliest label), or None.
      largest_logit: the row's largest, or None.
      class_logit: the logit of `class_index`, or None.
      textbook_eps: the worst error of autodiff of `ops.reference` under `jit`, on the same rows in
        the same dtype and units; None if it was not run.
      jax_nn_eps: the same for jax.nn.
      optax_eps: the same for optax; None if optax has no such option.
      feature_index: for the gradient by a layer's features, the feature.
    """

    op: str
    rule: str
    option: str
    dtype: str
    regime: str
    classes: int
    quantity: str
    against: Against
    error_eps: float
    bound_eps: float
    row: int | None
    class_index: int | None
    actual: float
    expected: float
    label_logit: float | None
    largest_logit: float | None
    class_logit: float | None
    textbook_eps: float | None = None
    jax_nn_eps: float | None = None
    optax_eps: float | None = None
    feature_index: int | None = None

    @property
    def passed(self) -> bool:
        """Whether the error is within its bound."""
        return self.error_eps <= self.bound_eps

    def record(self) -> dict[str, Any]:
        """The fields and `passed`, flat; numbers that are not finite as text, for JSON lacks them.

        >>> result = CheckResult(
        ...     "softmax", "vjp", "none", "float32", "N(0,1)", 3, "value", "oracle",
        ...     math.inf, 5.0, 0, 1, math.nan, 0.5, 1.0, 1.0, 0.0)
        >>> result.record()["error_eps"], result.record()["passed"]
        ('inf', False)
        """
        fields = dataclasses.asdict(self) | {"passed": self.passed}
        return {name: _finite_or_text(value) for name, value in fields.items()}


def _finite_or_text(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
