"""Many columns at a time: as each by itself, in as many calls of polars for 300 as for 30."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from jax_softmax import _columns
from jax_softmax._columns import Columns, NumberColumn, WordColumn
from jax_softmax.datasets import fit_columns, load_table
from jax_softmax.errors import InputError

ROWS = 40
RNG = np.random.default_rng(0)


def written(path, columns):
    """A table of so many columns of numbers, and some of other kinds."""
    numbers = RNG.normal(size=(ROWS, columns)).astype(str)
    others = {
        "code": [f"{i % 7:03}" for i in range(ROWS)],
        "of [x]^2$": [i % 5 for i in range(ROWS)],
        "row": range(ROWS),
        "same": [7] * ROWS,
        "large": [1e300 if i == 3 else 1.0 for i in range(ROWS)],
        "gaps": [None if i % 9 == 0 else i % 4 for i in range(ROWS)],
        "word": ["b" if i % 3 else "a" for i in range(ROWS)],
        "truth": [bool(i % 2) for i in range(ROWS)],
        "y": ["no" if i % 2 else "yes" for i in range(ROWS)],
    }
    frame = pl.DataFrame(numbers, schema=[f"n{i}" for i in range(columns)])
    frame = frame.with_columns(pl.Series(name, cells) for name, cells in others.items())
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return path


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("at_once", [1, 100, 2**22])
def test_columns_together_are_as_each_by_itself(ending, at_once, tmp_path, monkeypatch):
    path = written(tmp_path / f"table.{ending}", 9)
    monkeypatch.setattr(_columns, "_NUMBERS_AT_ONCE", at_once)
    found = load_table(path, "y", impute="mean", drop=["large"])
    for module in (_columns, fit_columns):
        monkeypatch.setattr(module, "whole_numbers", lambda _table, _names: iter(()))
    alone = load_table(path, "y", impute="mean", drop=["large"])
    assert found.columns == alone.columns
    assert found.notes == alone.notes
    np.testing.assert_array_equal(found.train.features, alone.train.features)
    used = {column.name: type(column) for column in found.columns.used}
    assert used["code"] is WordColumn and used["of [x]^2$"] is NumberColumn
    assert "row" in found.columns.unused and "same" in found.columns.unused


def test_polars_is_not_called_for_each_column(tmp_path, monkeypatch):
    calls = []
    original = pl.LazyFrame.collect

    def collect(self, *arguments, **options):
        calls.append(1)
        return original(self, *arguments, **options)

    counts = []
    monkeypatch.setattr(pl.LazyFrame, "collect", collect)
    for columns in (30, 300):
        path = written(tmp_path / f"{columns}.csv", columns)
        calls.clear()
        load_table(path, "y", impute="mean", drop=["large"])
        counts.append(len(calls))
    assert counts[1] <= counts[0] + 3


def test_a_number_too_large_is_said_by_its_column():
    columns = Columns("y", (NumberColumn("a", 0.0, 1.0), NumberColumn("b", 0.0, 1e-300)))
    table = pl.DataFrame({"b": [1.0, 2.0], "a": [0.5, 1.5]})
    with pytest.raises(InputError, match="column 'b': expected numbers like those of training"):
        columns.encode(table)


def test_a_column_may_be_called_na(tmp_path):
    path = tmp_path / "table.csv"
    rows = "".join(f"{i % 3},{i % 5},{i % 4},{'ab'[i % 2]}\n" for i in range(20))
    path.write_text(f"NA, null ,,y\n{rows}")
    assert load_table(path, "y").columns.features == ("NA", "null", "column 3")
    path.write_text(f"NA,NA,x,y\n{rows}")
    with pytest.raises(InputError, match="each column's name once, got 'NA' more than once"):
        load_table(path, "y")


def test_a_name_that_polars_takes_for_a_pattern_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("^a$,y\nx,1\nz,2\n")
    with pytest.raises(InputError, match=r"got '\^a\$', which polars takes for patterns of names;"):
        load_table(path, "y")


def test_features_have_names_of_their_own(tmp_path):
    path = tmp_path / "table.csv"
    rows = "".join(f"{('Paris', 'Rome')[i % 2]},{i % 5},{'ab'[i % 3 == 0]}\n" for i in range(20))
    path.write_text(f"city,city=Paris,y\n{rows}")
    dataset = load_table(path, "y")
    assert dataset.columns.features == ("city=Paris", "city=Rome", "city=Paris (2)")
    assert dataset.train.features.shape[1] == 3
