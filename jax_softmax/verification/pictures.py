"""A figure of what cancellation costs: errors against the label's lead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from jax_softmax.testing.cases import Case, Group
from jax_softmax.testing.exact import eps, errors_in_eps
from jax_softmax.testing.options import INTEGER_LABELS, option_of
from jax_softmax.testing.quantities import exact
from jax_softmax.verification.peers import PEERS
from jax_softmax.verification.under_test import OURS, measure, program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CLASSES = 10
_ROWS = 16  # per lead
_LEADS = np.linspace(0, 80, 161)
_FLOOR = 0.02  # eps; an error of 0 has no place on a log scale
_NAMES = {"ours": "jax_softmax", "jax_nn": "jax.nn, autodiff", "optax": "optax, autodiff"}

LeadErrors = dict[str, dict[str, np.ndarray]]  # by implementation, then "loss" and "gradient"


def errors_by_lead(leads: Sequence[float] | np.ndarray = _LEADS) -> LeadErrors:
    """The worst error of several rows at each lead, in eps: losses, and gradients at the label.

    Args:
      leads: how far the label's float32 logit is ahead of the nine others, which are N(0, 1).

    Returns:
      Arrays `[len(leads)]` for "ours", "jax_nn" and "optax".
    """
    case = _case(np.asarray(leads))
    right = exact(case)
    at_label = (np.arange(len(case.labels)), case.labels)
    implementations = {"ours": OURS} | {name: PEERS[name].ops for name in ("jax_nn", "optax")}
    errors: LeadErrors = {}
    for name, ops in implementations.items():
        found = measure(jax.jit(program(ops, case)), case)
        loss = errors_in_eps(found["loss"], right["loss"])
        gradient = errors_in_eps(found["gradient"], right["gradient"])[at_label]
        worst = {"loss": loss, "gradient": gradient}
        errors[name] = {key: e.reshape(-1, _ROWS).max(-1) for key, e in worst.items()}
    return errors


def lead_figure(leads: Sequence[float] | np.ndarray = _LEADS) -> Figure:
    """Errors of the loss and of the gradient at the label, log scale, against the label's lead."""
    # Not pyplot, which keeps global state and costs most of matplotlib's import.
    from matplotlib.figure import Figure

    errors = errors_by_lead(leads)
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"loss": "Loss", "gradient": "Gradient at the label"}
    styles = {"ours": ("tab:blue", "-"), "jax_nn": ("tab:green", "-"), "optax": ("tab:red", "--")}
    everything_lost = 1 / eps(np.dtype(np.float32))
    for axes, (quantity, title) in zip(panels, titles.items(), strict=True):
        for name, (color, line) in styles.items():
            worst = np.maximum(errors[name][quantity], _FLOOR)
            axes.plot(leads, worst, color=color, linestyle=line, label=_NAMES[name])
        axes.axhline(everything_lost, color="gray", linewidth=0.8, linestyle=":")
        axes.set(title=title, xlabel="the label's lead (nats)", yscale="log", ylim=(0.1, 1e8))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("relative error (float32 eps)")
    panels[0].annotate(
        "everything lost: rounded to 0",
        (80, everything_lost),
        xytext=(0, 5),
        textcoords="offset points",
        ha="right",
        color="gray",
    )
    panels[0].legend(frameon=False, loc="center right")
    return figure


def _case(leads: np.ndarray) -> Case:
    rng = np.random.default_rng(0)
    rows = len(leads) * _ROWS
    logits = rng.standard_normal((rows, _CLASSES))
    labels = rng.integers(0, _CLASSES, rows)
    logits[np.arange(rows), labels] = -np.inf
    logits[np.arange(rows), labels] = logits.max(-1) + np.repeat(leads, _ROWS)
    return Case(
        Group(INTEGER_LABELS, "vjp", "none", "float32", _CLASSES),
        option_of(INTEGER_LABELS, "none"),
        logits.astype(np.float32),
        labels.astype(np.int32),
        labels,
        class_weights=None,
        sample_weight=None,
        where=None,
        cotangents={"loss": np.ones(rows, np.float32)},
        tangents=np.zeros_like(logits, np.float32),
    )
