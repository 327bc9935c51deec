"""Reading tables: separators, headers, missing cells, lines that messages name, damaged files."""

from __future__ import annotations

import csv
import io

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jax_softmax import InputError
from jax_softmax.datasets.tables import MISSING, is_table, read_table


@pytest.fixture
def read(tmp_path):
    """Reads a text as a file of that name."""

    def of(text, name="table.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", newline="")
        return read_table(path)

    return of


def test_a_csv_has_stripped_words_gaps_and_lines(read):
    table = read("\ufeffage,city\r\n 41 ,Rome\r\n\r\nNA, \r\n\r\n")
    assert table.frame.to_dict(as_series=False) == {"age": ["41", None], "city": ["Rome", None]}
    assert [table.place(row) for row in (0, 1)] == ["line 2", "line 4"]


def test_quoted_cells_may_have_commas_quotes_and_lines(read):
    table = read('a,b\n1,"x, ""y""\n\nz"\n\n2,w\n')
    assert table.frame["b"].to_list() == ['x, "y"\n\nz', "w"]
    assert list(table.lines) == [2, 6]


@pytest.mark.parametrize("name", ["table.tsv", "table.tab"])
def test_tabs(read, name):
    assert read("a\tb\n1\tx, y\n\t\n", name).frame.rows() == [("1", "x, y"), (None, None)]


def test_semicolons_come_with_commas_in_numbers(read):
    table = read("a;b\n1,5;x\n-2,25;3,4,5\n")
    assert table.frame.rows() == [("1.5", "x"), ("-2.25", "3,4,5")]


@pytest.mark.parametrize(
    ("first", "header"),
    [("a,b,c", True), ("1,b,c", True), ("1,2,c", False), ("1,2,3", False), ("1,,c", True)],
)
def test_a_first_line_that_is_mostly_numbers_is_data(read, first, header):
    table = read(f"{first}\n4,5,6\n")
    assert (table.header, table.frame.height) == (header, 1 if header else 2)
    if not header:
        assert table.frame.columns == ["column 1", "column 2", "column 3"]


def test_a_column_without_a_name_is_called_by_its_number(read):
    assert read(",a,b\n0,x,1\n").frame.columns == ["column 1", "a", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found an empty file"),
        ("\n \n", "found an empty file"),
        ("a,b\n", "expected rows, found none, only a header"),
        ("a,b,a\n1,2,3\n", "each column's name once, got 'a' more than once"),
        ("a,b\n1,2\n3\n", "line 3: expected 2 cells, as line 1 has, got 1"),
        ("a,b\n1,2,3\n", r"line 2: expected 2 cells.*got 3; mend it .a cell with a , in it"),
        ('a,b\n"1",2\n3\n', "line 3: expected 2 cells, as line 1 has, got 1"),
        ('a,b\n1,"2\n3,4\n', "look for a quotation mark too many or too few"),
    ],
)
def test_what_is_no_table_is_refused(read, text, words):
    with pytest.raises(InputError, match=words):
        read(text)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(InputError, match="expected a text table in UTF-8 .*save it so"):
        read_table(tmp_path / "table.csv")


cells = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" "))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=6))
def test_whatever_python_writes_is_read(tmp_path, rows):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["a", "b", "c"])
    writer.writerows(rows)
    path = tmp_path / "table.csv"
    path.write_text(buffer.getvalue(), encoding="utf-8", newline="")
    stripped = [tuple(cell.strip(" ") for cell in row) for row in rows]
    expected = [tuple(None if cell in MISSING else cell for cell in row) for row in stripped]
    assert read_table(path).frame.rows() == expected


FRAME = pl.DataFrame({"age": [41, None], "city": ["Rome", "NA"], "paid": [True, False]})


@pytest.mark.parametrize("suffix", [".parquet", ".pq", ".arrow", ".feather", ".ipc"])
def test_typed_files_keep_their_types(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    (FRAME.write_parquet if suffix[:2] == ".p" else FRAME.write_ipc)(path)
    table = read_table(path)
    assert table.frame.equals(FRAME) and table.frame.schema == FRAME.schema
    assert table.place(1) == "row 1"


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        (".parquet", "expected a Parquet file that is whole"),
        (".arrow", "expected an Arrow .Feather. file that is whole"),
        (".npz", "expected a NumPy array file"),
        (".npy", "expected a NumPy array file"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"no such file", b"PAR1" + bytes(40)])
def test_damaged_files_are_refused(tmp_path, suffix, words, content):
    path = tmp_path / f"table{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_table(path)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_cut_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    (FRAME.write_parquet if suffix == ".parquet" else FRAME.write_ipc)(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="file that is whole"):
        read_table(path)


PAIR = np.arange(6.0).reshape(3, 2), np.array([0, 1, 1])


def _saved(folder, kind):
    if kind == "npz":
        np.savez(folder / "pair.npz", features=PAIR[0], labels=PAIR[1])
        return folder / "pair.npz"
    if kind == "X and y":
        np.savez(folder / "pair.npz", X=PAIR[0], y=PAIR[1])
        return folder / "pair.npz"
    np.save(folder / "features.npy", PAIR[0])
    np.save(folder / "labels.npy", PAIR[1])
    return folder if kind == "folder" else folder / "features.npy"


@pytest.mark.parametrize("kind", ["npz", "X and y", "npy", "folder"])
def test_pairs_of_arrays(tmp_path, kind):
    path = _saved(tmp_path, kind)
    assert is_table(str(path))
    frame = read_table(path).frame
    assert frame.columns == ["column 1", "column 2", "labels"]
    np.testing.assert_array_equal(frame.drop("labels").to_numpy(), PAIR[0])
    np.testing.assert_array_equal(frame["labels"].to_numpy(), PAIR[1])


def test_pictures_become_rows(tmp_path):
    np.savez(tmp_path / "pictures.npz", features=np.ones((3, 2, 2), np.uint8), labels=PAIR[1])
    assert read_table(tmp_path / "pictures.npz").frame.width == 5


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": PAIR[0]}, "expected arrays 'features' and 'labels' .or 'X' and 'y'., found 'a'"),
        (
            {"features": PAIR[1]},
            r"expected features \[rows, columns\] of numbers, got shape \(3,\)",
        ),
        ({"features": PAIR[0].astype(str)}, "of numbers, got shape .3, 2. of <U"),
        ({"features": PAIR[0], "labels": PAIR[1][:2]}, r"expected 3 labels.*got shape \(2,\)"),
        ({"features": PAIR[0][:0], "labels": PAIR[1][:0]}, "expected rows, found none"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "pair.npz", **arrays)
    with pytest.raises(InputError, match=words):
        read_table(tmp_path / "pair.npz")


def test_a_file_that_is_not_there_is_named_with_the_nearest(tmp_path):
    (tmp_path / "customers.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match="nothing there; did you mean 'customers.csv'"):
        read_table(tmp_path / "custmers.csv")
    (tmp_path / "w.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match="found nothing there\\.$"):
        read_table(tmp_path / "c2.csv")
    with pytest.raises(InputError, match="expected a table, a file ending in .csv, .tsv"):
        read_table(tmp_path / "customers.xlsx")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="expected a file, found a folder"):
        read_table(tmp_path / "folder.csv")
