"""Which rows and classes a block of logits has."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_softmax.ops._linear.blocks import choose_block_size, row_blocks

MIB = 2**20
SHAPES = st.lists(st.integers(1, 13), max_size=3).map(tuple)


@given(SHAPES, st.integers(1, 40), st.booleans())
@settings(max_examples=8)
def test_blocks_have_every_row_once(shape, rows, contiguous):
    blocks = row_blocks(shape, rows, contiguous)
    view = np.arange(1, np.prod(shape, dtype=int) + 1).reshape(shape)
    taken = np.asarray(blocks.split(jnp.asarray(view)))
    assert taken.shape == (blocks.number, *blocks.block)
    present = taken[taken != 0]
    np.testing.assert_array_equal(np.sort(present), view.reshape(-1))
    np.testing.assert_array_equal(blocks.join(jnp.asarray(taken)), view)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize(("shape", "rows"), [((13,), 4), ((3, 5), 4), ((2, 3, 4), 5), ((), 1)])
def test_block_by_block_is_what_is_split_at_once(shape, rows, contiguous):
    """With an axis after the rows; put undoes take."""
    blocks = row_blocks(shape, rows, contiguous)
    x = jnp.arange(1, 2 * np.prod(shape, dtype=int) + 1).reshape(*shape, 2)
    view, taken = blocks.view(x), blocks.split(x)
    back = jnp.zeros_like(view)
    for i in range(blocks.number):
        np.testing.assert_array_equal(blocks.take(view, jnp.int32(i)), taken[i])
        back = blocks.put(back, jnp.int32(i), taken[i])
    np.testing.assert_array_equal(blocks.unview(back), x)


def test_blocks_under_jit_leave_each_device_its_own_rows():
    """Every n-th row: each block has as many of each eighth of the rows."""
    blocks = row_blocks((64,), 16, contiguous=False)
    for rows in np.asarray(blocks.split(jnp.arange(64))):
        np.testing.assert_array_equal(np.bincount(rows // 8), np.full(8, 2))


def test_axes_are_cut_from_the_last():
    """So that the batch, the likeliest to be over devices, is whole while the time is cut."""
    assert row_blocks((8, 6), 16, contiguous=False).counts == (1, 3)
    assert row_blocks((8, 6), 4, contiguous=False).counts == (2, 6)


@given(st.integers(1, 2**21), st.integers(1, 2**22), st.sampled_from([4, 8]))
def test_chosen_block_keeps_within_its_budget(rows, classes, itemsize):
    """64 MiB or 512 rows, at most 1 GiB; classes in blocks where 128 rows would be over 1 GiB."""
    block = choose_block_size(rows, classes, itemsize)
    held = min(classes, block.classes or classes)
    size = block.rows * held * itemsize
    assert 1 <= block.rows <= rows
    assert size <= max(1024 * MIB, itemsize * classes)
    assert size <= max(64 * MIB, 512 * classes * itemsize)
    assert (block.classes is not None) == (128 * classes * itemsize > 1024 * MIB)
    if block.classes is None and block.rows < rows:
        assert size > 32 * MIB


def test_chosen_block_is_as_documented():
    assert choose_block_size(2048, 32768) == (512, None)
    assert choose_block_size(10**6, 1000) == (16777, None)
    assert choose_block_size(8192, 128256) == (512, None)
    assert choose_block_size(8192, 2**20) == (256, None)
    assert choose_block_size(8192, 2**23).classes == 2**19
    assert choose_block_size(0, 10) == (1, None)


@pytest.mark.parametrize("contiguous", [True, False])
def test_blocks_have_no_more_rows_than_asked(contiguous):
    """As `block_size` promises, and the memory budget needs."""
    shapes = [(n,) for n in range(1, 30)] + [(n, m) for n in range(1, 12) for m in range(1, 12)]
    for shape in shapes:
        for rows in range(1, 40):
            assert np.prod(row_blocks(shape, rows, contiguous).block) <= rows, (shape, rows)
