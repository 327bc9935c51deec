"""Each primitive gives the same numbers by whichever backend, for every kind of row."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_softmax.ops._backends.cpu import CPU, IN_CACHE, _quota, processors, writes_over
from jax_softmax.ops._backends.xla import XLA
from jax_softmax.ops._math.logits import CappedLogits
from tests.ops.one_device.exact import processors as allowed_by_affinity

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="a backend for CPUs")
# 300 and 1024 divide into chunks; 50257 is prime to them, and is summed as it is.
CLASSES = [1, 2, 10, 100, 300, 1024, 50257]
BACKENDS = {"cpu": CPU, "in cache": IN_CACHE}
EPS = float(np.finfo(np.float32).eps)
every_size = pytest.mark.parametrize("classes", CLASSES)
every_backend = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)


@functools.cache
def rows(classes):
    """Rows of each kind, and one of each kind with an index that is no class.

    Random, wide, confident, with a class that cannot happen, with none that can, with a NaN, with
    an infinity, and of equal numbers.
    """
    rng = np.random.default_rng(classes)
    x = rng.standard_normal((24, classes)).astype(np.float32)
    index = rng.integers(0, classes, 24).astype(np.int32)
    every = np.arange(24)
    x[every % 8 == 1] *= 50
    x[every[every % 8 == 2], index[every % 8 == 2]] += 40
    x[every % 8 == 3, 0] = -np.inf
    x[every % 8 == 4] = -np.inf
    x[every % 8 == 5, classes // 2] = np.nan
    x[every % 8 == 6, -1] = np.inf
    x[every % 8 == 7] = 3
    index[8:16] = [-1, classes, -classes, 2**31 - 1, -(2**31), classes + 1, -2, classes]
    return x, index


def same(found, expected, atol=0.0):
    """To a few roundings of sums taken in another order."""
    np.testing.assert_allclose(found, expected, rtol=6 * EPS, atol=atol)


@every_size
@every_backend
def test_pick_gives_the_element_and_0_where_there_is_none(backend, classes):
    x, index = rows(classes)
    found = np.asarray(jax.jit(backend.pick)(x, index))
    outside = (index < 0) | (index >= classes)
    expected = np.where(outside, 0, x[np.arange(24), np.where(outside, 0, index)])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(jax.jit(XLA.pick)(x, index), expected)


@every_size
@every_backend
def test_likeliest_is_the_first_of_the_largest(backend, classes):
    x, _ = rows(classes)
    x = x[~np.isnan(x).any(-1)]  # with a NaN none is the largest
    expected = np.argmax(x, -1)
    np.testing.assert_array_equal(jax.jit(backend.likeliest)(x), expected)
    np.testing.assert_array_equal(jax.jit(XLA.likeliest)(x), expected)


@every_size
@every_backend
def test_the_sum_of_the_others_is_the_same(backend, classes):
    x, index = rows(classes)
    expected = jax.jit(XLA.sum_apart)(x, index)
    size = EPS * float(np.nansum(np.abs(np.where(np.isinf(x), 0, x)), -1).max())
    same(jax.jit(backend.sum_apart)(x, index), expected, size)


@every_size
@every_backend
@pytest.mark.parametrize("cap", [None, 5.0])
def test_a_rows_share_is_the_same(backend, classes, cap):
    x, index = rows(classes)

    def share(backend, x, index):
        return backend.share(CappedLogits(x, cap), index)

    found, expected = (jax.jit(functools.partial(share, one))(x, index) for one in (backend, XLA))
    nan = np.isnan(expected.others)
    np.testing.assert_array_equal(np.isnan(found.others), nan)
    for a, b in zip(found[:3], expected[:3], strict=True):
        same(np.where(nan, 0, a), np.where(nan, 0, b))


@every_size
@every_backend
def test_a_written_element_is_a_selected_one(backend, classes):
    """Of an array that is large enough to be written over."""
    few, labels = rows(classes)
    times = -(-(2**20) // few.size)
    x, index = np.tile(few, (times, 1)), np.tile(labels, times)
    value = np.arange(len(x), dtype=np.float32)
    assert writes_over(jnp.asarray(x), index, value)
    expected = x.copy()
    inside = np.flatnonzero((index >= 0) & (index < classes))
    expected[inside, index[inside]] = value[inside]
    for put_at_label, final in itertools.product(
        (backend.put_at_label, XLA.put_at_label), (True, False)
    ):
        found = jax.jit(functools.partial(put_at_label, final=final))(x, index, value)
        np.testing.assert_array_equal(found, expected)


def test_derivatives_of_what_is_written_are_those_of_the_select(rng):
    shape = (1024, 1030)
    x, g = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    value = x[:, 0]
    index = rng.integers(-2, shape[-1] + 2, shape[0]).astype(np.int32)

    @functools.partial(jax.jit, static_argnums=0)
    def both(backend, x, value, g):
        def place(x, value):
            return backend.put_at_label(x, index, value, final=True)

        return jax.jvp(place, (x, value), (g, g[:, 1]))[1], jax.vjp(place, x, value)[1](g)

    jax.tree.map(np.testing.assert_array_equal, both(CPU, x, value, g), both(XLA, x, value, g))


def test_the_processors_are_those_this_process_may_use():
    """Not those of the machine: these tests run on one."""
    assert processors() == allowed_by_affinity() == 1


@pytest.mark.parametrize(
    ("text", "processors"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("max 100000\n", None),
        ("100000 0\n", None),
        ("", None),
        ("100000\n", None),
    ],
)
def test_the_quota_of_a_control_group_is_in_whole_processors(text, processors, tmp_path):
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert _quota(file) == processors


def test_a_quota_that_cannot_be_read_is_none(tmp_path):
    assert _quota(tmp_path / "cpu.max") is None
