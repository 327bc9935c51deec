"""The options that are verified, one at a time and all together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jax_softmax.errors import InputError

SOFT_LABELS = "softmax_cross_entropy"
INTEGER_LABELS = "softmax_cross_entropy_with_integer_labels"
LINEAR = "linear_softmax_cross_entropy"
LOSSES = (SOFT_LABELS, INTEGER_LABELS, LINEAR)
SECOND_DERIVATIVES = ("forward over reverse", "reverse over reverse")
STATISTICS = ("logsumexp", "label_log_prob", "entropy")


@dataclass(frozen=True)
class Option:
    """A setting of an op, and which outputs have a cotangent.

    Attributes:
      name: as it is reported; "none" is the op by itself.
      label_smoothing: as in the losses; so are `z_loss`, `soft_cap`, `ignore_index`, `reduction`.
      class_weights: whether classes have factors; `sample_weight` is the same for rows.
      where: whether some classes are left out.
      where_rows: whether some rows are left out; what they hold must not matter.
      impossible: whether some logits are `-inf`, including those of some labels and whole rows.
      row_blocks: whether the rows are repeated until a CPU takes them in blocks.
      soft_labels: for class probabilities, whether labels are spread rather than one-hot.
      class_probabilities: for a linear layer, whether its labels are `[..., V]`.
      kernel_layout: of a linear layer.
      class_blocks: whether a linear layer's classes are split too.
      outputs: the outputs that have a cotangent.
    """

    name: str
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    soft_cap: float | None = None
    ignore_index: int | None = None
    reduction: Literal["none", "sum", "mean"] = "none"
    class_weights: bool = False
    sample_weight: bool = False
    where: bool = False
    where_rows: bool = False
    impossible: bool = False
    row_blocks: bool = False
    soft_labels: bool = True
    class_probabilities: bool = False
    kernel_layout: Literal["dv", "vd"] = "dv"
    class_blocks: bool = False
    outputs: tuple[str, ...] = ("loss",)

    @property
    def stats(self) -> bool:
        """Whether the statistics are outputs."""
        return any(name in STATISTICS for name in self.outputs)

    @property
    def cancels(self) -> bool:
        """Whether the true derivative is a difference, even for an integer label."""
        several = bool(self.label_smoothing or self.z_loss or len(self.outputs) > 1)
        return several or "entropy" in self.outputs

    def keywords(self) -> dict[str, Any]:
        """The losses' arguments that are constants of the program and differ from the defaults."""
        given: dict[str, Any] = {}
        for name in _CONSTANTS:
            if getattr(self, name) != getattr(_PLAIN, name):
                given[name] = getattr(self, name)
        return given | ({"return_stats": True} if self.stats else {})


_CONSTANTS = (
    "label_smoothing",
    "z_loss",
    "soft_cap",
    "ignore_index",
    "reduction",
    "kernel_layout",
)
_PLAIN = Option("none", soft_labels=False)
_MASKS = (Option("where", where=True), Option("where_rows", where_rows=True))
_IMPOSSIBLE, _ROW_BLOCKS = (
    Option("impossible", impossible=True),
    Option("row_blocks", row_blocks=True),
)
_OF_LOSSES = (
    _PLAIN,
    Option("label_smoothing", label_smoothing=0.1),
    Option("class_weights", class_weights=True),
    Option("sample_weight", sample_weight=True),
    Option("z_loss", z_loss=1e-3),
    Option("soft_cap", soft_cap=30.0),
    *_MASKS,
    Option("logsumexp", outputs=("logsumexp",)),
    Option("label_log_prob", outputs=("label_log_prob",)),
    Option("entropy", outputs=("entropy",)),
    Option("mean", reduction="mean"),
)
_WEIGHTED: dict[str, Any] = {
    "label_smoothing": 0.1,
    "z_loss": 1e-3,
    "class_weights": True,
    "sample_weight": True,
}
_TOGETHER: dict[str, Any] = _WEIGHTED | {"where": True, "outputs": ("loss", *STATISTICS)}
_OF_LAYER: dict[str, Any] = _WEIGHTED | {"ignore_index": -1, "outputs": ("loss", *STATISTICS)}

OPTIONS: dict[str, tuple[Option, ...]] = {
    "softmax": (_PLAIN, *_MASKS, _IMPOSSIBLE, _ROW_BLOCKS),
    "log_softmax": (_PLAIN, *_MASKS, _IMPOSSIBLE, _ROW_BLOCKS),
    SOFT_LABELS: (
        *_OF_LOSSES,
        _IMPOSSIBLE,
        Option("impossible_together", impossible=True, outputs=("loss", *STATISTICS)),
        Option("row_blocks", row_blocks=True, soft_labels=False),
        Option("soft_labels"),
        Option("weighted_sum", reduction="sum", **_WEIGHTED),
        Option("together", **_TOGETHER),
    ),
    INTEGER_LABELS: (
        *_OF_LOSSES,
        _IMPOSSIBLE,
        Option("impossible_together", impossible=True, outputs=("loss", *STATISTICS)),
        _ROW_BLOCKS,
        # A total of so many rows may take its value and gradient together.
        Option("row_blocks_sum", row_blocks=True, sample_weight=True, reduction="sum"),
        Option("ignore_index", ignore_index=-1),
        Option("weighted_mean", reduction="mean", class_weights=True, ignore_index=-1),
        Option("weighted_sum", reduction="sum", ignore_index=-1, **_WEIGHTED),
        Option("together", ignore_index=-1, **_TOGETHER),
    ),
    LINEAR: (
        *(option for option in _OF_LOSSES if not option.where),
        Option("ignore_index", ignore_index=-1),
        Option("together", **_OF_LAYER),
        Option("soft_labels", class_probabilities=True),
        Option("soft_labels_sum", class_probabilities=True, reduction="sum", **_WEIGHTED),
        Option("kernel_layout", kernel_layout="vd"),
        Option("class_blocks", class_blocks=True),
        Option("class_blocks_together", class_blocks=True, **_OF_LAYER),
        # Totals have a rule of their own.
        Option("weighted_mean", reduction="mean", class_weights=True, ignore_index=-1),
        Option("weighted_sum", reduction="sum", ignore_index=-1, **_WEIGHTED),
        Option("sum_together", reduction="sum", **_OF_LAYER),
    ),
}


def option_of(op: str, name: str) -> Option:
    """The option of that name.

    Raises:
      InputError: if the op has none.
    """
    for option in OPTIONS[op]:
        if option.name == name:
            return option
    known = ", ".join(option.name for option in OPTIONS[op])
    raise InputError(f"option {name!r} of {op}: expected one of {known}.")
