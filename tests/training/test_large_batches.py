"""A large batch is taken in pieces: the same sums, of any number of examples."""

from __future__ import annotations

import jax
import numpy as np

from jax_softmax.training import step
from jax_softmax.training.layout import ACCELERATOR, CPU
from jax_softmax.training.step import Batches
from tests.grids import each_once


@each_once(examples=[8, 9, 31, 32, 48, 53, 127], width=[5, 16, 40], layout=[CPU, ACCELERATOR])
def test_pieces_give_the_sums_of_the_whole(examples, width, layout, monkeypatch, rng):
    params = {
        "kernel": rng.standard_normal((3, width)).astype(np.float32),
        "bias": rng.standard_normal(3).astype(np.float32),
    }
    features = rng.integers(0, 256, (examples, width)).astype(np.uint8)
    labels = rng.integers(0, 3, examples).astype(np.int32)
    batch = Batches(features, labels, np.float32(1 / 255))
    gradients = jax.jit(step.loss_and_gradients, static_argnames="layout")
    whole = gradients(params, batch, layout=CPU)
    sizes = []
    sums = step.sums_of_piece
    monkeypatch.setattr(
        step, "sums_of_piece", lambda p, b, i: sizes.append(len(b.labels)) or sums(p, b, i)
    )
    pieces = gradients(params, batch, layout=layout._replace(piece=64))
    most = max(1, 64 // width)
    assert max(sizes) <= (2 * most - 1 if examples >= 2 * most else examples)
    for actual, expected in zip(jax.tree.leaves(pieces), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
