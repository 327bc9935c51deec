"""Agreement with `torch.nn.functional.cross_entropy`, live where torch is, and by stored values.

The table in torch_values.json is what torch 2.13.0 (CPU, float64) returned; where torch is
installed, `python -m tests.ops.test_torch` writes it anew.
"""

import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.ops.options import integer_loss, soft_loss
from tests.tolerances import assert_close

TABLE = Path(__file__).with_name("torch_values.json")
IGNORED = -100  # torch's default
ROWS, CLASSES = 4, 5


def inputs():
    rng = np.random.default_rng(0)
    logits = np.round(3 * rng.standard_normal((ROWS, CLASSES)), 3)
    weights = np.round(0.1 + 2 * rng.random(CLASSES), 3)
    q = np.round(rng.random((ROWS, CLASSES)), 3)
    return logits, np.array([3, IGNORED, 0, 3]), q, weights


CASES = {
    f"{kind}, {reduction}, smoothing {smoothing}, {'weights' if weighted else 'no weights'}": (
        kind,
        reduction,
        smoothing,
        weighted,
    )
    for kind, reduction, smoothing, weighted in itertools.product(
        ("integer", "soft"), ("none", "sum", "mean"), (0.0, 0.1), (False, True)
    )
}
every_case = pytest.mark.parametrize("case", CASES)


def by_torch(case):
    """Value, and its gradient for the cotangents 1, 2, 3 ..."""
    import torch

    kind, reduction, smoothing, weighted = CASES[case]
    logits, labels, q, weights = map(torch.tensor, inputs())
    logits.requires_grad_()
    value = torch.nn.functional.cross_entropy(
        logits,
        labels if kind == "integer" else q,
        weight=weights if weighted else None,
        reduction=reduction,
        label_smoothing=smoothing,
    )
    value.backward(torch.arange(1, value.numel() + 1, dtype=value.dtype).reshape(value.shape))
    return value.detach().numpy(), logits.grad.numpy()


def by_us(case):
    kind, reduction, smoothing, weighted = CASES[case]
    logits, labels, q, weights = inputs()
    options = {"label_smoothing": smoothing, "reduction": reduction}
    if weighted:
        options["class_weights"] = weights
    if kind == "integer":
        options["ignore_index"] = IGNORED
    loss, labels = (integer_loss, labels) if kind == "integer" else (soft_loss, q)
    value, vjp = jax.vjp(lambda z: loss(z, labels, **options), logits)
    g = np.arange(1, value.size + 1, dtype=value.dtype).reshape(value.shape)
    return value, vjp(g)[0]


@every_case
def test_losses_agree_with_torch(case, x64):
    """The mean of soft labels is over rows in both; of integer labels, over their weights."""
    stored = json.loads(TABLE.read_text())[case]
    value, gradient = by_us(case)
    assert_close(value, stored["value"], np.float64)
    assert_close(gradient, stored["gradient"], np.float64)


def test_stored_values_are_those_of_torch():
    pytest.importorskip("torch", reason="torch is not installed: its stored values are used alone")
    table = json.loads(TABLE.read_text())
    assert set(table) == set(CASES)
    for case, stored in table.items():
        value, gradient = by_torch(case)
        assert_close(value, stored["value"], np.float64)
        assert_close(gradient, stored["gradient"], np.float64)


def test_mean_over_ignored_rows_alone_is_nan_in_torch_and_0_here():
    labels = np.full(ROWS, IGNORED)
    logits = np.zeros((ROWS, CLASSES), np.float32)
    assert integer_loss(logits, labels, ignore_index=IGNORED, reduction="mean") == 0
    torch = pytest.importorskip("torch", reason="torch is not installed: ours is 0, checked")
    theirs = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels))
    assert torch.isnan(theirs)


def test_impossible_class_with_smoothing_is_infinite_in_torch_too():
    logits = np.array([[0, 1, -np.inf]], np.float32)
    ours = integer_loss(logits, np.array([0], np.int32), label_smoothing=0.1)
    assert ours[0] == np.inf
    torch = pytest.importorskip("torch", reason="torch is not installed: ours is inf, checked")
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor([0]), label_smoothing=0.1
    )
    assert torch.isinf(theirs)


def write_table():
    table = {}
    for case in CASES:
        value, gradient = by_torch(case)
        table[case] = {"value": value.tolist(), "gradient": gradient.tolist()}
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    write_table()
