"""CSV files: what is a table of numbers, and what is said of every other file."""

from __future__ import annotations

import re

import numpy as np
import pytest

from jax_softmax import InputError
from jax_softmax.cli.csv_file import read_csv

ROWS = [[1.0, 2.5, -3.0, 4e5], [0.1, 1e-3, 7.0, 8.0]]
TEXT = "1,2.5,-3,4e5\n.1,1E-3,7.,+8\n"


@pytest.fixture
def read(tmp_path):
    """Writes a file and reads it back for a model of 4 numbers."""

    def of(content, width=4):
        path = tmp_path / "table.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_csv(path, width)

    return of


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        TEXT.rstrip(),
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n", "\r"),
        TEXT.replace("\n", "\n  \n\n"),
        f"\n\n{TEXT}\n",
        f"\ufeff{TEXT}",
        TEXT.replace(",", " , "),
        re.sub(r"[^,\n]+", r'"\g<0>"', TEXT),
        f"a,b,c,d\n{TEXT}",
        f"a,b\n{TEXT}",
        f'"length, in cm","say ""b""",c,d\n{TEXT}',
        f"#a,b,c,d\n\n{TEXT}",
        f"a,b,c,d,and,many,more\n{TEXT}",
    ],
)
def test_a_table_of_numbers(content, read, capsys):
    np.testing.assert_array_equal(read(content), ROWS)
    assert capsys.readouterr().err == ""


def test_numbers_are_those_of_float(read):
    numbers = np.random.default_rng(0).standard_normal(400) * 1e-30
    texts = [repr(number) for number in numbers.tolist()]
    found = read("".join(f"{text},{text}\n" for text in texts), width=2)
    np.testing.assert_array_equal(found, np.stack([numbers, numbers], axis=1))


def test_a_single_column(read):
    np.testing.assert_array_equal(read("sepal length\n1\n\n2\n", width=1), [[1.0], [2.0]])


@pytest.mark.parametrize(
    ("header", "column"), [("1,b,c,d", "column 2 is 'b'"), ("1,,c,4", "column 2 is empty")]
)
def test_a_header_that_holds_a_number_is_said_to_be_one(header, column, read, capsys):
    assert read(f"{header}\n5,6,7,8\n").tolist() == [[5, 6, 7, 8]]
    said = capsys.readouterr().err
    assert re.fullmatch(
        f"jax-softmax: .*table.csv, line 1: taken as a header .{column}.\\.\n", said
    )


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        ("1,2,3,O.4", ", column 4: expected a finite number, but it is 'O.4'."),
        ("1,,3,4", ", column 2: expected a finite number, but it is empty."),
        (",2,3,4", ", column 1: expected a finite number, but it is empty."),
        ("1,2,3,4,setosa", ": expected 4 numbers, .*got 5.. Leave out the column of labels."),
        ("1,2,3", ": expected 4 numbers, .*got 3.."),
    ],
)
def test_a_first_line_that_is_mostly_numbers_is_no_header(first, problem, read, capsys):
    with pytest.raises(InputError) as caught:
        read(f"{first}\n5,6,7,8\n")
    assert re.fullmatch(f".*table.csv, line 1{problem}", str(caught.value))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": expected at least one row of numbers, got none."),
        ("\n \n", ": expected at least one row of numbers, got none."),
        ("a,b,c,d\n", ": .*got none. .*line 1: taken as a header .column 1 is 'a'.."),
        ("1,b,3,d\n", ": .*got none. .*line 1: taken as a header .column 2 is 'b'.."),
        (b"caf\xe9,b,c,d\n1,2,3,4\n", ": expected a text table in UTF-8 .*"),
        ("1,2,3,4\n".encode("utf-16"), ": expected a text table in UTF-8 .*"),
        ("1;2;3;4\n", ", line 1: expected commas between the cells, found semicolons."),
        ("1\t2\t3\t4\n", ", line 1: expected commas between the cells, found tabs."),
        ("\n1 2 3 4\n", ", line 2: expected commas between the cells, found spaces."),
        ("1,2,3\n", ", line 1: expected 4 numbers, as the model was trained on .got 3.."),
        ("1,2,3,4\n\n1,2,3\n", ", line 3: expected 4 numbers, .*got 3.."),
        ("1,2,3,4,5\n", ", line 1: .*got 5.. Leave out the column of labels."),
        ("1,2,3,4\n1,2,3,4,5,6,7\n", ", line 2: expected 4 numbers, .*got 7.."),
        ("a,b,c,d\n1,2,3,4,x\n", ", line 2: .*got 5.. Leave out the column of labels."),
        (
            "1,2,3,4\n1,2,Paris,4,5\n",
            ", line 2: .*got 5.. Leave out column 3, which is 'Paris', or encode it.",
        ),
        (
            "1,2,3,4\n1,Rome,Paris,4,5\n",
            ", line 2: .*got 5.. Leave out column 2, which is 'Rome', or encode it.",
        ),
        ("1,2,3,4\n,,,\n", ", line 2: expected 4 numbers, .*got 0.."),
        ("1,2,3,4\n1,,3,4\n", ", line 2, column 2: expected a finite number, but it is empty."),
        ('1,2,3,4\n"",2,3,4\n', ", line 2, column 1: .*, but it is empty."),
        ("1,2,3,4\n1,2,Paris,4\n", ", line 2, column 3: .*, but it is 'Paris'."),
        ("1,2,3,4\n1,2,3,nan\n", ", line 2, column 4: .*, but it is 'nan'."),
        ("1,2,3,4\n-inf,2,3,4\n", ", line 2, column 1: .*, but it is '-inf'."),
        ("1,nan,3,4\n", ", line 1, column 2: .*, but it is 'nan'."),
        (",".join("1" * 2000), ": expected 4 numbers in a row, .* a line with 1,999 commas."),
    ],
)
def test_what_is_no_such_table_is_one_sentence(content, message, read):
    with pytest.raises(InputError) as caught:
        read(content)
    assert re.fullmatch(f".*table.csv{message}", str(caught.value))


@pytest.mark.parametrize("content", ['1,"2,3,4\n1,2,3,4\n', '1,2"2,3,4\n1,x,3,4\n'])
def test_a_quotation_mark_too_many(content, read):
    with pytest.raises(InputError, match=r"table\.csv(: cannot be read as a table|, line \d)"):
        read(content)
