"""Columns become features: by training rows alone, in any order, or refused by name."""

from __future__ import annotations

import datetime
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from jax_softmax import InputError
from jax_softmax._columns import NumberColumn, WordColumn
from jax_softmax.datasets import Columns, load_table
from jax_softmax.datasets.tables import read_table

ROWS = 60
RNG = np.random.default_rng(0)
AGES = RNG.integers(18, 90, ROWS)
CITIES = RNG.choice(["Oslo", "Paris", "Rome"], ROWS)
CHURNED = np.where(AGES + 20 * (CITIES == "Rome") > 55, "yes", "no")


@pytest.fixture
def table(tmp_path):
    """Writes a CSV of ages, cities and churned, with other columns; None takes one out."""

    def write(name="customers.csv", **changes):
        columns = {"age": AGES, "city": CITIES, **changes, "churned": CHURNED} | changes
        kept = {name: list(values) for name, values in columns.items() if values is not None}
        path = tmp_path / name
        frame = pl.DataFrame(kept, strict=False)
        frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
        return path

    return write


def _with(values, row, value):
    values = [str(v) for v in values]
    values[row] = value
    return values


def test_features_are_those_of_scikit_learn(table):
    dataset = load_table(table(), "churned", seed=3, test_size=0.25)
    rows, held = train_test_split(np.arange(ROWS), test_size=0.25, random_state=3)
    age = StandardScaler().fit(AGES[rows, None])
    city = OneHotEncoder(sparse_output=False).fit(CITIES[rows, None])
    for split, wanted in ((dataset.train, rows), (dataset.test, held)):
        expected = np.hstack(
            [age.transform(AGES[wanted, None]), city.transform(CITIES[wanted, None])]
        )
        np.testing.assert_allclose(split.features, expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(np.array(("no", "yes"))[split.labels], CHURNED[wanted])
    assert dataset.class_names == ("no", "yes")


@pytest.mark.parametrize("test_size", [0.3, 12])
def test_the_split_is_that_of_scikit_learn(table, test_size):
    dataset = load_table(table(), "churned", test_size=test_size, seed=5, stratify=True)
    labels = (CHURNED == "yes").astype(int)
    _, held = train_test_split(labels, test_size=test_size, random_state=5, stratify=labels)
    np.testing.assert_array_equal(dataset.test.labels, held)


def test_nothing_is_learnt_of_test_rows(table):
    """Other test rows: the same columns."""
    _, held = train_test_split(np.arange(ROWS), test_size=0.2, random_state=0)
    ages, cities = AGES.copy(), CITIES.astype(object)
    ages[held] += 1000
    cities[held] = "Tokyo"
    one, other = (
        load_table(path, "churned") for path in (table(), table("other.csv", age=ages, city=cities))
    )
    assert one.columns == other.columns
    (note,) = [words for name, words in other.notes if name == "new words"]
    assert "'city': 'Tokyo' (12), not among the training rows" in note
    assert (other.test.features[:, 1:] == 0).all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(order=st.permutations(["age", "city", "churned", "more"]), rows=st.permutations(range(5)))
def test_the_order_of_columns_does_not_matter(table, order, rows):
    columns = Columns("churned", (NumberColumn("age", 40, 9), WordColumn("city", ("Oslo", "Rome"))))
    frame = pl.DataFrame(
        {"age": AGES[:5], "city": CITIES[:5], "churned": CHURNED[:5], "more": AGES[:5]}
    )
    encoded = columns.encode(frame[list(rows)].select(order))
    np.testing.assert_array_equal(encoded.features, columns.encode(frame).features[list(rows)])
    assert encoded.extra == ("more",)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (_with(AGES, 7, ""), "'age': its cell in line 9 is missing\n--impute mean fills"),
        (_with(_with(AGES, 7, "NA"), 9, "?"), "2 of 60 cells are missing, the first in line 9"),
        (_with(AGES, 7, "inf"), "'age': line 9 has 'inf'\n--drop age"),
        (_with(AGES, 7, "1e400"), "'age': line 9 has '1e400'\n--drop age"),
        (_with(AGES, 7, "4O"), "'age': 59 of 60 cells are numbers, but line 9 has '4O'\n--categ"),
        (["2024-01-31"] * ROWS, "'age': dates or times, such as '2024-01-31' in line 2\n--drop"),
        (
            [f"{40 + i},{100 + i}" for i in range(ROWS)],
            r"'age': numbers with commas.*, such as '40,100' in line 2\nWrite numbers as .*\n--cat",
        ),
        (_with(AGES, 7, "1,200.50"), "'age': numbers with .*, such as '1,200.50' in line 9"),
        (["1'200", "$5", "€ 3,50", "12 %", "-7", "1 200"] * 10, 'such as "1\'200" in line 2'),
        (["31.1.2024"] * ROWS, "'age': dates or times"),
        (["2024-01-31T10:00:00"] * ROWS, "'age': dates or times"),
        (["1/31/24"] * ROWS, "'age': dates or times"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(table, values, words):
    with pytest.raises(InputError, match=words):
        load_table(table(age=values), "churned")


def test_all_of_them_are_named_at_once(table):
    path = table(age=_with(AGES, 0, ""), since=["2024-01-31"] * ROWS)
    with pytest.raises(InputError, match=r"(?s)'age': .*missing.*'since': dates.*--drop since "):
        load_table(path, "churned")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([datetime.date(2024, 1, 31)] * ROWS, "dates or times"),
        ([datetime.timedelta(days=1)] * ROWS, "dates or times"),
        ([[1, 2]] * ROWS, "cells of type List"),
        ([{"a": 1}] * ROWS, "cells of type Struct"),
        ([b"x"] * ROWS, "cells of type Binary"),
        ([float("nan"), *AGES[1:]], "its cell in row 0 is missing"),
        ([float("inf"), *AGES[1:]], "row 0 has inf"),
    ],
)
def test_typed_columns_that_cannot_be_used_are_refused(table, values, kind):
    with pytest.raises(InputError, match=f"'age': {kind}"):
        load_table(table("customers.parquet", age=values), "churned")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["EU"] * ROWS, "the same in every training row"),
        ([7] * ROWS, "the same in every training row"),
        ([None] * ROWS, "no cell holds anything"),
        (range(100, 100 + ROWS), "counts the rows, from 100 to 159"),
        ([f"C{i}" for i in range(ROWS)], "60 different words in 60 rows, like names or texts"),
        (
            [f"C{i // 2 * 2 + i % 2 * (i > 9)}" for i in range(ROWS)],
            "55 different words in 60 rows, like names",
        ),
    ],
)
def test_columns_that_say_nothing_are_left_out_with_a_note(table, values, why):
    dataset = load_table(table(more=values), "churned")
    assert dataset.columns.features == ("age", "city=Oslo", "city=Paris", "city=Rome")
    assert dataset.columns.unused == ("more",)
    assert any(name == "left out" and f"'more': {why}" in words for name, words in dataset.notes)


def test_a_thousand_words_are_no_categories_unless_told(table):
    words = [f"w{i % 30}" for i in range(ROWS)]
    assert "more=w3" in load_table(table(more=words), "churned").columns.features
    ids = [f"C{i}" for i in range(ROWS)]
    named = load_table(table(more=ids), "churned", categorical=["more"]).columns.features
    assert sum(name.startswith("more=") for name in named) == 48


def test_digits_with_leading_zeros_are_words(table):
    postcodes = [f"{i % 4:03d}" for i in range(ROWS)]
    features = load_table(table(more=postcodes), "churned").columns.features
    assert features[-4:] == ("more=000", "more=001", "more=002", "more=003")


@pytest.mark.parametrize("word", ["10.0.0.{}", "{}-25", "555 12{} 4567", "1{} kg", "v1.{}"])
def test_words_with_digits_are_words(table, word):
    features = load_table(table(more=[word.format(i % 4) for i in range(ROWS)]), "churned")
    assert len(features.columns.features) == 8


def test_numbers_with_marks_are_words_where_told(table):
    path = table(more=[f"{i % 3},000" for i in range(ROWS)])
    assert "more=2,000" in load_table(path, "churned", categorical=["more"]).columns.features


def test_numbers_are_categories_where_told(table):
    features = load_table(table(more=np.arange(ROWS) % 3), "churned", categorical=["more"])
    assert features.columns.features[-3:] == ("more=0", "more=1", "more=2")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_booleans_are_words_however_they_are_written(table, suffix):
    paid = AGES % 2 == 0
    columns = load_table(table(f"customers{suffix}", more=paid), "churned").columns
    assert columns.features[-2:] == ("more=false", "more=true")
    features = [
        columns.encode(pl.DataFrame({"age": AGES, "city": CITIES, "more": more})).features
        for more in (paid, [str(x) for x in paid], [str(x).upper() for x in paid])
    ]
    np.testing.assert_array_equal(features[0], features[1])
    np.testing.assert_array_equal(features[0], features[2])


@pytest.mark.parametrize(
    ("impute", "strategy"),
    [("mean", "mean"), ("median", "median"), ("most-frequent", "most_frequent")],
)
def test_missing_cells_are_filled_as_by_scikit_learn(table, impute, strategy):
    ages = AGES.astype(float)
    ages[::7] = np.nan
    cities = np.where(np.arange(ROWS) % 9 == 0, None, CITIES)
    written = [None if np.isnan(age) else age for age in ages]
    path = table(age=written, city=cities)
    dataset = load_table(path, "churned", impute=impute, seed=1)
    rows, _ = train_test_split(np.arange(ROWS), test_size=0.2, random_state=1)
    filled = SimpleImputer(strategy=strategy).fit_transform(ages[rows, None])
    expected = StandardScaler().fit_transform(filled)[:, 0]
    np.testing.assert_allclose(dataset.train.features[:, 0], expected, rtol=1e-5, atol=1e-6)
    words = SimpleImputer(strategy="most_frequent", missing_values=None)
    filled_words = words.fit_transform(cities.astype(object)[rows, None])[:, 0]
    names = np.array(dataset.columns.features[1:])
    found = names[dataset.train.features[:, 1:].argmax(axis=1)]
    np.testing.assert_array_equal(found, [f"city={word}" for word in filled_words])
    assert any("'age': 9 missing cells, with" in words for name, words in dataset.notes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {},
            "expected --label NAME .*the column to predict; the table has 'age', 'city', 'churned'",
        ),
        ({"label": "Churned"}, "no such column .did you mean 'churned'..; it has 'age', 'city'"),
        ({"label": "zzz"}, "--label zzz: .* has no such column; it has 'age'"),
        ({"label": "churned", "drop": ["aeg"]}, "--drop: .* no 'aeg' .did you mean 'age'"),
        ({"label": "churned", "categorical": ["x"]}, "--categorical: .* it has no 'x'"),
        ({"label": "churned", "drop": ["churned"]}, "columns besides the label, got 'churned'"),
        ({"label": "churned", "drop": ["age", "city"]}, "a column besides 'churned' to learn from"),
        ({"label": "churned", "test_size": 0}, "test size: expected a share between 0 and 1"),
        ({"label": "churned", "test_size": 1.5}, "test size: expected a share between 0 and 1"),
        ({"label": "churned", "test_size": 60}, "its 60 rows cannot be divided so"),
        ({"label": "churned", "seed": -1}, "seed: expected an integer"),
        ({"label": "churned", "impute": "zero"}, "impute: expected one of mean, median"),
        ({"label": "churned", "stratify": 1}, "stratify: expected True or False"),
        ({"label": "churned", "test": "x.csv", "test_size": 3}, "expected no --test-size"),
        ({"label": "churned", "test": "x.csv"}, "x.csv: expected a file, found nothing there"),
    ],
)
def test_arguments_that_do_not_fit(table, arguments, words):
    with pytest.raises(InputError, match=words):
        load_table(table(), **arguments)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([b"yes", b"no"] * 30, "column 'churned': expected classes, got type Binary"),
        (["yes"] * ROWS, "expected at least two classes, got 'yes' in all 60 rows"),
        (AGES + 0.5, "expected classes, but line 2 has .*, a quantity; .*--categorical 'churned'"),
        (range(ROWS), "expected classes with several examples each, got 60 different values"),
        (_with(CHURNED, 7, ""), "column 'churned' of the classes: its cell in line 9 is missing"),
        (["rare", *(["no", "yes"] * 30)[1:]], "cannot be divided so .*'rare' with 1"),
    ],
)
def test_labels_that_cannot_be_learnt(table, classes, words):
    suffix = "parquet" if isinstance(classes[0], bytes) else "csv"
    path = table(f"customers.{suffix}", churned=classes)
    with pytest.raises(InputError, match=words):
        load_table(path, "churned", stratify=True)


def test_a_class_without_training_rows_is_refused(table):
    _, held = train_test_split(np.arange(ROWS), test_size=0.2, random_state=0)
    with pytest.raises(InputError, match="no training row is of class 'rare', .* --stratify"):
        load_table(table(churned=_with(CHURNED, held[0], "rare")), "churned")


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (np.arange(ROWS) % 3 * 5, ("0", "5", "10")),
        (np.arange(ROWS) % 3 * 5.0, ("0", "5", "10")),
        (AGES > 50, ("false", "true")),
        ([f"0{i % 2}" for i in range(ROWS)], ("00", "01")),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_classes_are_named_as_they_are_written(table, classes, names, suffix):
    assert load_table(table(f"c{suffix}", churned=classes), "churned").class_names == names


def test_a_test_file_is_encoded_as_the_training_rows_are(table):
    path, held = table(), table("held.csv", age=AGES + 5)
    dataset = load_table(path, "churned", test=held)
    assert len(dataset.train.labels) == len(dataset.test.labels) == ROWS
    shift = dataset.test.features[:, 0] - dataset.train.features[:, 0]
    np.testing.assert_allclose(shift, 5 / AGES.std(), rtol=1e-4)
    other = table("other.csv", churned=_with(CHURNED, 3, "maybe"))
    with pytest.raises(InputError, match="line 5: expected one of the training classes .*'maybe'"):
        load_table(path, "churned", test=other)


def test_a_table_without_a_header_has_numbers_for_names(tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text("".join(f"{i % 7},{i % 5},{'ab'[i % 2]}\n" for i in range(30)))
    dataset = load_table(path, "3")
    assert dataset.columns.label == "column 3" and dataset.class_names == ("a", "b")
    with pytest.raises(InputError, match="first line is mostly numbers, so it was taken for data"):
        load_table(path, "class")


COLUMNS = Columns(
    "churned",
    (NumberColumn("age", 40.5, 9.25, 41.0), WordColumn("city", ("Oslo", "Rome"), "Oslo")),
    ("id",),
)
finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.builds(
    NumberColumn, st.text(), finite, finite.filter(lambda x: x > 0), st.none() | finite
)
words = st.sets(st.text(), min_size=1).map(lambda found: tuple(sorted(found)))
columns = st.lists(
    numbers | st.builds(WordColumn, st.text(), words), unique_by=lambda c: c.name, max_size=5
)


@given(used=columns)
def test_json_brings_all_of_it_back(used):
    label = "".join(column.name for column in used) + "label"
    made = Columns(label, tuple(used))
    assert Columns.from_json(json.loads(json.dumps(made.as_json()))) == made


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("label",), 3, "expected names, each once"),
        (("label",), "age", "expected names, each once"),
        (("unused",), ["city"], "expected names, each once"),
        (("used",), {}, "expected lists"),
        (("used", 0), [], "expected names with values"),
        (("used", 0, "kind"), "words", "expected one of numbers or of words"),
        (("used", 0, "scale"), 0, "a scale above 0"),
        (("used", 0, "mean"), None, "expected finite numbers"),
        (("used", 0, "fill"), "x", "expected finite numbers"),
        (("used", 0, "more"), 1, "expected one of numbers or of words"),
        (("used", 1, "categories"), [], "categories in their order, each once"),
        (("used", 1, "categories"), ["b", "a"], "categories in their order, each once"),
        (("used", 1, "categories"), [1], "expected words for categories"),
        (("used", 1, "fill"), "Bonn", "one of its categories to fill with"),
        (("more",), 1, "expected label, used and unused"),
    ],
)
def test_json_of_something_else_is_refused(place, value, words):
    said = COLUMNS.as_json()
    *path, last = place
    inner = said
    for key in path:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(ValueError, match=words):
        Columns.from_json(said)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({"age": ["41"], "town": ["Rome"]}, "it has no 'city'. It has 'age', 'town'"),
        ({"Age": ["41"], "city": ["Rome"]}, "it has no 'age' .did you mean 'Age'"),
        ({"age": ["x"], "city": ["Rome"]}, "column 'age': expected numbers, but row 0 has 'x'"),
        ({"age": ["inf"], "city": ["Rome"]}, "expected finite numbers, but row 0 has 'inf'"),
        ({"age": [None], "city": ["Rome"]}, "its cell in row 0 is missing; fill them in, or train"),
        ({"age": [1], "city": [None]}, "column 'city': its cell in row 0 is missing; fill"),
        ({"age": [1e300], "city": ["Rome"]}, r"like those of training \(mean 40.5\), but row 0"),
    ],
)
def test_rows_that_cannot_be_encoded_are_named(frame, words):
    plain = Columns("churned", (NumberColumn("age", 40.5, 9.25), WordColumn("city", ("Rome",))))
    with pytest.raises(InputError, match=words):
        plain.encode(pl.DataFrame(frame), place=lambda row: f"row {row}")


def test_what_is_filled_and_what_is_new_is_counted():
    frame = pl.DataFrame({"age": [None, 41.0, float("nan")], "city": ["Bonn", None, "Bonn"]})
    encoded = COLUMNS.encode(frame)
    assert encoded.filled == {"age": 2, "city": 1} and encoded.unknown == {"city": {"Bonn": 2}}
    np.testing.assert_allclose(encoded.features[:, 0], 0.5 / 9.25, rtol=1e-6)
    assert encoded.features[:, 1:].tolist() == [[0, 0], [1, 0], [0, 0]]


NUMBERS = ["0", "-1", "1e5", "1e308", "-1e308", "1e-320", "inf", "-inf", "nan", "007", "1,5", "1_0"]
WORDS = ["", "NA", "2024-01-31", "True", "false", "x", " x ", "0x1", "½", "\u0661", '"', "a,b", "-"]
odd = st.sampled_from([*NUMBERS, *WORDS])
cells = odd | st.integers(-3, 3).map(str) | st.floats().map(repr) | st.text("ab", max_size=2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    one=st.lists(cells, min_size=12, max_size=12),
    other=st.lists(odd, min_size=12, max_size=12),
    impute=st.sampled_from([None, "mean", "median", "most-frequent"]),
    categorical=st.sets(st.sampled_from(["one", "other"])),
)
def test_whatever_is_in_the_cells_is_refused_or_becomes_numbers(
    tmp_path, one, other, impute, categorical
):
    frame = pl.DataFrame({"one": one, "other": other, "label": ["p", "q"] * 6})
    path = tmp_path / "cells.csv"
    frame.write_csv(path, quote_style="always")
    try:
        dataset = load_table(path, "label", impute=impute, categorical=categorical, stratify=True)
    except InputError:
        return
    features = np.concatenate([dataset.train.features, dataset.test.features])
    assert features.shape == (12, len(dataset.columns.features)) and np.isfinite(features).all()
    again = Columns.from_json(json.loads(json.dumps(dataset.columns.as_json())))
    table = read_table(path)
    found = again.encode(table.frame.select("other", "one")).features
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(features, axis=0))


typed = st.one_of(
    st.lists(st.integers(-(2**62), 2**62) | st.none(), min_size=3, max_size=3),
    st.lists(st.floats() | st.none(), min_size=3, max_size=3),
    st.lists(st.booleans() | st.none(), min_size=3, max_size=3),
    st.lists(cells | st.none(), min_size=3, max_size=3),
    st.lists(st.dates() | st.none(), min_size=3, max_size=3),
    st.lists(st.binary(max_size=2) | st.none(), min_size=3, max_size=3),
    st.lists(st.lists(st.integers(0, 3), max_size=2) | st.none(), min_size=3, max_size=3),
)


@given(age=typed, city=typed, filled=st.booleans())
def test_whatever_type_a_column_has_is_refused_or_becomes_numbers(age, city, filled):
    plain = Columns("churned", (NumberColumn("age", 40.5, 9.25), WordColumn("city", ("Rome", "x"))))
    frame = pl.DataFrame({"city": city, "age": age})
    try:
        encoded = (COLUMNS if filled else plain).encode(frame)
    except InputError:
        return
    assert encoded.features.shape == (3, 3) and np.isfinite(encoded.features).all()
