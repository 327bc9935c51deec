"""Labels are integers without gaps, or names: strings, booleans, categories."""

from __future__ import annotations

import tracemalloc

import numpy as np
import polars as pl
import pytest

from jax_softmax import InputError, Split, TrainConfig, evaluate, fit, predict

ROWS = np.arange(6.0)[:, None] % 3
CONFIG = TrainConfig(learning_rate=1.0, epochs=60)
WORDS = np.array(["dog", "ape", "cow"] * 2)  # sorted: ape, cow, dog


class Categories:
    """Like pandas' Categorical: what training reads of one."""

    def __init__(self, codes, categories):
        self.codes, self.categories = np.array(codes, np.int8), categories

    def __len__(self):
        return len(self.codes)

    def __array__(self, dtype=None, copy=None):
        return np.array([self.categories[code] for code in self.codes], object)


def trained(labels, **names):
    split = Split(ROWS, labels, **names)
    result = fit(split, CONFIG)
    return result, evaluate(result, split)


@pytest.mark.parametrize(
    ("labels", "absent", "classes"),
    [
        ([0, 10**9] * 3, 1, "1,000,000,001"),
        ([0, 10**6, 2 * 10**6] * 2, 1, "2,000,001"),
        ([1, 2, 3] * 2, 0, "4"),
        ([0, 1, 3] * 2, 2, "4"),
        ([0.0, 2.0] * 3, 1, "3"),
        (np.array([0, 2**63] * 3, np.uint64), 1, "9,223,372,036,854,775,809"),
    ],
)
def test_integers_that_leave_classes_without_examples(labels, absent, classes):
    with pytest.raises(InputError) as caught:
        fit(Split(ROWS, labels), CONFIG)
    message = str(caught.value)
    assert f"labels: expected an example of each of {classes} classes" in message
    assert f"none of class {absent}" in message
    assert "class_names=" in message and "strings" in message


def test_labels_are_not_counted_up_to():
    tracemalloc.start()
    with pytest.raises(InputError):
        fit(Split(ROWS, [0, 10**9] * 3), CONFIG)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10**7


def test_named_classes_may_lack_examples():
    result, seen = trained([0, 2] * 3, class_names=("a", "b", "c"))
    assert result.class_names == ("a", "b", "c")
    assert seen.labels.tolist() == [0, 2] * 3


@pytest.mark.parametrize(
    "labels",
    [
        WORDS,
        WORDS.astype(object),
        WORDS.tolist(),
        tuple(WORDS.tolist()),
        WORDS.astype(np.dtypes.StringDType()),
        pl.Series(WORDS.tolist()),
        pl.Series(WORDS.tolist(), dtype=pl.Categorical),
    ],
    ids=["numpy", "objects", "list", "tuple", "StringDType", "polars", "polars categorical"],
)
def test_strings_are_classes_in_sorted_order(labels):
    result, seen = trained(labels)
    assert result.class_names == ("ape", "cow", "dog")
    assert {type(name) for name in result.class_names} == {str}
    assert seen.labels.tolist() == [2, 0, 1] * 2
    assert seen.accuracy == 1
    assert predict(result, ROWS).tolist() == [2, 0, 1] * 2


def test_strings_are_looked_up_among_class_names():
    result, seen = trained(WORDS, class_names=("dog", "cow", "ape", "eel"))
    assert result.class_names == ("dog", "cow", "ape", "eel")
    assert seen.labels.tolist() == [0, 2, 1] * 2


def test_a_string_that_is_no_class_is_named_with_its_row():
    with pytest.raises(InputError, match="labels: expected one of 'ape', 'cow', got 'dog' in row"):
        fit(Split(ROWS, WORDS, ("ape", "cow")), CONFIG)
    result = fit(Split(ROWS, WORDS), CONFIG)
    with pytest.raises(InputError, match="one of 'ape', 'cow', 'dog', got 'elk' in row 1"):
        evaluate(result, Split(ROWS[:2], ["dog", "elk"]))


def test_many_classes_are_not_all_listed():
    names = [f"class {i}" for i in range(500)]
    with pytest.raises(InputError, match="got 'elk' in row 0") as caught:
        fit(Split(ROWS, ["elk"] * 6, names), CONFIG)
    assert len(str(caught.value)) < 300


def test_evaluation_reads_strings_by_name_though_some_classes_are_absent():
    result = fit(Split(ROWS, WORDS), CONFIG)
    seen = evaluate(result, Split(ROWS[:2], ["dog", "ape"]))
    assert seen.labels.tolist() == [2, 0] and seen.accuracy == 1


def test_validation_labels_may_be_strings():
    result = fit(Split(ROWS, WORDS), CONFIG, validation=Split(ROWS[:2], WORDS[:2]))
    assert result.history[-1]["validation_accuracy"] == 1


@pytest.mark.parametrize("kind", [np.array, list, lambda x: np.array(x, object)])
def test_booleans_are_two_classes(kind):
    labels = kind([False, True, True] * 2)
    result, seen = trained(labels)
    assert result.class_names == ("False", "True")
    assert seen.labels.tolist() == [0, 1, 1] * 2
    named, seen = trained(labels, class_names=("no", "yes"))
    assert named.class_names == ("no", "yes") and seen.labels.tolist() == [0, 1, 1] * 2


def test_one_boolean_is_one_class():
    with pytest.raises(InputError, match="at least two classes, got only class True"):
        fit(Split(ROWS, [True] * 6), CONFIG)


def test_categories_keep_their_order_and_their_absent_classes():
    labels = Categories([2, 0, 1] * 2, ["small", "medium", "large", "huge"])
    result, seen = trained(labels)
    assert result.class_names == ("small", "medium", "large", "huge")
    assert seen.labels.tolist() == [2, 0, 1] * 2


def test_categories_of_numbers_are_named_by_them():
    result, seen = trained(Categories([1, 0, 1] * 2, [2020, 2024]))
    assert result.class_names == ("2020", "2024")
    assert seen.labels.tolist() == [1, 0, 1] * 2


def test_categories_are_looked_up_by_name():
    result = fit(Split(ROWS, WORDS), CONFIG)
    seen = evaluate(result, Split(ROWS, Categories([0, 1, 2] * 2, ["dog", "ape", "cow"])))
    assert seen.labels.tolist() == [2, 0, 1] * 2


def test_a_missing_category_is_named_with_its_row():
    with pytest.raises(InputError, match=r"labels: .*got no category in row 1"):
        fit(Split(ROWS, Categories([0, -1, 1] * 2, ["a", "b"])), CONFIG)


def test_a_polars_enum_keeps_its_order():
    labels = pl.Series(WORDS.tolist(), dtype=pl.Enum(["dog", "cow", "ape"]))
    result, seen = trained(labels)
    assert result.class_names == ("dog", "cow", "ape")
    assert seen.labels.tolist() == [0, 2, 1] * 2


@pytest.mark.parametrize("dtype", [">i4", ">i8", ">u2", ">f4"])
def test_big_endian_arrays_are_as_any(dtype):
    labels = np.array([0, 1, 2] * 2)
    expected = fit(Split(ROWS, labels), CONFIG)
    got = fit(Split(ROWS.astype(dtype), labels.astype(dtype)), CONFIG)
    np.testing.assert_array_equal(got.params["kernel"], expected.params["kernel"])
    np.testing.assert_array_equal(predict(got, ROWS.astype(dtype)), predict(expected, ROWS))


def test_integers_of_python_objects_are_integers():
    result, seen = trained(np.array([0, 1, 2] * 2, object))
    assert result.class_names == ("0", "1", "2") and seen.labels.tolist() == [0, 1, 2] * 2


@pytest.mark.parametrize(
    "names", [(10, 20), [10, 20], np.array([10, 20]), np.array(["10", "20"]), range(10, 30, 10)]
)
def test_class_names_become_strings(names):
    split = Split(ROWS, [0, 1] * 3, names)
    assert split.class_names == ("10", "20")
    assert {type(name) for name in fit(split, CONFIG).class_names} == {str}


def test_class_names_of_ones_own_kind_of_examples_become_strings_too():
    class Mine:
        features, labels, class_names, feature_scale = ROWS, [0, 1] * 3, [10, 20], np.float32(1)

    result = fit(Mine(), CONFIG)
    assert result.class_names == ("10", "20") and type(result.feature_scale) is float
    Mine.class_names = {"a", "b"}
    with pytest.raises(InputError, match="class_names: .*order"):
        fit(Mine(), CONFIG)


def test_boolean_features_are_zeros_and_ones():
    features, labels = ROWS > 0, [0, 1, 1] * 2
    expected = fit(Split(features.astype(np.uint8), labels), CONFIG)
    got = fit(Split(features, labels), CONFIG)
    np.testing.assert_array_equal(got.params["kernel"], expected.params["kernel"])
    assert predict(got, features).tolist() == labels


def test_integers_count_in_the_examples_own_class_names(rng):
    features = np.eye(3)[[0, 1, 2, 2]]
    model = fit(Split(features, ["cat", "dog", "bird", "bird"]), TrainConfig(epochs=200))
    assert model.class_names == ("bird", "cat", "dog")
    right = Split(features, [2, 0, 1, 1], class_names=("dog", "bird", "cat"))
    found = evaluate(model, right)
    assert found.accuracy == 1
    np.testing.assert_array_equal(found.labels, [1, 2, 0, 0])
    assert evaluate(model, Split(features, [1, 2, 0, 0])).accuracy == 1
    other = Split(features, [0, 1, 2, 2], class_names=("bird", "cat", "cow"))
    with pytest.raises(
        InputError, match="expected one of 'bird', 'cat', 'dog', got 'cow' in row 2"
    ):
        evaluate(model, other)
    with pytest.raises(InputError, match="'cow'"):
        fit(right, TrainConfig(epochs=1), validation=other)


def test_labels_from_1_get_a_hint():
    with pytest.raises(InputError, match=r"got 3 in row 2; pass labels - 1, for"):
        fit(Split(np.eye(3), [1, 2, 3], class_names=("a", "b", "c")))
