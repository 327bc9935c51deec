"""Training over several devices gives what one device gives, to rounding."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import re

import jax
import numpy as np
import optax
import pytest

from jax_softmax import Split, TrainConfig, fit, predict_proba
from jax_softmax.training import memory_run
from jax_softmax.training.layout import ACCELERATOR
from jax_softmax.training.mesh import alone_on, mesh_of

RNG = np.random.default_rng(0)
# Neither divides by 2, 3, 4 or 8, nor does a batch of 10, nor what is left after batches of 10.
EXAMPLES, CLASSES, WIDTH = 53, 9, 7
LABELS = RNG.permutation(np.arange(EXAMPLES) % CLASSES)
FEATURES = RNG.normal(size=(EXAMPLES, WIDTH)) + 0.3 * RNG.normal(size=(CLASSES, WIDTH))[LABELS]
PIXELS = RNG.integers(0, 256, FEATURES.shape).astype(np.uint8)
SPLITS = {
    "float32": Split(FEATURES.astype(np.float32), LABELS),
    "scaled": Split((FEATURES * 100).astype(np.float32), LABELS, feature_scale=0.01),
    "uint8": Split(PIXELS, LABELS, feature_scale=1 / 255),
    "float64": Split(FEATURES, LABELS),
}
LAYOUTS = (
    {"piece": 28},
    {"layout": ACCELERATOR._replace(unroll=2, epochs=2, piece=42)},
)
MESHES = ({"data": 8}, {"data": 4, "model": 2}, {"model": 8}, {"data": 3})
CONFIG = TrainConfig(epochs=4, batch_size=10, learning_rate=0.3)
FULL = dataclasses.replace(CONFIG, batch_size=None)
MOVING = dataclasses.replace(CONFIG, momentum=0.9, weight_decay=0.01, schedule="cosine")
CLIPPED = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2))
# Means over the classes, numbers drawn for each: of arrays that are filled up they are others.
FACTORED = optax.adafactor(1e-2, min_dim_size_to_factor=2)
NOISY = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(7)), optax.sgd(0.1))


def over(mesh, config=CONFIG):
    return dataclasses.replace(config, mesh=mesh)


def steps(config):
    return config.epochs * (1 if config.batch_size is None else -(-EXAMPLES // config.batch_size))


def assert_same_to_rounding(got, expected, config=CONFIG):
    """Sums in another order differ by a few eps of their terms, in each step.

    A step of gradient descent passes a difference on and does not multiply it, for the loss is
    convex. So a few eps a step: of the largest parameter, or of the terms `p - y` that a step sums,
    whose mean over examples is below 2 / CLASSES, if these cancel.
    """
    eps = np.finfo(expected.params["bias"].dtype).eps
    terms = config.learning_rate * 2 / CLASSES
    for name, right in expected.params.items():
        off = np.abs(np.asarray(got.params[name]) - np.asarray(right)).max()
        assert off <= 4 * eps * steps(config) * max(np.abs(right).max(), terms), name
        assert got.params[name].shape == right.shape and got.params[name].dtype == right.dtype
    losses, right = ([r["train_loss"] for r in result.history] for result in (got, expected))
    np.testing.assert_allclose(losses, right, rtol=8 * eps)


def bits(result):
    params = {name: np.asarray(value).tobytes() for name, value in result.params.items()}
    return params, result.history


@pytest.fixture
def calls(monkeypatch):
    """What the compiled program was called with, and its own text."""
    seen = []
    run_epochs = memory_run.run_epochs

    def spy(*arguments, **options):
        seen.append((arguments, options))
        return run_epochs(*arguments, **options)

    monkeypatch.setattr(memory_run, "run_epochs", spy)
    spy.seen = seen

    def compiled():
        arguments, options = seen[-1]
        spread = options["spread"]
        with contextlib.nullcontext() if spread is None else alone_on(spread.mesh):
            return run_epochs.fresh().lower(*arguments, **options).compile()

    spy.compiled = compiled
    return spy


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize(
    ("config", "kind"), [(CONFIG, "float32"), (FULL, "uint8")], ids=["batches", "full batch"]
)
def test_a_mesh_trains_as_one_device(mesh, config, kind):
    expected = fit(SPLITS[kind], config)
    assert_same_to_rounding(fit(SPLITS[kind], over(mesh, config)), expected, config)


@pytest.mark.parametrize(
    ("mesh", "config"), [(MESHES[0], FULL), (MESHES[1], MOVING)], ids=["data", "data and model"]
)
def test_in_float64_too(mesh, config, x64):
    expected = fit(SPLITS["float64"], config)
    assert expected.params["kernel"].dtype == np.float64
    assert_same_to_rounding(fit(SPLITS["float64"], over(mesh, config)), expected, config)


@pytest.mark.parametrize("mesh", MESHES[1:3], ids=str)
def test_momentum_decay_and_schedule(mesh):
    expected = fit(SPLITS["scaled"], MOVING)
    assert_same_to_rounding(fit(SPLITS["scaled"], over(mesh, MOVING)), expected, MOVING)


@pytest.mark.parametrize("optimizer", [CLIPPED, FACTORED, NOISY], ids=["clip", "factored", "noisy"])
def test_an_optimizer_sees_what_it_sees_on_one_device(optimizer):
    expected = fit(SPLITS["float32"], CONFIG, optimizer=optimizer)
    got = fit(SPLITS["float32"], over({"data": 4, "model": 2}), optimizer=optimizer)
    assert_same_to_rounding(got, expected)


@pytest.mark.parametrize("mesh", MESHES[:2], ids=str)
@pytest.mark.parametrize("size", [1, 100])
def test_batches_of_any_size(mesh, size):
    """Fewer examples than devices, and more than there are."""
    config = dataclasses.replace(CONFIG, batch_size=size, epochs=1)
    expected = fit(SPLITS["uint8"], config)
    assert_same_to_rounding(fit(SPLITS["uint8"], over(mesh, config)), expected, config)


@pytest.mark.parametrize("mesh", MESHES[:3:2], ids=str)
def test_fewer_examples_and_classes_than_devices(mesh):
    few = Split(FEATURES[:3].astype(np.float32), np.array([0, 1, 1]))
    expected = fit(few, FULL)
    assert_same_to_rounding(fit(few, over(mesh, FULL)), expected, FULL)


@pytest.mark.parametrize("mesh", MESHES[:2], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["cpu", "accelerator"])
def test_in_pieces_and_as_an_accelerator_does(mesh, layout, lay_out):
    config = dataclasses.replace(FULL, epochs=3)  # a loop of two, and one by itself
    lay_out(**layout)
    expected = fit(SPLITS["uint8"], config)
    assert_same_to_rounding(fit(SPLITS["uint8"], over(mesh, config)), expected, config)


def test_a_start_of_ones_own():
    start = {"kernel": RNG.normal(size=(WIDTH, CLASSES)), "bias": np.arange(CLASSES) / 9}
    expected = fit(SPLITS["float32"], CONFIG, params=start)
    got = fit(SPLITS["float32"], over({"data": 4, "model": 2}), params=start)
    assert_same_to_rounding(got, expected)


def test_one_device_by_a_mesh_is_one_device(calls):
    expected = fit(SPLITS["float32"], CONFIG)
    assert bits(fit(SPLITS["float32"], over({"data": 1, "model": 1}))) == bits(expected)
    assert [options["spread"] for _, options in calls.seen] == [None] * len(calls.seen)


def test_every_example_counts_once():
    """One step from zeros: gradients of the mean are known by hand."""
    config = TrainConfig(epochs=1, batch_size=None, learning_rate=1.0)
    for mesh in MESHES[1::2]:
        bias = fit(SPLITS["float32"], over(mesh, config)).params["bias"]
        share = np.bincount(LABELS) / EXAMPLES
        np.testing.assert_allclose(bias, share - 1 / CLASSES, atol=4 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("mesh", MESHES[:3], ids=str)
def test_the_same_bits_from_run_to_run(mesh):
    first = bits(fit(SPLITS["float32"], over(mesh)))
    for _ in range(3):
        assert bits(fit(SPLITS["float32"], over(mesh))) == first


def test_the_same_bits_from_threads_at_once():
    meshes = [MESHES[i % 3] for i in range(8)]
    expected = [bits(fit(SPLITS["float32"], over(mesh))) for mesh in meshes[:3]]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda mesh: bits(fit(SPLITS["float32"], over(mesh))), meshes))
    assert found == [expected[i % 3] for i in range(8)]


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_a_mesh_that_the_caller_has_set_is_nothing_to_it(kind):
    split, config = SPLITS["float32"], over({"data": 4, "model": 2})
    expected = fit(split, config, validation=split)
    with jax.set_mesh(jax.make_mesh((8,), ("rows",), axis_types=(kind,))):
        found = fit(split, config, validation=split)
        np.testing.assert_array_equal(
            predict_proba(found, split.features, mesh={"data": 8}),
            predict_proba(expected, split.features, mesh={"data": 8}),
        )
    assert bits(found) == bits(expected)


def test_the_result_is_whole_arrays():
    result = fit(SPLITS["float32"], over({"data": 4, "model": 2}), validation=SPLITS["float32"])
    assert result.params["kernel"].shape == (WIDTH, CLASSES)
    assert result.params["bias"].shape == (CLASSES,)
    assert result.device == "8 x cpu"
    assert {"validation_loss", "validation_accuracy"} <= result.history[-1].keys()


def parts(array):
    return {shard.data.shape for shard in array.addressable_shards}


@pytest.mark.parametrize("optimizer", [None, optax.adam(1e-2)], ids=["momentum", "adam"])
def test_each_device_has_its_own_part_and_no_more(optimizer, calls):
    fit(SPLITS["scaled"], over({"data": 4, "model": 2}, MOVING), optimizer=optimizer)
    with alone_on(mesh_of({"data": 4, "model": 2})):
        losses = calls(*calls.seen[-1][0], **calls.seen[-1][1])[1]
    assert losses.sharding.is_fully_replicated
    for (state, data, *_), _ in (calls.seen[0], calls.seen[-1]):
        assert parts(data.features) == {(14, WIDTH)} and parts(data.labels) == {(14,)}
        assert data.features.dtype == np.float32
        assert parts(state.params["kernel"]) == {(5, WIDTH)}
        assert parts(state.params["bias"]) == {(5,)}
        arrays = [x for x in jax.tree.leaves(state.optimizer_state) if x.ndim]
        assert {frozenset(parts(x)) for x in arrays} == {
            frozenset({(5, WIDTH)}),
            frozenset({(5,)}),
        }


@pytest.mark.parametrize("optimizer", [None, NOISY], ids=["momentum", "noisy"])
def test_what_fills_up_stays_0(optimizer, calls):
    mesh = {"model": 8}
    fit(SPLITS["scaled"], over(mesh, MOVING), optimizer=optimizer)
    with alone_on(mesh_of(mesh)):
        state = calls(*calls.seen[-1][0], **calls.seen[-1][1])[0]
    for array in jax.tree.leaves(state):
        if np.ndim(array) and array.shape[0] == 16:
            assert not np.asarray(array[CLASSES:]).any()
    assert np.asarray(state.params["kernel"][:CLASSES]).any()


@pytest.mark.parametrize("mesh", MESHES[:3], ids=str)
@pytest.mark.parametrize(
    ("config", "optimizer"), [(CONFIG, CLIPPED), (FULL, None)], ids=["batches", "full batch"]
)
def test_devices_exchange_gradients_and_their_examples_only(mesh, config, optimizer, calls):
    fit(SPLITS["uint8"], over(mesh, config), optimizer=optimizer)
    text = calls.compiled().as_text()
    assert not re.findall(r" (all-gather|all-to-all|collective-permute)\S*\(", text)
    data, model = (mesh.get(axis, 1) for axis in ("data", "model"))
    scattered = re.findall(r"= (\w+)\[([\d,]*)\]\S* reduce-scatter", text)
    if config is FULL or data == 1:
        assert scattered == []
    else:
        assert {kind for kind, _ in scattered} == {"u8", "s32"}  # pixels as they are, and labels
        rows = {int(shape.split(",")[0]) for _, shape in scattered}
        assert rows == {-(-10 // data), -(-3 // data)}
    # Sums: gradients of this device's classes, and of each example of its own two numbers or fewer.
    summed = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    sizes = [
        np.prod([int(n) for n in shape.split(",") if n], dtype=int)
        for line in summed
        for shape in re.findall(r"\[([\d,]*)\]", line)
    ]
    rows = -(-(EXAMPLES if config is FULL else 10) // data)
    assert summed and max(sizes) <= max(2 * rows, -(-CLASSES // model) * WIDTH)


def test_memory_of_a_device_is_its_share(calls):
    rng = np.random.default_rng(1)
    examples, classes, width = 4096, 512, 256
    split = Split(
        rng.integers(0, 256, (examples, width)).astype(np.uint8),
        np.arange(examples) % classes,
        feature_scale=1 / 255,
    )
    config = TrainConfig(epochs=1, batch_size=1024, momentum=0.9)
    found = []
    for mesh in (None, {"data": 4, "model": 2}):
        fit(split, over(mesh, config))
        found.append(calls.compiled().memory_analysis())
    one, eight = found
    orders = 4 * 2 * examples  # the row numbers, which each device has
    share = (examples * (width + 4)) / 4 + 2 * (classes * (width + 1) * 4) / 2 + orders
    assert eight.argument_size_in_bytes <= 1.01 * share
    assert eight.temp_size_in_bytes <= one.temp_size_in_bytes / 2


@pytest.mark.parametrize(("batch_size", "calls"), [(None, 3), (27, 6)])
def test_a_call_over_a_mesh_has_so_many_steps(batch_size, calls, monkeypatch):
    """However small they are, for devices wait for one another in each."""
    monkeypatch.setattr(memory_run, "_STEPS_PER_CALL", 4)
    config, told = over(MESHES[1], TrainConfig(epochs=12, batch_size=batch_size)), []
    fit(SPLITS["float32"], config, on_progress=told.append)
    assert len(told) == calls
    told.clear()
    fit(SPLITS["float32"], over(None, config), on_progress=told.append)
    assert len(told) == 1


@pytest.mark.parametrize("mesh", MESHES[:2], ids=str)
def test_other_calls_compile_nothing_more(mesh, calls, lay_out, programs):
    lay_out(numbers_per_call=1)
    # A width of its own, that no other test has compiled for.
    split = Split(np.tile(FEATURES, 2).astype(np.float32), LABELS)
    fit(split, over(mesh, MOVING), optimizer=optax.adam(1e-2))
    assert len(calls.seen) == MOVING.epochs + 1
    assert programs.count("jit(run_epochs)") == 1
