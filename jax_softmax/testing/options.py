"""The options that are verified, one at a time and all together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jax_softmax.errors import InputError

SOFT_LABELS = "softmax_cross_entropy"
INTEGER_LABELS = "softmax_cross_entropy_with_integer_labels"
LINEAR = "linear_softmax_cross_entropy"
LOG_PROBS = "label_log_probs"
LINEAR_LOG_PROBS = "linear_label_log_probs"
KL_DIVERGENCE = "softmax_kl_divergence"
LINEAR_KL = "linear_kl_divergence"
LINEAR_TOP_K = "linear_top_k_cross_entropy"
CAUSAL = "causal_cross_entropy"
CONTRASTIVE = "contrastive_cross_entropy"
TOP_K = "top_k_log_probs"
LINEAR_LARGEST = "linear_top_k_log_probs"
LARGEST = (TOP_K, LINEAR_LARGEST)
LAYERS = (LINEAR, LINEAR_LOG_PROBS, CAUSAL, CONTRASTIVE, LINEAR_LARGEST)
OF_LABELS = (LOG_PROBS, LINEAR_LOG_PROBS)
OF_TEACHERS = (KL_DIVERGENCE, LINEAR_KL, LINEAR_TOP_K)
LOSSES = (SOFT_LABELS, INTEGER_LABELS, LINEAR, CAUSAL, CONTRASTIVE, *OF_LABELS, *LARGEST)
SECOND_DERIVATIVES = ("forward over reverse", "reverse over reverse")
STATISTICS = ("logsumexp", "label_log_prob", "entropy")


@dataclass(frozen=True)
class Option:
    """A setting of an op, and which outputs have a cotangent.

    Attributes:
      name: as it is reported; "none" is the op by itself.
      label_smoothing: as in the losses; so are `z_loss`, `soft_cap`, `temperature`, `ignore_index`
        and `reduction`.
      class_weights: whether classes have factors; `sample_weight` is the same for rows.
      where: whether some classes are left out.
      where_rows: whether some rows are left out; what they hold must not matter.
      impossible: whether some logits are `-inf`, including those of some labels and whole rows.
      row_blocks: whether the rows are repeated until a CPU takes them in blocks.
      soft_labels: for class probabilities, whether labels are spread rather than one-hot.
      class_probabilities: for a linear layer, whether its labels are `[..., V]`.
      kernel_layout: of a linear layer.
      class_blocks: whether a linear layer's classes are split too.
      direction: of a divergence.
      several: of log-probabilities, how many labels a row has; 0 for one without an axis. Of the
        likeliest classes, how many are asked for.
      symmetric: of a contrastive loss.
      scaled: of a contrastive loss, whether a `logit_scale` stands for the temperature.
      tokens: of a causal loss, what says which tokens are to be predicted.
      rest: what becomes of the classes that a teacher does not name.
      outputs: the outputs that have a cotangent.
    """

    name: str
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    soft_cap: float | None = None
    temperature: float = 1.0
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
    direction: Literal["forward", "reverse", "js"] = "forward"
    rest: Literal["ignore", "uniform", "renormalise"] = "ignore"
    several: int = 0
    symmetric: bool = True
    scaled: bool = False
    tokens: Literal["", "segments", "mask", "weights"] = ""
    outputs: tuple[str, ...] = ("loss",)

    @property
    def stats(self) -> bool:
        """Whether the statistics are outputs."""
        return any(name in STATISTICS for name in self.outputs)

    @property
    def cancels(self) -> bool:
        """Whether the true derivative is a difference, even for an integer label."""
        several = bool(self.label_smoothing or self.z_loss or len(self.outputs) > 1)
        return several or self.several > 1 or "entropy" in self.outputs

    @property
    def logits_eps(self) -> float | None:
        """How many eps of 1 the logits are rounded to as they are read; None if they are not.

        A cap rounds them once, and dividing what it gave once more.
        """
        if self.soft_cap is None or self.temperature == 1:
            return self.soft_cap
        return 1.5 * self.soft_cap / self.temperature

    def keywords(self, op: str = INTEGER_LABELS) -> dict[str, Any]:
        """The arguments that are constants of the program and differ from the defaults."""
        given: dict[str, Any] = {}
        for name in _CONSTANTS:
            if getattr(self, name) != getattr(_PLAIN, name):
                given[name] = getattr(self, name)
        if op in OF_LABELS:
            return given | ({"return_entropy": True} if "entropy" in self.outputs else {})
        return given | ({"return_stats": True} if self.stats else {})


_CONSTANTS = (
    "label_smoothing",
    "z_loss",
    "soft_cap",
    "temperature",
    "ignore_index",
    "reduction",
    "kernel_layout",
    "direction",
    "rest",
    "symmetric",
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
    Option("temperature", temperature=0.5),
    Option("cap_and_temperature", soft_cap=30.0, temperature=1.3),
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
_LABEL: dict[str, Any] = {"outputs": ("label_log_prob",)}
_BOTH: dict[str, Any] = {"outputs": ("label_log_prob", "entropy")}
# A power of two: others round different logits to the same number, and the order with them.
_LIKELIEST: dict[str, Any] = {"several": 2, "temperature": 0.5, **_LABEL}
_OF_LOG_PROBS = (
    Option("none", **_LABEL),
    Option("soft_cap", soft_cap=30.0, **_BOTH),
    Option("temperature", temperature=0.5, **_LABEL),
    Option("ignore_index", ignore_index=-1, **_LABEL),
    Option("entropy", outputs=("entropy",)),
    Option("both", **_BOTH),
    Option("several", several=3, **_LABEL),
    Option("several_both", several=3, temperature=0.5, ignore_index=-1, **_BOTH),
    Option("together", soft_cap=30.0, temperature=1.3, ignore_index=-1, **_BOTH),
)
_OF_LAYER: dict[str, Any] = _WEIGHTED | {"ignore_index": -1, "outputs": ("loss", *STATISTICS)}
_DIRECTIONS = (
    _PLAIN,
    Option("reverse", direction="reverse"),
    Option("js", direction="js"),
    Option("where_rows", where_rows=True),
)
_OF_TEACHERS_LAYER = (
    Option("kernel_layout", kernel_layout="vd"),
    Option("class_blocks", class_blocks=True, temperature=0.5),
    Option("weighted_sum", reduction="sum", sample_weight=True),
)

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
    LOG_PROBS: (
        *_OF_LOG_PROBS,
        Option("impossible", impossible=True, **_BOTH),
        Option("row_blocks", row_blocks=True, **_BOTH),
    ),
    LINEAR_LOG_PROBS: (
        *_OF_LOG_PROBS,
        Option("kernel_layout", kernel_layout="vd", **_BOTH),
        Option("class_blocks", class_blocks=True, ignore_index=-1, **_BOTH),
    ),
    CAUSAL: (
        _PLAIN,
        Option("ignored", ignore_index=-1),
        Option("segments", tokens="segments"),
        Option("mask", tokens="mask", temperature=0.5),
        Option("weights", tokens="weights", sample_weight=True),
        # A mean is over the tokens that are predicted.
        Option("mean", reduction="mean"),
        Option("segments_mean", tokens="segments", reduction="mean"),
        Option("ignored_mean", ignore_index=-1, reduction="mean"),
        Option("weighted_mean", tokens="weights", sample_weight=True, reduction="mean"),
        Option("segments_weights", tokens="segments", sample_weight=True),
        Option("together", tokens="weights", sample_weight=True, outputs=("loss", *STATISTICS)),
        Option("class_blocks", tokens="segments", class_blocks=True, kernel_layout="vd"),
    ),
    CONTRASTIVE: (
        _PLAIN,
        Option("rows", symmetric=False, temperature=0.5),
        Option("mean", reduction="mean", temperature=0.5),
        Option("label_smoothing", label_smoothing=0.1, reduction="mean"),
        Option("weighted_sum", sample_weight=True, reduction="sum"),
        Option("weighted_mean", sample_weight=True, reduction="mean"),
        Option("where_rows", where_rows=True, reduction="mean"),
        Option("logit_scale", scaled=True, temperature=2.0, reduction="mean"),
        Option("class_blocks", class_blocks=True, reduction="sum"),
    ),
    TOP_K: (Option("none", several=2, **_LABEL), Option("temperature", **_LIKELIEST)),
    LINEAR_LARGEST: (
        Option("none", several=2, **_LABEL),
        Option("kernel_layout", kernel_layout="vd", **_LIKELIEST),
        Option("class_blocks", class_blocks=True, **_LIKELIEST),
    ),
    KL_DIVERGENCE: (
        *_DIRECTIONS,
        Option("temperature", temperature=0.5),
        Option("soft_cap", soft_cap=30.0),
        Option("where", where=True),
        Option("sample_weight", sample_weight=True),
        Option("weighted_mean", reduction="mean", sample_weight=True),
        Option("together", direction="js", temperature=0.5, where=True, sample_weight=True),
    ),
    LINEAR_KL: (*_DIRECTIONS, *_OF_TEACHERS_LAYER),
    LINEAR_TOP_K: (
        _PLAIN,
        Option("uniform", rest="uniform"),
        Option("renormalise", rest="renormalise"),
        Option("where_rows", where_rows=True),
        *_OF_TEACHERS_LAYER,
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
