"""Data frames as features: what cannot be used is named by its column."""

from __future__ import annotations

import importlib
import importlib.util

import numpy as np
import polars as pl
import pytest

from jax_softmax import InputError, Split, TrainConfig, evaluate, fit, predict

LABELS = [0, 1, 1]
AGES, FLAGS = [0.1, 0.5, 0.9], [True, False, False]
PLAIN = np.array([AGES, FLAGS], float).T
CONFIG = TrainConfig(epochs=3)


@pytest.fixture
def pandas():
    if importlib.util.find_spec("pandas") is None:
        pytest.skip("pandas is not installed")
    return importlib.import_module("pandas")


def assert_as_plain(table):
    expected = fit(Split(PLAIN, LABELS), CONFIG)
    got = fit(Split(table, LABELS), CONFIG)
    assert got.feature_shape == (2,)
    np.testing.assert_array_equal(got.params["kernel"], expected.params["kernel"])
    np.testing.assert_array_equal(predict(got, table), predict(expected, PLAIN))
    assert evaluate(got, Split(table, LABELS)).loss == evaluate(got, Split(PLAIN, LABELS)).loss


def test_a_polars_frame_is_a_table_of_numbers():
    assert_as_plain(pl.DataFrame({"age": AGES, "flag": FLAGS}))


POLARS = {
    "text": (["1", "x", "3"], r"expected numbers in column 'town', got '1' in row 0"),
    "null": ([1.0, None, 3.0], "expected finite numbers, got nan in row 1, column 'town'"),
    "null integer": ([1, 2, None], "got nan in row 2, column 'town'"),
    "null flag": ([True, None, False], "got None in row 1"),
    "dates": (pl.Series(["2020-01-01"] * 3).str.to_date(), "column 'town'.*datetime64"),
}


@pytest.mark.parametrize("name", POLARS)
def test_a_polars_column_that_cannot_be_used_is_named(name):
    column, words = POLARS[name]
    with pytest.raises(InputError, match=f"^features: .*{words}"):
        fit(Split(pl.DataFrame({"age": AGES, "town": column}), LABELS), CONFIG)


@pytest.mark.parametrize("float_dtype", ["float64", "Float64"])
@pytest.mark.parametrize("bool_dtype", ["bool", "boolean"])
def test_a_pandas_frame_is_a_table_of_numbers(pandas, float_dtype, bool_dtype):
    columns = {
        "age": pandas.array(AGES, dtype=float_dtype),
        "flag": pandas.array(FLAGS, dtype=bool_dtype),
    }
    assert_as_plain(pandas.DataFrame(columns))


@pytest.mark.parametrize(
    ("column", "dtype", "words"),
    [
        ([1.0, None, 3.0], "Float64", r"(nan|<NA>) in row 1"),
        ([1, None, 3], "Int64", r"(nan|<NA>) in row 1"),
        ([True, None, False], "boolean", r"<NA> in row 1"),
        (["a", "b", "c"], "object", "got 'a' in row 0"),
        (["a", "b", "c"], "string", "got 'a' in row 0"),
        (["a", "b", "c"], "category", "got 'a' in row 0"),
    ],
)
def test_a_pandas_column_that_cannot_be_used_is_named(column, dtype, words, pandas):
    table = pandas.DataFrame({"age": AGES, "town": pandas.array(column, dtype=dtype)})
    with pytest.raises(InputError, match=r"^features: .*column 'town'") as caught:
        fit(Split(table, LABELS), CONFIG)
    assert caught.match(words)


def test_pandas_labels(pandas):
    words = pandas.Series(["b", "a", "b"])
    assert fit(Split(PLAIN, words), CONFIG).class_names == ("a", "b")
    ordered = words.astype(pandas.CategoricalDtype(["b", "a", "c"]))
    for labels in (ordered, ordered.array):
        result = fit(Split(PLAIN, labels), CONFIG)
        assert result.class_names == ("b", "a", "c")
        assert evaluate(result, Split(PLAIN, labels)).labels.tolist() == [0, 1, 0]
    numbers = pandas.Series([0, 1, 1], dtype="Int64")
    assert fit(Split(PLAIN, numbers), CONFIG).class_names == ("0", "1")
    with pytest.raises(InputError, match="labels: .*row 1"):
        fit(Split(PLAIN, pandas.Series([0, None, 1], dtype="Int64")), CONFIG)
    with pytest.raises(InputError, match="labels: .*no category in row 1"):
        fit(Split(PLAIN, pandas.Series(["a", None, "b"], dtype="category")), CONFIG)
