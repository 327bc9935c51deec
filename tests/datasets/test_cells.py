"""A cell is the same word or number in whatever frame it comes."""

import polars as pl
import pytest

from jax_softmax import InputError
from jax_softmax._columns import Columns, NumberColumn, WordColumn, as_words
from jax_softmax._frames import encoded_frame

COLUMNS = Columns("y", (NumberColumn("n", 0.0, 1.0), WordColumn("w", ("1", "a"))))


def test_a_number_is_the_same_word_whatever_the_others_are():
    cells = pl.Series("w", [1.0, 1.5, None, float("nan"), 250_000.0, -0.0])
    assert as_words(cells).to_list() == ["1", "1.5", None, None, "250000", "0"]
    assert as_words(cells[:1]).to_list() == as_words(cells).to_list()[:1]


def test_cells_of_a_pandas_frame_may_be_of_several_types():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": [1, 2.5], "w": ["a", 1]}, dtype=object)
    assert encoded_frame(COLUMNS, frame).tolist() == [[1, 0, 1], [2.5, 1, 0]]


def test_a_pandas_frame_with_a_name_twice_is_refused():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([[1, "a", "b"]], columns=["n", "w", "w"])
    with pytest.raises(InputError, match="expected each column's name once, got 'w' more than"):
        encoded_frame(COLUMNS, frame)
