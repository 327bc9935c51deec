"""`evaluate`, `predict` and `predict_proba` over several devices say what one device says."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest

from jax_softmax import InputError, SoftmaxModel, Split, evaluate, predict, predict_proba
from jax_softmax.training import metrics, sharded_metrics
from jax_softmax.training.mesh import mesh_of, place

RNG = np.random.default_rng(0)
EXAMPLES, CLASSES, SHAPE = 43, 9, (3, 2)
LABELS = RNG.integers(0, CLASSES, EXAMPLES)
MESHES = ({"data": 8}, {"data": 4, "model": 2}, {"model": 8}, {"data": 3}, {"data": 2, "model": 3})
FEATURES = {
    "float32": RNG.normal(size=(EXAMPLES, *SHAPE)).astype(np.float32),
    "uint8": RNG.integers(0, 256, (EXAMPLES, *SHAPE)).astype(np.uint8),
}
# Far beyond what rounds to 0: probabilities of 1e-30, too.
KERNEL = 10 * RNG.normal(size=(6, CLASSES)).astype(np.float32)
# Below 0 by far, so that classes that fill up, of logits 0, would be the likeliest.
BIAS = (RNG.normal(size=CLASSES) - 100).astype(np.float32)


def model(scale=1.0, kernel=KERNEL, bias=BIAS):
    names = tuple(f"class {i}" for i in range(CLASSES))
    return SoftmaxModel({"kernel": kernel, "bias": bias}, SHAPE, scale, names)


@pytest.fixture(params=["one block", "several"])
def blocks(request, monkeypatch):
    if request.param == "several":
        monkeypatch.setattr(metrics, "_NUMBERS_PER_BLOCK", 50)
        monkeypatch.setattr(metrics, "_NUMBERS_TO_FILL", 9)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("kind", FEATURES)
def test_a_mesh_measures_as_one_device(mesh, kind, blocks):
    eps = np.finfo(np.float32).eps
    features, one = FEATURES[kind], model(1.0 if kind == "float32" else 1 / 255)
    expected = evaluate(one, Split(features, LABELS))
    found = evaluate(one, Split(features, LABELS), mesh=mesh)
    # Logits are off by their own eps, and losses with them.
    logits = features.reshape(EXAMPLES, 6) * np.float32(one.feature_scale) @ KERNEL + BIAS
    off = float(8 * eps * np.abs(logits).max())
    assert found.loss == pytest.approx(expected.loss, abs=off)
    assert found.accuracy == expected.accuracy
    for name in ("labels", "predictions"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == np.int32
    np.testing.assert_array_equal(predict(one, features, mesh=mesh), predict(one, features))
    assert predict(one, features, mesh=mesh).dtype == np.int32
    shares, right = predict_proba(one, features, mesh=mesh), predict_proba(one, features)
    assert shares.shape == right.shape == (EXAMPLES, CLASSES) and shares.dtype == right.dtype
    np.testing.assert_allclose(shares, right, rtol=2 * off)
    np.testing.assert_allclose(shares.sum(1), 1, atol=4 * eps)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_of_equal_logits_the_first_class_is_taken(mesh):
    for first in (0, 4, 8):
        bias = np.where(np.arange(CLASSES) < first, -2, -1).astype(np.float32)
        level = model(kernel=np.zeros_like(KERNEL), bias=bias)
        expected = predict(level, FEATURES["float32"])
        np.testing.assert_array_equal(predict(level, FEATURES["float32"], mesh=mesh), expected)
        assert expected[0] == first


@pytest.mark.parametrize("mesh", MESHES[:3], ids=str)
def test_logits_that_overflow_are_told_as_on_one_device(mesh):
    """The first infinite logit is the largest, and the first NaN before that."""
    kernel, bias = KERNEL.copy(), BIAS.copy()
    kernel[0, 7], kernel[1, [3, 8]], bias[7] = 3e38, 3e38, -np.inf
    features = FEATURES["float32"].copy().reshape(EXAMPLES, 6)
    features[:, :2] *= 1e-3  # no other overflows, in whatever order its terms are summed
    features[5, :2], features[6, :2] = (0, 100), (100, 100)
    features = features.reshape(EXAMPLES, *SHAPE)
    one = model(kernel=kernel, bias=bias)
    expected = predict(one, features)
    assert expected[5:7].tolist() == [3, 7]
    np.testing.assert_array_equal(predict(one, features, mesh=mesh), expected)


def test_float64(x64):
    wide = model(kernel=KERNEL.astype(np.float64), bias=BIAS.astype(np.float64))
    features = FEATURES["float32"].astype(np.float64)
    expected = predict_proba(wide, features)
    found = predict_proba(wide, features, mesh={"data": 4, "model": 2})
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_float64_where_jax_has_none():
    wide = model(kernel=KERNEL.astype(np.float64), bias=BIAS.astype(np.float64))
    features = FEATURES["float32"].astype(np.float64)
    expected = predict_proba(wide, features)
    found = predict_proba(wide, features, mesh={"data": 4, "model": 2})
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(InputError, match="expected numbers that float32 holds, got 1e\\+300"):
        predict_proba(wide, np.full((1, 6), 1e300), mesh={"data": 2})


def test_bad_input_is_told_first():
    with pytest.raises(InputError, match="^features: expected 6 numbers an example"):
        predict(model(), np.zeros((2, 5)), mesh={"data": 2})


@pytest.mark.parametrize("name", ["losses_and_predictions", "likeliest", "probabilities"])
def test_devices_exchange_a_few_numbers_an_example(name):
    mesh, rows = mesh_of({"data": 4, "model": 2}), 64
    kernel, bias = np.zeros((100, 50), np.float32), np.zeros(100, np.float32)
    arrays = [np.zeros((rows, 50), np.uint8), np.zeros(rows, np.int32)]
    given = [place(mesh, "data", x) for x in arrays[: 2 if name.startswith("losses") else 1]]
    params = {"kernel": place(mesh, "model", kernel), "bias": place(mesh, "model", bias)}
    program = getattr(sharded_metrics, name).fresh()
    lowered = program.lower(params, np.float32(1), *given, mesh=mesh, classes=99)
    text = lowered.compile().as_text()
    assert not re.findall(r" (all-gather|all-to-all|collective-permute)\S*\(", text)
    summed = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    numbers = [
        np.prod([int(n) for n in shape.split(",") if n], dtype=int)
        for line in summed
        for shape in re.findall(r"\[([\d,]*)\]", line)
    ]
    assert summed and max(numbers) <= 2 * rows / 4
    assert {shard.data.shape for shard in params["kernel"].addressable_shards} == {(50, 50)}
    assert len(jax.devices()) == 8
