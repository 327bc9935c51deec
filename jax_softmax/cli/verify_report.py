"""What `jax-softmax verify` prints, as lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from jax_softmax.cli.text import Column, device_name, named_lines, table_lines, wrapped

if TYPE_CHECKING:
    from jax_softmax.verification import CheckResult, Selection

_VALUES = ("loss", "value", "logsumexp", "label_log_prob", "entropy")
_PEERS = {"textbook": "textbook_eps", "jax.nn": "jax_nn_eps", "optax": "optax_eps"}
_COLUMNS = (
    Column("dtype", left=True),
    Column("of", left=True),
    Column("error"),
    Column("bound"),
    *(Column(name) for name in _PEERS),
    Column("where", left=True, wraps=True),
)
_LEGEND = (
    "error, bound: in eps of the dtype. Capping a logit at c rounds it to c eps before anything is "
    "computed from it: with soft_cap errors are larger, and so is the bound.",
    "of: value is of losses, statistics and probabilities, gradient of every derivative.",
    "textbook, jax.nn, optax: the largest error of theirs, by autodiff, in any check of the line; "
    "inf is an infinite or NaN result, – no such function or option, or not asked.",
    "where: the option (together is all at once), the logits (N(0, s); a label that leads by so "
    "much; rows shifted by a constant), and the place.",
)


def header_lines(selection: Selection) -> list[str]:
    """The device, the versions, and what is verified."""
    import jax

    import jax_softmax

    groups = selection.groups()
    device = jax.devices()[0]
    ops = ", ".join(dict.fromkeys(group.op for group in groups))
    dtypes = ", ".join(dict.fromkeys(group.dtype for group in groups))
    classes = "  ".join(f"{n:,}" for n in sorted({group.classes for group in groups}))
    said = {
        "device": device_name(device.platform, device.device_kind),
        "versions": f"jax {jax.__version__}, jax_softmax {jax_softmax.__version__}",
        "functions": ops,
        "dtypes": dtypes,
        "classes": classes,
        "programs": f"{len(groups)} ({selection.grid}), 7 regimes of logits each",
    }
    return [line for name, text in said.items() for line in named_lines(name, text)]


def worst_lines(results: Sequence[CheckResult]) -> list[str]:
    """For each op and rule a row to a dtype and kind of quantity: what came nearest to its bound.

    The peers' errors are the largest of theirs in all checks of a row.
    """
    rows: list[tuple[str, ...] | str] = []
    last = None
    for key, group in _grouped(result for result in results if result.against == "oracle"):
        worst = max(group, key=_share_of_bound)
        op, rule, *names = key
        if (op, rule) != last:
            rows.append(f"{op}, rule {rule}")
            last = op, rule
        peers = (_peer(group, field) for field in _PEERS.values())
        errors = (_eps(worst.error_eps), f"{worst.bound_eps:.3g}")
        rows.append((*names, *errors, *peers, _where(worst)))
    return [
        "against exact values, the check that came nearest to its bound:",
        *table_lines(_COLUMNS, rows, indent=2),
        "",
        *(line for text in _LEGEND for line in wrapped(text, hanging=2)),
        "",
        *_other_lines(results),
    ]


def failure_lines(results: Sequence[CheckResult]) -> list[str]:
    """Every failure in full."""
    failures = [result for result in results if not result.passed]
    lines = ["", f"failures ({len(failures)})"] if failures else []
    for r in failures:
        what = f"{r.op}, rule {r.rule}, option {r.option}, {r.dtype}, {r.classes:,} classes"
        lines += wrapped(f"{what}, {r.regime}", indent=2)
        for detail in (
            f"{r.quantity} against {r.against}: {_eps(r.error_eps)} eps, bound {_eps(r.bound_eps)}",
            f"at {_place(r)}: got {r.actual!r}, expected {r.expected!r}",
            f"logits: {_logits(r)}",
        ):
            lines += wrapped(detail, indent=4)
    return lines


def closing_line(results: Sequence[CheckResult], seconds: float) -> str:
    """How many of how many passed."""
    failed = sum(not result.passed for result in results)
    if failed:
        return f"{failed} of {len(results)} checks FAILED, in {seconds:.1f} s"
    return f"all {len(results)} checks passed in {seconds:.1f} s"


def json_records(results: Sequence[CheckResult]) -> list[dict[str, Any]]:
    """The results, each with the device and the versions it is of."""
    import jax

    import jax_softmax

    device = jax.devices()[0]
    of_all = {
        "device": device.device_kind,
        "platform": device.platform,
        "jax_version": jax.__version__,
        "jax_softmax_version": jax_softmax.__version__,
    }
    return [result.record() | of_all for result in results]


def _grouped(results: Iterable[CheckResult]) -> list[tuple[tuple[str, ...], list[CheckResult]]]:
    groups: dict[tuple[str, ...], list[CheckResult]] = {}
    for r in results:
        kind = "value" if r.quantity in _VALUES else "gradient"
        groups.setdefault((r.op, r.rule, r.dtype, kind), []).append(r)
    order = sorted(groups, key=lambda key: (key[0], key[1] != "vjp", key[2:3], key[3] != "value"))
    return [(key, groups[key]) for key in order]


def _other_lines(results: Sequence[CheckResult]) -> list[str]:
    """How near the checks that do not know the oracle came to their own, looser bounds."""
    lines = []
    for against in ("reference", "finite differences"):
        group = [result for result in results if result.against == against]
        if group:
            share = max(map(_share_of_bound, group))
            lines.append(
                f"against {against}: {len(group)} checks, {share:.2g} of the bound at most"
            )
    return lines


def _share_of_bound(result: CheckResult) -> float:
    return result.error_eps / result.bound_eps


def _peer(group: Sequence[CheckResult], field: str) -> str:
    errors = [error for result in group if (error := getattr(result, field)) is not None]
    return _eps(max(errors)) if errors else "–"


def _eps(error: float) -> str:
    if not math.isfinite(error):
        return "inf"
    return f"{error:.3g}" if error < 1000 else f"{error:.1e}".replace("e+0", "e")


def _where(result: CheckResult) -> str:
    place, classes = _place(result), f"{result.classes:,}"
    of = f"{place} of {classes}" if result.class_index is not None else f"{place}, V={classes}"
    return f"{result.option}, {result.regime}, {of}"


def _place(result: CheckResult) -> str:
    parts = {"row": result.row, "class": result.class_index, "feature": result.feature_index}
    return " ".join(f"{name} {at}" for name, at in parts.items() if at is not None)


def _logits(r: CheckResult) -> str:
    if r.row is None:
        return "of every row"
    own = "" if r.class_logit is None else f"the class's {r.class_logit!r}, "
    return f"{own}the label's {r.label_logit!r}, the largest {r.largest_logit!r}"
